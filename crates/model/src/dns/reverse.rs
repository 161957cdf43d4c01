//! Names that are addresses backwards (RFC 1035 section 3.5, RFC 3596 section 2.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Name;

/// What a name under in-addr.arpa or ip6.arpa says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reverse {
    /// An address.
    Address(IpAddr),
    /// The beginning of addresses.
    Prefix(IpNet),
    /// Something under an address or the beginning of one that is neither.
    Under(IpNet),
}

// === impl Reverse ===

impl Reverse {
    /// What the name says; `None` is another kind of name.
    pub(super) fn parse(name: &Name) -> Option<Self> {
        let mut labels = name.labels().rev();
        if labels.next()? != b"arpa" {
            return None;
        }
        match labels.next()? {
            b"in-addr" => Some(Self::v4(labels)),
            b"ip6" => Some(Self::v6(labels)),
            _ => None,
        }
    }

    fn v4<'n>(labels: impl Iterator<Item = &'n [u8]>) -> Self {
        let (mut bytes, mut count, mut is_under) = ([0; 4], 0_u8, false);
        for label in labels {
            match (bytes.get_mut(usize::from(count)), octet(label)) {
                (Some(byte), Some(octet)) => *byte = octet,
                _ => {
                    is_under = true;
                    break;
                }
            }
            count += 1;
        }
        let address = Ipv4Addr::from(bytes);
        Self::new(address.into(), Ipv4Net::new_assert(address, count * 8).into(), is_under, count == 4)
    }

    fn v6<'n>(labels: impl Iterator<Item = &'n [u8]>) -> Self {
        let (mut bits, mut count, mut is_under) = (0_u128, 0_u8, false);
        for label in labels {
            match nibble(label) {
                Some(nibble) if count < 32 => bits |= u128::from(nibble) << (124 - u32::from(count) * 4),
                _ => {
                    is_under = true;
                    break;
                }
            }
            count += 1;
        }
        let address = Ipv6Addr::from_bits(bits);
        Self::new(address.into(), Ipv6Net::new_assert(address, count * 4).into(), is_under, count == 32)
    }

    fn new(address: IpAddr, prefix: IpNet, is_under: bool, is_whole: bool) -> Self {
        match (is_under, is_whole) {
            (true, _) => Self::Under(prefix),
            (false, true) => Self::Address(address),
            (false, false) => Self::Prefix(prefix),
        }
    }
}

/// How many labels the reverse zone of a range has: the largest that is all the range's.
pub(super) fn zone_labels(range: &IpNet) -> usize {
    let bits = if range.addr().is_ipv4() { 8 } else { 4 };
    2 + usize::from(range.prefix_len()).div_ceil(bits)
}

/// A decimal number without leading zeros.
fn octet(label: &[u8]) -> Option<u8> {
    let is_plain = label.iter().all(u8::is_ascii_digit) && (label.len() == 1 || label.first() != Some(&b'0'));
    std::str::from_utf8(label).ok().filter(|_| is_plain)?.parse().ok()
}

/// One hexadecimal digit.
fn nibble(label: &[u8]) -> Option<u8> {
    let [digit] = label else { return None };
    char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Option<Reverse> {
        Reverse::parse(&name.parse().unwrap())
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn names_say_addresses_backwards() {
        assert_eq!(parse("10.0.96.10.in-addr.arpa"), Some(Reverse::Address("10.96.0.10".parse().unwrap())));
        let v6 = "a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(parse(v6), Some(Reverse::Address("fd00:10:96::a".parse().unwrap())));
        assert_eq!(parse("96.10.in-addr.arpa"), Some(Reverse::Prefix(net("10.96.0.0/16"))));
        assert_eq!(parse("d.f.ip6.arpa"), Some(Reverse::Prefix(net("fd00::/8"))));
        assert_eq!(parse("in-addr.arpa"), Some(Reverse::Prefix(net("0.0.0.0/0"))));
        assert_eq!(parse("x.96.10.in-addr.arpa"), Some(Reverse::Under(net("10.96.0.0/16"))));
        assert_eq!(parse("x.10.0.96.10.in-addr.arpa"), Some(Reverse::Under(net("10.96.0.10/32"))));
        assert_eq!(parse("1.2.3.4.5.in-addr.arpa"), Some(Reverse::Under(net("5.4.3.2/32"))));
        assert_eq!(parse("010.96.10.in-addr.arpa"), Some(Reverse::Under(net("10.96.0.0/16"))));
        assert_eq!(parse("arpa"), None);
        assert_eq!(parse("10.in-addr.example"), None);
    }

    #[test]
    fn a_range_that_ends_within_a_label_is_several_zones() {
        assert_eq!(zone_labels(&net("10.96.0.0/12")), 4);
        assert_eq!(zone_labels(&net("10.96.0.0/16")), 4);
        assert_eq!(zone_labels(&net("fd00:10:96::/112")), 30);
    }
}
