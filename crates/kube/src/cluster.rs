//! What a cluster says of itself: its ranges of Services, and the address of its DNS.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::{core::v1::Service, networking::v1::ServiceCIDR};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::json;

use crate::{ApiError, Client};

const NAMESPACE: &str = "kube-system";
/// The Service that Pods ask for names, by the name that every cluster has it under.
const DNS: &str = "kube-dns";

impl Client {
    /// Ranges of Services, by the cluster's ServiceCIDR objects; `None` where the API has no such kind (before Kubernetes 1.33).
    ///
    /// # Errors
    /// What the API server answered.
    pub async fn service_ranges(&self) -> Result<Option<Vec<IpNet>>, ApiError> {
        let api: Api<ServiceCIDR> = Api::all(self.kube.clone());
        let listed = match api.list(&ListParams::default()).await {
            Ok(listed) => listed,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let ranges = listed.items.into_iter().filter_map(|object| object.spec?.cidrs).flatten();
        let parsed = ranges.filter_map(|text| {
            let range = text.parse::<IpNet>();
            range.inspect_err(|error| tracing::warn!("ServiceCIDR {text:?} left out: {error}")).ok()
        });
        let mut all: Vec<IpNet> = parsed.map(|range| range.trunc()).collect();
        all.sort();
        all.dedup();
        Ok(Some(all))
    }

    /// Addresses of the Service `kube-system/kube-dns`; `None` when there is no such Service.
    ///
    /// # Errors
    /// What the API server answered.
    pub async fn dns_service(&self) -> Result<Option<Vec<IpAddr>>, ApiError> {
        let api: Api<Service> = Api::namespaced(self.kube.clone(), NAMESPACE);
        Ok(api.get_opt(DNS).await?.map(|service| addresses(&service)))
    }

    /// Makes that Service, with these addresses, one a family. Nobody is behind it: every node answers itself. When somebody
    /// else has made it meanwhile, theirs counts.
    ///
    /// # Errors
    /// What the API server answered.
    pub async fn make_dns_service(&self, wanted: &[IpAddr]) -> Result<(), ApiError> {
        let api: Api<Service> = Api::namespaced(self.kube.clone(), NAMESPACE);
        let families: Vec<&str> =
            wanted.iter().map(|address| if address.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
        let service: Service = serde_json::from_value(json!({
            "metadata": { "name": DNS, "namespace": NAMESPACE, "labels": {
                "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "app.kubernetes.io/managed-by": "weft",
            } },
            "spec": {
                "clusterIP": wanted.first(), "clusterIPs": wanted, "ipFamilies": families,
                "ipFamilyPolicy": if wanted.len() > 1 { "RequireDualStack" } else { "SingleStack" },
                "selector": { "k8s-app": "kube-dns" },
                "ports": [
                    { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53 },
                    { "name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53 },
                ],
            },
        }))
        .map_err(kube::Error::SerdeError)?;
        match api.create(&PostParams::default(), &service).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn addresses(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in all.filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}
