//! OpenAPI v2, for clients before 1.27: by it they explain types, check manifests, look whether a type takes dry runs,
//! and work out strategic merge patches.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value, json};

use super::{add_type, custom_name, gvk, info, model_name, parameters, scalar, shaped, words};
use crate::resources::lists::Lists;
use crate::resources::{ResourceType, Types};
use crate::schema::{self, Shape, Type};

const KEY: &str = "x-kubernetes-patch-merge-key";
const STRATEGY: &str = "x-kubernetes-patch-strategy";

/// The whole document: every type of every group.
pub(super) fn document(types: &Types) -> Value {
    let mut paths = Map::new();
    let mut definitions = Map::new();
    let merges = Merges::of(types);
    for resource in types.all() {
        if !resource.review {
            paths.insert(format!("{}/{{name}}", resource.collection_path()), item(resource));
        }
        let Some(name) = schema::name_of(resource) else {
            definitions.insert(custom_name(resource), custom(resource));
            continue;
        };
        for part in schema::closure(name) {
            definitions.entry(model_name(part)).or_insert_with(|| model(part, &merges));
        }
        if let Some(own) = definitions.get_mut(&model_name(name)) {
            add_type(own, resource);
        }
    }
    // Custom types refer to it too.
    for part in schema::closure(OBJECT_META) {
        definitions.entry(model_name(part)).or_insert_with(|| model(part, &merges));
    }
    json!({"swagger": "2.0", "info": info(), "paths": paths, "definitions": definitions})
}

const OBJECT_META: &str = "meta/v1.ObjectMeta";

fn item(resource: &ResourceType) -> Value {
    let operation = |verb: &str| {
        let parameters: Vec<Value> = parameters(verb)
            .iter()
            .map(|name| json!({"name": name, "in": "query", "type": "string", "uniqueItems": true}))
            .collect();
        json!({
            "operationId": format!("{verb}{}", resource.kind),
            "parameters": parameters,
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": verb,
            "x-kubernetes-group-version-kind": gvk(resource),
        })
    };
    json!({
        "get": operation("get"), "put": operation("put"), "patch": operation("patch"), "delete": operation("delete"),
    })
}

fn model(name: &'static str, merges: &Merges) -> Value {
    if schema::is_list(name) {
        return words(name);
    }
    let mut properties = Map::new();
    for field in schema::message(name).into_iter().flat_map(schema::Message::json_fields) {
        let mut property = property(field);
        for (extension, value) in merges.0.get(&(name, field.name)).into_iter().flatten() {
            property[*extension] = (*value).into();
        }
        properties.insert(field.name.to_owned(), property);
    }
    let mut model = json!({"type": "object", "description": name});
    // A type without known fields is open; with none at all it would be closed.
    if !properties.is_empty() {
        model["properties"] = properties.into();
    }
    model
}

fn property(field: &schema::Field) -> Value {
    let one = match field.kind {
        Type::Message(name) => reference(name),
        Type::Raw => json!({}),
        kind => scalar(kind),
    };
    shaped(field.shape, one)
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/definitions/{}", model_name(name))})
}

/// How strategic merge patches treat fields: (message, field) → extensions.
struct Merges(BTreeMap<(&'static str, &'static str), Extensions>);

type Extensions = Vec<(&'static str, &'static str)>;

impl Merges {
    /// From the rules that the server merges by: those tell fields apart by what they stand in.
    fn of(types: &Types) -> Merges {
        let mut merges = BTreeMap::new();
        for resource in types.all() {
            let Some(root) = schema::name_of(resource) else { continue };
            let lists = Lists::of(resource);
            let mut seen = HashSet::from([(root, "")]);
            let mut left = vec![(root, "")];
            while let Some((name, parent)) = left.pop() {
                for field in schema::message(name).into_iter().flat_map(schema::Message::json_fields) {
                    let extensions = extensions(&lists, parent, field);
                    if !extensions.is_empty() {
                        merges.insert((name, field.name), extensions);
                    }
                    if let Type::Message(inner) = field.kind
                        && seen.insert((inner, field.name))
                    {
                        left.push((inner, field.name));
                    }
                }
            }
        }
        Merges(merges)
    }
}

fn extensions(lists: &Lists, parent: &str, field: &schema::Field) -> Extensions {
    let path = [parent.to_owned(), field.name.to_owned()];
    match (field.shape, field.kind) {
        (Shape::List, Type::Message(_)) => match lists.merge_key(&path) {
            Some(key) if lists.retains_keys(&path) => vec![(KEY, key), (STRATEGY, "merge,retainKeys")],
            Some(key) => vec![(KEY, key), (STRATEGY, "merge")],
            None => Vec::new(),
        },
        (Shape::List, _) if lists.merges_scalars(&path) => vec![(STRATEGY, "merge")],
        (Shape::One, Type::Message(_)) if lists.replaces(&path) => vec![(STRATEGY, "replace")],
        (Shape::One, Type::Message(_)) if lists.retains_keys(&path) => vec![(STRATEGY, "retainKeys")],
        _ => Vec::new(),
    }
}

fn custom(resource: &ResourceType) -> Value {
    let given = resource.custom.as_ref().map(|custom| &custom.schema).filter(|schema| schema.is_object());
    let mut schema = given.map_or_else(|| json!({}), plain);
    if schema.get("properties").is_some() {
        add_type(&mut schema, resource);
        schema["properties"]["metadata"] = reference(OBJECT_META);
    } else {
        schema["x-kubernetes-group-version-kind"] = json!([gvk(resource)]);
    }
    schema
}

/// What v2 can say of a schema. What it cannot say is left open: old clients refuse what they do not understand.
fn plain(schema: &Value) -> Value {
    let mut found = Map::new();
    let mut keep = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            found.insert(name.to_owned(), value);
        }
    };
    keep("description", schema.get("description").cloned());
    let open = [
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-int-or-string",
        "x-kubernetes-embedded-resource",
        "nullable",
    ];
    if open.iter().any(|name| schema[*name] == true) {
        return found.into();
    }
    keep("type", schema.get("type").filter(|kind| kind.is_string()).cloned());
    keep("format", schema.get("format").cloned());
    keep("required", schema.get("required").cloned());
    if schema["type"] == "array" {
        keep("items", Some(schema.get("items").map_or_else(|| json!({}), plain)));
    }
    if let Some(fields) = schema["properties"].as_object() {
        let fields: Map<String, Value> =
            fields.iter().map(|(name, field)| (name.clone(), plain(field))).collect();
        keep("properties", Some(fields.into()));
    }
    keep(
        "additionalProperties",
        schema.get("additionalProperties").filter(|values| values.is_object()).map(plain),
    );
    found.into()
}
