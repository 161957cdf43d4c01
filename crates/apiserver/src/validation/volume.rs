//! The volumes of a Pod: what a node makes paths of.

use serde_json::Value;

use super::{Errors, list, names};
use crate::error::FieldError;

/// What a volume is made from.
pub(super) fn source(volume: &Value, at: &str, errors: &mut Errors) {
    for kind in ["configMap", "secret", "downwardAPI"] {
        items(&volume[kind], kind, &format!("{at}.{kind}"), errors);
    }
    let sources = format!("{at}.projected.sources");
    for (place, projection) in list(&volume["projected"]["sources"], &sources, errors).iter().enumerate() {
        for kind in ["configMap", "secret", "downwardAPI"] {
            items(&projection[kind], kind, &format!("{sources}[{place}].{kind}"), errors);
        }
        for kind in ["serviceAccountToken", "clusterTrustBundle"] {
            if projection[kind].is_object() {
                relative(&projection[kind]["path"], &format!("{sources}[{place}].{kind}.path"), errors);
            }
        }
    }
    if volume["hostPath"].is_object() {
        let (path, field) = (&volume["hostPath"]["path"], format!("{at}.hostPath.path"));
        match path.as_str() {
            None | Some("") => errors.push(FieldError::required(field, "")),
            Some(text) if goes_up(text) => errors.push(FieldError::invalid(field, path, NO_UP)),
            Some(_) => {}
        }
    }
    if volume["persistentVolumeClaim"].is_object() {
        let (name, field) =
            (&volume["persistentVolumeClaim"]["claimName"], format!("{at}.persistentVolumeClaim.claimName"));
        match name.as_str() {
            None | Some("") => errors.push(FieldError::required(field, "")),
            // No claim can have such a name. A real server takes the Pod, which then waits for ever.
            Some(text) => {
                if let Err(why) = names::dns_subdomain(text) {
                    errors.push(FieldError::invalid(field, name, why));
                }
            }
        }
    }
}

const NO_UP: &str = "must not contain '..'";

/// The files that a volume picks from its source.
fn items(source: &Value, kind: &str, at: &str, errors: &mut Errors) {
    for (place, item) in list(&source["items"], &format!("{at}.items"), errors).iter().enumerate() {
        let field = |name: &str| format!("{at}.items[{place}].{name}");
        if kind != "downwardAPI" && item["key"].as_str().is_none_or(str::is_empty) {
            errors.push(FieldError::required(field("key"), ""));
        }
        relative(&item["path"], &field("path"), errors);
    }
}

/// A path of a file within a volume. What begins with two dots is the kubelet's own.
fn relative(path: &Value, field: &str, errors: &mut Errors) {
    if path.as_str().is_none_or(str::is_empty) {
        errors.push(FieldError::required(field, ""));
        return;
    }
    descending(path, field, errors);
    if path.as_str().is_some_and(|text| text.starts_with("..") && !goes_up(text)) {
        errors.push(FieldError::invalid(field, path, "must not start with '..'"));
    }
}

/// A path, if there is one, that stays below where it begins.
pub(super) fn descending(path: &Value, field: &str, errors: &mut Errors) {
    let Some(text) = path.as_str() else { return };
    if text.starts_with('/') {
        errors.push(FieldError::invalid(field, path, "must be a relative path"));
    }
    if goes_up(text) {
        errors.push(FieldError::invalid(field, path, NO_UP));
    }
}

fn goes_up(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}
