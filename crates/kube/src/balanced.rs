//! Services that get addresses from outside, and the configuration of their pools.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{api::core::v1 as core, jiff::Timestamp};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde::Deserialize;
use serde_json::json;
use weft_model::{BalancedService, services::ServiceKey};

use crate::{ApiError, Client, watch::Versioned};

/// Several addresses, comma separated, one a family.
const WISHES: &str = "weft.network/load-balancer-ips";

/// A Service as the allocation decodes it: only what it uses, so that nothing else of an object can keep it from its addresses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct BalancedObject {
    metadata: Metadata,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
    resource_version: Option<String>,
    creation_timestamp: Option<Timestamp>,
    deletion_timestamp: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "loadBalancerIP")]
    load_balancer_ip: Option<String>,
    load_balancer_class: Option<String>,
    ip_families: Option<Vec<String>>,
    ip_family_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    load_balancer: Option<LoadBalancer>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<Ingress>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Ingress {
    ip: Option<String>,
}

impl Versioned for BalancedObject {
    fn version(&self) -> Option<String> {
        self.metadata.resource_version.clone()
    }

    fn name(&self) -> String {
        self.key().to_string()
    }
}

impl BalancedObject {
    /// Namespace and name.
    pub(crate) fn key(&self) -> ServiceKey {
        ServiceKey::new(self.metadata.namespace.as_str(), self.metadata.name.as_str())
    }

    /// What of it the allocation uses; `None` if it neither wants addresses nor has any.
    pub(crate) fn balanced(&self) -> Option<BalancedService> {
        let (metadata, spec) = (&self.metadata, self.spec.clone().unwrap_or_default());
        let balanced = spec.kind.as_deref() == Some("LoadBalancer");
        let ingress = self.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
        let held: Vec<IpAddr> =
            ingress.into_iter().flatten().filter_map(|ingress| ingress.ip.as_ref()?.parse().ok()).collect();
        if !balanced && held.is_empty() {
            return None;
        }
        let annotation = metadata.annotations.as_ref().and_then(|annotations| annotations.get(WISHES));
        let wishes = annotation.or(spec.load_balancer_ip.as_ref()).map_or_else(Vec::new, |text| {
            text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
        });
        let families = spec.ip_families.unwrap_or_default();
        Some(BalancedService {
            key: self.key(),
            uid: metadata.uid.clone(),
            version: metadata.resource_version.clone().unwrap_or_default(),
            created: metadata.creation_timestamp.map_or(0, Timestamp::as_second),
            labels: metadata.labels.clone().unwrap_or_default(),
            wants_addresses: balanced && metadata.deletion_timestamp.is_none(),
            class: spec.load_balancer_class,
            families: if families.is_empty() {
                vec![false]
            } else {
                families.iter().map(|family| family == "IPv6").collect()
            },
            needs_every_family: spec.ip_family_policy.as_deref() == Some("RequireDualStack"),
            wishes,
            held,
        })
    }
}

impl Client {
    /// Writes the addresses into a Service's status, if the Service is still as it was seen.
    ///
    /// # Errors
    /// What the API server answered; a Service that has changed or is gone meanwhile is no error: what it wants is looked
    /// at again.
    pub async fn write_ingress(
        &self,
        service: &BalancedService,
        addresses: &[IpAddr],
    ) -> Result<(), ApiError> {
        let api: Api<core::Service> = Api::namespaced(self.kube.clone(), &service.key.namespace);
        let ingress: Vec<_> = addresses.iter().map(|ip| json!({ "ip": ip, "ipMode": "VIP" })).collect();
        let ingress = if ingress.is_empty() { json!(null) } else { json!(ingress) };
        let patch = json!({
            "metadata": { "uid": service.uid, "resourceVersion": service.version },
            "status": { "loadBalancer": { "ingress": ingress } },
        });
        match api.patch_status(&service.key.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: serde_json::Value) -> Option<BalancedService> {
        serde_json::from_value::<BalancedObject>(value).unwrap().balanced()
    }

    #[test]
    fn the_annotation_goes_before_the_old_field() {
        let found = read(json!({
            "metadata": { "name": "a", "namespace": "shop", "annotations": { WISHES: "192.0.2.1, 2001:db8::1" } },
            "spec": { "type": "LoadBalancer", "loadBalancerIP": "192.0.2.9", "ipFamilies": ["IPv6", "IPv4"] },
            "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }, { "hostname": "x.example" }] } },
        }))
        .unwrap();
        assert_eq!(found.wishes, ["192.0.2.1", "2001:db8::1"]);
        assert_eq!((found.families, found.held.len(), found.wants_addresses), (vec![true, false], 1, true));
    }

    /// B6: what the allocation does not use of an object cannot keep it from its addresses.
    #[test]
    fn a_condition_without_a_time_is_none_of_its_business() {
        let found = read(json!({
            "metadata": { "name": "a", "namespace": "shop" },
            "spec": { "type": "LoadBalancer", "ports": "none" },
            "status": { "conditions": [{ "type": "X", "status": "True", "lastTransitionTime": null }] },
        }));
        assert!(found.unwrap().wants_addresses);
    }

    #[test]
    fn other_services_are_of_no_interest_unless_they_have_an_address_left() {
        assert_eq!(read(json!({ "metadata": { "name": "a" }, "spec": { "type": "ClusterIP" } })), None);
        let left = json!({ "metadata": { "name": "a" }, "spec": { "type": "ClusterIP" },
            "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } } });
        assert!(!read(left).unwrap().wants_addresses);
    }
}
