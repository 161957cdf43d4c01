//! Objects against the shape of their types.

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine};
use serde_json::Value;

use crate::quantity::Quantity;

use super::{Field, Shape, Type, message};

/// What does not fit.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Paths of fields that the type does not have.
    pub(crate) unknown: Vec<String>,
    /// Fields of the wrong type: the path, and what was wanted and found.
    pub(crate) wrong: Vec<(String, String)>,
}

/// Walks an object of the message `name`.
pub(crate) fn check(name: &'static str, object: &Value) -> Findings {
    let mut findings = Findings::default();
    fields(name, object, "", &mut findings);
    findings
}

/// Fields that mean the same when they are empty as when they are absent, and have a default or none.
const EMPTY_IS_ABSENT: [&str; 26] = [
    "clusterIP",
    "concurrencyPolicy",
    "dnsPolicy",
    "externalName",
    "externalTrafficPolicy",
    "hostIP",
    "hostname",
    "imagePullPolicy",
    "loadBalancerIP",
    "medium",
    "nodeName",
    "persistentVolumeReclaimPolicy",
    "podManagementPolicy",
    "priorityClassName",
    "protocol",
    "restartPolicy",
    "schedulerName",
    "scheme",
    "serviceAccount",
    "serviceAccountName",
    "sessionAffinity",
    "subPath",
    "subdomain",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "type",
];

/// Makes of an object what Go's decoder makes of it: null is absent in a field, and the empty value in a list or map; enumerations
/// that are empty are absent; amounts have their one form; fields that the type does not have are gone.
pub(crate) fn normalize(name: &'static str, object: &mut Value) {
    let (Some(message), Value::Object(map)) = (message(name), object) else { return };
    map.retain(|key, value| match message.by_name(key) {
        // Objects may say what they are wherever they stand: claims in StatefulSets do.
        None => matches!(key.as_str(), "apiVersion" | "kind"),
        Some(field) => {
            let empty = field.kind == Type::String && value == "" && EMPTY_IS_ABSENT.contains(&key.as_str());
            !(empty || (value.is_null() && field.kind != Type::Raw))
        }
    });
    for (key, value) in map {
        let Some(field) = message.by_name(key) else { continue };
        match (field.shape, value) {
            (Shape::List, Value::Array(items)) => items.iter_mut().for_each(|item| plain(field.kind, item)),
            (Shape::Map, Value::Object(map)) => map.values_mut().for_each(|item| plain(field.kind, item)),
            (Shape::One | Shape::Inline, value) => plain(field.kind, value),
            _ => {}
        }
    }
}

fn plain(kind: Type, value: &mut Value) {
    if value.is_null() {
        *value = match kind {
            Type::String | Type::Bytes => "".into(),
            Type::Bool => false.into(),
            Type::Integer | Type::Number => 0.into(),
            Type::Message(name) if !is_list(name) => Value::Object(serde_json::Map::new()),
            _ => Value::Null,
        };
    }
    match kind {
        Type::Message(name) => normalize(name, value),
        Type::Quantity => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if let Some(quantity) = Quantity::parse(&text) {
                *value = quantity.canonical().into();
            }
        }
        _ => {}
    }
}

fn fields(name: &'static str, object: &Value, at: &str, findings: &mut Findings) {
    let (Some(message), Some(map)) = (message(name), object.as_object()) else { return };
    for (key, value) in map {
        if at.is_empty() && matches!(key.as_str(), "apiVersion" | "kind") {
            continue;
        }
        let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        match message.by_name(key) {
            None => {
                // Objects may say what they are wherever they stand: claims in StatefulSets do.
                if !matches!(key.as_str(), "apiVersion" | "kind") {
                    findings.unknown.push(path);
                }
            }
            Some(field) => whole(field, value, &path, findings),
        }
    }
}

fn whole(field: &Field, value: &Value, at: &str, findings: &mut Findings) {
    match (field.shape, value) {
        (_, Value::Null) => {}
        (Shape::One | Shape::Inline, value) => one(field.kind, value, at, findings),
        (Shape::List, Value::Array(items)) => {
            for (place, item) in items.iter().enumerate() {
                one(field.kind, item, &format!("{at}[{place}]"), findings);
            }
        }
        (Shape::Map, Value::Object(map)) => {
            for (key, item) in map {
                one(field.kind, item, &format!("{at}.{key}"), findings);
            }
        }
        (Shape::List, value) => wrong("list", value, at, findings),
        (Shape::Map, value) => wrong("map", value, at, findings),
    }
}

