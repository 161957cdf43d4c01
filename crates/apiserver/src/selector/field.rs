//! Field selectors: `metadata.name=a,spec.nodeName!=b`, over the fields that each type offers.

use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::resources::ResourceType;

/// A conjunction of comparisons.
#[derive(Debug, Clone, Default)]
pub(crate) struct FieldSelector(Vec<Comparison>);

#[derive(Debug, Clone)]
struct Comparison {
    path: Vec<String>,
    value: String,
    equal: bool,
}

impl FieldSelector {
    pub(crate) fn parse(resource: &ResourceType, text: &str) -> Result<FieldSelector> {
        let mut comparisons = Vec::new();
        for part in split(text) {
            if part.is_empty() {
                continue;
            }
            let Some((field, value, equal)) = comparison(&part) else {
                return Err(ApiError::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                )));
            };
            if !offers(resource, field) {
                return Err(ApiError::bad_request(not_offered(resource, field)));
            }
            comparisons.push(Comparison {
                path: stored(field).split('.').map(str::to_owned).collect(),
                value: unescape(value),
                equal,
            });
        }
        Ok(FieldSelector(comparisons))
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|comparison| {
            let found = comparison.path.iter().try_fold(object, |value, name| value.get(name));
            let equal = match found {
                Some(Value::String(text)) => *text == comparison.value,
                Some(Value::Null) | None => absent(&comparison.value),
                Some(Value::Bool(value)) => comparison.value.parse() == Ok(*value),
                Some(Value::Number(number)) => number.to_string() == comparison.value,
                Some(Value::Array(_) | Value::Object(_)) => false,
            };
            equal == comparison.equal
        })
    }
}

/// Events are stored in core/v1's shape, and asked for in that of events.k8s.io too.
fn stored(field: &str) -> String {
    match field {
        "reportingController" => "reportingComponent".to_owned(),
        "source" => "source.component".to_owned(),
        field => field.replace("regarding.", "involvedObject."),
    }
}

/// What a missing field is equal to: the zero value of any type.
fn absent(value: &str) -> bool {
    matches!(value, "" | "false" | "0")
}

fn offers(resource: &ResourceType, field: &str) -> bool {
    if field == "metadata.name" || (field == "metadata.namespace" && resource.namespaced) {
        return true;
    }
    if let Some(custom) = &resource.custom {
        return custom.selectable.iter().any(|path| path == field);
    }
    own(resource).contains(&field)
}

/// A type with no fields of its own tells which there are.
fn not_offered(resource: &ResourceType, field: &str) -> String {
    if !own(resource).is_empty() || resource.custom.is_some() {
        return format!("field label not supported: {field}");
    }
    let namespace = if resource.namespaced { ", \"metadata.namespace\"" } else { "" };
    format!("{field:?} is not a known field selector: only \"metadata.name\"{namespace}")
}

/// The fields beside name and namespace that a type can be selected by.
fn own(resource: &ResourceType) -> &'static [&'static str] {
    match resource.plural.as_str() {
        "pods" => &[
            "spec.hostNetwork",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.nominatedNodeName",
            "status.phase",
            "status.podIP",
        ],
        "nodes" => &["spec.unschedulable"],
        "namespaces" => &["status.phase"],
        "secrets" => &["type"],
        "services" => &["spec.clusterIP", "spec.type"],
        "replicationcontrollers" => &["status.replicas"],
        "jobs" => &["status.successful"],
        "certificatesigningrequests" => &["spec.signerName"],
        "events" => &[
            "involvedObject.apiVersion",
            "involvedObject.fieldPath",
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.resourceVersion",
            "involvedObject.uid",
            "reason",
            "regarding.apiVersion",
            "regarding.kind",
            "regarding.name",
            "regarding.namespace",
            "regarding.uid",
            "reportingComponent",
            "reportingController",
            "source",
            "type",
        ],
        _ => &[],
    }
}

/// At commas that are not escaped.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    parts
}

fn comparison(part: &str) -> Option<(&str, &str, bool)> {
    if let Some((field, value)) = part.split_once("!=") {
        return Some((field.trim(), value, false));
    }
    let (field, value) = part.split_once('=')?;
    Some((field.trim(), value.strip_prefix('=').unwrap_or(value), true))
}

fn unescape(value: &str) -> String {
    let mut out = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::FieldSelector;
    use crate::resources::Registry;

    fn selector(plural: &str, text: &str) -> super::Result<FieldSelector> {
        let types = Registry::new().types();
        FieldSelector::parse(types.find("", "v1", plural).unwrap(), text)
    }

    #[test]
    fn pods_are_found_by_node_and_phase() {
        let pod =
            json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        assert!(selector("pods", "spec.nodeName=n1,status.phase!=Failed").unwrap().matches(&pod));
        assert!(!selector("pods", "spec.nodeName==n2").unwrap().matches(&pod));
        assert!(selector("pods", "metadata.name=a").unwrap().matches(&pod));
    }

    #[test]
    fn a_missing_field_is_empty_or_false() {
        let node = json!({"metadata": {"name": "n"}, "spec": {}});
        assert!(selector("nodes", "spec.unschedulable=false").unwrap().matches(&node));
        assert!(selector("pods", "spec.nodeName=").unwrap().matches(&node));
    }

    #[test]
    fn unknown_fields_are_refused() {
        let error = selector("pods", "spec.image=x").unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (400, "field label not supported: spec.image"));
        assert!(selector("pods", "nonsense").is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "(metadata.name|type|[=!,\\\\ aü]){0,12}") {
            if let Ok(selector) = selector("secrets", &text) {
                selector.matches(&json!({"type": "a"}));
            }
        }
    }
}
