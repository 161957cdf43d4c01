//! The bytes of nf_tables' netlink messages (linux/netfilter/nf_tables.h): nested attributes, numbers in network order.

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkSerializable,
};

const NLA_NESTED: u16 = 1 << 15;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFPROTO_INET`: one table for both families.
const FAMILY_INET: u8 = 1;

/// A message, or the answer to one: its nf_tables type and everything behind the nfnetlink header.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) attributes: Attributes,
}

/// A list of attributes.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes(pub(super) Vec<u8>);

impl Attributes {
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Attributes {
        let length = (value.len() + 4) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Attributes {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(super) fn number(self, kind: u16, value: u32) -> Attributes {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn nested(self, kind: u16, value: &Attributes) -> Attributes {
        self.bytes(kind | NLA_NESTED, &value.0)
    }

    /// The value of an attribute.
    pub(super) fn get(&self, kind: u16) -> Option<&[u8]> {
        let mut rest = self.0.as_slice();
        while let [l0, l1, k0, k1, ..] = rest {
            let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
            if u16::from_ne_bytes([*k0, *k1]) & !NLA_NESTED == kind {
                return rest.get(4..length);
            }
            rest = rest.get(length.max(4).next_multiple_of(4)..)?;
        }
        None
    }
}

impl Message {
    pub(super) fn new(kind: u16, attributes: Attributes) -> Message {
        Message { kind, attributes }
    }

    fn payload(&self, resource: u16) -> Vec<u8> {
        let mut payload = vec![FAMILY_INET, 0];
        payload.extend(resource.to_be_bytes());
        payload.extend(&self.attributes.0);
        payload
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        SUBSYSTEM << 8 | self.kind
    }

    fn buffer_len(&self) -> usize {
        self.attributes.0.len() + 4
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.payload(0));
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Message, DecodeError> {
        let attributes = Attributes(payload.get(4..).unwrap_or_default().to_vec());
        Ok(Message { kind: header.message_type & 0xff, attributes })
    }
}

/// One transaction: all of the messages or none. The last one is acknowledged.
pub(super) fn batch(messages: &[Message], sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let empty = Message::new(0, Attributes::default());
    append(&mut bytes, BATCH_BEGIN, 0, sequence, &empty.payload(SUBSYSTEM));
    for (index, message) in messages.iter().enumerate() {
        let acknowledge = if index + 1 == messages.len() { NLM_F_ACK } else { 0 };
        append(&mut bytes, message.message_type(), NLM_F_CREATE | acknowledge, sequence, &message.payload(0));
    }
    append(&mut bytes, BATCH_END, 0, sequence, &empty.payload(SUBSYSTEM));
    bytes
}

fn append(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, payload: &[u8]) {
    let length = payload.len() + 16;
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_again_and_garbage_is_survived() {
        let inner = Attributes::default().number(1, 7);
        let list = Attributes::default().text(3, "abc").nested(4, &inner).bytes(5, &[1, 2, 3]);
        assert_eq!(list.get(3), Some(b"abc\0".as_slice()));
        assert_eq!(list.get(4), Some(inner.0.as_slice()));
        assert_eq!(list.get(5), Some([1, 2, 3].as_slice()));
        assert_eq!(list.get(6), None);
        for garbage in [&[][..], &[1], &[0, 0, 9, 0], &[255, 255, 1, 0], &[2, 0, 1, 0, 2, 0, 1, 0]] {
            let _ = Attributes(garbage.to_vec()).get(1);
        }
    }
}
