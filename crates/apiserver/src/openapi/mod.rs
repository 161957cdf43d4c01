//! OpenAPI documents: enough for clients that look for types and for the parameters of their operations.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::error::{ApiError, Result};
use crate::http::answer::{self, Answer};
use crate::resources::{ResourceType, Types};

/// `/openapi/v2`.
pub(crate) fn v2(_types: &Types, accept: &str) -> Result<Answer> {
    if accept.contains("protobuf") {
        // A document without definitions: all of its fields are absent.
        return Ok(answer::bytes(
            200,
            "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
            Bytes::new(),
        ));
    }
    let document = json!({"swagger": "2.0", "info": info(), "paths": {}, "definitions": {}});
    Ok(answer::json(200, &document))
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.34.0"})
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
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for resource in types.all().filter(|resource| resource.group == group && resource.version == version) {
        let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{root}{scope}/{}", resource.plural);
        if !resource.review {
            paths.insert(format!("{collection}/{{name}}"), item(resource));
        }
        paths.insert(collection, json!({"post": operation(resource, "post")}));
        schemas.insert(schema_name(resource), schema(resource));
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

fn operation(resource: &ResourceType, verb: &str) -> Value {
    let names: &[&str] = match verb {
        "get" => &["pretty"],
        "delete" => &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        _ => &["dryRun", "fieldManager", "fieldValidation"],
    };
    let parameters: Vec<Value> = names
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

fn schema_name(resource: &ResourceType) -> String {
    let group = if resource.group.is_empty() { "core" } else { &resource.group };
    let reversed: Vec<&str> = group.split('.').rev().collect();
    format!("io.k8s.api.{}.{}.{}", reversed.join("."), resource.version, resource.kind)
}

fn schema(resource: &ResourceType) -> Value {
    if let Some(custom) = &resource.custom
        && custom.schema.is_object()
    {
        let mut schema = custom.schema.clone();
        schema["x-kubernetes-group-version-kind"] = json!([gvk(resource)]);
        return schema;
    }
    let open = |text: &str| json!({"type": "object", "description": text, "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "type": "object",
        "description": format!("{} of {}", resource.kind, resource.api_version()),
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of the schema of this object."},
            "kind": {"type": "string", "description": "The type of this object."},
            "metadata": open("Standard object metadata."),
            "spec": open("What is wanted."),
            "status": open("What was last seen."),
        },
        "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-group-version-kind": [gvk(resource)],
    })
}
