//! Where a Pod may run.

use serde_json::Value;

use super::super::workload::selector;
use super::super::{Errors, is_given, list, named, names, one_of};
use crate::error::FieldError;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
pub(in super::super) const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn affinity(affinity: &Value, at: &str, errors: &mut Errors) {
    let required = &affinity["nodeAffinity"][REQUIRED];
    if !required.is_null() {
        let field = format!("{at}.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
        let terms = list(&required["nodeSelectorTerms"], &field, errors);
        if terms.is_empty() {
            errors.push(FieldError::required(&field, "must have at least one node selector term"));
        }
        for (place, term) in terms.iter().enumerate() {
            node_term(term, &format!("{field}[{place}]"), errors);
        }
    }
    let field = format!("{at}.nodeAffinity.{PREFERRED}");
    for (place, term) in list(&affinity["nodeAffinity"][PREFERRED], &field, errors).iter().enumerate() {
        weight(term, &format!("{field}[{place}]"), errors);
        node_term(&term["preference"], &format!("{field}[{place}].preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let field = format!("{at}.{kind}.{REQUIRED}");
        for (place, term) in list(&affinity[kind][REQUIRED], &field, errors).iter().enumerate() {
            pod_term(term, &format!("{field}[{place}]"), errors);
        }
        let field = format!("{at}.{kind}.{PREFERRED}");
        for (place, term) in list(&affinity[kind][PREFERRED], &field, errors).iter().enumerate() {
            weight(term, &format!("{field}[{place}]"), errors);
            pod_term(&term["podAffinityTerm"], &format!("{field}[{place}].podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &Value, at: &str, errors: &mut Errors) {
    let weight = &term["weight"];
    if weight.as_i64().is_none_or(|weight| !(1..=100).contains(&weight)) {
        errors.push(FieldError::invalid(format!("{at}.weight"), weight, "must be in the range 1-100"));
    }
}

fn node_term(term: &Value, at: &str, errors: &mut Errors) {
    for kind in ["matchExpressions", "matchFields"] {
        let field = format!("{at}.{kind}");
        for (place, expression) in list(&term[kind], &field, errors).iter().enumerate() {
            let field = |name: &str| format!("{field}[{place}].{name}");
            let values = expression["values"].as_array().map_or(0, Vec::len);
            match expression["operator"].as_str() {
                Some("In" | "NotIn") if values == 0 => {
                    let why = "must be specified when `operator` is 'In' or 'NotIn'";
                    errors.push(FieldError::required(field("values"), why));
                }
                Some("Exists" | "DoesNotExist") if values > 0 => {
                    let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    errors.push(FieldError::forbidden(field("values"), why));
                }
                Some("Gt" | "Lt") if values != 1 => {
                    let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                    errors.push(FieldError::required(field("values"), why));
                }
                Some("In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt") => {}
                _ => {
                    let why = "not a valid selector operator";
                    errors.push(FieldError::invalid(field("operator"), &expression["operator"], why));
                }
            }
            if kind == "matchExpressions" {
                named(&expression["key"], &field("key"), names::label_key, errors);
            }
        }
    }
}

fn pod_term(term: &Value, at: &str, errors: &mut Errors) {
    selector(&term["labelSelector"], &format!("{at}.labelSelector"), errors);
    selector(&term["namespaceSelector"], &format!("{at}.namespaceSelector"), errors);
    let field = format!("{at}.topologyKey");
    if !is_given(&term["topologyKey"]) {
        errors.push(FieldError::required(&field, "can not be empty"));
    }
    let key = term["topologyKey"].as_str().unwrap_or_default();
    named(&key.into(), &field, names::label_key, errors);
}

pub(super) fn spread(constraints: &Value, at: &str, errors: &mut Errors) {
    for (place, constraint) in list(constraints, at, errors).iter().enumerate() {
        let field = |name: &str| format!("{at}[{place}].{name}");
        let skew = &constraint["maxSkew"];
        if skew.as_i64().is_none_or(|skew| skew <= 0) {
            errors.push(FieldError::invalid(field("maxSkew"), skew, "must be greater than zero"));
        }
        if is_given(&constraint["topologyKey"]) {
            named(&constraint["topologyKey"], &field("topologyKey"), names::label_key, errors);
        } else {
            errors.push(FieldError::required(field("topologyKey"), "can not be empty"));
        }
        let ways = ["DoNotSchedule", "ScheduleAnyway"];
        one_of(&constraint["whenUnsatisfiable"], &field("whenUnsatisfiable"), &ways, errors);
        selector(&constraint["labelSelector"], &field("labelSelector"), errors);
    }
}

pub(super) fn tolerations(tolerations: &Value, at: &str, errors: &mut Errors) {
    for (place, toleration) in list(tolerations, at, errors).iter().enumerate() {
        let field = |name: &str| format!("{at}[{place}].{name}");
        let (operator, value) = (toleration["operator"].as_str().unwrap_or_default(), &toleration["value"]);
        if is_given(&toleration["key"]) {
            named(&toleration["key"], &field("key"), names::label_key, errors);
        } else if operator != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(field("operator"), &operator.into(), why));
        }
        if !toleration["tolerationSeconds"].is_null() && toleration["effect"] != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(field("effect"), &toleration["effect"], why));
        }
        match operator {
            "" | "Equal" => {
                let faults = names::label_value(value.as_str().unwrap_or_default());
                if !faults.is_empty() {
                    errors.push(FieldError::invalid(field("operator"), value, faults.join(";")));
                }
            }
            "Exists" if is_given(value) => {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(field("operator"), value, why));
            }
            "Exists" => {}
            _ => one_of(&toleration["operator"], &field("operator"), &["Equal", "Exists"], errors),
        }
        if is_given(&toleration["effect"]) {
            one_of(&toleration["effect"], &field("effect"), &EFFECTS, errors);
        }
    }
}
