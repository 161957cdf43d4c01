//! What objects must be like.

pub(crate) mod access;
pub(crate) mod address;
mod cluster;
mod config;
pub(crate) mod custom;
mod metadata;
pub(crate) mod names;
mod network;
mod pod;
mod scaling;
pub(crate) mod service;
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
    contents(resource, types, object, None, &mut errors);
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod::create(&object["spec"], &mut errors),
        ("batch", "jobs") => workload::generated_selector(object, &mut errors),
        _ => {}
    }
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
    metadata::check_update(before, object, &mut errors);
    match (resource.group.as_str(), resource.plural.as_str(), subresource) {
        ("", "services", "status") => service::status(object, &mut errors),
        ("", "pods", "status") => pod::status(object, &mut errors),
        ("", "nodes", _) => {}
        ("networking.k8s.io", "ingresses", "status") => network::ingress_status(object, &mut errors),
        ("apps" | "batch", plural, "status") => workload::status(plural, &object["status"], &mut errors),
        ("", "pods", "resize") => pod::resize(&before["spec"], &object["spec"], &mut errors),
        ("", "pods", "ephemeralcontainers") => {
            pod::ephemeral(&before["spec"], &object["spec"], &mut errors);
        }
        (_, _, "") => immutable(resource, before, object, &mut errors),
        _ => {}
    }
    if resource.is("", "nodes") {
        cluster::node_update(before, object, &mut errors);
    }
    metadata::shared(object, &mut errors);
    if subresource != "status" || resource.custom.is_some() {
        contents(resource, types, object, Some(before), &mut errors);
    }
    finish(resource, object, &errors)
}

/// What is taken, and should not be relied on.
pub(crate) fn warnings(resource: &ResourceType, object: &Value) -> Vec<String> {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "services") => service::warnings(object),
        ("", "pods") => pod::warnings(&object["spec"], "spec"),
        ("apps", "controllerrevisions") => Vec::new(),
        ("apps" | "batch", _) if resource.plural != "cronjobs" => {
            pod::warnings(&object["spec"]["template"]["spec"], "spec.template.spec")
        }
        ("discovery.k8s.io", "endpointslices") => network::slice_warnings(object),
        ("networking.k8s.io", "ingresses") => network::ingress_warnings(object),
        _ => Vec::new(),
    }
}

fn finish(resource: &ResourceType, object: &Value, errors: &[FieldError]) -> Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&resource.group, &resource.kind, meta::name(object), errors))
}

fn contents(
    resource: &ResourceType,
    types: &Types,
    object: &Value,
    before: Option<&Value>,
    errors: &mut Errors,
) {
    if let Some(schema) = &resource.custom {
        return custom::check(&schema.schema, object, errors);
    }
    let spec = &object["spec"];
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod::spec(spec, "spec", errors),
        ("", "services") => service::check(object, errors),
        ("", "configmaps") => config::config_map(object, errors),
        ("", "secrets") => config::secret(object, errors),
        ("", "persistentvolumeclaims") => config::claim(spec, errors),
        ("", "persistentvolumes") => volume::persistent(spec, errors),
        ("", "limitranges") => config::limits(spec, errors),
        ("", "nodes") => cluster::node(object, errors),
        ("", "events") => cluster::event(object, errors),
        ("events.k8s.io", "events") => {
            cluster::event(object, errors);
            if before.is_none() {
                cluster::new_event(object, errors);
            }
        }
        ("", "endpoints") => network::endpoints(object, errors),
        ("apps", "controllerrevisions") => {}
        ("apps" | "batch", _) | ("", "replicationcontrollers") => {
            workload::check(&resource.plural, object, before.is_none(), errors);
        }
        ("", "podtemplates") => workload::pod_template(&object["template"], "template", errors),
        ("autoscaling", _) => scaling::autoscaler(spec, errors),
        ("policy", "poddisruptionbudgets") => scaling::budget(spec, errors),
        ("coordination.k8s.io", "leases") => cluster::lease(spec, errors),
        ("discovery.k8s.io", "endpointslices") => network::slice(object, errors),
        ("networking.k8s.io", "ingresses") => network::ingress(spec, errors),
        ("networking.k8s.io", "ingressclasses") => network::ingress_class(spec, errors),
        ("networking.k8s.io", "networkpolicies") => network::policy(spec, errors),
        ("node.k8s.io", "runtimeclasses") => {
            named(&object["handler"], "handler", names::dns_label, errors);
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => custom::definition(types, object, errors),
        ("rbac.authorization.k8s.io", plural) => access::check(plural, object, errors),
        ("scheduling.k8s.io", "priorityclasses") => cluster::priority_class(object, errors),
        ("storage.k8s.io", "storageclasses") => cluster::storage_class(object, errors),
        _ => {}
    }
}

