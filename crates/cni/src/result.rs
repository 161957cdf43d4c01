//! The result of ADD, in each version of the specification.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::plugin::SpecVersion;

/// What ADD made: the interface on the node and the one in the container, and the container's addresses and routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Success {
    /// The node's side.
    pub host: Interface,
    /// The container's side.
    pub container: Interface,
    /// The container's network namespace, a path.
    pub sandbox: String,
    /// The container's addresses, each with its gateway.
    pub addresses: Vec<(IpNet, IpAddr)>,
    /// The container's routes: destination and gateway.
    pub routes: Vec<(IpNet, IpAddr)>,
}

/// One end of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address, as `aa:bb:cc:dd:ee:ff`; empty when not known.
    pub mac: String,
    /// Its MTU in bytes; written from 1.1.0 on.
    pub mtu: u32,
}

// === impl Success ===

impl Success {
    /// The result in `version`, appended to the one of the plugin before this in a chain.
    pub fn to_json(&self, version: SpecVersion, previous: Option<&Value>) -> Value {
        let mut result = match previous {
            Some(Value::Object(previous)) => previous.clone(),
            _ => Map::new(),
        };
        result.insert("cniVersion".into(), version.as_str().into());
        let ends = [self.host.to_json(version, None), self.container.to_json(version, Some(&self.sandbox))];
        let container = append(&mut result, "interfaces", ends) - 1;
        let addresses = self.addresses.iter().map(|(address, gateway)| {
            let mut ip = json!({ "address": address, "gateway": gateway, "interface": container });
            if version < SpecVersion::V1_0_0 {
                ip["version"] = if address.addr().is_ipv4() { "4" } else { "6" }.into();
            }
            ip
        });
        append(&mut result, "ips", addresses);
        append(&mut result, "routes", self.routes.iter().map(|(to, via)| json!({ "dst": to, "gw": via })));
        result.entry("dns").or_insert_with(|| json!({}));
        Value::Object(result)
    }
}

// === impl Interface ===

impl Interface {
    fn to_json(&self, version: SpecVersion, sandbox: Option<&str>) -> Value {
        let mut interface = json!({ "name": self.name });
        if !self.mac.is_empty() {
            interface["mac"] = self.mac.as_str().into();
        }
        if version >= SpecVersion::V1_1_0 {
            interface["mtu"] = self.mtu.into();
        }
        if let Some(sandbox) = sandbox {
            interface["sandbox"] = sandbox.into();
        }
        interface
    }
}

/// Appends to the list at `key`, which is made when it is missing or no list; returns its length.
fn append(object: &mut Map<String, Value>, key: &str, items: impl IntoIterator<Item = Value>) -> usize {
    let mut list = match object.remove(key) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    list.extend(items);
    let length = list.len();
    object.insert(key.into(), list.into());
    length
}
