//! Addresses written as a label: `10-244-0-5`, `fd00--5`.

use std::{
    io::{Cursor, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A label's octets at most.
pub(super) const LONGEST_LABEL: usize = 63;
/// Characters of an address, maximum: of an IPv6 one that ends in an IPv4 one.
const LONGEST_ADDRESS: usize = 45;

/// What a label says, if it is an address with dashes for its dots or colons.
pub(super) fn parse(label: &[u8]) -> Option<IpAddr> {
    let v4 = parse_with::<Ipv4Addr>(label, b'.').map(IpAddr::V4);
    v4.or_else(|| parse_with::<Ipv6Addr>(label, b':').map(IpAddr::V6))
}

fn parse_with<A: std::str::FromStr>(label: &[u8], separator: u8) -> Option<A> {
    let mut text = [0; LONGEST_LABEL];
    let text = text.get_mut(..label.len())?;
    for (to, from) in text.iter_mut().zip(label) {
        *to = match from {
            b'-' => separator,
            // An IPv4 address within an IPv6 one has no label.
            b'.' | b':' => return None,
            other => *other,
        };
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Writes the label of an address and returns its length. An IPv6 address that begins or ends with `::` gets a zero there,
/// because a host name neither begins nor ends with a dash (RFC 952, RFC 1123 section 2.1).
pub(super) fn write(address: IpAddr, label: &mut [u8; LONGEST_LABEL]) -> usize {
    let mut text = Cursor::new([0; LONGEST_ADDRESS]);
    let _fits = write!(text, "{address}");
    let length = usize::try_from(text.position()).unwrap_or_default();
    let text = text.get_ref().get(..length).unwrap_or_default();
    let zero = |end: Option<&u8>| (end == Some(&b':')).then_some(b'0');
    let octets = zero(text.first()).into_iter().chain(text.iter().copied()).chain(zero(text.last()));
    let mut length = 0;
    for (to, octet) in label.iter_mut().zip(octets) {
        *to = if matches!(octet, b'.' | b':') { b'-' } else { octet };
        length += 1;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_labels_and_back() {
        for (address, label) in [
            ("10.244.0.5", "10-244-0-5"),
            ("fd00::5", "fd00--5"),
            ("2001:db8:1:2:3:4:5:6", "2001-db8-1-2-3-4-5-6"),
            // C3: a label neither begins nor ends with a dash.
            ("::1", "0--1"),
            ("fd00::", "fd00--0"),
            ("::", "0--0"),
            ("0:0:1:2:3:4::", "0--1-2-3-4-0-0"),
        ] {
            let mut written = [0; LONGEST_LABEL];
            let length = write(address.parse().unwrap(), &mut written);
            assert_eq!(std::str::from_utf8(&written[..length]).unwrap(), label);
            assert_eq!(parse(label.as_bytes()), Some(address.parse().unwrap()));
        }
    }

    #[test]
    fn labels_that_end_in_a_dash_are_addresses_too() {
        assert_eq!(parse(b"--1"), Some("::1".parse().unwrap()));
        assert_eq!(parse(b"fd00--"), Some("fd00::".parse().unwrap()));
    }

    #[test]
    fn other_labels_are_no_addresses() {
        for label in ["", "web", "10-244-0", "10-244-0-256", "10-244-0-5-6", "10.244.0.5", "fd00---5", "1::2"]
        {
            assert_eq!(parse(label.as_bytes()), None, "{label}");
        }
    }
}
