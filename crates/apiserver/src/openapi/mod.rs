//! OpenAPI documents: enough for clients that look for types and for the parameters of their operations.

mod protobuf;
mod v2;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::error::{ApiError, Result};
use crate::http::answer::{self, Answer};
use crate::resources::{ResourceType, Types};
use crate::schema::{self, Shape, Type};

/// `/openapi/v2`.
pub(crate) fn v2(types: &Types, accept: &str) -> Answer {
    let document = v2::document(types);
    if accept.contains("protobuf") {
        let body = Bytes::from(protobuf::encode(&document));
        return answer::bytes(200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", body);
    }
    answer::json(200, &document)
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.33.0"})
}

/// `/openapi/v3`.
pub(crate) fn v3_index(types: &Types) -> Value {
    let mut paths = Map::new();
    for (group, versions) in &types.groups {
        for (version, _) in versions {
            let path =
                if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let url = format!("/openapi/v3/{path}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// `/openapi/v3/…`: one group and version.
pub(crate) fn v3(types: &Types, group: &str, version: &str) -> Result<Value> {
    if !types.has_version(group, version) {
        return Err(ApiError::no_such_resource());
    }
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for resource in types.all().filter(|resource| resource.group == group && resource.version == version) {
        let collection = resource.collection_path();
        if !resource.review {
            paths.insert(format!("{collection}/{{name}}"), item(resource));
        }
        paths.insert(collection, json!({"post": operation(resource, "post")}));
        match schema::name_of(resource) {
            Some(name) => {
                for part in schema::closure(name) {
                    schemas.entry(model_name(part)).or_insert_with(|| model(part));
                }
                if let Some(own) = schemas.get_mut(&model_name(name)) {
                    add_type(own, resource);
                }
            }
            None => {
                schemas.insert(custom_name(resource), custom(resource));
            }
        }
    }
    Ok(json!({
        "openapi": "3.0.0", "info": info(), "paths": paths, "components": {"schemas": schemas},
    }))
}

fn item(resource: &ResourceType) -> Value {
    json!({
        "get": operation(resource, "get"), "put": operation(resource, "put"),
        "patch": operation(resource, "patch"), "delete": operation(resource, "delete"),
    })
}

/// The names of what an operation takes in its query.
fn parameters(verb: &str) -> &'static [&'static str] {
    match verb {
        "get" => &["pretty"],
        "delete" => &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        _ => &["dryRun", "fieldManager", "fieldValidation"],
    }
}

fn operation(resource: &ResourceType, verb: &str) -> Value {
    let parameters: Vec<Value> = parameters(verb)
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    json!({
        "operationId": format!("{verb}{}", resource.kind),
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": gvk(resource),
    })
}

fn gvk(resource: &ResourceType) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

/// Every object has these beside what its message says.
fn add_type(schema: &mut Value, resource: &ResourceType) {
    schema["properties"]["apiVersion"] = json!({"type": "string"});
    schema["properties"]["kind"] = json!({"type": "string"});
    schema["x-kubernetes-group-version-kind"] = json!([gvk(resource)]);
}

/// `apps/v1.Deployment` as Kubernetes names it.
fn model_name(name: &str) -> String {
    let dotted = name.replace('/', ".");
    match name.split_once('/') {
        Some(("meta", rest)) => format!("io.k8s.apimachinery.pkg.apis.meta.{rest}"),
        _ => format!("io.k8s.api.{dotted}"),
    }
}

/// A list of texts that has a message of its own on the wire.
fn words(name: &str) -> Value {
    json!({"type": "array", "description": name, "items": {"type": "string"}})
}

fn model(name: &'static str) -> Value {
    if schema::is_list(name) {
        return words(name);
    }
    let mut properties = Map::new();
    for field in schema::message(name).into_iter().flat_map(schema::Message::json_fields) {
        properties.insert(field.name.to_owned(), property(field));
    }
    json!({"type": "object", "description": name, "properties": properties})
}

/// The schema of what is no message.
fn scalar(kind: Type) -> Value {
    match kind {
        Type::String | Type::Bytes | Type::Duration | Type::Quantity => json!({"type": "string"}),
        Type::Time | Type::MicroTime => json!({"type": "string", "format": "date-time"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Integer => json!({"type": "integer"}),
        Type::Number => json!({"type": "number"}),
        Type::IntOrString => json!({"type": "string", "format": "int-or-string"}),
        Type::Raw | Type::Message(_) => json!({"type": "object"}),
    }
}

fn property(field: &schema::Field) -> Value {
    let one = match field.kind {
        Type::Message(name) => {
            json!({"allOf": [{"$ref": format!("#/components/schemas/{}", model_name(name))}]})
        }
        kind => scalar(kind),
    };
    shaped(field.shape, one)
}

/// One, a list or a map of these.
fn shaped(shape: Shape, one: Value) -> Value {
    match shape {
        Shape::One | Shape::Inline => one,
        Shape::List => json!({"type": "array", "items": one}),
        Shape::Map => json!({"type": "object", "additionalProperties": one}),
    }
}

fn custom_name(resource: &ResourceType) -> String {
    let reversed: Vec<&str> = resource.group.split('.').rev().collect();
    format!("{}.{}.{}", reversed.join("."), resource.version, resource.kind)
}

fn custom(resource: &ResourceType) -> Value {
    let given = resource.custom.as_ref().map(|custom| &custom.schema).filter(|schema| schema.is_object());
    let mut schema = given
        .cloned()
        .unwrap_or_else(|| json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    schema["x-kubernetes-group-version-kind"] = json!([gvk(resource)]);
    schema
}
