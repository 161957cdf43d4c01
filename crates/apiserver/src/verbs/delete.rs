//! Deleting one object, or a collection.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{existing, show};
use crate::api::Api;
use crate::collect::{self, Deletion, Policy};
use crate::error::{ApiError, Result};
use crate::http::Call;
use crate::http::answer::{self, Answer};
use crate::meta;
use crate::selector::Selector;
use crate::store::Key;

/// The options of a delete request: from the body, else from the query.
pub(crate) fn options(call: &Call) -> Result<Deletion> {
    let body = if call.body.is_empty() { Value::Null } else { call.json()? };
    let grace =
        match body.get("gracePeriodSeconds").filter(|value| !value.is_null()) {
            Some(value) => Some(value.as_i64().ok_or_else(|| {
                ApiError::bad_request(format!("gracePeriodSeconds is not a number: {value}"))
            })?),
            None => call.query.number("gracePeriodSeconds")?,
        };
    if grace.is_some_and(|grace| grace < 0) {
        return Err(ApiError::bad_request("gracePeriodSeconds must be non-negative"));
    }
    let policy = match body["propagationPolicy"].as_str().unwrap_or(call.query.get("propagationPolicy")) {
        "Foreground" => Policy::Foreground,
        "Orphan" => Policy::Orphan,
        "Background" => Policy::Background,
        "" if body["orphanDependents"] == true || call.query.get("orphanDependents") == "true" => {
            Policy::Orphan
        }
        "" => Policy::Background,
        other => {
            return Err(ApiError::bad_request(format!(
                "propagationPolicy: Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
            )));
        }
    };
    let dry_run = call.query.dry_run()? || body["dryRun"].as_array().is_some_and(|list| !list.is_empty());
    Ok(Deletion {
        grace,
        policy,
        uid: body["preconditions"]["uid"].as_str().map(str::to_owned),
        version: body["preconditions"]["resourceVersion"].as_str().map(str::to_owned),
        dry_run,
    })
}

pub(crate) fn delete(api: &Arc<Api>, call: &Call) -> Result<Answer> {
    let options = options(call)?;
    existing(api, call)?;
    let key = Key::new(call.namespace.as_str(), call.name.as_str());
    let (object, gone) = collect::delete(api, &call.resource, &key, &options)?;
    // Pods and what still has finalizers are shown as they are now; what is gone is a success.
    if !gone || call.resource.is("", "pods") {
        return show(call, 200, &object);
    }
    let mut details =
        json!({"name": call.name, "kind": call.resource.plural, "uid": meta::uid(&object.value)});
    if !call.resource.group.is_empty() {
        details["group"] = call.resource.group.clone().into();
    }
    Ok(answer::json(
        200,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}),
    ))
}

pub(crate) fn delete_collection(api: &Arc<Api>, call: &Call) -> Result<Answer> {
    let options = options(call)?;
    let view = call.view()?;
    let selector =
        Selector::parse(&call.resource, call.query.get("labelSelector"), call.query.get("fieldSelector"))?;
    let namespace = (!call.namespace.is_empty()).then_some(call.namespace.as_str());
    let page = api.store.collection(&call.resource.storage).list(&api.store, namespace);
    let mut deleted = Vec::new();
    for object in page.objects.iter().filter(|object| selector.matches(&object.value)) {
        match collect::delete(api, &call.resource, &Key::of(&object.value), &options) {
            Ok((object, _)) => deleted.push(object),
            // Deleted by somebody else meanwhile.
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    let metadata = json!({"resourceVersion": api.store.version().to_string()});
    Ok(answer::bytes(200, "application/json", view.list(&deleted, metadata)))
}
