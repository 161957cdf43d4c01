//! JSON patch, RFC 6902, within limits.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
use serde_json::Value;

/// As many operations as Kubernetes allows.
const MAX_OPERATIONS: usize = 10_000;
/// How much all copies of one patch may add.
const MAX_COPIED: usize = 3 * 1024 * 1024;
/// How deep a value may become: everything that walks values recurses.
const MAX_DEPTH: usize = 256;

/// Why a patch did not apply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    /// Not a JSON patch: 400.
    #[error("{0}")]
    Malformed(String),
    /// It does not fit the object, or a test failed: 422.
    #[error("{0}")]
    Failed(String),
}

/// The patched value.
pub(crate) fn json(target: &Value, patch: &Value) -> Result<Value, JsonError> {
    let patch: Patch =
        serde_json::from_value(patch.clone()).map_err(|error| JsonError::Malformed(error.to_string()))?;
    if patch.0.len() > MAX_OPERATIONS {
        return Err(JsonError::Malformed(format!(
            "the allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            patch.0.len()
        )));
    }
    let mut value = target.clone();
    let mut copied = 0;
    for operation in patch.0 {
        let operation = as_kubernetes(&value, operation);
        if let PatchOperation::Copy(_) | PatchOperation::Move(_) = &operation {
            check_source(&value, &operation, &mut copied)?;
        }
        if operation.path().as_str().matches('/').count() > MAX_DEPTH / 2 {
            return Err(JsonError::Failed(format!("{}: the path is too deep", operation.path())));
        }
        json_patch::patch(&mut value, std::slice::from_ref(&operation))
            .map_err(|error| JsonError::Failed(error.to_string()))?;
    }
    Ok(value)
}

/// Kubernetes counts a negative index from a list's end, and replaces a key of a map that is not there.
fn as_kubernetes(value: &Value, operation: PatchOperation) -> PatchOperation {
    let Some((parent, last)) = operation.path().as_str().rsplit_once('/') else { return operation };
    let place = match (value.pointer(parent), last.parse::<i64>()) {
        (Some(Value::Array(list)), Ok(index)) if index < 0 => {
            // One that is added at the end comes after the last.
            let length = list.len() + usize::from(matches!(operation, PatchOperation::Add(_)));
            let index = usize::try_from(index.unsigned_abs()).ok().and_then(|back| length.checked_sub(back));
            index.map(|index| format!("{parent}/{index}"))
        }
        _ => None,
    };
    let path = place.and_then(|place| PointerBuf::parse(place).ok());
    match operation {
        PatchOperation::Add(AddOperation { path: old, value }) => {
            PatchOperation::Add(AddOperation { path: path.unwrap_or(old), value })
        }
        PatchOperation::Remove(RemoveOperation { path: old }) => {
            PatchOperation::Remove(RemoveOperation { path: path.unwrap_or(old) })
        }
        PatchOperation::Replace(ReplaceOperation { path: old, value: new }) => {
            let path = path.unwrap_or(old);
            let missing = value.pointer(path.as_str()).is_none();
            let in_map = value.pointer(parent_of(path.as_str())).is_some_and(Value::is_object);
            if missing && in_map {
                PatchOperation::Add(AddOperation { path, value: new })
            } else {
                PatchOperation::Replace(ReplaceOperation { path, value: new })
            }
        }
        other => other,
    }
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn check_source(value: &Value, operation: &PatchOperation, copied: &mut usize) -> Result<(), JsonError> {
    let (from, path, copies) = match operation {
        PatchOperation::Copy(operation) => (operation.from.as_str(), operation.path.as_str(), true),
        PatchOperation::Move(operation) => (operation.from.as_str(), operation.path.as_str(), false),
        _ => return Ok(()),
    };
    let Some(source) = value.pointer(from) else { return Ok(()) };
    if depth(source) + path.matches('/').count() > MAX_DEPTH {
        return Err(JsonError::Failed(format!("{from} to {path}: the object would be too deep")));
    }
    if copies {
        *copied += source.to_string().len();
        if *copied > MAX_COPIED {
            return Err(JsonError::Failed(format!("copies add more than {MAX_COPIED} bytes")));
        }
    }
    Ok(())
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
