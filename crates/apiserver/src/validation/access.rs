//! Roles and their bindings.

use serde_json::Value;

use super::{Errors, is_given, list, named, names, one_of};
use crate::error::FieldError;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn check(plural: &str, object: &Value, errors: &mut Errors) {
    let cluster = plural.starts_with("cluster");
    if plural.ends_with("bindings") {
        return binding(cluster, object, errors);
    }
    for (at, rule) in list(&object["rules"], "rules", errors).iter().enumerate() {
        rules(cluster, rule, at, errors);
    }
    let gathers = &object["aggregationRule"];
    if !gathers.is_null() && gathers["clusterRoleSelectors"].as_array().is_none_or(Vec::is_empty) {
        let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.push(FieldError::required("aggregationRule.clusterRoleSelectors", why));
    }
}

fn rules(cluster: bool, rule: &Value, at: usize, errors: &mut Errors) {
    let field = |name: &str| format!("rules[{at}].{name}");
    let none = |name: &str| rule[name].as_array().is_none_or(Vec::is_empty);
    if none("verbs") {
        errors.push(FieldError::required(field("verbs"), "verbs must contain at least one value"));
    }
    if !none("nonResourceURLs") {
        let (urls, field) = (&rule["nonResourceURLs"], field("nonResourceURLs"));
        if !cluster {
            let why = "namespaced rules cannot apply to non-resource URLs";
            errors.push(FieldError::invalid(&field, urls, why));
        }
        if ["apiGroups", "resources", "resourceNames"].into_iter().any(|name| !none(name)) {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(FieldError::invalid(field, urls, why));
        }
        return;
    }
    for (name, word) in [("apiGroups", "api group"), ("resources", "resource")] {
        if none(name) {
            let why = format!("resource rules must supply at least one {word}");
            errors.push(FieldError::required(field(name), &why));
        }
    }
}

fn binding(cluster: bool, object: &Value, errors: &mut Errors) {
    let role = &object["roleRef"];
    let text = |value: &Value| Value::from(value.as_str().unwrap_or_default());
    one_of(&text(&role["apiGroup"]), "roleRef.apiGroup", &[GROUP], errors);
    let kinds: &[&str] = if cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
    one_of(&text(&role["kind"]), "roleRef.kind", kinds, errors);
    if is_given(&role["name"]) {
        named(&role["name"], "roleRef.name", names::path_segment, errors);
    } else {
        errors.push(FieldError::required("roleRef.name", ""));
    }
    for (at, subject) in list(&object["subjects"], "subjects", errors).iter().enumerate() {
        let field = |name: &str| format!("subjects[{at}].{name}");
        if !is_given(&subject["name"]) {
            errors.push(FieldError::required(field("name"), ""));
        }
        let group = text(&subject["apiGroup"]);
        match subject["kind"].as_str() {
            Some("ServiceAccount") => {
                if is_given(&subject["name"]) {
                    named(&subject["name"], &field("name"), names::dns_subdomain, errors);
                }
                one_of(&group, &field("apiGroup"), &[""], errors);
                if cluster && !is_given(&subject["namespace"]) {
                    errors.push(FieldError::required(field("namespace"), ""));
                }
            }
            Some("User" | "Group") => one_of(&group, &field("apiGroup"), &[GROUP], errors),
            _ => {
                let kinds = ["ServiceAccount", "User", "Group"];
                one_of(&text(&subject["kind"]), &field("kind"), &kinds, errors);
            }
        }
    }
}
