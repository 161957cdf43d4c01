//! By what a Pod knows names, as a kubelet writes it: host name, resolv.conf and hosts.

use std::{fmt, fmt::Write as _, net::IpAddr};

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};

use crate::ranges::CLUSTER_DOMAIN;

/// What a resolv.conf may hold at most, as a kubelet has it.
const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const MOST_SEARCH_LETTERS: usize = 2048;
/// What the kernel takes as a host name, and DNS as one label.
const LONGEST_HOSTNAME: usize = 64;
const LONGEST_LABEL: usize = 63;

/// Whom the Pods of a node ask.
pub(super) struct Surrounding<'a> {
    /// Addresses of the cluster's DNS.
    pub(super) servers: &'a [IpAddr],
    /// The node's host name, resolv.conf and hosts.
    pub(super) hostname: &'a str,
    pub(super) resolv_conf: &'a str,
    pub(super) hosts: &'a str,
}

/// What is written for one Pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PodNames {
    pub(super) hostname: String,
    pub(super) resolv_conf: String,
    pub(super) hosts: String,
    /// What did not fit and was left out.
    pub(super) omitted: Vec<String>,
}

/// A resolv.conf.
#[derive(Debug, Default, PartialEq, Eq)]
struct ResolvConf {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

// === impl PodNames ===

impl PodNames {
    /// What `pod`, which has these addresses, is given.
    ///
    /// # Errors
    /// Its fully qualified name is to be its host name and is too long for one.
    pub(super) fn of(pod: &Pod, addresses: &[IpAddr], node: &Surrounding<'_>) -> Result<PodNames> {
        let spec = pod.spec.clone().unwrap_or_default();
        let mut resolv_conf = ResolvConf::of(pod, node);
        let omitted = resolv_conf.fit();
        let own = hostname(pod);
        let domain = domain(pod);
        let on_host = spec.host_network == Some(true);
        let mut hosts = if on_host {
            format!("# Kubernetes-managed hosts file (host network).\n{}", node.hosts)
        } else {
            managed_hosts(&own, domain.as_deref(), addresses)
        };
        let aliases = spec.host_aliases.unwrap_or_default();
        if !aliases.is_empty() {
            hosts.push_str("\n# Entries added by HostAliases.\n");
        }
        for alias in aliases {
            let _ = writeln!(hosts, "{}\t{}", alias.ip, alias.hostnames.unwrap_or_default().join("\t"));
        }
        let hostname = match domain {
            _ if on_host => node.hostname.to_owned(),
            Some(domain) if spec.set_hostname_as_fqdn == Some(true) => {
                let whole = format!("{own}.{domain}");
                if whole.len() > LONGEST_HOSTNAME {
                    bail!(
                        "the fully qualified name {whole} has {} letters and cannot be the host name, which has \
                         {LONGEST_HOSTNAME} at most (setHostnameAsFQDN)",
                        whole.len()
                    );
                }
                whole
            }
            _ => own,
        };
        Ok(PodNames { hostname, resolv_conf: resolv_conf.to_string(), hosts, omitted })
    }
}

/// What the Pod calls itself: as its spec says, else its own name, as much as fits into a label.
fn hostname(pod: &Pod) -> String {
    if let Some(name) = overridden(pod) {
        return name.to_owned();
    }
    let given = pod.spec.as_ref().and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let mut name = given.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    if name.len() > LONGEST_LABEL {
        name = name.chars().take(LONGEST_LABEL).collect();
        name.truncate(name.trim_end_matches(['-', '.']).len());
    }
    name
}

/// A host name that is nobody's in DNS.
fn overridden(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.hostname_override.as_deref().filter(|name| !name.is_empty())
}

/// The domain of a Pod that names its subdomain.
fn domain(pod: &Pod) -> Option<String> {
    if overridden(pod).is_some() {
        return None;
    }
    let subdomain = pod.spec.as_ref()?.subdomain.as_ref().filter(|subdomain| !subdomain.is_empty())?;
    Some(format!("{subdomain}.{}.svc.{CLUSTER_DOMAIN}", namespace(pod)))
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

fn managed_hosts(hostname: &str, domain: Option<&str>, addresses: &[IpAddr]) -> String {
    let mut hosts = "# Kubernetes-managed hosts file.\n\
        127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n\
        fe00::0\tip6-localnet\n\
        fe00::0\tip6-mcastprefix\n\
        fe00::1\tip6-allnodes\n\
        fe00::2\tip6-allrouters\n"
        .to_owned();
    for address in addresses {
        let _ = match domain {
            Some(domain) => writeln!(hosts, "{address}\t{hostname}.{domain}\t{hostname}"),
            None => writeln!(hosts, "{address}\t{hostname}"),
        };
    }
    hosts
}

// === impl ResolvConf ===

impl ResolvConf {
    /// By the Pod's dnsPolicy, and what its dnsConfig adds.
    fn of(pod: &Pod, node: &Surrounding<'_>) -> ResolvConf {
        let spec = pod.spec.clone().unwrap_or_default();
        let on_host = spec.host_network == Some(true);
        let mut conf = match spec.dns_policy.as_deref() {
            Some("None") => ResolvConf::default(),
            Some("Default") => ResolvConf::parse(node.resolv_conf),
            Some("ClusterFirstWithHostNet") => ResolvConf::cluster_first(pod, node),
            // On the host's network a Pod asks as the host does, unless it says otherwise.
            _ if on_host => ResolvConf::parse(node.resolv_conf),
            _ => ResolvConf::cluster_first(pod, node),
        };
        conf.add(spec.dns_config.unwrap_or_default());
        conf
    }

    fn cluster_first(pod: &Pod, node: &Surrounding<'_>) -> ResolvConf {
        let own = [
            format!("{}.svc.{CLUSTER_DOMAIN}", namespace(pod)),
            format!("svc.{CLUSTER_DOMAIN}"),
            CLUSTER_DOMAIN.to_owned(),
        ];
        let searches = own.into_iter().chain(ResolvConf::parse(node.resolv_conf).searches);
        ResolvConf {
            servers: node.servers.iter().map(ToString::to_string).collect(),
            searches: once_each(searches),
            options: vec!["ndots:5".into()],
        }
    }

    fn parse(text: &str) -> ResolvConf {
        let mut conf = ResolvConf::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().map(str::to_owned)),
                // The last of them counts.
                Some("search") => {
                    let without_dot =
                        |name: &str| if name == "." { name } else { name.trim_end_matches('.') }.to_owned();
                    conf.searches = words.map(without_dot).collect();
                }
                Some("options") => words.for_each(|option| conf.set(option.to_owned())),
                _ => {}
            }
        }
        conf
    }

    fn add(&mut self, more: PodDNSConfig) {
        let servers = more.nameservers.unwrap_or_default();
        self.servers = once_each(std::mem::take(&mut self.servers).into_iter().chain(servers));
        let searches = more.searches.unwrap_or_default();
        self.searches = once_each(std::mem::take(&mut self.searches).into_iter().chain(searches));
        for option in more.options.unwrap_or_default() {
            let Some(name) = option.name else { continue };
            match option.value.filter(|value| !value.is_empty()) {
                Some(value) => self.set(format!("{name}:{value}")),
                None => self.set(name),
            }
        }
    }

    /// Adds an option, in the place of one with the same name.
    fn set(&mut self, option: String) {
        let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
        match self.options.iter_mut().find(|held| name(held) == name(&option)) {
            Some(held) => *held = option,
            None => self.options.push(option),
        }
    }

    /// Leaves out what is too much, and says so.
    fn fit(&mut self) -> Vec<String> {
        let mut omitted = Vec::new();
        if self.servers.len() > MOST_SERVERS {
            self.servers.truncate(MOST_SERVERS);
            omitted.push(format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
                self.servers.join(" ")
            ));
        }
        let before = self.searches.len();
        self.searches.truncate(MOST_SEARCHES);
        while self.searches.join(" ").len() > MOST_SEARCH_LETTERS {
            self.searches.pop();
        }
        if self.searches.len() < before {
            omitted.push(format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
                self.searches.join(" ")
            ));
        }
        omitted
    }
}

