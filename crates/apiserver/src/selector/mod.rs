//! Label and field selectors.

mod field;
mod label;

use serde_json::Value;

pub(crate) use field::FieldSelector;
pub(crate) use label::{LabelSelector, selects};

use crate::error::Result;
use crate::resources::ResourceType;

/// What a list or a watch wants to see.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selector {
    /// From the query parameters `labelSelector` and `fieldSelector`.
    pub(crate) fn parse(resource: &ResourceType, labels: &str, fields: &str) -> Result<Selector> {
        Ok(Selector {
            labels: LabelSelector::parse(labels)?,
            fields: FieldSelector::parse(resource, fields)?,
        })
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.labels.matches(&object["metadata"]["labels"]) && self.fields.matches(object)
    }
}
