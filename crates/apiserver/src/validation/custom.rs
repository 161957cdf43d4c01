//! CustomResourceDefinitions, and custom resources against their schemas.

use serde_json::{Map, Value};

use super::{Errors, list, named, names, one_of, required};
use crate::error::FieldError;
use crate::resources::Types;

/// A CustomResourceDefinition.
pub(super) fn definition(types: &Types, object: &Value, errors: &mut Errors) {
    let spec = &object["spec"];
    required(spec, "spec", &["group", "scope"], errors);
    required(&spec["names"], "spec.names", &["plural", "kind"], errors);
    one_of(&spec["scope"], "spec.scope", &["Cluster", "Namespaced"], errors);
    let (group, plural) =
        (spec["group"].as_str().unwrap_or_default(), spec["names"]["plural"].as_str().unwrap_or_default());
    let name = format!("{plural}.{group}");
    if object["metadata"]["name"] != name.as_str() {
        let why = format!("must be spec.names.plural+\".\"+spec.group, that is {name:?}");
        errors.push(FieldError::invalid("metadata.name", &object["metadata"]["name"], why));
    }
    let versions = list(&spec["versions"], "spec.versions", errors);
    for (at, version) in versions.iter().enumerate() {
        required(version, &format!("spec.versions[{at}]"), &["name"], errors);
        for flag in ["served", "storage"] {
            if !version[flag].is_boolean() {
                errors.push(FieldError::required(format!("spec.versions[{at}].{flag}"), "true or false"));
            }
        }
        if !version["schema"]["openAPIV3Schema"].is_object() {
            errors.push(FieldError::required(
                format!("spec.versions[{at}].schema.openAPIV3Schema"),
                "schemas are required",
            ));
        }
        named(&version["name"], &format!("spec.versions[{at}].name"), names::dns_1035, errors);
    }
    named(&spec["names"]["plural"], "spec.names.plural", names::dns_1035, errors);
    named(&spec["group"], "spec.group", names::dns_subdomain, errors);
    // Their objects would be kept together.
    let served = types.groups.get(group).into_iter().flatten().flat_map(|(_, resources)| resources);
    if served.into_iter().any(|resource| resource.plural == plural && resource.custom.is_none()) {
        let why = "a built-in resource has this name";
        errors.push(FieldError::invalid("spec.names.plural", &spec["names"]["plural"], why));
    }
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", &spec["versions"], why));
    }
}

/// How deep schemas are followed: objects are no deeper.
const MAX_DEPTH: usize = 128;

/// Fills in a schema's defaults and drops what it does not know.
pub(crate) fn default_and_prune(schema: &Value, object: &mut Value) {
    shape(schema, object, 0);
}

fn shape(schema: &Value, value: &mut Value, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(map) => {
            let fields = Fields::of(schema);
            for (name, field) in fields.named.into_iter().flatten() {
                if let Some(default) = field.get("default")
                    && map.get(name).is_none_or(|value| value.is_null() && field["nullable"] != true)
                {
                    map.insert(name.clone(), default.clone());
                }
            }
            // As a real server does: null goes where the schema does not allow it.
            map.retain(|name, value| {
                let kept = || fields.schema(name, depth).is_none_or(|field| field["nullable"] == true);
                fields.has(name, depth) && (!value.is_null() || kept())
            });
            for (name, value) in map.iter_mut() {
                if let Some(field) = fields.schema(name, depth) {
                    shape(field, value, depth + 1);
                }
            }
        }
        Value::Array(items) if schema["items"].is_object() => {
            for item in items {
                shape(&schema["items"], item, depth + 1);
            }
        }
        _ => {}
    }
}

/// What a schema says of an object's fields.
struct Fields<'a> {
    named: Option<&'a Map<String, Value>>,
    others: &'a Value,
    /// Unknown ones stay.
    open: bool,
}

impl<'a> Fields<'a> {
    fn of(schema: &'a Value) -> Fields<'a> {
        Fields {
            named: schema["properties"].as_object(),
            others: &schema["additionalProperties"],
            open: schema["x-kubernetes-preserve-unknown-fields"] == true
                || schema["x-kubernetes-embedded-resource"] == true
                || !schema.is_object(),
        }
    }

    fn has(&self, name: &str, depth: usize) -> bool {
        self.open
            || self.named.is_some_and(|fields| fields.contains_key(name))
            || self.others.is_object()
            || *self.others == true
            || (depth == 0 && matches!(name, "apiVersion" | "kind" | "metadata"))
    }

    /// The schema of a field, if it has one; metadata's is not the definition's to give.
    fn schema(&self, name: &str, depth: usize) -> Option<&'a Value> {
        if depth == 0 && name == "metadata" {
            return None;
        }
        let named = self.named.and_then(|fields| fields.get(name));
        named.or_else(|| Some(self.others).filter(|others| others.is_object()))
    }
}

/// Paths of the fields that pruning would drop.
pub(crate) fn unknown(schema: &Value, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    strays(schema, object, "", 0, &mut found);
    found
}

