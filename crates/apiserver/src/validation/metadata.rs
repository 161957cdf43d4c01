//! `metadata` of any object.

use serde_json::Value;

use super::{Errors, list, names, required};
use crate::error::FieldError;
use crate::meta;
use crate::resources::ResourceType;

pub(super) fn check(resource: &ResourceType, object: &Value, errors: &mut Errors) {
    let metadata = &object["metadata"];
    let name = &metadata["name"];
    let text = name.as_str().unwrap_or_default();
    let result = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => names::dns_label(text),
        ("", "services") => names::dns_1035(text),
        ("rbac.authorization.k8s.io", _) | ("flowcontrol.apiserver.k8s.io", _) => names::path_segment(text),
        _ => names::dns_subdomain(text),
    };
    if let Err(why) = result {
        errors.push(FieldError::invalid("metadata.name", name, why));
    }
    labels(&metadata["labels"], "metadata.labels", errors);
    annotations(&metadata["annotations"], errors);
    for (at, owner) in
        list(&metadata["ownerReferences"], "metadata.ownerReferences", errors).iter().enumerate()
    {
        let field = format!("metadata.ownerReferences[{at}]");
        required(owner, &field, &["apiVersion", "kind", "name", "uid"], errors);
    }
    for (at, finalizer) in list(&metadata["finalizers"], "metadata.finalizers", errors).iter().enumerate() {
        let result = finalizer.as_str().map(names::label_key);
        if let Some(Err(why)) = result {
            errors.push(FieldError::invalid(format!("metadata.finalizers[{at}]"), finalizer, why));
        } else if result.is_none() {
            let field = format!("metadata.finalizers[{at}]");
            errors.push(FieldError::type_invalid(field, finalizer, "must be a string"));
        }
    }
}

pub(super) fn check_update(before: &Value, object: &Value, errors: &mut Errors) {
    if !meta::is_deleting(before) {
        return;
    }
    let added = meta::finalizers(object).find(|name| !meta::has_finalizer(before, name));
    if let Some(name) = added {
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers {name:?}"
        );
        errors.push(FieldError::forbidden("metadata.finalizers", &why));
    }
}

pub(super) fn labels(labels: &Value, field: &str, errors: &mut Errors) {
    if !labels.is_null() && !labels.is_object() {
        errors.push(FieldError::type_invalid(field, labels, "must be a map"));
    }
    for (key, value) in labels.as_object().into_iter().flatten() {
        if let Err(why) = names::label_key(key) {
            errors.push(FieldError::invalid(field, &key.as_str().into(), why));
        }
        match value.as_str().map(names::label_value) {
            None => {
                errors.push(FieldError::type_invalid(format!("{field}[{key}]"), value, "must be a string"))
            }
            Some(Err(why)) => errors.push(FieldError::invalid(field, value, why)),
            Some(Ok(())) => {}
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
        if let Err(why) = names::label_key(&key.to_lowercase()) {
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
