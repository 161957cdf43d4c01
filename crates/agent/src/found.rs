//! The cluster's Service ranges and the addresses of its DNS Service, as the API has them. Settings of the agent override both.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::timeout};
use weft_kube::{ApiError, Client};

use crate::{
    Options,
    drain::Drain,
    options::DnsAddress,
    store::{Store, write_atomically},
};

/// State file: what was found last.
const FILE: &str = "cluster.json";
/// Between two looks.
const AGAIN: Duration = Duration::from_secs(30);
/// The same while something is missing.
const SOON: Duration = Duration::from_secs(3);
/// An API server that is slower does not hold the start up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where a DNS Service stands in its range where nobody says otherwise: the place that kubeadm gives it.
const PLACE: u128 = 10;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    service_ranges: Vec<IpNet>,
    dns: Vec<IpAddr>,
}

/// Looks for it.
#[derive(Clone)]
pub(crate) struct Finder {
    client: Client,
    /// Ranges are looked for.
    ranges: bool,
    /// The DNS Service is looked for, and made where it is missing.
    dns: bool,
    told_ranges: Vec<IpNet>,
    kubelet_config: PathBuf,
    /// What was found is remembered there.
    file: PathBuf,
}

/// Of a kubelet's configuration, what is used.
#[derive(Debug, Default, Deserialize)]
struct KubeletConfig {
    #[serde(rename = "clusterDNS", default)]
    cluster_dns: Vec<IpAddr>,
}

/// What is missing, in words.
pub(crate) type Missing = Option<String>;

// === impl Found ===

impl Found {
    /// What an earlier agent found.
    pub(crate) fn remembered(store: &Store) -> Self {
        store.load(FILE).unwrap_or_default()
    }

    /// The options with what was found in the place of what was not told.
    pub(crate) fn complete(&self, options: &Options) -> Options {
        let mut options = options.clone();
        if options.service_cidrs.is_empty() {
            options.service_cidrs.clone_from(&self.service_ranges);
        }
        options.cluster_dns = match options.dns.as_slice() {
            [DnsAddress::Auto] => self.dns.clone(),
            told => told.iter().filter_map(|one| one.address()).collect(),
        };
        options
    }
}

// === impl Finder ===

impl Finder {
    pub(crate) fn new(client: Client, options: &Options) -> Self {
        Self {
            client,
            ranges: options.service_cidrs.is_empty(),
            dns: matches!(options.dns.as_slice(), [DnsAddress::Auto]),
            told_ranges: options.service_cidrs.clone(),
            kubelet_config: options.kubelet_config.clone(),
            file: options.state_dir.join(FILE),
        }
    }

    /// Something is to be found.
    pub(crate) fn is_needed(&self) -> bool {
        self.ranges || self.dns
    }

    /// What there is now, or was before as far as that cannot be told; remembered for the next start.
    pub(crate) async fn look(&self, before: &Found) -> (Found, Missing) {
        let (found, missing) = match timeout(PATIENCE, self.try_look(before)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => (before.clone(), self.still_missing(before, &error.to_string())),
            Err(_) => (before.clone(), self.still_missing(before, "the API server does not answer in time")),
        };
        let saved = || {
            let bytes = serde_json::to_vec(&found)?;
            write_atomically(&self.file, &bytes, 0o644)
        };
        if found != *before
            && let Err(error) = saved()
        {
            tracing::warn!("a restart will have to find the cluster's ranges anew: {error}");
        }
        (found, missing)
    }

    fn still_missing(&self, before: &Found, error: &str) -> Missing {
        let nothing = self.ranges && before.service_ranges.is_empty() || self.dns && before.dns.is_empty();
        nothing.then(|| format!("the cluster's Service ranges and DNS Service are not known: {error}"))
    }

    async fn try_look(&self, before: &Found) -> Result<(Found, Missing), ApiError> {
        let mut found = before.clone();
        let mut missing = None;
        if self.ranges {
            match self.client.service_ranges().await? {
                Some(ranges) if !ranges.is_empty() => found.service_ranges = ranges,
                _ => {
                    missing = Some(
                        "the ranges of Services are not known, as the API has no ServiceCIDR: name them with --service-cidr"
                            .to_owned(),
                    );
                }
            }
        }
        if self.dns {
            let mut there = self.client.dns_service().await?;
            if there.is_none() {
                missing = self.make_dns(&found).await.err();
                there = self.client.dns_service().await?;
            }
            // Headless, or not allocated yet: nobody can ask it.
            found.dns = there.unwrap_or_default();
            if found.dns.is_empty() && missing.is_none() {
                missing = Some(
                    "the Service kube-system/kube-dns has no address: Pods cannot look names up".to_owned(),
                );
            }
        }
        Ok((found, missing))
    }

