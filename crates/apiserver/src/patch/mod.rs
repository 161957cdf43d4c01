//! Patches as functions of values. Whatever a client sends, they end with a value or an error.

mod json;
mod merge;
mod strategic;

use serde_json::Value;

pub(crate) use json::{JsonError, json};
pub(crate) use merge::merge;
pub(crate) use strategic::strategic;

use crate::error::{ApiError, Result};

/// The configuration of a server-side apply: JSON or YAML.
pub(crate) fn apply_body(body: &[u8]) -> Result<Value> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text =
        std::str::from_utf8(body).map_err(|_| ApiError::bad_request("the request body is not UTF-8"))?;
    serde_saphyr::from_str(text)
        .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))
}

#[cfg(test)]
mod tests;
