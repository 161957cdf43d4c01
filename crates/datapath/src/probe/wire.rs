//! The bytes of a message: magic `weft`, version 1, kind (0 request, 1 answer, 2 doubt), two zero bytes. Then, in a request and its answer,
//! a nonce of 64 bits and padding; in a doubt the path address of the node in doubt: IPv6, or IPv4 mapped into it. Big-endian.

use std::net::{IpAddr, Ipv6Addr};

const MAGIC: [u8; 4] = *b"weft";
const VERSION: u8 = 1;
const REQUEST: u8 = 0;
const ANSWER: u8 = 1;
const DOUBT: u8 = 2;
const HEADER: usize = 16;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A request with this nonce, which wants an answer.
    Request(u64),
    /// An answer to the request with this nonce.
    Answer(u64),
    /// A doubt: the node with this path address may be gone, and whoever hears of it asks that node.
    Doubt(IpAddr),
}

/// A request that makes an IP packet of `packet_size` bytes, or the smallest that holds it.
pub(super) fn request(nonce: u64, packet_size: u32, ipv4: bool) -> Vec<u8> {
    // UDP and IP headers.
    let headers = if ipv4 { 28 } else { 48 };
    let length = (packet_size as usize).saturating_sub(headers).clamp(HEADER, usize::from(u16::MAX));
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(MAGIC);
    bytes.extend([VERSION, REQUEST, 0, 0]);
    bytes.extend(nonce.to_be_bytes());
    bytes.resize(length, 0);
    bytes
}

/// A doubt about the node with this path address.
pub(super) fn doubt(of: IpAddr) -> Vec<u8> {
    let of = match of {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut bytes = Vec::from(MAGIC);
    bytes.extend([VERSION, DOUBT, 0, 0]);
    bytes.extend(of.octets());
    bytes
}

/// Reads a message; anything else is `None`.
pub(super) fn read(bytes: &[u8]) -> Option<Kind> {
    let header: &[u8; HEADER] = bytes.first_chunk()?;
    let [m0, m1, m2, m3, VERSION, kind, 0, 0, nonce @ ..] = *header else { return None };
    if [m0, m1, m2, m3] != MAGIC {
        return None;
    }
    match kind {
        REQUEST => Some(Kind::Request(u64::from_be_bytes(nonce))),
        ANSWER => Some(Kind::Answer(u64::from_be_bytes(nonce))),
        DOUBT => {
            let address: &[u8; 16] = bytes.get(8..)?.first_chunk()?;
            Some(Kind::Doubt(Ipv6Addr::from(*address).to_canonical()))
        }
        _ => None,
    }
}

/// Makes the answer of a request that [`read`] accepted: the same bytes, another kind.
pub(super) fn turn_into_answer(bytes: &mut [u8]) {
    if let Some(kind) = bytes.get_mut(5) {
        *kind = ANSWER;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_has_the_size_asked_for_and_comes_back_as_an_answer() {
        for (ipv4, headers) in [(true, 28), (false, 48)] {
            let mut bytes = request(7, 1500, ipv4);
            assert_eq!(bytes.len() + headers, 1500);
            assert_eq!(read(&bytes), Some(Kind::Request(7)));
            turn_into_answer(&mut bytes);
            assert_eq!(read(&bytes), Some(Kind::Answer(7)));
        }
        assert_eq!(request(7, 0, true).len(), HEADER);
    }

    #[test]
    fn a_doubt_names_the_node() {
        for address in ["10.244.3.0", "fd00:10:244:3::"] {
            let address = address.parse().unwrap();
            assert_eq!(read(&doubt(address)), Some(Kind::Doubt(address)));
        }
        assert_eq!(read(&doubt("10.244.3.0".parse().unwrap())[..20]), None);
    }

    proptest! {
        #[test]
        fn garbage_is_no_probe(mut bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if !bytes.starts_with(&MAGIC) {
                prop_assert_eq!(read(&bytes), None);
            }
            turn_into_answer(&mut bytes);
        }
    }
}