fn strays(schema: &Value, value: &Value, at: &str, depth: usize, found: &mut Vec<String>) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(map) => {
            let fields = Fields::of(schema);
            for (name, value) in map {
                let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                if !fields.has(name, depth) {
                    found.push(path);
                } else if let Some(field) = fields.schema(name, depth) {
                    strays(field, value, &path, depth + 1, found);
                }
            }
        }
        Value::Array(items) if schema["items"].is_object() => {
            for (place, item) in items.iter().enumerate() {
                strays(&schema["items"], item, &format!("{at}[{place}]"), depth + 1, found);
            }
        }
        _ => {}
    }
}

/// A custom resource against its schema: types, required fields, enumerations and bounds.
pub(super) fn check(schema: &Value, object: &Value, errors: &mut Errors) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata")
            && let Some(value) = object.get(name)
        {
            value_at(field, value, name, 1, errors);
        }
    }
    let empty = Map::new();
    missing(schema, object.as_object().unwrap_or(&empty), "", errors);
}

fn missing(schema: &Value, map: &Map<String, Value>, at: &str, errors: &mut Errors) {
    let wanted = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for name in wanted.filter(|name| !map.contains_key(*name)) {
        let field = if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
        errors.push(FieldError::required(field, ""));
    }
}

fn value_at(schema: &Value, value: &Value, at: &str, depth: usize, errors: &mut Errors) {
    if depth > MAX_DEPTH || (value.is_null() && schema["nullable"] == true) {
        return;
    }
    if !has_type(schema, value) {
        let why = format!(
            "{at} in body must be of type {}: {:?}",
            schema["type"].as_str().unwrap_or_default(),
            type_of(value)
        );
        errors.push(FieldError::type_invalid(at, value, &why));
        return;
    }
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        let supported: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
        errors.push(FieldError::not_supported(at, value, &supported));
    }
    bounds(schema, value, at, errors);
    match value {
        Value::Object(map) => {
            missing(schema, map, at, errors);
            for (name, value) in map {
                let field = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
                if field.is_object() {
                    value_at(field, value, &format!("{at}.{name}"), depth + 1, errors);
                }
            }
        }
        Value::Array(items) => {
            for (place, item) in items.iter().enumerate() {
                value_at(&schema["items"], item, &format!("{at}[{place}]"), depth + 1, errors);
            }
        }
        _ => {}
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn has_type(schema: &Value, value: &Value) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        return matches!(type_of(value), "integer" | "string");
    }
    match schema["type"].as_str() {
        None => true,
        Some("number") => value.is_number(),
        Some("integer") => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        Some(name) => type_of(value) == name,
    }
}

fn bounds(schema: &Value, value: &Value, at: &str, errors: &mut Errors) {
    let (length, names) = match value {
        Value::String(text) => (text.chars().count(), ("minLength", "maxLength")),
        Value::Array(items) => (items.len(), ("minItems", "maxItems")),
        Value::Object(map) => (map.len(), ("minProperties", "maxProperties")),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(0.0);
            if schema["minimum"].as_f64().is_some_and(|minimum| number < minimum) {
                let why = format!("{at} in body should be greater than or equal to {}", schema["minimum"]);
                errors.push(FieldError::invalid(at, value, why));
            }
            if schema["maximum"].as_f64().is_some_and(|maximum| number > maximum) {
                let why = format!("{at} in body should be less than or equal to {}", schema["maximum"]);
                errors.push(FieldError::invalid(at, value, why));
            }
            return;
        }
        _ => return,
    };
    let limit = |name: &str| schema[name].as_u64().and_then(|limit| usize::try_from(limit).ok());
    if limit(names.0).is_some_and(|limit| length < limit) {
        let why = format!("{at} in body: {} is {}", names.0, schema[names.0]);
        errors.push(FieldError::invalid(at, value, why));
    }
    if limit(names.1).is_some_and(|limit| length > limit) {
        let why = format!("{at} in body: {} is {}", names.1, schema[names.1]);
        errors.push(FieldError::invalid(at, value, why));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::default_and_prune;

    /// D4: null is pruned where the schema does not allow it, and defaulted where there is a default.
    #[test]
    fn nulls_are_pruned() {
        let schema = json!({"type": "object", "properties": {"spec": {
            "type": "object",
            "properties": {
                "network": {"type": "object", "properties": {"mtu": {"type": "integer"}}},
                "mode": {"type": "string", "default": "auto"},
                "note": {"type": "string", "nullable": true},
                "all": {"type": "object", "additionalProperties": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            },
        }}});
        let mut object = json!({"spec": {
            "network": null, "mode": null, "note": null, "all": {"a": null, "b": "c"}, "free": {"x": null},
        }});
        default_and_prune(&schema, &mut object);
        assert_eq!(
            object,
            json!({"spec": {"mode": "auto", "note": null, "all": {"b": "c"}, "free": {"x": null}}})
        );
    }
}
