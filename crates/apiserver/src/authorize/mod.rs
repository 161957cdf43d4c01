//! Who may do what: role-based access control, by the Roles and bindings that are stored.

mod ask;
pub(crate) mod roles;
mod rule;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::Api;
use crate::auth::User;
use crate::error::{ApiError, Result};
use crate::meta;
use crate::selector::selects;
use crate::store::{Key, Object};

pub(crate) use ask::{Ask, What};

const GROUP: &str = "rbac.authorization.k8s.io/v1";
/// Whoever is of this group is asked nothing.
const MASTERS: &str = "system:masters";

/// What a request was found to be.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It may be done; by what, in words.
    Allowed(String),
    /// No rule allows it; with the roles that bindings name and that are missing.
    Denied(Vec<String>),
}

/// A binding that counts for a user, and what it grants.
struct Grant {
    rules: Vec<Value>,
    by: String,
}

/// # Errors
/// 403 when no rule allows it.
pub(crate) fn authorize(api: &Api, user: &User, ask: &Ask<'_>) -> Result<()> {
    match verdict(api, user, ask) {
        Verdict::Allowed(_) => Ok(()),
        Verdict::Denied(missing) => Err(refusal(user, ask, &missing)),
    }
}

pub(crate) fn verdict(api: &Api, user: &User, ask: &Ask<'_>) -> Verdict {
    if user.groups.iter().any(|group| group == MASTERS) {
        return Verdict::Allowed(String::new());
    }
    let mut missing = Vec::new();
    for grant in grants(api, user, ask.namespace()) {
        match grant {
            Ok(grant) => {
                if grant.rules.iter().any(|rule| rule::allows(rule, ask)) {
                    return Verdict::Allowed(format!("RBAC: allowed by {}", grant.by));
                }
            }
            Err(role) => missing.push(role),
        }
    }
    Verdict::Denied(missing)
}

/// Everything that a user may do in a namespace, as a `SubjectRulesReview` tells it.
pub(crate) fn rules(api: &Api, user: &User, namespace: &str) -> Value {
    let mut all: Vec<Value> = Vec::new();
    if user.groups.iter().any(|group| group == MASTERS) {
        all = vec![
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
            json!({"verbs": ["*"], "nonResourceURLs": ["*"]}),
        ];
    }
    all.extend(grants(api, user, namespace).into_iter().flatten().flat_map(|grant| grant.rules));
    let (of_paths, of_resources): (Vec<Value>, Vec<Value>) = all
        .into_iter()
        .partition(|rule| rule["nonResourceURLs"].as_array().is_some_and(|urls| !urls.is_empty()));
    json!({"resourceRules": of_resources, "nonResourceRules": of_paths, "incomplete": false})
}

/// What each binding grants that names the user: those of the cluster, and those of the namespace if there is one. A binding whose
/// role is missing is an error that names it.
fn grants(api: &Api, user: &User, namespace: &str) -> Vec<Result<Grant, String>> {
    let mut bindings = list(api, "ClusterRoleBinding", None);
    if !namespace.is_empty() {
        bindings.extend(list(api, "RoleBinding", Some(namespace)));
    }
    let mut grants = Vec::new();
    for binding in bindings {
        let subjects = binding.value["subjects"].as_array();
        let subject = subjects.into_iter().flatten().find(|subject| is(user, subject, &binding.value));
        let Some(subject) = subject else { continue };
        let (kind, role) = (text(&binding.value["roleRef"]["kind"]), text(&binding.value["roleRef"]["name"]));
        let key = if kind == "Role" { Key::new(namespace, role) } else { Key::new("", role) };
        let Some(found) = get(api, kind, &key) else {
            let kind = kind.to_lowercase();
            grants.push(Err(format!("{kind}.rbac.authorization.k8s.io {role:?} not found")));
            continue;
        };
        let of = Key::of(&binding.value);
        let (whose, name) = if of.namespace.is_empty() {
            ("ClusterRoleBinding", of.name)
        } else {
            ("RoleBinding", format!("{}/{}", of.name, of.namespace))
        };
        let to = match text(&subject["kind"]) {
            "ServiceAccount" => {
                format!(
                    "ServiceAccount \"{}/{}\"",
                    text(&subject["name"]),
                    account_namespace(subject, &binding.value)
                )
            }
            other => format!("{other} {:?}", text(&subject["name"])),
        };
        let by = format!("{whose} {name:?} of {kind} {role:?} to {to}");
        grants.push(Ok(Grant { rules: rules_of(api, &found.value, &mut BTreeSet::new()), by }));
    }
    grants
}

/// A role's rules; of one that gathers others, theirs.
fn rules_of(api: &Api, role: &Value, seen: &mut BTreeSet<String>) -> Vec<Value> {
    let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array();
    let Some(selectors) = selectors else { return role["rules"].as_array().cloned().unwrap_or_default() };
    if !seen.insert(meta::name(role).to_owned()) {
        return Vec::new();
    }
    let gathered = list(api, "ClusterRole", None);
    let chosen = |one: &&Arc<Object>| {
        selectors.iter().any(|selector| selects(selector, &one.value["metadata"]["labels"]))
    };
    gathered.iter().filter(chosen).flat_map(|one| rules_of(api, &one.value, seen)).collect()
}

fn is(user: &User, subject: &Value, binding: &Value) -> bool {
    let name = text(&subject["name"]);
    match text(&subject["kind"]) {
        "User" => user.name == name,
        "Group" => user.groups.iter().any(|group| group == name),
        "ServiceAccount" => {
            let namespace = account_namespace(subject, binding);
            user.name == format!("system:serviceaccount:{namespace}:{name}")
        }
        _ => false,
    }
}

/// A subject's namespace; in a RoleBinding that of the binding where none is given.
fn account_namespace<'a>(subject: &'a Value, binding: &'a Value) -> &'a str {
    match text(&subject["namespace"]) {
        "" => meta::namespace(binding),
        given => given,
    }
}

fn refusal(user: &User, ask: &Ask<'_>, missing: &[String]) -> Box<ApiError> {
    let mut why = format!("User {:?} cannot {} ", user.name, ask.verb);
    match &ask.what {
        What::Path(path) => why += &format!("path {path:?}"),
        What::Resource { group, resource, namespace, .. } => {
            why += &format!("resource {resource:?} in API group {group:?} ");
            why += &if namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {namespace:?}")
            };
        }
    }
    if !missing.is_empty() {
        why += &format!(": RBAC: {}", missing.join(", "));
    }
    match &ask.what {
        What::Path(_) => ApiError::new(403, "Forbidden", format!("forbidden: {why}")),
        What::Resource { group, resource, name, .. } => {
            let plural = resource.split('/').next().unwrap_or_default();
            ApiError::forbidden(group, plural, name, &why)
        }
    }
}

fn list(api: &Api, kind: &str, namespace: Option<&str>) -> Vec<Arc<Object>> {
    let types = api.registry.types();
    let Some(resource) = types.find_kind(GROUP, kind) else { return Vec::new() };
    api.store.collection(&resource.storage).list(&api.store, namespace).objects
}

fn get(api: &Api, kind: &str, key: &Key) -> Option<Arc<Object>> {
    api.store.get(&api.registry.types().find_kind(GROUP, kind)?.storage, key)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
