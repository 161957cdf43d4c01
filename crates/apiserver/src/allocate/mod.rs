//! Cluster IPs and node ports of Services.

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::error::{ApiError, FieldError, Result};
use crate::meta;

/// Who may have which address and port.
pub(crate) struct Services {
    ranges: Vec<IpNet>,
    node_ports: RangeInclusive<u16>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    addresses: HashSet<IpAddr>,
    ports: HashSet<(String, u16)>,
    /// Where the search for a free one goes on, so that one rests before it is used again.
    next_address: Vec<u128>,
    next_port: u16,
}

/// What a write took; given back unless the write happens.
pub(crate) struct Reserved<'a> {
    services: &'a Services,
    addresses: Vec<IpAddr>,
    ports: Vec<(String, u16)>,
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
        let taken = Taken {
            // The first addresses are left to those who ask for them: kubernetes, DNS.
            next_address: ranges.iter().map(|range| (size(range) / 16).clamp(0, 256) + 1).collect(),
            next_port: *node_ports.start(),
            ..Taken::default()
        };
        Services { ranges, node_ports, taken: Mutex::new(taken) }
    }

    pub(crate) fn is_configured(&self) -> bool {
        !self.ranges.is_empty()
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
            .and_then(|()| self.ports(service, before, &mut reserved));
        result.map_err(|error| ApiError::invalid("", "Service", &name, &[error]))?;
        Ok(reserved)
    }

    fn addresses(
        &self,
        service: &mut Value,
        before: Option<&Value>,
        reserved: &mut Reserved<'_>,
    ) -> Result<(), FieldError> {
        let external = service["spec"]["type"] == "ExternalName";
        let spec = meta::map(meta::map_of(service), "spec");
        if external {
            for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.remove(name);
            }
            return Ok(());
        }
        let had = before.map(addresses_of).unwrap_or_default();
        // What an update leaves out stays as it was.
        for name in ["ipFamilies", "ipFamilyPolicy"] {
            if let Some(old) = before.and_then(|before| before["spec"].get(name)) {
                meta::default(spec, name, old.clone());
            }
        }
        let wanted = wanted(spec, before)?;
        if wanted.headless {
            spec.insert("clusterIP".to_owned(), "None".into());
            spec.insert("clusterIPs".to_owned(), json!(["None"]));
        }
        let families = self.families(spec, &wanted)?;
        if wanted.headless || families.is_empty() {
            return Ok(());
        }
        let mut taken = self.lock();
        let mut given = Vec::new();
        for (at, v6) in families.iter().enumerate() {
            let named = wanted.addresses.iter().find(|address| address.is_ipv6() == *v6).copied();
            let kept = had.iter().find(|address| address.is_ipv6() == *v6).copied();
            let address = match named.or(kept) {
                Some(address) if had.contains(&address) => address,
                Some(address) => {
                    self.take_address(&mut taken, address, at)?;
                    reserved.addresses.push(address);
                    address
                }
                None => {
                    let address = self.free_address(&mut taken, *v6).ok_or_else(|| {
                        let detail = "failed to allocate an IP: range is full";
                        FieldError::invalid("spec.clusterIPs", &json!([]), detail)
                    })?;
                    reserved.addresses.push(address);
                    address
                }
            };
            given.push(Value::from(address.to_string()));
        }
        spec.insert("clusterIP".to_owned(), given.first().cloned().unwrap_or_default());
        spec.insert("clusterIPs".to_owned(), given.into());
        Ok(())
    }

    /// The address that a Service names; `at` is its place in `clusterIPs`.
    fn take_address(&self, taken: &mut Taken, address: IpAddr, at: usize) -> Result<(), FieldError> {
        let invalid = |detail: &str| {
            let value = json!([address.to_string()]);
            FieldError::invalid(format!("spec.clusterIPs[{at}]"), &value, detail)
        };
        if !self.ranges.iter().any(|range| range.contains(&address)) {
            return Err(invalid("failed to allocate IP: the provided IP is not in the valid range"));
        }
        if !taken.addresses.insert(address) {
            return Err(invalid("failed to allocate IP: provided IP is already allocated"));
        }
        Ok(())
    }

    /// The families of the Service, true for IPv6; written into its spec.
    fn families(
        &self,
        spec: &mut serde_json::Map<String, Value>,
        wanted: &Wanted,
    ) -> Result<Vec<bool>, FieldError> {
        if self.ranges.is_empty() {
            return Ok(Vec::new());
        }
        let has = |v6: bool| self.ranges.iter().any(|range| range.addr().is_ipv6() == v6);
        let mut families: Vec<bool> = wanted.addresses.iter().map(IpAddr::is_ipv6).collect();
        for (at, family) in spec.get("ipFamilies").and_then(Value::as_array).into_iter().flatten().enumerate()
        {
            let v6 = *family == "IPv6";
            if !has(v6) {
                let detail = "not configured on this cluster";
                return Err(FieldError::invalid(format!("spec.ipFamilies[{at}]"), family, detail));
            }
            if !families.contains(&v6) {
                families.push(v6);
            }
        }
        let policy = spec.get("ipFamilyPolicy").and_then(Value::as_str);
        let default = if families.len() > 1 { "RequireDualStack" } else { "SingleStack" };
        let policy = policy.unwrap_or(default).to_owned();
        if families.is_empty() {
            families.extend(self.ranges.first().map(|range| range.addr().is_ipv6()));
        }
        match policy.as_str() {
            "SingleStack" => families.truncate(1),
            policy => {
                let other = families.first().is_none_or(|v6| !v6);
                if families.len() < 2 && has(other) {
                    families.push(other);
                }
                if families.len() < 2 && policy == "RequireDualStack" {
                    let detail = "this cluster is not configured for dual-stack services";
                    return Err(FieldError::invalid("spec.ipFamilyPolicy", &policy.into(), detail));
                }
            }
        }
        let names: Vec<&str> = families.iter().map(|v6| if *v6 { "IPv6" } else { "IPv4" }).collect();
        spec.insert("ipFamilies".to_owned(), json!(names));
        spec.insert("ipFamilyPolicy".to_owned(), policy.into());
        Ok(families)
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
        let mut here: HashSet<(String, u16)> = HashSet::new();
        let ports = service.get_mut("spec").and_then(|spec| spec.get_mut("ports"));
        let ports = ports.and_then(Value::as_array_mut).map(Vec::as_mut_slice).unwrap_or_default();
        for (at, port) in ports.iter_mut().enumerate() {
            if !wanted && !balanced {
                meta::map_of(port).remove("nodePort");
                continue;
            }
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            let field = format!("spec.ports[{at}].nodePort");
            let given = port["nodePort"].as_u64().filter(|number| *number != 0);
            let number = match given {
                Some(number) => self.named(&mut taken, &had, &protocol, number, &field, reserved)?,
                None if !wanted => continue,
                None => match before.and_then(|before| old_node_port(before, port)) {
                    Some(number) => number,
                    None => self.free_port(&mut taken, &protocol, reserved).ok_or_else(|| {
                        FieldError::invalid(&field, &json!(0), "failed to allocate a nodePort: range is full")
                    })?,
                },
            };
            if !here.insert((protocol, number)) {
                return Err(FieldError::duplicate(field, &number.into()));
            }
            meta::map_of(port).insert("nodePort".to_owned(), number.into());
        }
        let spec = meta::map(meta::map_of(service), "spec");
        if !health {
            spec.remove("healthCheckNodePort");
            return Ok(());
        }
        let old = before.and_then(health_port);
        let given = spec.get("healthCheckNodePort").and_then(Value::as_u64).filter(|number| *number != 0);
        let port = match given {
            Some(number) => {
                let had: Vec<_> = old.map(|port| ("TCP".to_owned(), port)).into_iter().collect();
                self.named(&mut taken, &had, "TCP", number, "spec.healthCheckNodePort", reserved)?
            }
            None => old.or_else(|| self.free_port(&mut taken, "TCP", reserved)).ok_or_else(|| {
                let detail = "failed to allocate a nodePort: range is full";
                FieldError::invalid("spec.healthCheckNodePort", &json!(0), detail)
            })?,
        };
        spec.insert("healthCheckNodePort".to_owned(), port.into());
        Ok(())
    }

    fn named(
        &self,
        taken: &mut Taken,
        had: &[(String, u16)],
        protocol: &str,
        number: u64,
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
        let wanted = (protocol.to_owned(), port);
        if !had.contains(&wanted) {
            if !taken.ports.insert(wanted.clone()) {
                return Err(FieldError::invalid(field, &number.into(), "provided port is already allocated"));
            }
            reserved.ports.push(wanted);
        }
        Ok(port)
    }

    fn free_port(&self, taken: &mut Taken, protocol: &str, reserved: &mut Reserved<'_>) -> Option<u16> {
        let (first, last) = (*self.node_ports.start(), *self.node_ports.end());
        let count = u32::from(last.checked_sub(first)?) + 1;
        let start = u32::from(taken.next_port.saturating_sub(first));
        for step in 0..count {
            let port = u16::try_from(u32::from(first) + (start + step) % count).ok()?;
            let wanted = (protocol.to_owned(), port);
            if taken.ports.insert(wanted.clone()) {
                taken.next_port = if port == last { first } else { port + 1 };
                reserved.ports.push(wanted);
                return Some(port);
            }
        }
        None
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

/// What a Service's spec says of its addresses.
struct Wanted {
    headless: bool,
    addresses: Vec<IpAddr>,
}

fn wanted(spec: &serde_json::Map<String, Value>, before: Option<&Value>) -> Result<Wanted, FieldError> {
    let one = spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default();
    let many = spec.get("clusterIPs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let headless = one == "None" || many.first().is_some_and(|address| address == "None");
    let mut addresses = Vec::new();
    if !headless {
        let texts = many.iter().map(|value| value.as_str().unwrap_or_default());
        let first = (!one.is_empty() && many.is_empty()).then_some(one);
        for (at, text) in texts.chain(first).enumerate() {
            let address: IpAddr = text.parse().map_err(|_| {
                FieldError::invalid(
                    format!("spec.clusterIPs[{at}]"),
                    &text.into(),
                    "must be a valid IP address",
                )
            })?;
            addresses.push(address);
        }
        let mismatch = many.first().is_some_and(|first| !one.is_empty() && first.as_str() != Some(one));
        if mismatch {
            return Err(FieldError::invalid(
                "spec.clusterIPs",
                &json!(many),
                "first value must match `clusterIP`",
            ));
        }
    }
    if let Some(before) = before {
        let had = before["spec"]["clusterIP"].as_str().unwrap_or_default();
        let external = before["spec"]["type"] == "ExternalName";
        if !had.is_empty() && !one.is_empty() && one != had && !external {
            return Err(FieldError::invalid("spec.clusterIPs[0]", &json!([one]), "may not change once set"));
        }
        return Ok(Wanted { headless: headless || (one.is_empty() && had == "None"), addresses });
    }
    Ok(Wanted { headless, addresses })
}

fn addresses_of(service: &Value) -> Vec<IpAddr> {
    let list = service["spec"]["clusterIPs"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|address| address.as_str()?.parse().ok()).collect()
}

fn valid_port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}

fn health_port(service: &Value) -> Option<u16> {
    valid_port(&service["spec"]["healthCheckNodePort"])
}

fn node_ports_of(service: &Value) -> Vec<(String, u16)> {
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let named = ports.iter().filter_map(|port| {
        Some((port["protocol"].as_str().unwrap_or("TCP").to_owned(), valid_port(&port["nodePort"])?))
    });
    named.collect()
}

/// Everything that the Service holds.
fn ports_of(service: &Value) -> Vec<(String, u16)> {
    let mut ports = node_ports_of(service);
    ports.extend(health_port(service).map(|port| ("TCP".to_owned(), port)));
    ports
}

/// The node port that this port had before.
fn old_node_port(before: &Value, port: &Value) -> Option<u16> {
    let ports = before["spec"]["ports"].as_array()?;
    let old = ports.iter().find(|old| old["port"] == port["port"] && old["protocol"] == port["protocol"])?;
    valid_port(&old["nodePort"])
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
