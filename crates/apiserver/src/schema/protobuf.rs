//! Kubernetes' protobuf encoding, as typed Go clients (kubectl create) send it, read into JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::check::is_list;
use super::{Field, Shape, Type, find, message};

/// Deeper objects are refused: every level recurses.
const MAX_DEPTH: usize = 64;

/// Why bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("the body does not begin with the prefix of Kubernetes' protobuf encoding")]
    Prefix,
    #[error("the protobuf message ends too early or is damaged")]
    Damaged,
    #[error("objects of kind {0} in {1} are not known to the protobuf decoder: send JSON")]
    Unknown(String, String),
}

/// A whole body: prefix, envelope, object.
pub(crate) fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    let envelope = body.strip_prefix(b"k8s\0").ok_or(DecodeError::Prefix)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for part in Parts(envelope) {
        match part? {
            (1, Wire::Bytes(meta)) => {
                for part in Parts(meta) {
                    match part? {
                        (1, Wire::Bytes(text)) => api_version = string(text),
                        (2, Wire::Bytes(text)) => kind = string(text),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    // Options of a request have the request's group and the shape of meta/v1.
    let name = find(group, version, &kind).or_else(|| find("meta", "v1", &kind));
    let name = name.ok_or_else(|| DecodeError::Unknown(kind.clone(), api_version.clone()))?;
    let mut object = Map::new();
    read(name, raw, &mut object, 0)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in their order.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(DecodeError::Damaged)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Damaged)
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], DecodeError> {
        let count = usize::try_from(count).map_err(|_| DecodeError::Damaged)?;
        let (taken, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn part(&mut self) -> Result<(u64, Wire<'a>), DecodeError> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => {
                Wire::Number(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| DecodeError::Damaged)?))
            }
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Number(u64::from(u32::from_le_bytes(
                self.take(4)?.try_into().map_err(|_| DecodeError::Damaged)?,
            ))),
            _ => return Err(DecodeError::Damaged),
        };
        Ok((tag >> 3, wire))
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u64, Wire<'a>), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_err() {
            self.0 = &[];
        }
        Some(part)
    }
}

fn string(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read(name: &str, bytes: &[u8], out: &mut Map<String, Value>, depth: usize) -> Result<(), DecodeError> {
    let message = message(name).ok_or(DecodeError::Damaged)?;
    if depth > MAX_DEPTH {
        return Err(DecodeError::Damaged);
    }
    for part in Parts(bytes) {
        let (number, wire) = part?;
        // What newer clients have more is left out, as by Kubernetes.
        let Some(field) = message.by_number(number) else { continue };
        match field.shape {
            Shape::Inline => {
                if let (Wire::Bytes(bytes), Type::Message(name)) = (&wire, field.kind) {
                    read(name, bytes, out, depth + 1)?;
                }
            }
            Shape::One => {
                if let Some(value) = value(field.kind, &wire, depth)?.filter(|value| says(name, field, value))
                {
                    out.insert(field.name.to_owned(), value);
                }
            }
            Shape::List => {
                if let Value::Array(list) = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new()))
                {
                    list.push(value(field.kind, &wire, depth)?.unwrap_or_default());
                }
            }
            Shape::Map => {
                let Wire::Bytes(entry) = wire else { return Err(DecodeError::Damaged) };
                let (key, item) = entry_of(field.kind, entry, depth)?;
                if let Value::Object(map) = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()))
                {
                    map.insert(key, item);
                }
            }
        }
    }
    Ok(())
}

fn entry_of(kind: Type, bytes: &[u8], depth: usize) -> Result<(String, Value), DecodeError> {
    let (mut key, mut item) = (String::new(), None);
    for part in Parts(bytes) {
        match part? {
            (1, Wire::Bytes(text)) => key = string(text),
            (2, wire) => item = value(kind, &wire, depth)?,
            _ => {}
        }
    }
    let empty = || match kind {
        Type::Message(_) => Value::Object(Map::new()),
        _ => Value::from(""),
    };
    Ok((key, item.unwrap_or_else(empty)))
}

