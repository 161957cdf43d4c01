//! What objects must be like.

pub(crate) mod custom;
mod metadata;
pub(crate) mod names;
mod network;
mod pod;
mod service;
mod volume;
mod workload;

use serde_json::Value;

use crate::error::{ApiError, FieldError, Result};
use crate::meta;
use crate::resources::{ResourceType, Types};

/// The errors found so far.
pub(crate) type Errors = Vec<FieldError>;

/// Checks a new object, defaults filled in.
pub(crate) fn create(resource: &ResourceType, types: &Types, object: &Value) -> Result<()> {
    let mut errors = Errors::new();
    metadata::check(resource, object, &mut errors);
    contents(resource, types, object, &mut errors);
    finish(resource, object, &errors)
}

/// Checks an object that is to replace `before`.
pub(crate) fn update(
    resource: &ResourceType,
    types: &Types,
    subresource: &str,
    before: &Value,
    object: &Value,
) -> Result<()> {
    let mut errors = Errors::new();
    metadata::check(resource, object, &mut errors);
    metadata::check_update(before, object, &mut errors);
    if subresource != "status" || resource.custom.is_some() {
        contents(resource, types, object, &mut errors);
    }
    match subresource {
        "status" if resource.is("", "services") => service::status(object, &mut errors),
        "" => immutable(resource, before, object, &mut errors),
        "resize" => pod::resize(&before["spec"], &object["spec"], &mut errors),
        _ => {}
    }
    finish(resource, object, &errors)
}

fn finish(resource: &ResourceType, object: &Value, errors: &[FieldError]) -> Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&resource.group, &resource.kind, meta::name(object), errors))
}

fn contents(resource: &ResourceType, types: &Types, object: &Value, errors: &mut Errors) {
    if let Some(schema) = &resource.custom {
        return custom::check(&schema.schema, object, errors);
    }
    let spec = &object["spec"];
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod::spec(spec, "spec", errors),
        ("", "services") => service::check(spec, errors),
        ("", "configmaps") => config_map(object, errors),
        ("", "secrets") => secret(object, errors),
        ("apps", "controllerrevisions") => {}
        ("apps" | "batch", _) | ("", "replicationcontrollers") => {
            workload::check(&resource.plural, spec, errors);
        }
        ("", "endpoints") => network::endpoints(object, errors),
        ("discovery.k8s.io", "endpointslices") => network::slice(object, errors),
        ("networking.k8s.io", "ingresses") => network::ingress(spec, errors),
        ("networking.k8s.io", "networkpolicies") => network::policy(spec, errors),
        ("apiextensions.k8s.io", "customresourcedefinitions") => custom::definition(types, object, errors),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            required(&object["roleRef"], "roleRef", &["kind", "name"], errors);
        }
        ("autoscaling", _) => {
            required(&spec["scaleTargetRef"], "spec.scaleTargetRef", &["kind", "name"], errors);
            required(spec, "spec", &["maxReplicas"], errors);
        }
        ("storage.k8s.io", "storageclasses") => required(object, "", &["provisioner"], errors),
        ("node.k8s.io", "runtimeclasses") => required(object, "", &["handler"], errors),
        _ => {}
    }
}

/// What may never change once it is set.
fn immutable(resource: &ResourceType, before: &Value, object: &Value, errors: &mut Errors) {
    let paths: &[&str] = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => return pod::update(&before["spec"], &object["spec"], errors),
        ("", "configmaps" | "secrets") if before["immutable"] == true => {
            for field in ["data", "binaryData", "immutable"] {
                if before[field] != object[field] {
                    errors.push(FieldError::forbidden(field, "field is immutable when `immutable` is set"));
                }
            }
            return;
        }
        ("", "services") => return service::update(before, object, errors),
        ("", "secrets") => &["/type"],
        ("", "nodes") => {
            let old = &before["spec"]["podCIDRs"];
            if old.as_array().is_some_and(|ranges| !ranges.is_empty()) && *old != object["spec"]["podCIDRs"] {
                let why = "node updates may not change podCIDR except from \"\" to valid";
                errors.push(FieldError::forbidden("spec.podCIDRs", why));
            }
            return;
        }
        ("apps", "deployments" | "replicasets" | "daemonsets") => &["/spec/selector"],
        ("apps", "statefulsets") => &[
            "/spec/selector",
            "/spec/serviceName",
            "/spec/podManagementPolicy",
            "/spec/volumeClaimTemplates",
        ],
        ("batch", "jobs") => &["/spec/selector", "/spec/completionMode", "/spec/template"],
        ("discovery.k8s.io", "endpointslices") => &["/addressType"],
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => &["/roleRef"],
        ("scheduling.k8s.io", "priorityclasses") => &["/value"],
        ("storage.k8s.io", "storageclasses") => &["/provisioner", "/parameters", "/reclaimPolicy"],
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            &["/spec/group", "/spec/scope", "/spec/names/plural", "/spec/names/kind"]
        }
        _ => return,
    };
    for path in paths {
        let (old, new) = (before.pointer(path), object.pointer(path));
        let value = new.unwrap_or(&Value::Null);
        if old.is_some_and(|old| old != value) {
            let field = path.trim_start_matches('/').replace('/', ".");
            errors.push(FieldError::invalid(field, value, "field is immutable"));
        }
    }
}