/// What may never change once it is set.
fn immutable(resource: &ResourceType, before: &Value, object: &Value, errors: &mut Errors) {
    let paths: &[&str] = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => return pod::update(&before["spec"], &object["spec"], errors),
        ("", "configmaps" | "secrets") => return config::update(resource, before, object, errors),
        ("", "services") => return service::update(before, object, errors),
        ("", "persistentvolumeclaims") => return config::claim_update(before, object, errors),
        ("apps", "deployments" | "replicasets" | "daemonsets") => &["/spec/selector"],
        ("apps", "statefulsets") => return workload::stateful_update(before, object, errors),
        ("batch", "jobs") => return workload::job_update(before, object, errors),
        ("discovery.k8s.io", "endpointslices") => &["/addressType"],
        ("networking.k8s.io", "ingressclasses") => &["/spec/controller"],
        ("node.k8s.io", "runtimeclasses") => &["/handler"],
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            if before["roleRef"] != object["roleRef"] {
                errors.push(FieldError::invalid("roleRef", &object["roleRef"], "cannot change roleRef"));
            }
            return;
        }
        ("scheduling.k8s.io", "priorityclasses") => {
            for field in ["value", "preemptionPolicy"] {
                if before[field] != object[field] {
                    errors.push(FieldError::forbidden(field, "may not be changed in an update."));
                }
            }
            return;
        }
        ("storage.k8s.io", "storageclasses") => {
            if before["provisioner"] != object["provisioner"] {
                errors.push(FieldError::invalid("provisioner", &object["provisioner"], "field is immutable"));
            }
            for field in ["parameters", "reclaimPolicy", "volumeBindingMode"] {
                if before[field] != object[field] {
                    let why = format!("updates to {field} are forbidden.");
                    errors.push(FieldError::forbidden(field, &why));
                }
            }
            return;
        }
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

/// There, and not the empty text.
fn is_given(value: &Value) -> bool {
    !value.is_null() && value != ""
}

/// A text by one of the rules for names.
fn named(value: &Value, field: &str, rule: fn(&str) -> names::Faults, errors: &mut Errors) {
    for why in rule(value.as_str().unwrap_or_default()) {
        errors.push(FieldError::invalid(field, &value.as_str().unwrap_or_default().into(), why));
    }
}

/// Fields that must be there and not empty.
fn required(object: &Value, at: &str, fields: &[&str], errors: &mut Errors) {
    for field in fields.iter().filter(|field| !is_given(&object[**field])) {
        let path = if at.is_empty() { (*field).to_owned() } else { format!("{at}.{field}") };
        errors.push(FieldError::required(path, ""));
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

/// A number, or a share in percent: not negative, and no more than all.
fn share(value: &Value, field: &str, errors: &mut Errors) {
    let Some(text) = value.as_str() else { return count(value, field, errors) };
    let digits =
        text.strip_suffix('%').filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    match digits {
        None => {
            let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                       regex used for validation is '[0-9]+%')";
            errors.push(FieldError::invalid(field, value, why));
        }
        Some(digits) if digits.parse::<u64>().map_or(true, |number| number > 100) => {
            errors.push(FieldError::invalid(field, value, "must not be greater than 100%"));
        }
        Some(_) => {}
    }
}

/// A port number, 1 to 65535.
fn port_number(value: &Value, field: &str, errors: &mut Errors) {
    let value = if value.is_null() { &Value::from(0) } else { value };
    if !value.as_u64().is_some_and(|number| (1..=65_535).contains(&number)) {
        errors.push(FieldError::invalid(field, value, "must be between 1 and 65535, inclusive"));
    }
}

/// A port number, or the name of a container's port.
fn port_or_name(value: &Value, field: &str, errors: &mut Errors) {
    if value.is_string() {
        named(value, field, names::port_name, errors);
    } else {
        port_number(value, field, errors);
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
