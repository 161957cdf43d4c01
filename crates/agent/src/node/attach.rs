//! Addresses and links of this node's containers, over every order in which agent, plugin and kernel can fail.
//!
//! | step of ADD | killed after it | what puts it right |
//! | --- | --- | --- |
//! | address chosen | nothing is left | – |
//! | record written | a record that is not finished | undone at start |
//! | link made | the same, and a link | undone at start |
//! | record finished | an attachment that the runtime does not know of | its DEL, or GC |
//!
//! DEL goes the other way: link, record, address. Killed anywhere, it is done again by the next DEL or GC.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use weft_cni::{Failure, plugin::code};
use weft_datapath::{AddPodError, Datapath};
use weft_model::{
    Ipam,
    ipam::{Cursor, ReserveError},
};

use super::Node;
use crate::{
    attachment::{self, Key, Made, Record},
    store::StoreError,
};

/// State file: where the search for addresses goes on.
const CURSOR: &str = "cursor.json";

impl Node {
    /// Brings records, kernel and addresses to one story, when a data plane was opened.
    pub(super) fn adopt(&mut self, plane: &mut Datapath, pod_ranges: &[IpNet]) -> Result<(), String> {
        let mut ipam = Ipam::new(pod_ranges).map_err(|error| error.to_string())?;
        let unreadable = |error: AddPodError| format!("the kernel's Pods cannot be listed: {error}");
        let mut installed: BTreeSet<String> =
            plane.pods().map_err(unreadable)?.into_iter().map(|pod| pod.host_interface).collect();
        let mut dead = Vec::new();
        for (key, record) in &self.attachments {
            let gone = !installed.contains(&record.host_interface) && record.is_without_namespace();
            if record.made.is_none() || gone {
                dead.push(key.clone());
            }
        }
        for key in dead {
            let Some(record) = self.attachments.get(&key) else { continue };
            tracing::info!(attachment = %key, addresses = ?record.addresses, "removing what an earlier process left");
            plane.remove_pod(&record.host_interface).map_err(|error| error.to_string())?;
            installed.remove(&record.host_interface);
            self.store.remove_record(&key).map_err(|error| error.to_string())?;
            self.attachments.remove(&key);
        }
        for record in self.attachments.values() {
            // One that is gone has no sockets either.
            if let Err(error) = plane.know_namespace(&record.netns) {
                tracing::warn!(
                    netns = %record.netns.display(),
                    "connections of this Pod to Services are not ended when their backend goes: {error}"
                );
            }
        }
        let recorded: BTreeSet<&str> = self.attachments.values().map(|r| r.host_interface.as_str()).collect();
        self.orphans.clear();
        for pod in plane.pods().map_err(unreadable)? {
            if recorded.contains(pod.host_interface.as_str()) {
                continue;
            }
            if pod.addresses.is_empty() {
                // Half made, or half removed: no packet passes it.
                tracing::info!(interface = pod.host_interface, "removing what an earlier process left");
                plane.remove_pod(&pod.host_interface).map_err(|error| error.to_string())?;
            } else {
                self.orphans.insert(pod.host_interface, pod.addresses);
            }
        }
        if !self.orphans.is_empty() {
            tracing::warn!(interfaces = ?self.orphans, "Pods without a record: kept until the runtime removes them");
        }
        let used = self.attachments.values().map(|r| &r.addresses).chain(self.orphans.values());
        for &address in used.flatten() {
            match ipam.reserve(&[address]) {
                // Of a range that this node had before; nobody gets it again.
                Ok(()) | Err(ReserveError::Outside(_)) => {}
                Err(error @ ReserveError::Taken(_)) => {
                    tracing::error!("two attachments have one address: {error}")
                }
            }
        }
        ipam.resume(&self.store.load::<Cursor>(CURSOR).unwrap_or_default());
        self.ipam = Some(ipam);
        Ok(())
    }

    /// Addresses for a new attachment, recorded; `make` says the rest of the record.
    pub(super) fn hand_out(
        &mut self,
        make: impl FnOnce(Vec<IpAddr>) -> Record,
    ) -> Result<(Key, Record), Failure> {
        let addresses = self.allocate()?;
        let record = make(addresses);
        let key = record.key();
        // Best effort: without it an address is used again sooner after a restart.
        if let Some(ipam) = &self.ipam
            && let Err(error) = self.store.save(CURSOR, &ipam.cursor())
        {
            tracing::warn!("{error}");
        }
        if let Err(error) = self.store.write_record(&key, &record) {
            self.release(&record.addresses);
            return Err(io_failure(&error));
        }
        self.attachments.insert(key.clone(), record.clone());
        Ok((key, record))
    }

