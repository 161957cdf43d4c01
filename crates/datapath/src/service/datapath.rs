//! What the data plane offers of Services.

use std::{path::Path, time::Instant};

use weft_model::services::{ServicePortKey, ServicePortPlan};
use weft_netns::{Netns, NetnsError};

use super::{InstalledServicePort, ServiceError, ServicesWritten, Surroundings};
use crate::Datapath;

impl Datapath {
    /// Serves exactly these: for the first whole list, and whenever it is not known what has changed. What the kernel has already
    /// is not written again, and ports of the node that lead to Pods stay.
    ///
    /// # Errors
    /// When a table cannot be written; what was written stays, the rest is written with the next change. What a table has no
    /// room for is not an error: see [`ServicesWritten::refused`].
    pub fn replace_services(
        &mut self,
        plans: Vec<(ServicePortKey, ServicePortPlan)>,
    ) -> Result<ServicesWritten, ServiceError> {
        let written = self.services.replace(plans, Instant::now());
        self.end_sockets();
        written
    }

    /// Serves these as planned now, or no longer.
    ///
    /// # Errors
    /// As [`Datapath::replace_services`].
    pub fn change_services(
        &mut self,
        changes: Vec<(ServicePortKey, Option<ServicePortPlan>)>,
    ) -> Result<ServicesWritten, ServiceError> {
        let written = self.services.change(changes, Instant::now());
        self.end_sockets();
        written
    }

    /// What the kernel holds now.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn services(&mut self) -> Result<Vec<InstalledServicePort>, ServiceError> {
        self.services.read(&mut self.service_counts)
    }

    /// Makes a Pod's namespace known that was attached by an earlier process: sockets in it can be ended.
    ///
    /// # Errors
    /// When it cannot be entered.
    pub fn know_namespace(&mut self, path: &Path) -> Result<(), NetnsError> {
        let cookie = Netns::from_path(path)?.cookie()?;
        self.namespaces.insert(cookie, path.to_owned());
        Ok(())
    }

    /// The nodes of the plan are these now: their addresses are nobody's own.
    pub(crate) fn tell_services_of_nodes(&mut self) {
        let peers = self.plan.iter().flat_map(|plan| &plan.peers).flat_map(|peer| &peer.node_addresses);
        let surroundings = Surroundings {
            node_addresses: self.settings.node_addresses.clone(),
            all_node_addresses: peers.copied().collect(),
            service_ranges: self.settings.service_ranges.clone(),
            dns_addresses: self.settings.dns_addresses.clone(),
        };
        self.services.set_surroundings(surroundings);
    }

    fn end_sockets(&mut self) {
        let gone = self.services.take_gone();
        if gone.is_empty() {
            return;
        }
        // What is gone by now has no sockets.
        self.namespaces.retain(|_, path| path.exists());
        self.socket_ender.end(gone, self.namespaces.clone());
    }
}
