//! `metadata` of any object.

use serde_json::Value;

use super::{Errors, is_given, list, named, names};
use crate::error::FieldError;
use crate::meta;
use crate::resources::ResourceType;

/// Finalizers that have no prefix.
const FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

pub(super) fn check(resource: &ResourceType, object: &Value, errors: &mut Errors) {
    let name = &object["metadata"]["name"];
    let rule = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces" | "services") => names::dns_label,
        ("apps", "statefulsets") => names::dns_label,
        ("rbac.authorization.k8s.io", _) | ("flowcontrol.apiserver.k8s.io", _) => names::path_segment,
        _ => names::dns_subdomain,
    };
    let prefix = &object["metadata"]["generateName"];
    if is_given(prefix) {
        // What is made of it does not end with its dash.
        let text = prefix.as_str().unwrap_or_default();
        let bare = text
            .strip_suffix('-')
            .filter(|bare| !bare.is_empty())
            .map_or(text.to_owned(), |bare| format!("{bare}a"));
        for why in rule(&bare) {
            errors.push(FieldError::invalid("metadata.generateName", prefix, why));
        }
    }
    if is_given(name) {
        named(name, "metadata.name", rule, errors);
    } else {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    }
    shared(object, errors);
    let finalizers = list(&object["metadata"]["finalizers"], "metadata.finalizers", errors);
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    for finalizer in finalizers {
        named(finalizer, "metadata.finalizers", names::label_key, errors);
    }
    if has("orphan") && has("foregroundDeletion") {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid("metadata.finalizers", &object["metadata"]["finalizers"], why));
    }
    if resource.custom.is_some() {
        return;
    }
    for (at, finalizer) in finalizers.iter().enumerate() {
        let text = finalizer.as_str().unwrap_or_default();
        if !text.contains('/') && !FINALIZERS.contains(&text) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(format!("metadata.finalizers[{at}]"), finalizer, why));
        }
    }
}

/// What is checked at every write.
pub(super) fn shared(object: &Value, errors: &mut Errors) {
    let metadata = &object["metadata"];
    labels(&metadata["labels"], "metadata.labels", errors);
    annotations(&metadata["annotations"], errors);
    owners(&metadata["ownerReferences"], errors);
}

fn owners(owners: &Value, errors: &mut Errors) {
    const FIELD: &str = "metadata.ownerReferences";
    let mut controller = None;
    for owner in list(owners, FIELD, errors) {
        let text = |name: &str| owner[name].as_str().unwrap_or_default();
        let version = text("apiVersion");
        if version.is_empty() || version.matches('/').count() > 1 || version.ends_with('/') {
            let field = format!("{FIELD}.apiVersion");
            errors.push(FieldError::invalid(field, &version.into(), "version must not be empty"));
        }
        for name in ["kind", "name", "uid"].into_iter().filter(|name| text(name).is_empty()) {
            errors.push(FieldError::invalid(format!("{FIELD}.{name}"), &"".into(), "must not be empty"));
        }
        if (version, text("kind")) == ("v1", "Event") {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(FIELD, owner, why));
        }
        if owner["controller"] != true {
            continue;
        }
        let this = format!("{}/{}", text("kind"), text("name"));
        match &controller {
            None => controller = Some(this),
            Some(first) => {
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                );
                errors.push(FieldError::invalid(FIELD, owners, why));
            }
        }
    }
}

pub(super) fn check_update(before: &Value, object: &Value, errors: &mut Errors) {
    if !meta::is_deleting(before) {
        return;
    }
    let added: Vec<String> = meta::finalizers(object)
        .filter(|name| !meta::has_finalizer(before, name))
        .map(|name| format!("{name:?}"))
        .collect();
    if !added.is_empty() {
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        );
        errors.push(FieldError::forbidden("metadata.finalizers", &why));
    }
}

pub(super) fn labels(labels: &Value, field: &str, errors: &mut Errors) {
    if !labels.is_null() && !labels.is_object() {
        errors.push(FieldError::type_invalid(field, labels, "must be a map"));
    }
    for (key, value) in labels.as_object().into_iter().flatten() {
        named(&key.as_str().into(), field, names::label_key, errors);
        if value.is_string() {
            named(value, field, names::label_value, errors);
        } else {
            errors.push(FieldError::type_invalid(format!("{field}[{key}]"), value, "must be a string"));
        }
    }
}

fn annotations(annotations: &Value, errors: &mut Errors) {
    const FIELD: &str = "metadata.annotations";
    const LIMIT: usize = 256 * 1024;
    if !annotations.is_null() && !annotations.is_object() {
        errors.push(FieldError::type_invalid(FIELD, annotations, "must be a map"));
    }
    let mut total = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        // Keys may have capitals here.
        for why in names::label_key(&key.to_lowercase()) {
            errors.push(FieldError::invalid(FIELD, &key.as_str().into(), why));
        }
        match value.as_str() {
            None => {
                errors.push(FieldError::type_invalid(format!("{FIELD}[{key}]"), value, "must be a string"))
            }
            Some(text) => total += key.len() + text.len(),
        }
    }
    if total > LIMIT {
        errors.push(FieldError {
            reason: "FieldValueTooLong",
            field: FIELD.to_owned(),
            message: format!("Too long: may not be more than {LIMIT} bytes"),
        });
    }
}
