//! ConfigMaps, Secrets, claims of volumes, limits.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::volume::ACCESS_MODES;
use super::{Errors, is_given, list, named, names, one_of};
use crate::error::FieldError;
use crate::quantity::Quantity;
use crate::resources::ResourceType;

const LIMIT: usize = 1024 * 1024;

pub(super) fn config_map(object: &Value, errors: &mut Errors) {
    for (key, _) in entries(&object["data"]) {
        let field = format!("data[{key}]");
        named(&key.into(), &field, names::config_key, errors);
        if object["binaryData"].get(key).is_some() {
            errors.push(FieldError::invalid(field, &key.into(), "duplicate of key present in binaryData"));
        }
    }
    for (key, _) in entries(&object["binaryData"]) {
        named(&key.into(), &format!("binaryData[{key}]"), names::config_key, errors);
    }
    size(object, ("data", "binaryData"), "", errors);
}

fn entries(data: &Value) -> impl Iterator<Item = (&str, &Value)> {
    data.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

/// The keys that a type of Secret must have.
fn keys_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        _ => &[],
    }
}

pub(super) fn secret(object: &Value, errors: &mut Errors) {
    const ACCOUNT: &str = "kubernetes.io/service-account.name";
    let data = &object["data"];
    for (key, _) in entries(data) {
        named(&key.into(), &format!("data[{key}]"), names::config_key, errors);
    }
    size(object, ("", "data"), "data", errors);
    let missing = |key: &str| FieldError::required(format!("data[{key}]"), "");
    let kind = object["type"].as_str().unwrap_or_default();
    match kind {
        "kubernetes.io/service-account-token" if !is_given(&object["metadata"]["annotations"][ACCOUNT]) => {
            errors.push(FieldError::required(format!("metadata.annotations[{ACCOUNT}]"), ""));
        }
        "kubernetes.io/basic-auth" => {
            let keys = ["username", "password"];
            if keys.iter().all(|key| data.get(*key).is_none()) {
                errors.extend(keys.into_iter().map(missing));
            }
        }
        _ => {}
    }
    for key in keys_of(kind) {
        let Some(value) = data.get(*key) else {
            errors.push(missing(key));
            continue;
        };
        let text = value.as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
        if key.starts_with(".docker")
            && serde_json::from_slice::<serde_json::Map<String, Value>>(&text).is_err()
        {
            let field = format!("data[{key}]");
            let why = "must be a JSON object";
            errors.push(FieldError::invalid(field, &"<secret contents redacted>".into(), why));
        }
    }
}

/// What the values of both fields come to: of the first as they stand, of the second, which is in Base64, without that.
fn size(object: &Value, (plain, encoded): (&str, &str), field: &str, errors: &mut Errors) {
    let texts = |field: &str| entries(&object[field]).filter_map(|(_, value)| value.as_str());
    let decoded = |text: &str| STANDARD.decode(text).map_or(0, |bytes| bytes.len());
    let total = texts(plain).map(str::len).sum::<usize>() + texts(encoded).map(decoded).sum::<usize>();
    if total > LIMIT {
        errors.push(FieldError {
            reason: "FieldValueTooLong",
            field: field.to_owned(),
            message: format!("Too long: may not be more than {LIMIT} bytes"),
        });
    }
}

/// What stays of a ConfigMap or a Secret.
pub(super) fn update(resource: &ResourceType, before: &Value, object: &Value, errors: &mut Errors) {
    if resource.plural == "secrets" && before["type"] != object["type"] {
        errors.push(FieldError::invalid("type", &object["type"], "field is immutable"));
    }
    if before["immutable"] != true {
        return;
    }
    let why = "field is immutable when `immutable` is set";
    if object["immutable"] != true {
        errors.push(FieldError::forbidden("immutable", why));
    }
    for field in ["data", "binaryData"] {
        if before[field] != object[field] {
            errors.push(FieldError::forbidden(field, why));
        }
    }
}

pub(super) fn claim(spec: &Value, errors: &mut Errors) {
    claim_at(spec, "spec", errors);
}

