//! The host `outside`: on the fabric like the nodes, but no part of the cluster. From it NodePorts and LoadBalancer
//! addresses are reached; what Pods send to it shows what leaves the cluster.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use anyhow::{Result, bail};
use weft_netns::Netns;

use crate::{
    place::{Cgroup, Fabric, LabDir, OutsideRecord},
    ranges::{OUTSIDE_HOST, Ranges},
    responder::{Identity, Protocol, Responder},
};

const NAME: &str = "outside";

/// The host, until it is dropped with the lab.
pub(super) struct Outside {
    netns: Arc<Netns>,
    cgroup: Cgroup,
    addresses: Vec<IpAddr>,
}

impl Outside {
    pub(super) fn create(lab: &LabDir, fabric: &Fabric, ranges: &Ranges, own: &Cgroup) -> Result<Outside> {
        let netns = Arc::new(fabric.add_host(lab, NAME, ranges, OUTSIDE_HOST)?);
        Ok(Outside { netns, cgroup: own.below(NAME)?, addresses: ranges.fabric_addresses(OUTSIDE_HOST) })
    }

    /// Answers as a Pod's responder does, until the result is dropped.
    pub(super) fn answer(&self) -> Result<Responder> {
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
}
