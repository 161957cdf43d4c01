//! The four kinds of patch.

use std::sync::Arc;

use serde_json::Value;

use super::{ATTEMPTS, existing, incoming, show};
use crate::admission::{Attempt, Write};
use crate::api::Api;
use crate::authorize::{Ask, authorize};
use crate::convert;
use crate::error::{ApiError, FieldError, Result};
use crate::fields;
use crate::http::answer::Answer;
use crate::http::options;
use crate::http::{Call, parse_json};
use crate::meta;
use crate::patch;
use crate::resources::lists::Lists;
use crate::schema;
use crate::store::{Key, Object};

/// What the content type says.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl Kind {
    fn of(call: &Call) -> Result<Kind> {
        let media = call.content_type.split(';').next().unwrap_or_default().trim();
        match media {
            "application/json-patch+json" => Ok(Kind::Json),
            "application/merge-patch+json" => Ok(Kind::Merge),
            "application/strategic-merge-patch+json" if call.resource.custom.is_none() => Ok(Kind::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+json" => Ok(Kind::Apply),
            other => {
                let strategic = if call.resource.custom.is_none() {
                    ", application/strategic-merge-patch+json"
                } else {
                    ""
                };
                Err(ApiError::unsupported_media_type(format!(
                    "the body of the request was in an unknown format - accepted media types include: \
                     application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml\
                     {strategic}; got {other:?}"
                )))
            }
        }
    }
}

pub(crate) fn patch(api: &Arc<Api>, call: &Call) -> Result<Answer> {
    let kind = Kind::of(call)?;
    options::write("PatchOptions", &call.query, kind == Kind::Apply)?;
    let (code, object) = apply(api, call, kind)?;
    show(call, code, &object)
}

fn apply(api: &Arc<Api>, call: &Call, kind: Kind) -> Result<(u16, Arc<Object>)> {
    if kind == Kind::Apply {
        return server_side(api, call);
    }
    let body = parse_json(&call.body)?;
    let write = Write::of(api, call);
    for _ in 0..ATTEMPTS {
        let before = existing(api, call)?;
        let served = convert::to_served(&call.resource, &before.value);
        let mut object = patched(call, kind, served.as_ref().unwrap_or(&before.value), &body)?;
        let text = object.to_string();
        incoming(call, &mut object).map_err(|error| unfit(error, text))?;
        if meta::name(&object) != call.name {
            let why = format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                meta::name(&object),
                call.name
            );
            return Err(ApiError::bad_request(why));
        }
        if !meta::uid(&object).is_empty() && meta::uid(&object) != meta::uid(&before.value) {
            let error = FieldError::invalid("metadata.uid", &meta::uid(&object).into(), "field is immutable");
            return Err(ApiError::invalid(&call.resource.group, &call.resource.kind, &call.name, &[error]));
        }
        if let Attempt::Done(after) = write.update(&before, object)? {
            return Ok((200, after));
        }
    }
    Err(ApiError::modified(&call.resource.group, &call.resource.plural, &call.name))
}

/// What a patch made is not of the type; `object` is its text.
fn unfit(error: Box<ApiError>, object: String) -> Box<ApiError> {
    let cut =
        error.message.split_once(" cannot be handled as a ").and_then(|(_, rest)| rest.split_once(": "));
    let Some((_, why)) = cut else { return error };
    ApiError::invalid("", "", "", &[FieldError::invalid("patch", &object.into(), why)])
}

fn patched(call: &Call, kind: Kind, before: &Value, body: &Value) -> Result<Value> {
    let invalid = |why: String| {
        ApiError::new(
            422,
            "Invalid",
            format!("applying the patch to {} {:?}: {why}", call.resource.plural, call.name),
        )
    };
    match kind {
        Kind::Json => patch::json(before, body).map_err(|error| match error {
            patch::JsonError::Malformed(why) if body.is_array() => invalid(why),
            patch::JsonError::Malformed(why) => ApiError::bad_request(format!("error decoding patch: {why}")),
            patch::JsonError::Failed(why) => invalid(why),
        }),
        Kind::Merge => {
            let mut object = before.clone();
            patch::merge(&mut object, body);
            Ok(object)
        }
        Kind::Strategic | Kind::Apply => {
            patch::strategic(before, body, &Lists::of(&call.resource)).map_err(invalid)
        }
    }
}

/// A configuration must be of a type, and have nothing that the type does not have: who applies it would never own that.
fn typed(call: &Call, config: &Value) -> Result<()> {
    let text = |name: &str| config[name].as_str().unwrap_or_default();
    if text("apiVersion").is_empty() || text("kind").is_empty() {
        return Err(ApiError::bad_request("invalid object type: /, Kind="));
    }
    let unknown = schema::name_of(&call.resource)
        .and_then(|name| schema::check(name, config).unknown.into_iter().next());
    let why = match unknown {
        Some(path) => format!(".{path}: field not declared in schema"),
        None => match fields::repeated(&call.resource, config) {
            Some(why) => why,
            None => return Ok(()),
        },
    };
    let metadata = |name: &str| config["metadata"][name].as_str().unwrap_or_default();
    let resource = &call.resource;
    let message = format!(
        "failed to create typed patch object ({}/{}; {}, Kind={}): {why}",
        metadata("namespace"),
        metadata("name"),
        if resource.group.is_empty() { format!("/{}", resource.version) } else { resource.api_version() },
        resource.kind
    );
    Err(ApiError::new(500, "", message))
}

fn server_side(api: &Arc<Api>, call: &Call) -> Result<(u16, Arc<Object>)> {
    let mut config = patch::apply_body(&call.body)?;
    if config["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    typed(call, &config)?;
    incoming(call, &mut config)?;
    if meta::name(&config).is_empty() {
        meta::metadata(&mut config).insert("name".to_owned(), call.name.clone().into());
    } else if meta::name(&config) != call.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            meta::name(&config),
            call.name
        )));
    }
    let write = Write::of(api, call).applying(&config, call.query.flag("force"));
    let key = Key::new(call.namespace.as_str(), call.name.as_str());
    for _ in 0..ATTEMPTS {
        let Some(before) = api.store.get(&call.resource.storage, &key) else {
            if !call.subresource.is_empty() {
                return Err(call.not_found());
            }
            authorize(api, &call.user, &Ask::creation(call))?;
            let mut object = config.clone();
            // Only directives to an existing object.
            meta::metadata(&mut object).remove("resourceVersion");
            match write.create(&call.namespace, object) {
                Ok(object) => return Ok((201, object)),
                Err(error) if error.reason == "AlreadyExists" => continue,
                Err(error) => return Err(error),
            }
        };
        if let Attempt::Done(after) = write.apply(&before)? {
            return Ok((200, after));
        }
    }
    Err(ApiError::modified(&call.resource.group, &call.resource.plural, &call.name))
}
