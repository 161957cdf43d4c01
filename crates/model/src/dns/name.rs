//! Domain names, as they stand in messages (RFC 1035 section 3.1).

use std::{fmt, hash, str::FromStr};

use thiserror::Error;

/// A fully qualified name in lower case, on the stack.
#[derive(Clone)]
pub struct Name {
    /// Labels, each after its length, and the root's zero.
    bytes: [u8; LONGEST],
    /// How many of the bytes are the name's.
    length: u8,
    /// Where the labels begin.
    starts: [u8; MOST_LABELS],
    /// How many labels there are, without the root's.
    labels: u8,
}

/// Why something is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// It ends before its end.
    #[error("the name is cut off")]
    Short,
    /// Longer than 255 octets.
    #[error("the name is longer than 255 octets")]
    Long,
    /// A label that is empty or longer than 63 octets.
    #[error("a part of the name is empty or longer than 63 octets")]
    Label,
    /// A pointer or an extended label where none may be.
    #[error("the name is compressed")]
    Compressed,
}

/// A name's octets at most, the root's included.
const LONGEST: usize = 255;
const MOST_LABELS: usize = 127;

// === impl Name ===

impl Name {
    /// The root.
    pub const ROOT: Self = Self { bytes: [0; LONGEST], length: 1, starts: [0; MOST_LABELS], labels: 0 };

    /// Reads an uncompressed name from a message; the offset behind it comes along.
    ///
    /// # Errors
    /// What stands there is no name, or a compressed one.
    pub fn read(message: &[u8], at: usize) -> Result<(Self, usize), NameError> {
        let rest = message.get(at..).ok_or(NameError::Short)?;
        let mut name = Self::ROOT;
        let mut place = 0_usize;
        loop {
            let length = *rest.get(place).ok_or(NameError::Short)?;
            if length == 0 {
                break;
            }
            if length > 63 {
                return Err(NameError::Compressed);
            }
            let next = place + 1 + usize::from(length);
            // The root's octet follows.
            if next >= LONGEST {
                return Err(NameError::Long);
            }
            *name.starts.get_mut(usize::from(name.labels)).ok_or(NameError::Long)? = place as u8;
            name.labels += 1;
            place = next;
        }
        let wire = rest.get(..=place).ok_or(NameError::Short)?;
        let kept = name.bytes.get_mut(..=place).ok_or(NameError::Long)?;
        // A length is never a letter's code.
        kept.iter_mut().zip(wire).for_each(|(kept, one)| *kept = one.to_ascii_lowercase());
        name.length = (place + 1) as u8;
        Ok((name, at + place + 1))
    }

    /// The name of these labels, the leftmost first.
    ///
    /// # Errors
    /// A label or the name is too long or empty.
    pub fn from_labels<'l>(labels: impl IntoIterator<Item = &'l [u8]>) -> Result<Self, NameError> {
        let mut name = Self::ROOT;
        let mut place = 0_usize;
        for label in labels {
            if label.is_empty() || label.len() > 63 {
                return Err(NameError::Label);
            }
            let next = place + 1 + label.len();
            if next >= LONGEST {
                return Err(NameError::Long);
            }
            *name.starts.get_mut(usize::from(name.labels)).ok_or(NameError::Long)? = place as u8;
            name.labels += 1;
            let kept = name.bytes.get_mut(place..next).ok_or(NameError::Long)?;
            if let Some((length, kept)) = kept.split_first_mut() {
                *length = label.len() as u8;
                kept.iter_mut().zip(label).for_each(|(kept, one)| *kept = one.to_ascii_lowercase());
            }
            place = next;
        }
        name.length = (place + 1) as u8;
        Ok(name)
    }

    /// This name under `other`: `a.b` and `c.` are `a.b.c.`
    ///
    /// # Errors
    /// It is too long.
    pub fn under(&self, other: &Self) -> Result<Self, NameError> {
        Self::from_labels(self.labels().chain(other.labels()))
    }

    /// As it stands in a message: labels, each after its length, and the root's zero.
    pub fn wire(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// How many labels it has, the root's not counted.
    pub fn len(&self) -> usize {
        usize::from(self.labels)
    }

    /// It is the root.
    pub fn is_empty(&self) -> bool {
        self.labels == 0
    }

    /// A label, counted from the left.
    pub fn label(&self, place: usize) -> Option<&[u8]> {
        if place >= self.len() {
            return None;
        }
        let start = usize::from(*self.starts.get(place)?);
        let length = usize::from(*self.bytes.get(start)?);
        self.bytes.get(start + 1..start + 1 + length)
    }

    /// A label, counted from the left, as text.
    pub fn text(&self, place: usize) -> Option<&str> {
        std::str::from_utf8(self.label(place)?).ok()
    }

    /// All labels, the leftmost first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        (0..self.len()).filter_map(|place| self.label(place))
    }

    /// Where in [`wire`](Self::wire) the last `labels` labels begin; at its start when there are not so many.
    pub fn offset_of_last(&self, labels: usize) -> usize {
        match self.len().checked_sub(labels) {
            Some(first) if first == self.len() => usize::from(self.length).saturating_sub(1),
            Some(first) => self.starts.get(first).copied().map_or(0, usize::from),
            None => 0,
        }
    }

    /// How many labels stand before `zone`; `None` when the name is not `zone` or under it.
    pub fn depth_under(&self, zone: &Self) -> Option<usize> {
        let depth = self.len().checked_sub(zone.len())?;
        (self.wire().get(self.offset_of_last(zone.len())..)? == zone.wire()).then_some(depth)
    }

    /// The first `labels` labels as a name of their own.
    pub fn first(&self, labels: usize) -> Self {
        let mut name = self.clone();
        name.labels = self.labels.min(u8::try_from(labels).unwrap_or(u8::MAX));
        let end = self.offset_of_last(self.len() - name.len());
        if let Some(root) = name.bytes.get_mut(end) {
            *root = 0;
        }
        name.length = (end + 1) as u8;
        name
    }

    /// The last `labels` labels as a name of their own.
    pub fn last(&self, labels: usize) -> Self {
        Self::read(self.wire(), self.offset_of_last(labels)).map_or(Self::ROOT, |(name, _)| name)
    }
}

