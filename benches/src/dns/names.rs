//! The names that every server has.

use std::net::Ipv4Addr;

/// How many Services there are.
pub const SERVICES: usize = 10_000;
const NAMESPACES: usize = 100;

/// The cluster's domain.
pub const DOMAIN: &str = "cluster.local";

/// Namespace, name and cluster IP of one.
pub fn service(number: usize) -> (String, String, Ipv4Addr) {
    let address = Ipv4Addr::new(10, 96, (number / 250) as u8, (number % 250 + 1) as u8);
    (format!("team-{:02}", number % NAMESPACES), format!("service-{number:05}"), address)
}

/// The full name of one, and its address.
pub fn record(number: usize) -> (String, Ipv4Addr) {
    let (namespace, name, address) = service(number);
    (format!("{name}.{namespace}.svc.{DOMAIN}"), address)
}

/// All of them, in an order that no cache likes.
pub fn shuffled() -> impl Iterator<Item = String> {
    // 7919 and the count have no common divisor.
    (0..SERVICES).map(|place| record(place * 7919 % SERVICES).0)
}
