//! Questions: those that the objects make, and the hand-written ones.

use std::net::IpAddr;

use weft_model::Protocol;

use super::objects::Objects;

const DOMAIN: &str = "svc.cluster.local";

/// Every name with every type, each once, in the order in which they were thought of.
pub fn all(objects: &Objects, odd: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut add = |name: String, kinds: &str| {
        for kind in kinds.split(' ') {
            let question = (name.clone(), kind.to_owned());
            if !all.contains(&question) {
                all.push(question);
            }
        }
    };
    for service in &objects.services {
        let name = format!("{}.{}.{DOMAIN}", service.key.name, service.key.namespace);
        add(name.clone(), "A AAAA SRV CNAME TXT MX NS SOA PTR ANY HTTPS TYPE65280");
        add(name.to_uppercase(), "A AAAA SRV TXT");
        add(format!("tcp: {name}"), "A AAAA SRV TXT");
        add(format!("plain: {name}"), "A AAAA");
        add(format!("do: {name}"), "A AAAA");
        // As a Pod of the namespace asks for a name of another, and for an outside one.
        let short = format!("{}.{}", service.key.name, service.key.namespace);
        for more in [
            format!(".{}.{DOMAIN}", service.key.namespace),
            format!(".{DOMAIN}"),
            ".cluster.local".to_owned(),
        ] {
            add(format!("{name}{more}"), "A AAAA");
            add(format!("{short}{more}"), "A AAAA");
        }
        add(format!("{}.{DOMAIN}", service.key.name), "A");
        add(format!("{}.absent.{DOMAIN}", service.key.name), "A AAAA SRV");
        add(format!("absent.{name}"), "A AAAA SRV ANY TXT MX");
        add(format!("*.{name}"), "A");
        for port in &service.ports {
            let port_name = if port.name.is_empty() { "http" } else { &port.name };
            for protocol in ["tcp", "udp", "sctp"] {
                let own = protocol == word(port.protocol);
                add(
                    format!("_{port_name}._{protocol}.{name}"),
                    if own { "SRV A AAAA TXT ANY MX HTTPS CNAME" } else { "SRV A AAAA TXT" },
                );
            }
            add(format!("_absent._{}.{name}", word(port.protocol)), "SRV A AAAA");
            add(format!("_{}._{}.{name}", port.port, word(port.protocol)), "SRV");
        }
        service.cluster_ips.iter().for_each(|address| add(reverse(*address), "PTR A ANY"));
    }
    for slice in &objects.slices {
        let name = format!("{}.{}.{DOMAIN}", slice.service, slice.key.namespace);
        // A crowd is as each of it.
        for endpoint in slice.endpoints.iter().take(4) {
            let dashed = endpoint.address.to_string().replace(['.', ':'], "-");
            for label in [endpoint.hostname.as_deref(), Some(dashed.as_str())].into_iter().flatten() {
                add(format!("{label}.{name}"), "A AAAA SRV TXT ANY PTR MX CNAME HTTPS");
                for port in &slice.ports {
                    add(format!("_{}._{}.{label}.{name}", port.name, word(port.protocol)), "SRV A");
                }
            }
            add(format!("{dashed}.{}.pod.cluster.local", slice.key.namespace), "A AAAA TXT ANY");
            add(reverse(endpoint.address), "PTR A TXT ANY");
        }
    }
    for line in odd.lines().filter(|line| !line.starts_with('#')) {
        let (how, rest) = line.split_once(": ").map_or(("", line), |(how, rest)| (how, rest));
        let (name, kinds) = rest.split_once(' ').unwrap();
        add(if how.is_empty() { name.to_owned() } else { format!("{how}: {name}") }, kinds);
    }
    all
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(four) => {
            let [a, b, c, d] = four.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(six) => {
            let nibbles =
                six.octets().into_iter().rev().map(|octet| format!("{:x}.{:x}", octet & 15, octet >> 4));
            format!("{}.ip6.arpa", nibbles.collect::<Vec<String>>().join("."))
        }
    }
}
