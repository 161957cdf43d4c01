//! Deleting one object, or a collection.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{existing, show};
use crate::api::Api;
use crate::collect::{self, Deletion, Policy};
use crate::error::{ApiError, FieldError, Result};
use crate::http::Call;
use crate::http::answer::{self, Answer};
use crate::http::options;
use crate::http::query::Query;
use crate::meta;
use crate::selector::Selector;
use crate::store::{Key, Object};

/// The options of a delete request: from the body, else from the query.
pub(crate) fn options_of(call: &Call) -> Result<Deletion> {
    let body = if call.body.is_empty() { Value::Null } else { call.json()? };
    // Who sends a body has said all in it.
    let nothing = Query::default();
    let query = if call.body.is_empty() { &call.query } else { &nothing };
    let text = |name: &str| body[name].as_str().unwrap_or_default();
    if !body.is_null() && !matches!(text("kind"), "" | "DeleteOptions") {
        let why = format!("{:?} in version {:?} is not DeleteOptions", text("kind"), text("apiVersion"));
        return Err(ApiError::bad_request(why));
    }
    let grace =
        match body.get("gracePeriodSeconds").filter(|value| !value.is_null()) {
            Some(value) => Some(value.as_i64().ok_or_else(|| {
                ApiError::bad_request(format!("gracePeriodSeconds is not a number: {value}"))
            })?),
            None => query.number("gracePeriodSeconds")?,
        };
    // A negative time is the shortest.
    let grace = grace.map(|grace| if grace < 0 { 1 } else { grace });
    let mut errors = Vec::new();
    let asked = body["propagationPolicy"].as_str().unwrap_or(query.get("propagationPolicy"));
    let orphans = body["orphanDependents"].as_bool().or_else(|| query.get("orphanDependents").parse().ok());
    let policy = match asked {
        "Foreground" => Policy::Foreground,
        "Orphan" => Policy::Orphan,
        "" if orphans == Some(true) => Policy::Orphan,
        "" | "Background" => Policy::Background,
        other => {
            let known = ["Foreground", "Background", "Orphan", "nil"];
            errors.push(FieldError::not_supported("propagationPolicy", &other.into(), &known));
            Policy::Background
        }
    };
    if !asked.is_empty() && orphans.is_some() {
        let why = "orphanDependents and deletionPropagation cannot be both set";
        errors.push(FieldError::invalid("propagationPolicy", &asked.into(), why));
    }
    let listed: Vec<&str> =
        body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    options::dry_run(&query.all("dryRun").chain(listed.iter().copied()).collect::<Vec<&str>>(), &mut errors);
    options::refused("DeleteOptions", &errors)?;
    let dry_run = query.dry_run() || !listed.is_empty();
    Ok(Deletion {
        grace,
        policy,
        uid: body["preconditions"]["uid"].as_str().map(str::to_owned),
        version: body["preconditions"]["resourceVersion"].as_str().map(str::to_owned),
        dry_run,
    })
}

pub(crate) fn delete(api: &Arc<Api>, call: &Call) -> Result<Answer> {
    let options = options_of(call)?;
    existing(api, call)?;
    let key = Key::new(call.namespace.as_str(), call.name.as_str());
    let (object, gone) = collect::delete(api, &call.resource, &key, &options)?;
    // Pods, Services and what still has finalizers are shown as they are now; what is gone is a success.
    if !gone || matches!(call.resource.plural.as_str(), "pods" | "services") && call.resource.group.is_empty()
    {
        let shown = if gone && call.resource.plural == "pods" { ended(&object) } else { object };
        return show(call, 200, &shown);
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

/// A Pod that went at once, as it was when it went.
fn ended(pod: &Arc<Object>) -> Arc<Object> {
    let mut last = pod.value.clone();
    let deleting = meta::is_deleting(&last);
    let metadata = meta::metadata(&mut last);
    meta::default(metadata, "deletionTimestamp", meta::now());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), 0.into());
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|_| !deleting) {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
    Object::unstored(last)
}

pub(crate) fn delete_collection(api: &Arc<Api>, call: &Call) -> Result<Answer> {
    let options = options_of(call)?;
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