fn one(kind: Type, value: &Value, at: &str, findings: &mut Findings) {
    let (sound, wanted) = match kind {
        _ if value.is_null() => (true, ""),
        Type::Raw => (true, ""),
        Type::Bytes | Type::Time | Type::MicroTime if value.is_string() => {
            if let Some(why) = unreadable(kind, value.as_str().unwrap_or_default()) {
                findings.wrong.push((at.to_owned(), why));
            }
            (true, "")
        }
        Type::Quantity if value.is_string() || value.is_number() => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if Quantity::parse(&text).is_none() {
                let why = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
                findings.wrong.push((at.to_owned(), why.to_owned()));
            }
            (true, "")
        }
        Type::String | Type::Bytes | Type::Time | Type::MicroTime | Type::Duration => {
            (value.is_string(), "string")
        }
        Type::Bool => (value.is_boolean(), "bool"),
        Type::Integer => (value.is_i64() || value.is_u64(), "int"),
        Type::Number => (value.is_number(), "number"),
        Type::Quantity => (value.is_string() || value.is_number(), "quantity"),
        Type::IntOrString => (value.is_string() || value.is_i64(), "int or string"),
        // Lists of words that have a message of their own on the wire.
        Type::Message(name) if is_list(name) => (value.is_array(), "list"),
        Type::Message(name) => {
            if value.is_object() {
                fields(name, value, at, findings);
            }
            (value.is_object(), "object")
        }
    };
    if !sound {
        wrong(wanted, value, at, findings);
    }
}

/// Messages that are plain lists in JSON.
pub(crate) fn is_list(name: &str) -> bool {
    matches!(name.rsplit('.').next(), Some("ExtraValue" | "Verbs"))
}

fn wrong(wanted: &str, value: &Value, at: &str, findings: &mut Findings) {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    findings
        .wrong
        .push((at.to_owned(), format!("json: cannot unmarshal {found} into field {at} of type {wanted}")));
}

/// Why a text is not what it should be in JSON.
fn unreadable(kind: Type, text: &str) -> Option<String> {
    if kind == Type::Bytes {
        let place = match STANDARD.decode(text).err()? {
            DecodeError::InvalidByte(place, _) => place,
            _ => text.len(),
        };
        return Some(format!("illegal base64 data at input byte {place}"));
    }
    let digits =
        text.split_once('.').map_or(0, |(_, rest)| rest.bytes().take_while(u8::is_ascii_digit).count());
    let (exact, form) = match kind {
        Type::MicroTime => (digits == 6, "2006-01-02T15:04:05.000000Z07:00"),
        _ => (true, "2006-01-02T15:04:05Z07:00"),
    };
    let sound = exact && text.parse::<jiff::Timestamp>().is_ok();
    (!sound).then(|| format!("parsing time {text:?} as {form:?}: cannot parse {text:?}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{check, normalize};

    /// D4: null is what Go's decoder makes of it. D11: so is an empty enumeration.
    #[test]
    fn nulls_and_empty_enumerations_are_absent() {
        let mut object = json!({
            "metadata": {"name": "a", "labels": null, "annotations": {"k": null}},
            "spec": {"type": "", "selector": null, "ports": [{"port": 80, "protocol": "", "name": ""}]},
        });
        normalize("core/v1.Service", &mut object);
        assert_eq!(
            object,
            json!({
                "metadata": {"name": "a", "annotations": {"k": ""}},
                "spec": {"ports": [{"port": 80, "name": ""}]},
            })
        );
    }

    #[test]
    fn unknown_and_mistyped_fields_are_found() {
        let findings = check(
            "apps/v1.Deployment",
            &json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": {"x": 1}},
                "spec": {"replicas": "3", "replcas": 3, "template": {"spec": {"containers": [
                    {"name": "a", "imagee": "b", "ports": {"containerPort": 1}},
                ], "volumes": [{"name": "v", "emptyDir": {}}]}}},
            }),
        );
        let mut unknown = findings.unknown;
        unknown.sort();
        assert_eq!(unknown, ["spec.replcas", "spec.template.spec.containers[0].imagee"]);
        let mut wrong: Vec<String> = findings.wrong.into_iter().map(|(path, _)| path).collect();
        wrong.sort();
        assert_eq!(wrong, ["metadata.labels.x", "spec.replicas", "spec.template.spec.containers[0].ports"]);
    }
}
