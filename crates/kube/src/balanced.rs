//! Services that get addresses from outside, and the configuration of their pools.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use weft_model::{BalancedService, services::ServiceKey};

use crate::{ApiError, Client};

/// Several addresses, comma separated, one a family.
const WISHES: &str = "weft.network/load-balancer-ips";

/// What of a Service the allocation uses; `None` if it neither wants addresses nor has any.
pub(crate) fn balanced(object: &core::Service) -> Option<BalancedService> {
    let (metadata, spec) = (&object.metadata, object.spec.clone().unwrap_or_default());
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let ingress = object.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let held: Vec<IpAddr> =
        ingress.into_iter().flatten().filter_map(|ingress| ingress.ip.as_ref()?.parse().ok()).collect();
    if !balanced && held.is_empty() {
        return None;
    }
    let annotation = metadata.annotations.as_ref().and_then(|annotations| annotations.get(WISHES));
    let wishes: Vec<String> = annotation.or(spec.load_balancer_ip.as_ref()).map_or_else(Vec::new, |text| {
        text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
    });
    let families = spec.ip_families.unwrap_or_default();
    Some(BalancedService {
        key: ServiceKey::new(
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone().unwrap_or_default(),
        ),
        uid: metadata.uid.clone().unwrap_or_default(),
        version: metadata.resource_version.clone().unwrap_or_default(),
        created: metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
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
        balanced(&serde_json::from_value(value).unwrap())
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

    #[test]
    fn other_services_are_of_no_interest_unless_they_have_an_address_left() {
        assert_eq!(read(json!({ "metadata": { "name": "a" }, "spec": { "type": "ClusterIP" } })), None);
        let left = json!({ "metadata": { "name": "a" }, "spec": { "type": "ClusterIP" },
            "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } } });
        assert!(!read(left).unwrap().wants_addresses);
    }
}