impl fmt::Display for ResolvConf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.searches.is_empty() {
            writeln!(f, "search {}", self.searches.join(" "))?;
        }
        for server in &self.servers {
            writeln!(f, "nameserver {server}")?;
        }
        if !self.options.is_empty() {
            writeln!(f, "options {}", self.options.join(" "))?;
        }
        Ok(())
    }
}

fn once_each(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for word in words {
        if !kept.contains(&word) {
            kept.push(word);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const HOSTS: &str = "127.0.0.1\tlocalhost\n";

    /// What a Pod `web` in the namespace `shop` with this spec is given.
    fn names(spec: Value) -> Result<PodNames> {
        let metadata = json!({ "name": "web", "namespace": "shop" });
        let pod: Pod = serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap();
        let addresses = ["10.244.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        let node = Surrounding {
            servers: &["10.96.0.10".parse().unwrap()],
            hostname: "node-1",
            resolv_conf: "nameserver 192.168.1.254\nsearch example.net.\noptions timeout:2 rotate\n",
            hosts: HOSTS,
        };
        PodNames::of(&pod, &addresses, &node)
    }

    fn resolv_conf(spec: Value) -> String {
        let mut spec = spec;
        spec["containers"] = json!([]);
        names(spec).unwrap().resolv_conf
    }

    const CLUSTER_FIRST: &str = "search shop.svc.cluster.local svc.cluster.local cluster.local example.net\n\
        nameserver 10.96.0.10\noptions ndots:5\n";
    const AS_THE_NODE: &str = "search example.net\nnameserver 192.168.1.254\noptions timeout:2 rotate\n";

    #[test]
    fn every_dns_policy_has_its_resolv_conf() {
        assert_eq!(resolv_conf(json!({})), CLUSTER_FIRST);
        assert_eq!(resolv_conf(json!({ "dnsPolicy": "ClusterFirst" })), CLUSTER_FIRST);
        assert_eq!(resolv_conf(json!({ "dnsPolicy": "Default" })), AS_THE_NODE);
        assert_eq!(resolv_conf(json!({ "dnsPolicy": "None" })), "");
        let on_host = |policy: &str| json!({ "hostNetwork": true, "dnsPolicy": policy });
        assert_eq!(resolv_conf(on_host("ClusterFirst")), AS_THE_NODE);
        assert_eq!(resolv_conf(on_host("ClusterFirstWithHostNet")), CLUSTER_FIRST);
    }

    #[test]
    fn a_dns_config_adds_and_overrides() {
        let config = json!({
            "nameservers": ["192.0.2.1", "10.96.0.10"],
            "searches": ["ns1.svc.cluster-domain.example", "cluster.local"],
            "options": [{ "name": "ndots", "value": "2" }, { "name": "edns0" }],
        });
        assert_eq!(
            resolv_conf(json!({ "dnsPolicy": "None", "dnsConfig": config })),
            "search ns1.svc.cluster-domain.example cluster.local\nnameserver 192.0.2.1\nnameserver 10.96.0.10\n\
             options ndots:2 edns0\n"
        );
        assert_eq!(
            resolv_conf(json!({ "dnsConfig": config })),
            "search shop.svc.cluster.local svc.cluster.local cluster.local example.net ns1.svc.cluster-domain.example\n\
             nameserver 10.96.0.10\nnameserver 192.0.2.1\noptions ndots:2 edns0\n"
        );
    }

    #[test]
    fn what_is_too_much_is_left_out_and_said() {
        let servers: Vec<String> = (1..=4).map(|n| format!("192.0.2.{n}")).collect();
        let searches: Vec<String> = (1..=40).map(|n| format!("s{n}.example")).collect();
        let config = json!({ "nameservers": servers, "searches": searches });
        let given = names(json!({ "containers": [], "dnsPolicy": "None", "dnsConfig": config })).unwrap();
        assert_eq!(given.resolv_conf.matches("nameserver").count(), 3);
        assert!(given.resolv_conf.contains("s32.example\n") && !given.resolv_conf.contains("s33.example"));
        assert_eq!(given.omitted.len(), 2, "{:?}", given.omitted);
    }

    #[test]
    fn a_pod_is_called_what_its_spec_says() {
        let name = |spec: Value| names(spec).unwrap().hostname;
        assert_eq!(name(json!({ "containers": [] })), "web");
        assert_eq!(name(json!({ "containers": [], "hostname": "busybox-1" })), "busybox-1");
        let mut spec = json!({ "containers": [], "hostname": "busybox-1", "subdomain": "busybox-subdomain" });
        assert_eq!(name(spec.clone()), "busybox-1");
        spec["setHostnameAsFQDN"] = json!(true);
        assert_eq!(name(spec.clone()), "busybox-1.busybox-subdomain.shop.svc.cluster.local");
        spec["subdomain"] = json!("a-subdomain-that-is-too-long-for-a-host-name");
        let error = names(spec).unwrap_err().to_string();
        assert!(error.contains("64 at most"), "{error}");
        assert_eq!(name(json!({ "containers": [], "hostNetwork": true, "hostname": "x" })), "node-1");
        let other = json!({ "containers": [], "hostname": "x", "subdomain": "y", "hostnameOverride": "other.example" });
        assert_eq!(name(other), "other.example");
    }

    #[test]
    fn hosts_has_the_pod_and_its_aliases() {
        let spec = json!({
            "containers": [], "hostname": "a", "subdomain": "b",
            "hostAliases": [{ "ip": "127.0.0.1", "hostnames": ["foo.local", "bar.local"] }],
        });
        let hosts = names(spec.clone()).unwrap().hosts;
        for line in [
            "10.244.0.5\ta.b.shop.svc.cluster.local\ta\n",
            "fd00::5\ta.b.shop.svc.cluster.local\ta\n",
            "\n# Entries added by HostAliases.\n127.0.0.1\tfoo.local\tbar.local\n",
        ] {
            assert!(hosts.contains(line), "{hosts}");
        }
        let mut spec = spec;
        spec["hostNetwork"] = json!(true);
        let hosts = names(spec).unwrap().hosts;
        assert!(hosts.contains(HOSTS) && hosts.contains("bar.local") && !hosts.contains("10.244"), "{hosts}");
    }
}
