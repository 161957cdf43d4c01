//! What a server would say of an object, without a server.

use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::resources::{Registry, Types};
use crate::{allocate, convert, defaults, meta, schema, validation};

/// Why an object would be refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// The field, as `spec.ports[0].name`; empty where it is the whole object.
    pub field: String,
    /// The server's words.
    pub message: String,
}

/// The built-in kinds with their `apiVersion`, each group's versions in order of preference.
pub fn builtin_kinds() -> Vec<(String, String)> {
    types().all().map(|resource| (resource.kind.clone(), resource.api_version())).collect()
}

fn types() -> &'static Arc<Types> {
    static TYPES: OnceLock<Arc<Types>> = OnceLock::new();
    TYPES.get_or_init(|| Registry::new().types())
}

/// Everything that a server would refuse of a new object of a built-in type: fields that the type does not have or that are of
/// another type, and values that are not allowed. Of other types nothing is said.
pub fn check(object: &Value) -> Vec<Refusal> {
    let types = types();
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    let Some(resource) = types.find_kind(text("apiVersion"), text("kind")) else { return Vec::new() };
    let mut object = object.clone();
    let mut found = Vec::new();
    if let Some(name) = schema::name_of(resource) {
        let findings = schema::check(name, &object);
        let unknown = findings.unknown.into_iter();
        found.extend(unknown.map(|field| Refusal { message: format!("unknown field {field:?}"), field }));
        if !findings.wrong.is_empty() {
            // Values are not looked at in what cannot be read.
            found.extend(findings.wrong.into_iter().map(|(field, message)| Refusal { field, message }));
            return found;
        }
        schema::normalize(name, &mut object);
    }
    convert::to_stored(resource, &mut object);
    let metadata = meta::metadata(&mut object);
    if resource.namespaced {
        meta::default(metadata, "namespace", "default");
    }
    // The server would make one up.
    if !metadata.contains_key("name") && metadata.contains_key("generateName") {
        metadata.insert("name".to_owned(), "a".into());
    }
    // As is a uid, whatever is given.
    metadata.insert("uid".to_owned(), "a".into());
    if resource.is("", "services") {
        allocate::complete_addresses(&mut object);
    }
    defaults::initial_status(resource, &mut object);
    defaults::apply(resource, &mut object, None);
    if resource.is("", "services") {
        let contradictions = allocate::contradictions(&object).into_iter();
        found.extend(contradictions.map(|error| Refusal {
            message: format!("{}: {}", error.field, error.message),
            field: error.field,
        }));
    }
    let Err(error) = validation::create(resource, types, &object) else { return found };
    let causes = error.details["causes"].as_array().into_iter().flatten();
    let told = |cause: &Value| cause["message"].as_str().unwrap_or_default().to_owned();
    // What is missing may be what is written wrong.
    let has_unknown = !found.is_empty();
    let causes = causes.filter(|cause| !has_unknown || cause["reason"] != "FieldValueRequired");
    found.extend(causes.map(|cause| {
        let field = cause["field"].as_str().unwrap_or_default().to_owned();
        Refusal { message: format!("{field}: {}", told(cause)), field }
    }));
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::check;

    #[test]
    fn a_service_of_one_family_has_not_two() {
        let told = |mut spec: Value| {
            spec["ports"] = json!([{ "port": 80 }]);
            let service =
                json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" }, "spec": spec });
            check(&service).into_iter().map(|refusal| refusal.message).collect::<Vec<_>>()
        };
        let families = json!(["IPv4", "IPv6"]);
        let why = "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when \
                   multiple IP families are specified";
        assert_eq!(told(json!({ "ipFamilyPolicy": "SingleStack", "ipFamilies": families })), [why]);
        assert_eq!(told(json!({ "ipFamilies": families })), [why], "it is what is not said");
        for spec in [
            json!({ "ipFamilyPolicy": "PreferDualStack", "ipFamilies": families }),
            json!({ "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"] }),
            json!({ "clusterIP": "None", "ipFamilies": families }),
        ] {
            assert_eq!(told(spec.clone()), Vec::<String>::new(), "{spec}");
        }
        let ips = json!({ "ipFamilyPolicy": "SingleStack", "clusterIPs": ["10.96.0.20", "fd00:10:96::20"], "clusterIP": "10.96.0.20" });
        assert!(told(ips)[0].contains("multiple cluster IPs"));
    }
}
