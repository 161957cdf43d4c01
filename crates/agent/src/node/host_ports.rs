//! Ports of the node that lead to Pods (`hostPort`): which of them a Pod may have.

use std::{collections::HashMap, net::IpAddr};

use weft_cni::{Failure, plugin::code};
use weft_kube::{ObjectRef, WarningEvent};
use weft_model::{PortMapping, Protocol, services::ServicePortKey};

use super::Node;
use crate::{admin::ServiceStatus, attachment::Record};

/// A port that the agent itself has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnPort {
    /// Its number, host byte order.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// What it is for.
    pub what: &'static str,
}

/// What several may want, whatever the address.
type Number = (u16, Protocol);

impl Node {
    /// A Pod may have ports of this node's own addresses, and none that the agent, a Service, the API server or another Pod
    /// has. The work grows with the mappings, not with their product.
    pub(super) fn check_host_ports(&self, wanted: &[PortMapping]) -> Result<(), Failure> {
        if wanted.is_empty() {
            return Ok(());
        }
        let own = self.datapath.as_ref().map(|open| open.node_addresses.as_slice()).unwrap_or_default();
        let health_checks: HashMap<u16, String> = (self.services.planner.health_check_ports())
            .map(|(port, service)| (port, format!("the health check port of Service {service}")))
            .collect();
        let mut taken: HashMap<Number, Vec<(Option<IpAddr>, String)>> = HashMap::new();
        let others = self
            .attachments
            .values()
            .flat_map(|record| record.port_mappings.iter().map(move |mapping| (mapping, record)));
        for (mapping, record) in others {
            taken
                .entry(number(mapping))
                .or_default()
                .push((mapping.host_ip, format!("{}'s already", whose(record))));
        }
        for mapping in wanted {
            if let Some(address) =
                mapping.host_ip.filter(|address| !own.contains(address) && !address.is_loopback())
            {
                let own: Vec<String> = own.iter().map(ToString::to_string).collect();
                return Err(Failure::new(
                    code::CONFIG,
                    "hostIP is no address of this node",
                    format!(
                        "{} {} at {address}: this node has {} and its loopback addresses; name one of them, or none for all",
                        mapping.protocol,
                        mapping.host_port,
                        own.join(", ")
                    ),
                ));
            }
            let of_pods = taken.entry(number(mapping)).or_default();
            let collides =
                |on: &Option<IpAddr>| on.is_none() || mapping.host_ip.is_none() || *on == mapping.host_ip;
            let whose = of_pods
                .iter()
                .find(|(on, _)| collides(on))
                .map(|(_, whose)| whose.clone())
                .or_else(|| self.of_agent(mapping))
                .or_else(|| {
                    health_checks
                        .get(&mapping.host_port)
                        .filter(|_| mapping.protocol == Protocol::Tcp)
                        .cloned()
                })
                .or_else(|| self.of_service(mapping, own));
            if let Some(whose) = whose {
                return Err(Failure::new(
                    code::EXISTS,
                    "a host port is taken",
                    format!("{} {} is {whose}", mapping.protocol, mapping.host_port),
                ));
            }
            of_pods.push((mapping.host_ip, "the same Pod's already".to_owned()));
        }
        Ok(())
    }

    fn of_agent(&self, mapping: &PortMapping) -> Option<String> {
        let own = self.config.own_ports.iter().find(|own| (own.port, own.protocol) == number(mapping))?;
        Some(format!("this network's own, for {}", own.what))
    }

    fn of_service(&self, mapping: &PortMapping, own: &[IpAddr]) -> Option<String> {
        let planner = &self.services.planner;
        // What a Service has at an address of the node, processes of the node reach on loopback.
        let at = own.iter().filter(|own| {
            mapping
                .host_ip
                .is_none_or(|asked| asked == **own || asked.is_loopback() && asked.is_ipv6() == own.is_ipv6())
        });
        at.into_iter().find_map(|address| {
            if let Some(service) = planner.holder(*address, mapping.host_port, mapping.protocol) {
                return Some(format!("Service {service}'s, at {address}"));
            }
            let is_api =
                mapping.protocol == Protocol::Tcp && planner.is_api_server(*address, mapping.host_port);
            is_api.then(|| format!("the API server's, at {address}"))
        })
    }

    /// Says of ports of the node whose they are.
    pub(super) fn name_host_ports(&self, services: &mut [ServiceStatus]) {
        let records: HashMap<IpAddr, &Record> = self
            .attachments
            .values()
            .flat_map(|record| record.addresses.iter().map(move |address| (*address, record)))
            .collect();
        for service in services.iter_mut().filter(|service| service.host_port) {
            let address = service.backends.first().map(|backend| backend.key.address);
            let Some(record) = address.and_then(|address| records.get(&address)) else { continue };
            (service.namespace, service.name) = match &record.pod {
                Some(pod) => (pod.namespace.clone(), pod.name.clone()),
                None => (String::new(), record.container_id.clone()),
            };
        }
    }

    /// Ports that a Pod had before a Service wanted them: the Service has them now.
    pub(super) fn lost_host_ports(&self) -> Vec<WarningEvent> {
        let lost = self.services.refused_host_ports();
        lost.filter_map(|(key, why)| {
            let record = self.attachments.values().find(|record| has(record, key))?;
            let pod = record.pod.as_ref()?;
            Some(WarningEvent {
                about: ObjectRef::pod(pod, &record.pod_uid),
                reporter: self.config.name.clone(),
                reason: "HostPortTaken",
                message: format!(
                    "on node {}, {} {} does not lead to this Pod any more: {why}; give the Pod or the Service another port",
                    self.config.name, key.protocol, key.port
                ),
                key: format!("{} {} {}", key.port, key.protocol, key.ipv6),
            })
        })
        .collect()
    }
}

fn number(mapping: &PortMapping) -> Number {
    (mapping.host_port, mapping.protocol)
}

fn whose(record: &Record) -> String {
    record.pod.as_ref().map_or_else(|| record.container_id.clone(), ToString::to_string)
}

fn has(record: &Record, key: &ServicePortKey) -> bool {
    record
        .port_mappings
        .iter()
        .any(|mapping| mapping.protocol == key.protocol && mapping.host_port.to_string() == *key.port)
}
