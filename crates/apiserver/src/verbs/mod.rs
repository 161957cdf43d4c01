//! What clients do with objects.

mod bootstrap;
mod delete;
mod list;
mod patch;
mod proxy;
mod subresource;

use std::sync::Arc;

use http::Method;
use serde_json::Value;

pub(crate) use bootstrap::bootstrap;
pub(crate) use delete::{delete, delete_collection};
pub(crate) use list::list;
pub(crate) use patch::patch;
pub(crate) use proxy::proxy;
pub(crate) use subresource::{container_of, selector_text, subresource};

use crate::admission::{Attempt, Write};
use crate::api::Api;
use crate::auth;
use crate::authorize::{Ask, authorize};
use crate::convert;
use crate::error::{ApiError, Result};
use crate::http::Call;
use crate::http::answer::{self, Answer};
use crate::http::{duplicates, options};
use crate::meta;
use crate::schema;
use crate::store::{Key, Object};
use crate::validation::custom;

/// How often a write without a version is tried again because another came in between.
pub(crate) const ATTEMPTS: usize = 16;

pub(crate) fn get(api: &Arc<Api>, call: &Call) -> Result<Answer> {
    let object = existing(api, call)?;
    show(call, 200, &object)
}

pub(crate) fn create(api: &Arc<Api>, call: &Call) -> Result<Answer> {
    options::write("CreateOptions", &call.query, false)?;
    let mut object = call.json()?;
    incoming(call, &mut object)?;
    let object = Write::of(api, call).create(&call.namespace, object)?;
    show(call, 201, &object)
}

pub(crate) fn update(api: &Arc<Api>, call: &Call) -> Result<Answer> {
    options::write("UpdateOptions", &call.query, false)?;
    let mut object = call.json()?;
    incoming(call, &mut object)?;
    match meta::name(&object) {
        "" => {
            let why = format!(
                "the name of the object ({} based on URL) was undeterminable: name must be provided",
                call.name
            );
            return Err(ApiError::bad_request(why));
        }
        name if name != call.name => {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                call.name
            )));
        }
        _ => {}
    }
    let write = Write::of(api, call);
    let key = Key::new(call.namespace.as_str(), call.name.as_str());
    for _ in 0..ATTEMPTS {
        let Some(before) = api.store.get(&call.resource.storage, &key) else {
            let versioned =
                object["metadata"]["resourceVersion"].as_str().is_some_and(|version| !version.is_empty());
            if !creates_on_update(call) || versioned {
                return Err(call.not_found());
            }
            authorize(api, &call.user, &Ask::creation(call))?;
            return show(call, 201, &write.create(&call.namespace, object)?);
        };
        if let Attempt::Done(after) = write.update(&before, object.clone())? {
            return show(call, 200, &after);
        }
    }
    Err(ApiError::modified(&call.resource.group, &call.resource.plural, &call.name))
}

/// Does an update of this type make what is not there?
fn creates_on_update(call: &Call) -> bool {
    let resource = &call.resource;
    call.subresource.is_empty()
        && matches!(
            (resource.group.as_str(), resource.plural.as_str()),
            ("", "endpoints" | "events" | "limitranges" | "services")
                | ("events.k8s.io", "events")
                | ("coordination.k8s.io", "leases")
                | ("node.k8s.io", "runtimeclasses")
                | ("rbac.authorization.k8s.io", _)
        )
}

/// Reviews are answered, not stored.
pub(crate) fn review(api: &Arc<Api>, method: &Method, call: &Call) -> Result<Answer> {
    if method != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    let mut body = call.json()?;
    incoming(call, &mut body)?;
    if call.resource.kind == "Binding" {
        let name = meta::name(&body).to_owned();
        return subresource::bind(api, call, &name, &body);
    }
    auth::check_review(&call.resource.kind, &body)?;
    Ok(answer::json(201, &auth::review(api, &call.user, &call.resource.kind, body)))
}

