//! Cluster IPs and node ports of Services.

mod families;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::error::{ApiError, FieldError, Result};
use crate::meta;
use crate::validation::{address, service::addresses};

/// Says in both fields for it which address a new Service wants.
pub(crate) fn complete_addresses(service: &mut Value) {
    families::carry_over(meta::map(meta::map_of(service), "spec"), None);
}

/// What contradicts itself in the families of a new Service, whatever families the cluster has.
pub(crate) fn contradictions(service: &Value) -> Vec<FieldError> {
    let spec = &service["spec"];
    match spec.as_object() {
        Some(map) if spec["type"] != "ExternalName" && addresses(spec).is_empty() => families::check(map),
        _ => Vec::new(),
    }
}

/// Who may have which address and port.
pub(crate) struct Services {
    ranges: Vec<IpNet>,
    node_ports: RangeInclusive<u16>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    addresses: HashSet<IpAddr>,
    /// Whatever their protocol.
    ports: HashSet<u16>,
    /// Where the search for a free one goes on, so that one rests before it is used again. For ports it begins anywhere.
    next_address: Vec<u128>,
    next_port: u16,
}

/// What a write took; given back unless the write happens.
pub(crate) struct Reserved<'a> {
    services: &'a Services,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Reserved<'_> {
    /// The write happened.
    pub(crate) fn keep(mut self) {
        self.addresses.clear();
        self.ports.clear();
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut taken = self.services.lock();
        for address in &self.addresses {
            taken.addresses.remove(address);
        }
        for port in &self.ports {
            taken.ports.remove(port);
        }
    }
}

impl Services {
    pub(crate) fn new(ranges: Vec<IpNet>, node_ports: RangeInclusive<u16>) -> Services {
        let first = first_dynamic(&node_ports);
        let count = u32::from(node_ports.end().saturating_sub(first)) + 1;
        let random = meta::random::<4>().map_or(0, u32::from_be_bytes) % count;
        let taken = Taken {
            // The first addresses are left to those who ask for them: kubernetes, DNS.
            next_address: ranges.iter().map(|range| (size(range) / 16).clamp(0, 256) + 1).collect(),
            next_port: u16::try_from(u32::from(first) + random).unwrap_or(first),
            ..Taken::default()
        };
        Services { ranges, node_ports, taken: Mutex::new(taken) }
    }

    pub(crate) fn is_configured(&self) -> bool {
        !self.ranges.is_empty()
    }

    pub(crate) fn ranges(&self) -> &[IpNet] {
        &self.ranges
    }

    /// The first address, which the Service `kubernetes` has.
    pub(crate) fn first(&self) -> Option<IpAddr> {
        self.ranges.first().and_then(|range| nth(range, 1))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills in what the Service lacks and takes what it names.
    ///
    /// # Errors
    /// An address or a port that another Service has, that lies outside the ranges, or none left.
    pub(crate) fn reserve(&self, service: &mut Value, before: Option<&Value>) -> Result<Reserved<'_>> {
        let name = meta::name(service).to_owned();
        let mut reserved = Reserved { services: self, addresses: Vec::new(), ports: Vec::new() };
        let result = self
            .addresses(service, before, &mut reserved)
            .and_then(|()| self.ports(service, before, &mut reserved).map_err(|error| vec![error]));
        result.map_err(|errors| ApiError::invalid("", "Service", &name, &errors))?;
        Ok(reserved)
    }

    fn addresses(
        &self,
        service: &mut Value,
        before: Option<&Value>,
        reserved: &mut Reserved<'_>,
    ) -> Result<(), Vec<FieldError>> {
        let spec = meta::map(meta::map_of(service), "spec");
        if spec.get("type").is_some_and(|kind| kind == "ExternalName") {
            // It is for validation to refuse.
            if before.is_none() {
                families::carry_over(spec, None);
            }
            return Ok(());
        }
        families::complete(spec, before.map(|before| &before["spec"]), &self.ranges)?;
        let families = strings(spec.get("ipFamilies"));
        if spec.get("clusterIP").is_some_and(|address| address == "None") || families.is_empty() {
            return Ok(());
        }
        let had = before.map(addresses_of).unwrap_or_default();
        let named = strings(spec.get("clusterIPs"));
        let list = json!(named);
        let refuse = |detail: String| vec![FieldError::invalid("spec.clusterIPs", &list, detail)];
        let mut taken = self.lock();
        let mut given = Vec::new();
        for (at, family) in families.iter().enumerate() {
            // What a client wrote stays as it was written.
            let (text, address) = match named.get(at).map(|text| (text, address::sloppy(text))) {
                Some((text, Some((address, _)))) => {
                    if !had.contains(&address) {
                        self.take_address(&mut taken, address)
                            .map_err(|why| refuse(format!("failed to allocate IP {text}: {why}")))?;
                        reserved.addresses.push(address);
                    }
                    (text.clone(), address)
                }
                _ => {
                    let address = self
                        .free_address(&mut taken, family == "IPv6")
                        .ok_or_else(|| refuse("failed to allocate IP: range is full".to_owned()))?;
                    reserved.addresses.push(address);
                    (address.to_string(), address)
                }
            };
            given.push((text, address));
        }
        let given: Vec<Value> = given.into_iter().map(|(text, _)| text.into()).collect();
        spec.insert("clusterIP".to_owned(), given.first().cloned().unwrap_or_default());
        spec.insert("clusterIPs".to_owned(), given.into());
        Ok(())
    }

