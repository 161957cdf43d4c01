//! Patches as functions of values. Whatever a client sends, they end with a value or an error.

mod json;
mod merge;
mod strategic;

use serde_json::Value;

pub(crate) use json::{JsonError, json};
pub(crate) use merge::merge;
pub(crate) use strategic::strategic;

use crate::error::{ApiError, Result};
use crate::yaml::Document;

/// The configuration of a server-side apply: JSON or YAML.
pub(crate) fn apply_body(body: &[u8]) -> Result<Value> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text =
        std::str::from_utf8(body).map_err(|_| ApiError::bad_request("the request body is not UTF-8"))?;
    let document = Document::read(text, 1);
    let document = document.map_err(|problem| {
        ApiError::bad_request(format!("error decoding YAML: line {}: {}", problem.line, problem.what))
    })?;
    Ok(document.value)
}

#[cfg(test)]
mod tests;
