//! Who asks: which clients are answered, and how the Pods of this node look for names.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::watch;
use weft_dns::{
    forward::search_domains,
    server::{Clients, Search},
};
use weft_kube::Mirror;
use weft_model::{DnsPolicy, Pod, PodKey, dns::Name};

use super::{Dns, access::Access};

/// Who asks.
#[derive(Debug, Default)]
pub(super) struct DnsClients {
    /// Who is answered.
    pub(super) access: Access,
    /// How the Pods of this node look for names, by address.
    searches: RwLock<HashMap<IpAddr, Arc<Search>>>,
}

/// Keeps [`Dns`] at what the API says of this node's Pods.
pub(super) async fn follow(dns: Dns, mut pods: watch::Receiver<Mirror<PodKey, Pod>>) {
    loop {
        let pods_now: Vec<Pod> = pods.borrow_and_update().objects().values().cloned().collect();
        // Those that the Pods have got were read when they started, and hardly ever change.
        let of_node = search_domains(dns.0.place.resolv_conf());
        let of_node: Vec<Name> = of_node.iter().filter_map(|domain| domain.parse().ok()).collect();
        dns.0.clients.replace(searches(&pods_now, &dns.0.place.domain, &of_node));
        if pods.changed().await.is_err() {
            return;
        }
    }
}

fn searches(pods: &[Pod], domain: &Name, of_node: &[Name]) -> HashMap<IpAddr, Arc<Search>> {
    let mut searches: HashMap<IpAddr, Option<Arc<Search>>> = HashMap::new();
    // Processes of the host network share the node's address, and each has its own way to look for names.
    for pod in pods.iter().filter(|pod| !pod.host_network && !pod.phase.is_over()) {
        let search = search(pod, domain, of_node).map(Arc::new);
        for address in &pod.ips {
            match searches.entry(*address) {
                Entry::Vacant(vacant) => drop(vacant.insert(search.clone())),
                // One of them is over, and the API does not know yet which.
                Entry::Occupied(mut two) if *two.get() != search => drop(two.insert(None)),
                Entry::Occupied(_) => {}
            }
        }
    }
    searches.into_iter().filter_map(|(address, search)| Some((address, search?))).collect()
}

/// How a Pod looks for names, as kubelet writes its resolv.conf; `None` where that cannot be known.
fn search(pod: &Pod, domain: &Name, of_node: &[Name]) -> Option<Search> {
    // A domain that is none would stand in the Pod's resolv.conf as it is, and who knows what its resolver makes of that.
    let own: Vec<Name> = pod.dns.searches.iter().map(|text| text.parse().ok()).collect::<Option<_>>()?;
    let mut search = match pod.dns.policy {
        DnsPolicy::ClusterFirst | DnsPolicy::ClusterFirstWithHostNet => {
            let more: Vec<Name> = of_node.iter().chain(&own).cloned().collect();
            Search::cluster_first(&pod.key.namespace, domain, &more).ok()?
        }
        DnsPolicy::None => Search { domains: own, ndots: 1 },
        // It asks the node's servers; if it asks here all the same, nobody knows why.
        DnsPolicy::Default => return None,
    };
    search.ndots = pod.dns.ndots.unwrap_or(search.ndots);
    Some(search)
}

// === impl DnsClients ===

impl DnsClients {
    fn replace(&self, searches: HashMap<IpAddr, Arc<Search>>) {
        *self.searches.write().unwrap_or_else(PoisonError::into_inner) = searches;
    }
}

impl Clients for DnsClients {
    fn search(&self, address: IpAddr) -> Option<Arc<Search>> {
        self.searches.read().unwrap_or_else(PoisonError::into_inner).get(&address.to_canonical()).cloned()
    }

    fn may_ask(&self, address: IpAddr) -> bool {
        self.access.admits(address)
    }
}

#[cfg(test)]
mod tests {
    use weft_model::{Phase, PodDns};

    use super::*;

    fn pod(name: &str, address: &str, dns: PodDns) -> Pod {
        Pod {
            key: PodKey::new("shop", name),
            uid: name.to_owned(),
            node: None,
            ips: vec![address.parse().unwrap()],
            host_network: false,
            phase: Phase::Running,
            dns,
        }
    }

    fn names(names: &[&str]) -> Vec<Name> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn found(pods: &[Pod], address: &str) -> Option<(Vec<Name>, usize)> {
        let domain = "cluster.local".parse().unwrap();
        let search =
            searches(pods, &domain, &names(&["node.example"])).remove(&address.parse::<IpAddr>().unwrap())?;
        Some((search.domains.clone(), search.ndots))
    }

    #[test]
    fn a_pod_looks_in_its_namespace_first_and_in_its_own_domains_last() {
        let plain = pod("a", "10.244.0.2", PodDns::default());
        let cluster = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "node.example"];
        assert_eq!(found(&[plain], "10.244.0.2"), Some((names(&cluster), 5)));
        let dns = PodDns { searches: vec!["own.example".into()], ndots: Some(2), ..PodDns::default() };
        let more = pod("b", "10.244.0.3", dns);
        let all = [&cluster[..], &["own.example"]].concat();
        assert_eq!(found(&[more], "10.244.0.3"), Some((names(&all), 2)));
        let dns = PodDns { policy: DnsPolicy::None, searches: vec!["own.example".into()], ndots: None };
        assert_eq!(found(&[pod("c", "10.244.0.4", dns)], "10.244.0.4"), Some((names(&["own.example"]), 1)));
    }

    #[test]
    fn what_is_not_known_for_certain_is_not_known() {
        let plain = |name| pod(name, "10.244.0.2", PodDns::default());
        assert_eq!(found(&[Pod { host_network: true, ..plain("a") }], "10.244.0.2"), None);
        assert_eq!(found(&[Pod { phase: Phase::Succeeded, ..plain("a") }], "10.244.0.2"), None);
        let default = PodDns { policy: DnsPolicy::Default, ..PodDns::default() };
        assert_eq!(found(&[Pod { dns: default, ..plain("a") }], "10.244.0.2"), None);
        let wrong = PodDns { searches: vec!["no domain..".into()], ..PodDns::default() };
        assert_eq!(found(&[Pod { dns: wrong, ..plain("a") }], "10.244.0.2"), None);
        // Two at one address: one of them has gone.
        let ndots = PodDns { ndots: Some(1), ..PodDns::default() };
        let two = [plain("a"), Pod { dns: ndots, ..plain("b") }];
        assert_eq!(found(&two, "10.244.0.2"), None);
        assert!(found(&[plain("a"), plain("b")], "10.244.0.2").is_some());
    }
}