    async fn make_dns(&self, found: &Found) -> Result<(), String> {
        let ranges = if self.ranges { &found.service_ranges } else { &self.told_ranges };
        let wanted = dns_addresses(ranges, &kubelet_dns(&self.kubelet_config));
        let missing = "the Service kube-system/kube-dns is missing: Pods cannot look names up";
        if wanted.is_empty() {
            return Err(format!("{missing}; make it with the address that the kubelets name (clusterDNS)"));
        }
        self.client
            .make_dns_service(&wanted)
            .await
            .map(|()| tracing::info!(addresses = ?wanted, "Service kube-system/kube-dns made"))
            .map_err(|error| format!("{missing}, and cannot be made with {wanted:?}: {error}"))
    }

    /// Returns when something else is found than what is in force; tells meanwhile what is missing.
    pub(crate) async fn watch(
        self,
        in_force: Found,
        missing: watch::Sender<Missing>,
        mut drain: Drain,
    ) -> Option<Found> {
        if !self.is_needed() {
            drain.begun().await;
            return None;
        }
        loop {
            let pause = if missing.borrow().is_some() { SOON } else { AGAIN };
            if timeout(pause, drain.begun()).await.is_ok() {
                return None;
            }
            let (found, lacks) = self.look(&in_force).await;
            missing.send_if_modified(|known| {
                let news = *known != lacks;
                if let Some(lacks) = lacks.as_ref().filter(|_| news) {
                    tracing::warn!("{lacks}");
                }
                *known = lacks;
                news
            });
            if found != in_force {
                return Some(found);
            }
        }
    }
}

/// One address a family: what the kubelets tell Pods to ask, else the tenth of each range, where kubeadm puts it.
fn dns_addresses(ranges: &[IpNet], kubelet: &[IpAddr]) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = kubelet.to_vec();
    for range in ranges {
        let family = |address: &IpAddr| address.is_ipv6() == range.addr().is_ipv6();
        if all.iter().any(family) {
            continue;
        }
        let address = match range.network() {
            IpAddr::V4(first) => {
                u32::try_from(u128::from(u32::from(first)) + PLACE).ok().map(|bits| IpAddr::V4(bits.into()))
            }
            IpAddr::V6(first) => u128::from(first).checked_add(PLACE).map(|bits| IpAddr::V6(bits.into())),
        };
        all.extend(address.filter(|address| range.contains(address)));
    }
    // A Service has one a family.
    let mut families = [false, false];
    all.retain(|address| !std::mem::replace(&mut families[usize::from(address.is_ipv6())], true));
    all
}

/// What this node's kubelet tells Pods to ask, as far as its configuration is there.
fn kubelet_dns(path: &Path) -> Vec<IpAddr> {
    let Ok(text) = std::fs::read_to_string(path) else { return Vec::new() };
    match serde_saphyr::from_str::<KubeletConfig>(&text) {
        Ok(config) => config.cluster_dns,
        Err(error) => {
            tracing::warn!("{}: {error}; where Pods ask for names is not known from it", path.display());
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_address_comes_first_and_a_family_without_one_gets_the_tenth() {
        let ranges: Vec<IpNet> =
            ["10.96.0.0/12", "fd00:10:96::/112"].map(|range| range.parse().unwrap()).into();
        let text = |kubelet: &[&str]| {
            let kubelet: Vec<IpAddr> = kubelet.iter().map(|one| one.parse().unwrap()).collect();
            dns_addresses(&ranges, &kubelet).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(text(&[]), ["10.96.0.10", "fd00:10:96::a"]);
        assert_eq!(text(&["10.96.0.53"]), ["10.96.0.53", "fd00:10:96::a"]);
        assert_eq!(text(&["fd00:10:96::53", "fd00:10:96::54"]), ["fd00:10:96::53", "10.96.0.10"]);
        assert!(dns_addresses(&["10.96.0.0/30".parse().unwrap()], &[]).is_empty());
    }

    #[test]
    fn of_a_kubelets_configuration_one_key_is_read() {
        let folder = std::env::temp_dir().join(format!("weft-kubelet-{}", std::process::id()));
        std::fs::write(&folder, "kind: KubeletConfiguration\nclusterDNS:\n- 10.96.0.53\nport: 10250\n")
            .unwrap();
        let found = kubelet_dns(&folder);
        std::fs::remove_file(&folder).unwrap();
        assert_eq!(found, ["10.96.0.53".parse::<IpAddr>().unwrap()]);
        assert!(kubelet_dns(Path::new("/no/such")).is_empty());
    }
}