/// `None` for what is absent in JSON, such as a zero time.
fn value(kind: Type, wire: &Wire<'_>, depth: usize) -> Result<Option<Value>, DecodeError> {
    Ok(Some(match (kind, wire) {
        (Type::String, Wire::Bytes(text)) => string(text).into(),
        (Type::Bool, Wire::Number(number)) => (*number != 0).into(),
        (Type::Integer, Wire::Number(number)) => number.cast_signed().into(),
        (Type::Number, Wire::Number(number)) => f64::from_bits(*number).into(),
        (Type::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Type::Time | Type::MicroTime, Wire::Bytes(bytes)) => return time(kind, bytes),
        (Type::Duration, Wire::Bytes(bytes)) => {
            let nanoseconds = numbers(bytes)?[0];
            format!("{}ns", nanoseconds.cast_signed()).into()
        }
        (Type::Quantity, Wire::Bytes(bytes)) => match Parts(bytes).next() {
            Some(Ok((1, Wire::Bytes(text)))) => string(text).into(),
            _ => "0".into(),
        },
        (Type::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
        (Type::Raw, Wire::Bytes(bytes)) => match Parts(bytes).next() {
            Some(Ok((1, Wire::Bytes(raw)))) => {
                serde_json::from_slice(raw).map_err(|_| DecodeError::Damaged)?
            }
            _ => return Ok(None),
        },
        (Type::Message(name), Wire::Bytes(bytes)) => {
            let mut inner = Map::new();
            read(name, bytes, &mut inner, depth + 1)?;
            if is_list(name) { inner.remove("items").unwrap_or_default() } else { Value::Object(inner) }
        }
        _ => return Err(DecodeError::Damaged),
    }))
}

/// Fields 1 and 2, numbers.
fn numbers(bytes: &[u8]) -> Result<[u64; 2], DecodeError> {
    let mut found = [0; 2];
    for part in Parts(bytes) {
        match part? {
            (1, Wire::Number(number)) => found[0] = number,
            (2, Wire::Number(number)) => found[1] = number,
            _ => {}
        }
    }
    Ok(found)
}

fn time(kind: Type, bytes: &[u8]) -> Result<Option<Value>, DecodeError> {
    let [seconds, nanoseconds] = numbers(bytes)?.map(u64::cast_signed);
    if bytes.is_empty() {
        return Ok(None);
    }
    let nanoseconds = i32::try_from(nanoseconds).map_err(|_| DecodeError::Damaged)?;
    let time = Timestamp::new(seconds, nanoseconds).map_err(|_| DecodeError::Damaged)?;
    let format = if kind == Type::MicroTime { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(Some(time.strftime(format).to_string().into()))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, DecodeError> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for part in Parts(bytes) {
        match part? {
            (1, Wire::Number(kind)) => is_text = kind != 0,
            (2, Wire::Number(value)) => number = value.cast_signed(),
            (3, Wire::Bytes(value)) => text = string(value),
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// Fields that Go cannot leave unset come as zeros, which JSON leaves out. For those that it can, a zero means zero.
fn says(message: &str, field: &Field, value: &Value) -> bool {
    const UNSET_DIFFERS_FROM_ZERO: &[&str] = &[
        "activeDeadlineSeconds",
        "allocateLoadBalancerNodePorts",
        "allowPrivilegeEscalation",
        "automountServiceAccountToken",
        "backoffLimit",
        "backoffLimitPerIndex",
        "blockOwnerDeletion",
        "completions",
        "controller",
        "deletionGracePeriodSeconds",
        "enableServiceLinks",
        "failedJobsHistoryLimit",
        "fsGroup",
        "gracePeriodSeconds",
        "hostUsers",
        "immutable",
        "manualSelector",
        "minReplicas",
        "mode",
        "optional",
        "parallelism",
        "partition",
        "priority",
        "privileged",
        "progressDeadlineSeconds",
        "ready",
        "replicas",
        "revisionHistoryLimit",
        "runAsGroup",
        "runAsNonRoot",
        "runAsUser",
        "serving",
        "startingDeadlineSeconds",
        "storageClassName",
        "successfulJobsHistoryLimit",
        "suspend",
        "terminating",
        "terminationGracePeriodSeconds",
        "tolerationSeconds",
        "ttlSecondsAfterFinished",
    ];
    let zero = value.as_str() == Some("") || value.as_i64() == Some(0) || value.as_bool() == Some(false);
    !zero
        || field.name == "value" && message == "scheduling/v1.PriorityClass"
        || (!message.ends_with("Status") && UNSET_DIFFERS_FROM_ZERO.contains(&field.name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::decode;

    /// As kubectl sends `create configmap b --from-literal=a=c`.
    #[test]
    fn a_config_map_is_read() {
        let mut body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap".to_vec();
        let object = b"\x0a\x0c\x0a\x01b\x12\x00\x1a\x03ns1\x42\x00\x12\x06\x0a\x01a\x12\x01c";
        body.push(0x12);
        body.push(u8::try_from(object.len()).unwrap());
        body.extend_from_slice(object);
        assert_eq!(
            decode(&body).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b", "namespace": "ns1"},
                "data": {"a": "c"},
            })
        );
    }

    proptest! {
        #[test]
        fn garbage_never_panics(tail in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut body = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12".to_vec();
            body.push(u8::try_from(tail.len()).unwrap());
            body.extend(&tail);
            let _ = decode(&body);
            let _ = decode(&tail);
        }
    }
}