impl Default for Name {
    fn default() -> Self {
        Self::ROOT
    }
}

impl FromStr for Name {
    type Err = NameError;

    /// `a.b.c`, with or without a dot at its end; `.` is the root. Nothing is escaped.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Ok(Self::ROOT);
        }
        Self::from_labels(text.split('.').map(str::as_bytes))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str(".");
        }
        for label in self.labels() {
            for octet in label {
                match octet {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(*octet))?,
                    b'!'..=b'~' => write!(f, "{}", char::from(*octet))?,
                    other => write!(f, "\\{other:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.wire() == other.wire()
    }
}

impl Eq for Name {}

impl hash::Hash for Name {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.wire().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_in_a_message_is_read_without_case_and_its_end_told() {
        let message = [b"xx", &b"\x03WwW\x07example\x00rest"[..]].concat();
        let (read, end) = Name::read(&message, 2).unwrap();
        assert_eq!(read, name("www.example"));
        assert_eq!(&message[end..], b"rest");
    }

    #[test]
    fn what_is_no_name_is_not_read() {
        assert_eq!(Name::read(b"\x03ww", 0).unwrap_err(), NameError::Short);
        assert_eq!(Name::read(b"\x03www", 0).unwrap_err(), NameError::Short);
        assert_eq!(Name::read(b"", 1).unwrap_err(), NameError::Short);
        assert_eq!(Name::read(b"\xc0\x00", 0).unwrap_err(), NameError::Compressed);
        let long = [[63_u8; 64].as_slice(); 4].concat();
        assert_eq!(Name::read(&long, 0).unwrap_err(), NameError::Long);
    }

    #[test]
    fn the_longest_name_has_255_octets() {
        let mut wire = [1, b'a'].repeat(127);
        wire.push(0);
        let (longest, end) = Name::read(&wire, 0).unwrap();
        assert_eq!((longest.len(), end), (127, 255));
        wire.splice(0..0, [1, b'a']);
        assert_eq!(Name::read(&wire, 0).unwrap_err(), NameError::Long);
        assert_eq!(name("b").under(&longest).unwrap_err(), NameError::Long);
    }

    #[test]
    fn names_are_taken_apart_and_put_together() {
        let whole = name("a.b.Cluster.Local.");
        assert_eq!(whole.depth_under(&name("cluster.local")), Some(2));
        assert_eq!(whole.depth_under(&Name::ROOT), Some(4));
        assert_eq!(whole.depth_under(&whole), Some(0));
        assert_eq!(whole.depth_under(&name("uster.local")), None);
        assert_eq!(whole.depth_under(&name("x.a.b.cluster.local")), None);
        assert_eq!(whole.first(2), name("a.b"));
        assert_eq!(whole.last(2), name("cluster.local"));
        assert_eq!(whole.last(0), Name::ROOT);
        assert_eq!(whole.first(0), Name::ROOT);
        assert_eq!(whole.first(9), whole);
        assert_eq!(whole.first(2).under(&whole.last(2)).unwrap(), whole);
        assert_eq!(whole.to_string(), "a.b.cluster.local.");
        assert_eq!(Name::from_labels([&b"a.b c"[..]]).unwrap().to_string(), "a\\.b\\032c.");
    }

    #[test]
    fn a_label_has_one_to_63_octets() {
        assert_eq!("a..b".parse::<Name>().unwrap_err(), NameError::Label);
        assert_eq!("a".repeat(64).parse::<Name>().unwrap_err(), NameError::Label);
        assert_eq!(name(&"a".repeat(63)).len(), 1);
    }
}
