//! The host `outside`: on the fabric like the nodes, but no part of the cluster. From it NodePorts and LoadBalancer
//! addresses are reached; what Pods send to it shows what leaves the cluster; it knows the names of the world outside.

use std::{collections::BTreeSet, fmt::Write as _, net::IpAddr, path::PathBuf, sync::Arc};

use anyhow::{Result, bail};
use tokio::task::JoinSet;
use weft_netns::Netns;

use crate::{
    name_server,
    place::{Cgroup, Fabric, LabDir, Names, OutsideRecord, make_dir},
    ranges::{OUTSIDE_HOST, Ranges},
    responder::{Identity, Protocol, Responder},
};

const NAME: &str = "outside";
/// Names by which the host is known, of the domains that are nobody's (RFC 2606).
const DOMAINS: [&str; 3] = ["example.com", "example.net", "example.org"];

/// The host, until it is dropped with the lab.
pub(super) struct Outside {
    netns: Arc<Netns>,
    cgroup: Cgroup,
    addresses: Vec<IpAddr>,
    folder: PathBuf,
}

impl Outside {
    pub(super) fn create(lab: &LabDir, fabric: &Fabric, ranges: &Ranges, own: &Cgroup) -> Result<Outside> {
        let netns = Arc::new(fabric.add_host(lab, NAME, ranges, OUTSIDE_HOST)?);
        let (addresses, folder) = (ranges.fabric_addresses(OUTSIDE_HOST), lab.outside());
        make_dir(&folder)?;
        write_names(&lab.names(&folder), NAME, &addresses, ranges)?;
        Ok(Outside { netns, cgroup: own.below(NAME)?, addresses, folder })
    }

    /// Answers as a Pod's responder does until the result is dropped, and asked for names until the tasks are.
    pub(super) fn answer(&self, tasks: &mut JoinSet<()>) -> Result<Responder> {
        name_server::start(&self.netns, &self.addresses, &self.folder, &self.records(), tasks)?;
        let identity = Identity { pod: NAME.into(), ..Identity::default() };
        let log = Arc::new(|line: &str| tracing::debug!(host = NAME, line));
        let mut responder = Responder::new(self.netns.clone(), identity, log);
        let ports = [(Protocol::Tcp, 80), (Protocol::Tcp, 443), (Protocol::Udp, 80)];
        if let Some(((protocol, port), why)) = responder.set_ports(&BTreeSet::from(ports)).first() {
            bail!("the host {NAME} cannot listen on port {port} ({protocol:?}): {why}");
        }
        Ok(responder)
    }

    pub(super) fn record(&self) -> OutsideRecord {
        OutsideRecord {
            netns: Netns::name(&self.netns).to_owned(),
            addresses: self.addresses.clone(),
            cgroup: self.cgroup.path().to_owned(),
        }
    }

    /// What its DNS server says until somebody edits the file.
    fn records(&self) -> String {
        let mut text = "# What the DNS server of the host outside says: NAME TTL TYPE VALUE, with A, AAAA, CNAME and TXT.\n\
            # A change is in force at once.\n"
            .to_owned();
        for domain in DOMAINS {
            for address in &self.addresses {
                let kind = if address.is_ipv4() { "A" } else { "AAAA" };
                let _ = writeln!(text, "{domain} 60 {kind} {address}\napi.{domain} 60 {kind} {address}");
            }
            let _ = writeln!(text, "www.{domain} 60 CNAME {domain}");
        }
        text
    }
}

/// Writes by what a host of the fabric knows names: it asks the DNS server of the host outside.
pub(super) fn write_names(names: &Names, own: &str, addresses: &[IpAddr], ranges: &Ranges) -> Result<()> {
    let (mut resolv_conf, mut hosts) = (String::new(), "127.0.0.1\tlocalhost\n::1\tlocalhost\n".to_owned());
    for server in ranges.fabric_addresses(OUTSIDE_HOST) {
        let _ = writeln!(resolv_conf, "nameserver {server}");
    }
    for address in addresses {
        let _ = writeln!(hosts, "{address}\t{own}");
    }
    names.write(own, &resolv_conf, &hosts)
}
