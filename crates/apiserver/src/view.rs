//! How objects are shown to a client: whole, as metadata only, or as a table for people.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};

use crate::convert;
use crate::error::{ApiError, Result};
use crate::resources::ResourceType;
use crate::store::Object;
use crate::table;

/// What the `Accept` header asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Form {
    Whole,
    Table,
    Metadata,
}

impl Form {
    /// The first form in the header that this server has.
    pub(crate) fn accepted(header: &str) -> Result<Form> {
        if header.trim().is_empty() {
            return Ok(Form::Whole);
        }
        for clause in header.split(',') {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            if !matches!(media, "application/json" | "application/*" | "*/*") {
                continue;
            }
            let parameters: Vec<&str> = parts.collect();
            let shape = parameters.iter().find_map(|parameter| parameter.strip_prefix("as="));
            let meta = parameters.contains(&"g=meta.k8s.io") && parameters.contains(&"v=v1");
            match shape {
                None => return Ok(Form::Whole),
                Some("Table") if meta => return Ok(Form::Table),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") if meta => {
                    return Ok(Form::Metadata);
                }
                Some(_) => {}
            }
        }
        Err(ApiError::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json, application/json;as=Table;v=v1;g=meta.k8s.io, \
             application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
        ))
    }
}

/// What a table's rows carry of their objects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

/// A form, for objects of one type.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) resource: Arc<ResourceType>,
    pub(crate) form: Form,
    pub(crate) include: Include,
}

impl View {
    pub(crate) fn new(resource: Arc<ResourceType>, form: Form, include: &str) -> Result<View> {
        let include = match include {
            "" | "Metadata" => Include::Metadata,
            "None" => Include::None,
            "Object" => Include::Object,
            other => {
                return Err(ApiError::bad_request(format!("unrecognized includeObject value: {other:?}")));
            }
        };
        Ok(View { resource, form, include })
    }

    /// One object, as JSON.
    pub(crate) fn one(&self, object: &Arc<Object>) -> Bytes {
        match self.form {
            Form::Whole => self.whole(object),
            Form::Metadata => Bytes::from(metadata_only(&object.value).to_string()),
            Form::Table => {
                let version = object.value["metadata"]["resourceVersion"].clone();
                let rows = vec![self.row(object)];
                Bytes::from(self.table(rows, json!({"resourceVersion": version})).to_string())
            }
        }
    }

    /// A list, as JSON. `metadata` is the list's own.
    pub(crate) fn list(&self, objects: &[Arc<Object>], metadata: Value) -> Bytes {
        if self.form == Form::Table {
            let rows = objects.iter().map(|object| self.row(object)).collect();
            return Bytes::from(self.table(rows, metadata).to_string());
        }
        let (api_version, kind) = match self.form {
            Form::Metadata => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned()),
            _ => (self.resource.api_version(), format!("{}List", self.resource.kind)),
        };
        let items: Vec<Bytes> = objects.iter().map(|object| self.one(object)).collect();
        let mut out = BytesMut::with_capacity(items.iter().map(|item| item.len() + 1).sum::<usize>() + 256);
        let head = format!(
            "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
            Value::from(kind),
            Value::from(api_version)
        );
        out.put_slice(head.as_bytes());
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                out.put_u8(b',');
            }
            out.put_slice(item);
        }
        out.put_slice(b"]}\n");
        out.freeze()
    }

    /// The object of a bookmark.
    pub(crate) fn bookmark(&self, api_version: &str, kind: &str, metadata: Value) -> Value {
        match self.form {
            Form::Whole => json!({"apiVersion": api_version, "kind": kind, "metadata": metadata}),
            Form::Metadata => {
                json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata})
            }
            Form::Table => {
                let version = metadata["resourceVersion"].clone();
                let object = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata});
                let row = json!({"cells": [], "object": object});
                let mut table = self.table(vec![row], json!({"resourceVersion": version}));
                table["columnDefinitions"] = json!([]);
                table
            }
        }
    }

    fn whole(&self, object: &Arc<Object>) -> Bytes {
        match convert::to_served(&self.resource, &object.value) {
            None => object.json().clone(),
            Some(converted) => Bytes::from(converted.to_string()),
        }
    }

    fn row(&self, object: &Arc<Object>) -> Value {
        let cells = table::cells(&self.resource, &object.value);
        let mut row = json!({"cells": cells});
        match self.include {
            Include::None => {}
            Include::Metadata => row["object"] = metadata_only(&object.value),
            Include::Object => {
                row["object"] =
                    convert::to_served(&self.resource, &object.value).unwrap_or_else(|| object.value.clone());
            }
        }
        row
    }

    fn table(&self, rows: Vec<Value>, metadata: Value) -> Value {
        json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "columnDefinitions": table::columns(&self.resource), "rows": rows,
        })
    }
}

fn metadata_only(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
    })
}
