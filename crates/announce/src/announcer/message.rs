//! What agents say to each other: a question and its answer, a datagram each.

use serde::{Deserialize, Serialize};

/// Octets of a message, maximum.
pub const LONGEST: usize = 1024;

/// A message of one agent to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Version of the messages: 1.
    #[serde(rename = "v")]
    pub version: u8,
    /// What is said.
    pub kind: Kind,
    /// The node whose addresses it is about.
    pub holder: String,
    /// The version of its Lease.
    pub lease: u64,
    /// A number of whoever asks; the answer has the same.
    pub nonce: u64,
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The holder asks for a promise that it is not voted out.
    MayI,
    /// It is promised.
    YouMay,
    /// Another node asks for a vote against the holder.
    IsItOut,
    /// The vote.
    ItIsOut,
    /// Neither is given.
    No,
}

impl Message {
    /// A message of this version.
    pub fn new(kind: Kind, holder: &str, lease: u64, nonce: u64) -> Self {
        Self { version: 1, kind, holder: holder.to_owned(), lease, nonce }
    }

    /// The answer of this kind.
    pub fn answer(&self, kind: Kind) -> Self {
        Self { kind, ..self.clone() }
    }

    /// The message in a datagram; `None` if it is not one of this version.
    pub fn read(octets: &[u8]) -> Option<Self> {
        let message: Self = serde_json::from_slice(octets.get(..octets.len().min(LONGEST))?).ok()?;
        (message.version == 1).then_some(message)
    }

    /// The datagram.
    pub fn write(&self) -> Vec<u8> {
        // Numbers and text are always written.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let message = Message::new(Kind::MayI, "node-1", 1_700_000_000, u64::MAX);
        assert_eq!(Message::read(&message.write()), Some(message));
        let other = Message { version: 2, ..Message::new(Kind::No, "node-1", 1, 1) };
        assert_eq!(Message::read(&other.write()), None);
    }

    proptest! {
        #[test]
        fn other_octets_are_no_message(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(Message::read(&octets), None);
        }
    }
}
