//! Tables: objects as rows for people.

use serde_json::{Value, json};

use crate::meta;
use crate::resources::ResourceType;

/// The columns of a type.
pub(crate) fn columns(resource: &ResourceType) -> Value {
    let mut columns = vec![json!({
        "name": "Name", "type": "string", "format": "name", "description": "", "priority": 0,
    })];
    columns.extend(resource.custom.iter().flat_map(|custom| custom.columns.iter().cloned()));
    columns.into()
}

/// The cells of an object's row.
pub(crate) fn cells(resource: &ResourceType, object: &Value) -> Vec<Value> {
    let custom = resource.custom.iter().flat_map(|custom| &custom.columns).map(|_| Value::Null);
    std::iter::once(meta::name(object).into()).chain(custom).collect()
}
