//! Addresses written as a label: `10-244-0-5`, `fd00--5`.

use std::{
    io::{Cursor, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A label's octets at most.
pub(super) const LONGEST_LABEL: usize = 63;

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

/// Writes the label of an address; how long it is.
pub(super) fn write(address: IpAddr, label: &mut [u8; LONGEST_LABEL]) -> usize {
    let mut text = Cursor::new(label.as_mut_slice());
    // The longest address has 45 characters.
    let _fits = write!(text, "{address}");
    let length = usize::try_from(text.position()).unwrap_or_default();
    for octet in label.iter_mut().take(length).filter(|octet| matches!(octet, b'.' | b':')) {
        *octet = b'-';
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
            ("::1", "--1"),
        ] {
            let mut written = [0; LONGEST_LABEL];
            let length = write(address.parse().unwrap(), &mut written);
            assert_eq!(std::str::from_utf8(&written[..length]).unwrap(), label);
            assert_eq!(parse(label.as_bytes()), Some(address.parse().unwrap()));
        }
    }

    #[test]
    fn other_labels_are_no_addresses() {
        for label in ["", "web", "10-244-0", "10-244-0-256", "10-244-0-5-6", "10.244.0.5", "fd00---5", "1::2"]
        {
            assert_eq!(parse(label.as_bytes()), None, "{label}");
        }
    }
}