    /// Takes the address that a Service names.
    fn take_address(&self, taken: &mut Taken, address: IpAddr) -> Result<(), &'static str> {
        // The first address of a range is the network's; the last of IPv4 is for all.
        let usable = |range: &IpNet| {
            range.contains(&address)
                && address != range.network()
                && (address.is_ipv6() || address != range.broadcast())
        };
        if !self.ranges.iter().any(usable) {
            return Err("the provided network does not match the current range");
        }
        if !taken.addresses.insert(address) {
            return Err("provided IP is already allocated");
        }
        Ok(())
    }

    fn free_address(&self, taken: &mut Taken, v6: bool) -> Option<IpAddr> {
        let (at, range) = self.ranges.iter().enumerate().find(|(_, range)| range.addr().is_ipv6() == v6)?;
        let usable = size(range).saturating_sub(2);
        let start = taken.next_address.get(at).copied().unwrap_or(1);
        // No more steps than there are taken addresses, and one.
        for step in 0..usable.min(taken.addresses.len() as u128 + 1) {
            let offset = 1 + (start - 1 + step) % usable;
            let address = nth(range, offset)?;
            if taken.addresses.insert(address) {
                if let Some(next) = taken.next_address.get_mut(at) {
                    *next = 1 + offset % usable;
                }
                return Some(address);
            }
        }
        None
    }

    fn ports(
        &self,
        service: &mut Value,
        before: Option<&Value>,
        reserved: &mut Reserved<'_>,
    ) -> Result<(), FieldError> {
        let spec = &service["spec"];
        let balanced = spec["type"] == "LoadBalancer";
        let wanted =
            spec["type"] == "NodePort" || (balanced && spec["allocateLoadBalancerNodePorts"] != false);
        let had = before.map(node_ports_of).unwrap_or_default();
        let health = balanced && spec["externalTrafficPolicy"] == "Local";
        let mut taken = self.lock();
        if wanted || balanced {
            self.node_ports(service, before, wanted, &had, &mut taken, reserved)?;
        }
        let spec = meta::map(meta::map_of(service), "spec");
        if !health {
            return Ok(());
        }
        let old = before.and_then(health_port);
        let given = spec.get("healthCheckNodePort").and_then(requested);
        let port = match given {
            Some(number) => {
                let had: Vec<u16> = old.into_iter().collect();
                self.named(&mut taken, &had, number, "spec.healthCheckNodePort", reserved)?
            }
            None => old.or_else(|| self.free_port(&mut taken, reserved)).ok_or_else(|| {
                let detail = "failed to allocate a nodePort: range is full";
                FieldError::invalid("spec.healthCheckNodePort", &json!(0), detail)
            })?,
        };
        spec.insert("healthCheckNodePort".to_owned(), port.into());
        Ok(())
    }

    fn node_ports(
        &self,
        service: &mut Value,
        before: Option<&Value>,
        wanted: bool,
        had: &[u16],
        taken: &mut Taken,
        reserved: &mut Reserved<'_>,
    ) -> Result<(), FieldError> {
        let mut now = node_ports_of(service);
        let ports = service.get_mut("spec").and_then(|spec| spec.get_mut("ports"));
        let ports = ports.and_then(Value::as_array_mut).map(Vec::as_mut_slice).unwrap_or_default();
        // A port that goes on by its name keeps its number, unless another has it now.
        for port in ports.iter_mut().filter(|port| requested(&port["nodePort"]).is_none()) {
            let old = before.and_then(|before| old_node_port(before, port));
            if let Some(old) = old.filter(|old| !now.contains(old)) {
                meta::map_of(port).insert("nodePort".to_owned(), old.into());
            }
        }
        let mut by_port: HashMap<u64, u16> = HashMap::new();
        for at in 0..ports.len() {
            let Some(port) = ports.get(at) else { break };
            let field = format!("spec.ports[{at}].nodePort");
            let number = port["port"].as_u64().unwrap_or_default();
            // One number of a Service is one node port, whatever its protocols.
            let named = requested(&port["nodePort"]).or_else(|| {
                let mut same = ports.iter().filter(|other| wanted && other["port"] == number);
                same.find_map(|other| requested(&other["nodePort"]))
            });
            let found = match (named, by_port.get(&number)) {
                (Some(named), Some(found)) if named == i64::from(*found) => *found,
                (Some(named), _) => self.named(taken, had, named, &field, reserved)?,
                (None, _) if !wanted => continue,
                (None, Some(found)) => *found,
                (None, None) => self.free_port(taken, reserved).ok_or_else(|| {
                    FieldError::invalid(&field, &json!(0), "failed to allocate a nodePort: range is full")
                })?,
            };
            by_port.entry(number).or_insert(found);
            now.push(found);
            if let Some(port) = ports.get_mut(at) {
                meta::map_of(port).insert("nodePort".to_owned(), found.into());
            }
        }
        Ok(())
    }

    fn named(
        &self,
        taken: &mut Taken,
        had: &[u16],
        number: i64,
        field: &str,
        reserved: &mut Reserved<'_>,
    ) -> Result<u16, FieldError> {
        let valid = u16::try_from(number).ok().filter(|port| self.node_ports.contains(port));
        let Some(port) = valid else {
            let detail = format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.node_ports.start(),
                self.node_ports.end()
            );
            return Err(FieldError::invalid(field, &number.into(), detail));
        };
        if !had.contains(&port) {
            if !taken.ports.insert(port) {
                return Err(FieldError::invalid(field, &number.into(), "provided port is already allocated"));
            }
            reserved.ports.push(port);
        }
        Ok(port)
    }

    /// Takes a free port: one of the lower part only when the upper has none.
    fn free_port(&self, taken: &mut Taken, reserved: &mut Reserved<'_>) -> Option<u16> {
        let (first, last) = (*self.node_ports.start(), *self.node_ports.end());
        let (dynamic, next) = (first_dynamic(&self.node_ports), taken.next_port);
        let mut candidates = (next..=last).chain(dynamic..next).chain(first..dynamic);
        let port = candidates.find(|port| taken.ports.insert(*port))?;
        taken.next_port = if (dynamic..last).contains(&port) { port + 1 } else { dynamic };
        reserved.ports.push(port);
        Some(port)
    }

    /// The Service is gone.
    pub(crate) fn free(&self, service: &Value) {
        self.free_dropped(service, &Value::Null);
    }

    /// What the Service had before and has no longer.
    pub(crate) fn free_dropped(&self, before: &Value, after: &Value) {
        let (addresses, ports) = (addresses_of(after), ports_of(after));
        let mut taken = self.lock();
        for address in addresses_of(before).iter().filter(|address| !addresses.contains(address)) {
            taken.addresses.remove(address);
        }
        for port in ports_of(before).iter().filter(|port| !ports.contains(port)) {
            taken.ports.remove(port);
        }
    }
}