/// Fields that must be there and not empty.
fn required(object: &Value, at: &str, fields: &[&str], errors: &mut Errors) {
    for field in fields {
        let value = &object[*field];
        if value.is_null() || value == "" {
            let path = if at.is_empty() { (*field).to_owned() } else { format!("{at}.{field}") };
            errors.push(FieldError::required(path, ""));
        }
    }
}

/// One of a few words, if it is there.
fn one_of(value: &Value, field: &str, supported: &[&str], errors: &mut Errors) {
    if !value.is_null() && !value.as_str().is_some_and(|text| supported.contains(&text)) {
        errors.push(FieldError::not_supported(field, value, supported));
    }
}

/// A whole number that is not negative, if it is there.
fn count(value: &Value, field: &str, errors: &mut Errors) {
    match value {
        Value::Null => {}
        value => match value.as_i64() {
            None => errors.push(FieldError::type_invalid(field, value, "must be an integer")),
            Some(number) if number < 0 => {
                errors.push(FieldError::invalid(field, value, "must be greater than or equal to 0"));
            }
            Some(number) if number > i64::from(i32::MAX) => {
                errors.push(FieldError::invalid(field, value, "must be at most 2147483647"));
            }
            Some(_) => {}
        },
    }
}

/// A port number, 1 to 65535.
fn port_number(value: &Value, field: &str, errors: &mut Errors) {
    if value.is_null() {
        errors.push(FieldError::required(field, ""));
    } else if !value.as_u64().is_some_and(|number| (1..=65_535).contains(&number)) {
        errors.push(FieldError::invalid(field, value, "must be between 1 and 65535, inclusive"));
    }
}

fn list<'a>(value: &'a Value, field: &str, errors: &mut Errors) -> &'a [Value] {
    match value {
        Value::Array(list) => list,
        Value::Null => &[],
        value => {
            errors.push(FieldError::type_invalid(field, value, "must be a list"));
            &[]
        }
    }
}

fn data_keys(data: &Value, field: &str, errors: &mut Errors) {
    if !data.is_null() && !data.is_object() {
        errors.push(FieldError::type_invalid(field, data, "must be a map"));
    }
    for (key, value) in data.as_object().into_iter().flatten() {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if key.is_empty()
            || key.len() > 253
            || !key.chars().all(allowed)
            || key == "."
            || key.starts_with("..")
        {
            let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.', and must not be \
                       '.' or start with '..'";
            errors.push(FieldError::invalid(format!("{field}[{key}]"), &key.as_str().into(), why));
        }
        if !value.is_string() {
            errors.push(FieldError::type_invalid(format!("{field}[{key}]"), value, "must be a string"));
        }
    }
}

fn config_map(object: &Value, errors: &mut Errors) {
    for field in ["data", "binaryData"] {
        data_keys(&object[field], field, errors);
    }
    size(object, 1024 * 1024, errors);
}

fn secret(object: &Value, errors: &mut Errors) {
    use base64::Engine;
    data_keys(&object["data"], "data", errors);
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        let encoded = value.as_str().unwrap_or_default();
        if base64::engine::general_purpose::STANDARD.decode(encoded).is_err() {
            let why = "must be base64";
            errors.push(FieldError::invalid(format!("data[{key}]"), &"<hidden>".into(), why));
        }
    }
    size(object, 1024 * 1024, errors);
}

fn size(object: &Value, limit: usize, errors: &mut Errors) {
    let texts = ["data", "binaryData"].iter().filter_map(|field| object[*field].as_object());
    let total: usize = texts.flatten().map(|(_, value)| value.as_str().map_or(0, str::len)).sum();
    if total > limit * 4 / 3 {
        errors.push(FieldError {
            reason: "FieldValueTooLong",
            field: "data".to_owned(),
            message: format!("Too long: may not be more than {limit} bytes"),
        });
    }
}
