//! The shape of the built-in types: names, wire numbers and types of their fields, as of Kubernetes 1.32, and what the
//! two versions after it added to the types that people write.
//!
//! `types.txt` has a line `@MESSAGE` for each message, then a line `NUMBER NAME TYPE` for each field. Types: `s` string,
//! `b` bool, `i` integer, `d` number, `y` bytes, `t` time, `u` time with microseconds, `D` duration, `q` quantity, `o`
//! integer or string, `r` raw JSON, `=M` message M; before it `*` for a list, `%` for a map from strings, `^` for a
//! message whose fields stand among those of the one around it in JSON.

mod check;
mod protobuf;

use std::collections::HashMap;
use std::sync::OnceLock;

pub(crate) use check::{check, is_list, normalize};
pub(crate) use protobuf::decode;

use crate::resources::ResourceType;

/// One value's type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Type {
    String,
    Bool,
    Integer,
    Number,
    Bytes,
    Time,
    MicroTime,
    Duration,
    Quantity,
    IntOrString,
    Raw,
    Message(&'static str),
}

/// How many of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Shape {
    One,
    List,
    Map,
    /// A message whose fields stand in the one around it.
    Inline,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    number: u64,
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) kind: Type,
}

/// The fields of one message.
#[derive(Debug, Default)]
pub(crate) struct Message {
    fields: Vec<Field>,
}

impl Message {
    fn by_number(&self, number: u64) -> Option<&Field> {
        self.fields.iter().find(|field| field.number == number)
    }

    /// A field as JSON has it.
    pub(crate) fn by_name(&'static self, name: &str) -> Option<&'static Field> {
        self.json_fields().find(|field| field.name == name)
    }

    /// The fields as JSON has them: those of inlined messages among the others.
    pub(crate) fn json_fields(&'static self) -> Box<dyn Iterator<Item = &'static Field>> {
        Box::new(self.fields.iter().flat_map(|field| -> Box<dyn Iterator<Item = &'static Field>> {
            match (field.shape, field.kind) {
                (Shape::Inline, Type::Message(name)) => match message(name) {
                    Some(inner) => inner.json_fields(),
                    None => Box::new(std::iter::empty()),
                },
                _ => Box::new(std::iter::once(field)),
            }
        }))
    }
}

type Messages = HashMap<&'static str, Message>;

fn messages() -> &'static Messages {
    static MESSAGES: OnceLock<Messages> = OnceLock::new();
    MESSAGES.get_or_init(|| {
        let mut messages = Messages::new();
        let mut name = "";
        for line in include_str!("types.txt").lines() {
            if let Some(header) = line.strip_prefix('@') {
                name = header;
                messages.entry(name).or_default();
            } else if let Some(field) = parse(line) {
                messages.entry(name).or_default().fields.push(field);
            }
        }
        messages
    })
}

fn parse(line: &'static str) -> Option<Field> {
    let mut words = line.split(' ');
    let (number, name, code) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let (shape, code) = match code.split_at_checked(1)? {
        ("*", rest) => (Shape::List, rest),
        ("%", rest) => (Shape::Map, rest),
        ("^", rest) => (Shape::Inline, rest),
        _ => (Shape::One, code),
    };
    let kind = match code.split_at_checked(1)? {
        ("s", _) => Type::String,
        ("b", _) => Type::Bool,
        ("i", _) => Type::Integer,
        ("d", _) => Type::Number,
        ("y", _) => Type::Bytes,
        ("t", _) => Type::Time,
        ("u", _) => Type::MicroTime,
        ("D", _) => Type::Duration,
        ("q", _) => Type::Quantity,
        ("o", _) => Type::IntOrString,
        ("r", _) => Type::Raw,
        ("=", name) => Type::Message(name),
        _ => return None,
    };
    Some(Field { number, name, shape, kind })
}

/// The message of this name.
pub(crate) fn message(name: &str) -> Option<&'static Message> {
    messages().get(name)
}

/// The name of the message that a built-in type's objects are.
pub(crate) fn name_of(resource: &ResourceType) -> Option<&'static str> {
    if resource.custom.is_some() {
        return None;
    }
    find(&resource.group, &resource.version, &resource.kind)
}

fn find(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    let package = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or_default() };
    let name = format!("{package}/{version}.{kind}");
    messages().get_key_value(name.as_str()).map(|(name, _)| *name)
}

/// The messages that a message is made of, itself included.
pub(crate) fn closure(name: &'static str) -> Vec<&'static str> {
    let mut found = vec![name];
    let mut at = 0;
    while let Some(name) = found.get(at).copied() {
        at += 1;
        for field in message(name).into_iter().flat_map(Message::json_fields) {
            if let Type::Message(inner) = field.kind
                && !found.contains(&inner)
            {
                found.push(inner);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Type, closure, find, message, messages};
    use crate::resources::Registry;

    #[test]
    fn every_reference_leads_to_a_message() {
        for (name, found) in messages() {
            assert!(!found.fields.is_empty() || closure(name).len() == 1, "{name} is empty");
            for field in &found.fields {
                if let Type::Message(inner) = field.kind {
                    assert!(message(inner).is_some(), "{name}.{} refers to {inner}", field.name);
                }
            }
        }
    }

    #[test]
    fn the_types_that_people_use_are_known() {
        let types = Registry::new().types();
        for kind in
            ["Pod", "Deployment", "Job", "CronJob", "Ingress", "NetworkPolicy", "Role", "Service", "Lease"]
        {
            let resource = types.all().find(|resource| resource.kind == kind).unwrap();
            assert!(super::name_of(resource).is_some(), "{kind}");
        }
        let volume = message(find("", "v1", "Volume").unwrap()).unwrap();
        assert!(volume.by_name("emptyDir").is_some() && volume.by_name("volumeSource").is_none());
    }
}