    fn allocate(&mut self) -> Result<Vec<IpAddr>, Failure> {
        let ready = |ipam: &mut Option<Ipam>| match ipam {
            Some(ipam) => ipam.allocate().map_err(Some),
            None => Err(None),
        };
        let first = ready(&mut self.ipam);
        let second = match first {
            Err(Some(_)) if self.reap() => ready(&mut self.ipam),
            first => first,
        };
        second.map_err(|full| match full {
            Some(full) => Failure::new(code::EXHAUSTED, "no address left", full.to_string()),
            None => Failure::new(code::TRY_AGAIN, "this node has no Pod range yet: try again later", ""),
        })
    }

    /// Removes attachments whose namespace and interface are gone, which the runtime did not tell: a sandbox that another
    /// plugin refused gets no DEL. True when there were. An ADD that is under way has no part in it: this is the thread that
    /// serves it.
    pub(super) fn reap(&mut self) -> bool {
        let suspects: Vec<Key> = (self.attachments.iter())
            .filter(|(_, record)| record.is_without_namespace())
            .map(|(key, _)| key.clone())
            .collect();
        if suspects.is_empty() && self.orphans.is_empty() {
            return false;
        }
        let Some(open) = &mut self.datapath else { return false };
        let Ok(installed) = open.plane.pods() else { return false };
        let there: BTreeSet<String> = installed.into_iter().map(|pod| pod.host_interface).collect();
        let mut any = false;
        for key in &suspects {
            // A process may hold a namespace whose file is gone: as long as the interface is there, so is the Pod.
            let Some(record) =
                self.attachments.get(key).filter(|record| !there.contains(&record.host_interface))
            else {
                continue;
            };
            tracing::info!(attachment = %key, addresses = ?record.addresses, "removed: its namespace is gone, and no DEL came");
            any = true;
            if let Err(error) = self.detach(key) {
                tracing::warn!(attachment = %key, "cannot be removed: {error}");
            }
        }
        let gone: Vec<String> =
            self.orphans.keys().filter(|interface| !there.contains(*interface)).cloned().collect();
        for interface in gone {
            any = true;
            if let Err(error) = self.detach_unrecorded(&interface) {
                tracing::warn!(interface, "cannot be removed: {error}");
            }
        }
        any
    }

    /// The attachment is whole.
    pub(super) fn finish(&mut self, key: &Key, made: Made) -> Result<Record, Failure> {
        let Some(record) = self.attachments.get_mut(key) else {
            return Err(Failure::new(
                code::TRY_AGAIN,
                "the attachment was removed meanwhile",
                key.to_string(),
            ));
        };
        record.made = Some(Made { namespace: attachment::identity(&record.netns), ..made });
        let record = record.clone();
        self.store.write_record(key, &record).map_err(|error| io_failure(&error))?;
        Ok(record)
    }

    /// Removes an attachment: link, record, addresses. What is not there is passed over.
    pub(super) fn detach(&mut self, key: &Key) -> Result<(), Failure> {
        let Some(record) = self.attachments.get(key) else { return Ok(()) };
        let Some(open) = &mut self.datapath else { return Err(closed()) };
        open.plane.remove_pod(&record.host_interface).map_err(|error| kernel_failure(&error))?;
        open.plane.forget_addresses(&record.addresses).map_err(|error| kernel_failure(&error))?;
        self.store.remove_record(key).map_err(|error| io_failure(&error))?;
        if let Some(record) = self.attachments.remove(key) {
            self.release(&record.addresses);
        }
        Ok(())
    }

    /// Removes an interface that has no record.
    pub(super) fn detach_unrecorded(&mut self, host_interface: &str) -> Result<(), Failure> {
        let Some(open) = &mut self.datapath else { return Err(closed()) };
        open.plane.remove_pod(host_interface).map_err(|error| kernel_failure(&error))?;
        if let Some(addresses) = self.orphans.get(host_interface) {
            open.plane.forget_addresses(addresses).map_err(|error| kernel_failure(&error))?;
        }
        if let Some(addresses) = self.orphans.remove(host_interface) {
            self.release(&addresses);
        }
        Ok(())
    }

    fn release(&mut self, addresses: &[IpAddr]) {
        if let Some(ipam) = &mut self.ipam {
            ipam.release(addresses);
        }
    }
}

pub(super) fn kernel_failure(error: &AddPodError) -> Failure {
    Failure::new(code::KERNEL, "the kernel refused", error.to_string())
}

fn io_failure(error: &StoreError) -> Failure {
    Failure::new(code::IO, "the state directory cannot be written", error.to_string())
}

fn closed() -> Failure {
    Failure::new(code::TRY_AGAIN, "the data plane is not open: try again later", "")
}