pub(super) fn claim_at(spec: &Value, at: &str, errors: &mut Errors) {
    let field = format!("{at}.accessModes");
    let modes = list(&spec["accessModes"], &field, errors);
    if modes.is_empty() {
        errors.push(FieldError::required(&field, "at least 1 access mode is required"));
    }
    for mode in modes {
        one_of(mode, &field, &ACCESS_MODES, errors);
    }
    let (size, field) = (&spec["resources"]["requests"]["storage"], format!("{at}.resources[storage]"));
    match size.as_str().and_then(Quantity::parse) {
        None => errors.push(FieldError::required(field, "")),
        Some(amount) if amount.is_zero() || amount.is_negative() => {
            errors.push(FieldError::invalid(field, size, "must be greater than zero"));
        }
        Some(_) => {}
    }
    if is_given(&spec["storageClassName"]) {
        named(&spec["storageClassName"], &format!("{at}.storageClassName"), names::dns_subdomain, errors);
    }
    one_of(&spec["volumeMode"], &format!("{at}.volumeMode"), &["Block", "Filesystem"], errors);
}

/// What may change of a claim: its size, once it has a volume, and the volume itself and the class, while it has none.
pub(super) fn claim_update(before: &Value, object: &Value, errors: &mut Errors) {
    let bound = before["status"]["phase"] == "Bound";
    let frozen = |object: &Value| {
        let mut spec = object["spec"].clone();
        if let Value::Object(map) = &mut spec {
            if before["spec"]["volumeName"].is_null() {
                map.remove("volumeName");
            }
            if before["spec"]["storageClassName"].is_null() {
                map.remove("storageClassName");
            }
            if bound {
                map.remove("resources");
                map.remove("volumeAttributesClassName");
            }
        }
        spec
    };
    if frozen(before) != frozen(object) {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.push(FieldError::forbidden("spec", why));
    }
}

/// What limits say of one resource must not contradict: least, usual request, usual limit, most.
pub(super) fn limits(spec: &Value, errors: &mut Errors) {
    for (at, limit) in list(&spec["limits"], "spec.limits", errors).iter().enumerate() {
        let names = ["min", "defaultRequest", "default", "max"];
        let words = ["min", "default request", "default", "max"];
        let amount = |kind: &str, name: &str| limit[kind][name].as_str().and_then(Quantity::parse);
        for (name, _) in names.iter().flat_map(|kind| entries(&limit[*kind])) {
            let pairs = [(0, 3, 0), (0, 1, 1), (0, 2, 2), (1, 2, 1), (1, 3, 1), (2, 3, 2)];
            for (low, high, field) in pairs {
                let kind = |at: usize| names.get(at).copied().unwrap_or_default();
                let word = |at: usize| words.get(at).copied().unwrap_or_default();
                let Some((less, more)) = amount(kind(low), name).zip(amount(kind(high), name)) else {
                    continue;
                };
                if less <= more {
                    continue;
                }
                let why = format!(
                    "{} value {} is greater than {} value {}",
                    word(low),
                    less.canonical(),
                    word(high),
                    more.canonical()
                );
                let field_path = format!("spec.limits[{at}].{}[{name}]", kind(field));
                let error = FieldError::invalid(field_path, &limit[kind(field)][name], why);
                if !errors.iter().any(|other| other.field == error.field && other.message == error.message) {
                    errors.push(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::claim_update;

    #[test]
    fn a_claim_is_given_a_class_once() {
        let refused = |before, after| {
            let mut errors = Vec::new();
            claim_update(&json!({ "spec": before }), &json!({ "spec": after }), &mut errors);
            !errors.is_empty()
        };
        assert!(!refused(json!({}), json!({ "storageClassName": "standard", "volumeName": "pvc-1" })));
        assert!(refused(json!({ "storageClassName": "" }), json!({ "storageClassName": "standard" })));
        assert!(refused(json!({ "storageClassName": "standard" }), json!({})));
        assert!(refused(json!({}), json!({ "accessModes": ["ReadWriteMany"] })));
    }
}