/// The object that the call's path names.
pub(crate) fn existing(api: &Arc<Api>, call: &Call) -> Result<Arc<Object>> {
    let key = Key::new(call.namespace.as_str(), call.name.as_str());
    api.store.get(&call.resource.storage, &key).ok_or_else(|| call.not_found())
}

pub(crate) fn show(call: &Call, code: u16, object: &Arc<Object>) -> Result<Answer> {
    let view = call.view()?;
    Ok(answer::bytes(code, "application/json", view.one(object)))
}

/// Checks that a body is of the path's type and namespace, and turns it into the stored version.
pub(crate) fn incoming(call: &Call, object: &mut Value) -> Result<()> {
    if !object.is_object() {
        return Err(ApiError::bad_request("the request body is not a JSON object"));
    }
    let resource = &call.resource;
    let api_version = resource.api_version();
    match object.get("apiVersion") {
        None => {}
        Some(Value::String(given)) if given.is_empty() || *given == api_version => {}
        Some(given) => {
            let given = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({given}) does not match the expected API version ({api_version})"
            )));
        }
    }
    match object.get("kind") {
        None => {}
        Some(Value::String(given)) if given.is_empty() || *given == resource.kind => {}
        Some(given) => {
            return Err(ApiError::bad_request(format!(
                "the kind in the data ({given}) does not match the expected kind ({})",
                resource.kind
            )));
        }
    }
    check_shape(call, object)?;
    if let Some(name) = schema::name_of(resource) {
        schema::normalize(name, object);
    }
    meta::map_of(object).insert("kind".to_owned(), resource.kind.clone().into());
    convert::to_stored(resource, object);
    let metadata = meta::metadata(object);
    for name in ["name", "namespace", "generateName", "uid", "resourceVersion"] {
        if let Some(value) = metadata.get(name).filter(|value| !value.is_string() && !value.is_null()) {
            return Err(ApiError::bad_request(format!("metadata.{name} is not a string: {value}")));
        }
    }
    if resource.namespaced {
        match metadata.get("namespace").and_then(Value::as_str).unwrap_or_default() {
            "" => {
                metadata.insert("namespace".to_owned(), call.namespace.clone().into());
            }
            given if given != call.namespace => {
                let why =
                    "the namespace of the provided object does not match the namespace sent on the request";
                return Err(ApiError::bad_request(why));
            }
            _ => {}
        }
    } else {
        metadata.remove("namespace");
    }
    Ok(())
}

/// Fields of the wrong type; and fields that the type does not have, which are refused or warned of as the client asks.
fn check_shape(call: &Call, object: &Value) -> Result<()> {
    let resource = &call.resource;
    let refuse = |why: String| {
        Err(ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {why}",
            resource.kind, resource.version, resource.kind
        )))
    };
    if let Some(value) = object.get("metadata").filter(|value| !value.is_object() && !value.is_null()) {
        return refuse(format!("metadata is not an object: {value}"));
    }
    let unknown = match (&resource.custom, schema::name_of(resource)) {
        (Some(custom), _) => custom::unknown(&custom.schema, object),
        (None, Some(name)) => {
            let findings = schema::check(name, object);
            if let Some((_, what)) = findings.wrong.first() {
                return refuse(what.clone());
            }
            findings.unknown
        }
        (None, None) => Vec::new(),
    };
    let twice = if matches!(call.content_type.as_str(), "" | "application/json")
        && call.query.get("fieldValidation") != "Ignore"
    {
        duplicates::find(&call.body)
    } else {
        Vec::new()
    };
    let twice = twice.iter().map(|path| format!("duplicate field {path:?}"));
    let list: Vec<String> =
        unknown.iter().map(|path| format!("unknown field {path:?}")).chain(twice).collect();
    match call.query.get("fieldValidation") {
        "Strict" if !list.is_empty() => refuse(format!("strict decoding error: {}", list.join(", "))),
        "" | "Warn" => {
            list.into_iter().for_each(|warning| call.warn(warning));
            Ok(())
        }
        _ => Ok(()),
    }
}