fn strings(list: Option<&Value>) -> Vec<String> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}

fn addresses_of(service: &Value) -> Vec<IpAddr> {
    if service["spec"]["type"] == "ExternalName" {
        return Vec::new();
    }
    let list = service["spec"]["clusterIPs"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|address| Some(address::sloppy(address.as_str()?)?.0)).collect()
}

/// The number that is requested, valid or not; `None` if it is 0 or missing.
fn requested(value: &Value) -> Option<i64> {
    value.as_i64().filter(|number| *number != 0)
}

fn valid_port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}

fn health_port(service: &Value) -> Option<u16> {
    let spec = &service["spec"];
    let checked = spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
    valid_port(&spec["healthCheckNodePort"]).filter(|_| checked)
}

fn node_ports_of(service: &Value) -> Vec<u16> {
    if !matches!(service["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer")) {
        return Vec::new();
    }
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut numbers: Vec<u16> = ports.iter().filter_map(|port| valid_port(&port["nodePort"])).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Everything that the Service holds.
fn ports_of(service: &Value) -> Vec<u16> {
    let mut ports = node_ports_of(service);
    ports.extend(health_port(service));
    ports
}

/// The node port that the port of this name had before.
fn old_node_port(before: &Value, port: &Value) -> Option<u16> {
    let name = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
    let old = before["spec"]["ports"].as_array()?.iter().find(|old| name(old) == name(port))?;
    valid_port(&old["nodePort"])
}

/// The ports below are left to those who ask for them, as Kubernetes leaves them: 30086 of 30000-32767.
fn first_dynamic(ports: &RangeInclusive<u16>) -> u16 {
    let size = ports.end().saturating_sub(*ports.start());
    let left = if size < 16 { 0 } else { (size / 32).clamp(16, 128) };
    ports.start().saturating_add(left)
}

fn size(range: &IpNet) -> u128 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    1_u128.checked_shl(bits).unwrap_or(u128::MAX)
}

fn nth(range: &IpNet, offset: u128) -> Option<IpAddr> {
    match range.network() {
        IpAddr::V4(base) => {
            let offset = u32::try_from(offset).ok()?;
            Some(IpAddr::from(u32::from(base).checked_add(offset)?.to_be_bytes()))
        }
        IpAddr::V6(base) => Some(IpAddr::from(u128::from(base).checked_add(offset)?.to_be_bytes())),
    }
}

#[cfg(test)]
mod tests;
