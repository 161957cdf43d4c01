//! Addresses and ranges, as strict as Kubernetes is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::Value;

use super::Errors;
use crate::error::FieldError;

const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NO_RANGE: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address that may have leading zeros, as old servers took them; and whether it has.
pub(crate) fn sloppy(text: &str) -> Option<(IpAddr, bool)> {
    if let Ok(address) = text.parse() {
        return Some((address, false));
    }
    let mut parts = [0; 4];
    let mut words = text.split('.');
    for part in &mut parts {
        let word =
            words.next().filter(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()))?;
        *part = word
            .trim_start_matches('0')
            .parse()
            .or_else(|error| if word.bytes().all(|b| b == b'0') { Ok(0) } else { Err(error) })
            .ok()?;
    }
    words.next().is_none().then(|| (Ipv4Addr::from(parts).into(), true))
}

/// An address in a field that is older than strictness: it is taken in any form of IPv6.
pub(super) fn ip(value: &Value, field: &str, errors: &mut Errors) -> Option<IpAddr> {
    let found = value.as_str().and_then(sloppy);
    match found {
        None => errors.push(FieldError::invalid(field, value, NO_ADDRESS)),
        Some((_, true)) => errors.push(FieldError::invalid(field, value, "must not have leading 0s")),
        Some((address, false)) if is_mapped(address) => {
            errors.push(FieldError::invalid(field, value, "must not be an IPv4-mapped IPv6 address"));
        }
        Some((address, false)) => return Some(address),
    }
    None
}

/// An address, written as it is written best.
pub(super) fn canonical(value: &Value, field: &str, errors: &mut Errors) -> Option<IpAddr> {
    let address = ip(value, field, errors)?;
    let best = address.to_string();
    if value.as_str() != Some(best.as_str()) {
        errors.push(FieldError::invalid(field, value, format!("must be in canonical form ({best:?})")));
    }
    Some(address)
}

/// What to tell of an address that is written in an unusual way.
pub(crate) fn warning(text: &str, field: &str) -> Option<String> {
    let (address, _) = sloppy(text)?;
    let best = address.to_string();
    (address.is_ipv6() && best != text)
        .then(|| format!("{field}: IPv6 address {text:?} should be in RFC 5952 canonical format ({best:?})"))
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some())
}

/// Addresses that lead to the asking host itself, to nobody or to all lead nowhere as an endpoint.
pub(super) fn reachable(value: &Value, field: &str, errors: &mut Errors) {
    let Some((address, _)) = value.as_str().and_then(sloppy) else {
        errors.push(FieldError::invalid(field, value, "must be a valid IP address"));
        return;
    };
    let (link_local, link_multicast) = match address {
        IpAddr::V4(four) => (four.is_link_local(), four.octets().starts_with(&[224, 0, 0])),
        IpAddr::V6(six) => (six.is_unicast_link_local(), is_link_multicast(six)),
    };
    let why = match () {
        () if address.is_unspecified() => format!("may not be unspecified ({address})"),
        () if address.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned(),
        () if link_local => "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned(),
        () if link_multicast => {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()
        }
        // Other multicast is taken by a real server; nothing can come back from there.
        () if address.is_multicast() => {
            "may not be in the multicast range (224.0.0.0/4, ff00::/8)".to_owned()
        }
        () => return,
    };
    errors.push(FieldError::invalid(field, value, why));
}

fn is_link_multicast(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 0xff && second & 0x0f == 0x02
}

/// A range: no leading zeros, no bits beyond its length.
pub(super) fn cidr(value: &Value, field: &str, errors: &mut Errors) -> Option<IpNet> {
    let text = value.as_str().unwrap_or_default();
    let parts = text.split_once('/').and_then(|(address, length)| {
        let (address, zeros) = sloppy(address)?;
        let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let net = IpNet::new(address, length.parse().ok().filter(|_| digits)?).ok()?;
        Some((net, zeros || (length.len() > 1 && length.starts_with('0'))))
    });
    let why = match parts {
        None => NO_RANGE,
        Some((_, true)) => "must not have leading 0s in IP or prefix length",
        Some((net, false)) if is_mapped(net.addr()) => "must not have an IPv4-mapped IPv6 address",
        Some((net, false)) if net.addr() != net.network() => {
            "must not have bits set beyond the prefix length"
        }
        Some((net, false)) => return Some(net),
    };
    errors.push(FieldError::invalid(field, value, why));
    // Its size can be told nevertheless.
    parts.map(|(net, _)| net)
}
