//! Objects out of JSON, one by one: what cannot be read costs itself and nothing else.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Of an object that cannot be read, what can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// `namespace/name`.
    pub(super) name: String,
    /// `metadata.resourceVersion`.
    pub(super) version: Option<String>,
    /// What is wrong with it.
    pub(super) why: String,
}

/// One event of a watch.
pub(super) enum Happened<O> {
    /// The object is this now.
    Set(O),
    /// There is no such object.
    Removed(O),
    /// Nothing but a version.
    Bookmark(String),
    /// The server says that something is wrong.
    Error(Box<kube::core::Status>),
    /// Something about an object that cannot be read.
    Unreadable(Unreadable),
}

/// A page of a list.
pub(super) struct Page<O> {
    pub(super) objects: Vec<Result<O, Unreadable>>,
    pub(super) version: String,
    pub(super) next: Option<String>,
}

/// Reads a page of a list.
///
/// # Errors
/// When it is no list at all.
pub(super) fn page<O: DeserializeOwned + Clone>(text: &str) -> serde_json::Result<Page<O>> {
    if let Ok(page) = serde_json::from_str::<kube::api::ObjectList<O>>(text) {
        return Ok(Page {
            objects: page.items.into_iter().map(Ok).collect(),
            version: page.metadata.resource_version.unwrap_or_default(),
            next: page.metadata.continue_.filter(|token| !token.is_empty()),
        });
    }
    let mut list: Value = serde_json::from_str(text)?;
    let text_of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, next) =
        (text_of(&list["metadata"]["resourceVersion"]), text_of(&list["metadata"]["continue"]));
    let items = match list["items"].take() {
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        _ => return Err(serde::de::Error::custom("items is no list")),
    };
    Ok(Page {
        objects: items.into_iter().map(object).collect(),
        version,
        next: Some(next).filter(|next| !next.is_empty()),
    })
}

/// Reads a line of a watch.
///
/// # Errors
/// When it is no event at all.
pub(super) fn event<O: DeserializeOwned + Clone>(line: &str) -> serde_json::Result<Happened<O>> {
    use kube::api::WatchEvent;
    match serde_json::from_str::<WatchEvent<O>>(line) {
        Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => return Ok(Happened::Set(object)),
        Ok(WatchEvent::Deleted(object)) => return Ok(Happened::Removed(object)),
        Ok(WatchEvent::Bookmark(mark)) => return Ok(Happened::Bookmark(mark.metadata.resource_version)),
        Ok(WatchEvent::Error(status)) => return Ok(Happened::Error(status)),
        Err(_) => {}
    }
    let mut event: Value = serde_json::from_str(line)?;
    let (kind, value) = (event["type"].take(), event["object"].take());
    match kind.as_str().unwrap_or_default() {
        "ADDED" | "MODIFIED" => Ok(object(value).map_or_else(Happened::Unreadable, Happened::Set)),
        "DELETED" => {
            // Whose it was is enough.
            let bare = json!({
                "apiVersion": value["apiVersion"], "kind": value["kind"],
                "metadata": {
                    "name": value["metadata"]["name"], "namespace": value["metadata"]["namespace"],
                    "resourceVersion": value["metadata"]["resourceVersion"], "uid": value["metadata"]["uid"],
                },
            });
            Ok(object(value).or_else(|_| object(bare)).map_or_else(Happened::Unreadable, Happened::Removed))
        }
        other => Err(serde::de::Error::custom(format!("event of type {other:?}"))),
    }
}

/// An object; null stands for a field that is not there, which is what it means to the API.
fn object<O: DeserializeOwned>(mut value: Value) -> Result<O, Unreadable> {
    let why = match serde_json::from_value(value.clone()) {
        Ok(object) => return Ok(object),
        Err(error) => error.to_string(),
    };
    without_nulls(&mut value);
    let metadata = value["metadata"].clone();
    serde_json::from_value(value).map_err(|_| {
        let text = |key: &str| metadata[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let name = text("name").unwrap_or_else(|| "(no name)".to_owned());
        let name = text("namespace").map_or_else(|| name.clone(), |namespace| format!("{namespace}/{name}"));
        Unreadable { name, version: text("resourceVersion"), why }
    })
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    fn service(name: &str, port: Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop", "resourceVersion": "7" },
            "spec": { "ports": [{ "port": port }] },
        })
    }

    /// B6: null stands for what is not there.
    #[test]
    fn null_where_something_should_be_is_read() {
        let mut odd = service("a", json!(80));
        odd["metadata"]["labels"] = json!({ "tier": null });
        let list = json!({ "metadata": { "resourceVersion": "9" }, "items": [odd] });
        let page = page::<Service>(&list.to_string()).unwrap();
        assert_eq!(page.version, "9");
        assert_eq!(page.objects[0].as_ref().unwrap().metadata.name.as_deref(), Some("a"));
    }

    /// B6: on a list and on events, one bad object costs that object.
    #[test]
    fn one_that_cannot_be_read_is_named_and_the_others_are_read() {
        let bad = service("bad", json!("eighty"));
        let list = json!({ "metadata": { "continue": "x" }, "items": [service("a", json!(80)), bad, service("b", json!(81))] });
        let page = page::<Service>(&list.to_string()).unwrap();
        assert_eq!(page.next.as_deref(), Some("x"));
        let names: Vec<String> = page
            .objects
            .iter()
            .map(|one| {
                one.as_ref().map_or_else(|bad| bad.name.clone(), |one| one.metadata.name.clone().unwrap())
            })
            .collect();
        assert_eq!(names, ["a", "shop/bad", "b"]);
        let of = |kind: &str| event::<Service>(&json!({ "type": kind, "object": bad }).to_string()).unwrap();
        assert!(matches!(of("MODIFIED"), Happened::Unreadable(bad) if bad.version.as_deref() == Some("7")));
        assert!(
            matches!(of("DELETED"), Happened::Removed(gone) if gone.metadata.name.as_deref() == Some("bad"))
        );
        assert!(event::<Service>("{\"type\":\"ADDED\",\"obj").is_err());
    }
}
