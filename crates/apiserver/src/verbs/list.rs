//! Lists, whole or in pieces.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::api::Api;
use crate::error::{ApiError, Result};
use crate::http::Call;
use crate::http::answer::{self, Answer};
use crate::selector::Selector;
use crate::store::{Key, Object};

pub(crate) fn list(api: &Arc<Api>, call: &Call) -> Result<Answer> {
    let view = call.view()?;
    let query = &call.query;
    let selector = Selector::parse(&call.resource, query.get("labelSelector"), query.get("fieldSelector"))?;
    let limit = query.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0);
    let from = match query.get("continue") {
        "" => None,
        token => Some(position(token)?),
    };
    let namespace = (!call.namespace.is_empty()).then_some(call.namespace.as_str());
    let page = api.store.collection(&call.resource.storage).list(&api.store, namespace);
    check_version(
        query.get("resourceVersion"),
        query.get("resourceVersionMatch"),
        from.is_some(),
        page.version,
    )?;

    // Later pieces show the state as it is then, at the version that is then: a watch from the last piece's version
    // would miss changes to earlier pieces, so all carry the version of the first.
    let version = from.as_ref().map_or(page.version, |(version, _)| *version);
    let after = from.map(|(_, key)| key);
    let mut objects: Vec<Arc<Object>> = Vec::new();
    let mut rest = 0_u64;
    for object in &page.objects {
        if after.as_ref().is_some_and(|after| Key::of(&object.value) <= *after)
            || !selector.matches(&object.value)
        {
            continue;
        }
        if limit > 0 && objects.len() == limit {
            rest += 1;
        } else {
            objects.push(object.clone());
        }
    }
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if let (true, Some(last)) = (rest > 0, objects.last()) {
        let key = Key::of(&last.value);
        let token = json!({"v": version, "ns": key.namespace, "n": key.name}).to_string();
        metadata["continue"] = URL_SAFE_NO_PAD.encode(token).into();
        if query.get("labelSelector").is_empty() && query.get("fieldSelector").is_empty() {
            metadata["remainingItemCount"] = rest.into();
        }
    }
    Ok(answer::bytes(200, "application/json", view.list(&objects, metadata)))
}

fn position(token: &str) -> Result<(u64, Key)> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let value: Option<Value> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let parsed = value.and_then(|value| {
        Some((value["v"].as_u64()?, Key::new(value["ns"].as_str()?, value["n"].as_str()?)))
    });
    parsed.ok_or_else(|| ApiError::bad_request("invalid continue token: continue key is not valid"))
}

fn check_version(text: &str, matching: &str, continued: bool, current: u64) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    if continued {
        return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
    }
    let wanted: u64 = text
        .parse()
        .map_err(|_| {
            ApiError::bad_request(format!(
                "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: \
                 invalid syntax"
            ))
        })?;
    if matching == "Exact" && wanted < current {
        // Only the present state is kept.
        return Err(ApiError::too_old(wanted, current));
    }
    if wanted > current {
        let mut error = ApiError::new(
            504,
            "Timeout",
            format!("Timeout: Too large resource version: {wanted}, current: {current}"),
        );
        error.details = json!({
            "retryAfterSeconds": 1,
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        });
        return Err(error);
    }
    Ok(())
}
