//! Who manages which field: `metadata.managedFields`, and server-side apply, which rests on it.

mod set;
mod walk;

use serde_json::{Map, Value, json};

use crate::error::{ApiError, Result};
use crate::meta;
use crate::resources::ResourceType;
use crate::resources::lists::Lists;
use set::Set;

/// Under which name a write is noted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Manager {
    name: String,
    operation: &'static str,
    api_version: String,
    subresource: String,
}

impl Manager {
    pub(crate) fn update(name: String, resource: &ResourceType, subresource: &str) -> Manager {
        Manager {
            name,
            operation: "Update",
            api_version: resource.api_version(),
            subresource: subresource.to_owned(),
        }
    }

    pub(crate) fn applying(self) -> Manager {
        Manager { operation: "Apply", ..self }
    }

    fn applies(&self) -> bool {
        self.operation == "Apply"
    }
}

/// One manager's entry.
#[derive(Debug, Clone)]
struct Entry {
    manager: Manager,
    time: Value,
    set: Set,
    /// As it was read, so that what does not change stays to the letter.
    raw: Option<Value>,
}

fn read(object: &Value) -> Vec<Entry> {
    let entries = object["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    entries
        .iter()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            Entry {
                manager: Manager {
                    name: text("manager"),
                    operation: if entry["operation"] == "Apply" { "Apply" } else { "Update" },
                    api_version: text("apiVersion"),
                    subresource: text("subresource"),
                },
                time: entry["time"].clone(),
                set: Set::from_json(&entry["fieldsV1"]),
                raw: Some(entry.clone()),
            }
        })
        .collect()
}

fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.set.is_empty());
    // Apply before Update, else in the order of their times.
    entries.sort_by_key(|entry| {
        (entry.manager.operation != "Apply", entry.time.as_str().unwrap_or_default().to_owned())
    });
    let metadata = meta::metadata(object);
    if entries.is_empty() {
        metadata.remove("managedFields");
        return;
    }
    let entries: Vec<Value> = entries
        .into_iter()
        .map(|entry| match entry.raw {
            Some(raw) => raw,
            None => {
                let mut out = json!({
                    "manager": entry.manager.name, "operation": entry.manager.operation,
                    "apiVersion": entry.manager.api_version, "time": entry.time,
                    "fieldsType": "FieldsV1", "fieldsV1": entry.set.to_json(),
                });
                if !entry.manager.subresource.is_empty() {
                    out["subresource"] = entry.manager.subresource.into();
                }
                out
            }
        })
        .collect();
    metadata.insert("managedFields".to_owned(), entries.into());
}

/// Gives `set` to an entry; its time is now if that changes it.
fn give(entries: &mut Vec<Entry>, manager: &Manager, set: Set) {
    match entries.iter_mut().find(|entry| entry.manager == *manager) {
        Some(entry) if entry.set == set => {}
        Some(entry) => {
            entry.set = set;
            entry.time = meta::now().into();
            entry.raw = None;
        }
        None => entries.push(Entry { manager: manager.clone(), time: meta::now().into(), set, raw: None }),
    }
}

fn take(entries: &mut [Entry], except: &Manager, fields: &Set) {
    for entry in entries.iter_mut().filter(|entry| entry.manager != *except) {
        let left = entry.set.difference(fields);
        if left != entry.set {
            entry.set = left;
            entry.raw = None;
        }
    }
}

/// Notes an update (`before` is `None` for a creation): what it set is the manager's, what it removed nobody's.
pub(crate) fn updated(
    manager: &Manager,
    resource: &ResourceType,
    before: Option<&Value>,
    object: &mut Value,
) {
    let lists = Lists::of(resource);
    // A client may empty the list, to start anew, or write it, to hand fields over.
    let sent = object["metadata"]["managedFields"].as_array();
    let reset =
        sent.is_some_and(|list| list.iter().all(|entry| entry.as_object().is_some_and(Map::is_empty)));
    let mut entries = match before {
        Some(_) if reset => Vec::new(),
        Some(_) if sent.is_some() => read(object),
        Some(before) => read(before),
        None => Vec::new(),
    };
    let old = before.map(walk::managed_part).unwrap_or_default();
    let difference = walk::compare(&lists, &old, &walk::managed_part(object), &mut Vec::new());
    let set = difference.added.union(&difference.modified);
    if !set.is_empty() || !difference.removed.is_empty() {
        take(&mut entries, manager, &set.union(&difference.removed));
        let mine = entries.iter().find(|entry| entry.manager == *manager).map(|entry| entry.set.clone());
        let mine = mine.unwrap_or_default().difference(&difference.removed).union(&set);
        give(&mut entries, manager, mine);
    }
    write(object, entries);
}

/// Notes an object that an apply created.
pub(crate) fn created_by_apply(
    manager: &Manager,
    resource: &ResourceType,
    config: &Value,
    object: &mut Value,
) {
    let set = config_fields(resource, manager, config);
    let mut entries = Vec::new();
    give(&mut entries, manager, set);
    write(object, entries);
}

/// The part of a configuration that its (sub)resource takes.
fn config_part(resource: &ResourceType, manager: &Manager, config: &Value) -> Map<String, Value> {
    let mut config = config.clone();
    walk::without_nulls(&mut config);
    let mut part = walk::managed_part(&config);
    if manager.subresource == "status" {
        part.retain(|name, _| name == "status");
    } else if resource.has("status") {
        part.remove("status");
    }
    part
}

fn config_fields(resource: &ResourceType, manager: &Manager, config: &Value) -> Set {
    walk::fields(&Lists::of(resource), &config_part(resource, manager, config), &mut Vec::new())
}

/// Server-side apply of `config` to `live`.
///
/// # Errors
/// 409 naming the fields that others manage and this would change, unless forced.
pub(crate) fn applied(
    manager: &Manager,
    resource: &ResourceType,
    live: &Value,
    config: &Value,
    force: bool,
) -> Result<Value> {
    let lists = Lists::of(resource);
    let part = config_part(resource, manager, config);
    let set = walk::fields(&lists, &part, &mut Vec::new());
    let mut entries = read(live);
    let last = entries.iter().find(|entry| entry.manager == *manager).map(|entry| entry.set.clone());
    let old = walk::managed_part(live);

    let mut merged = old.clone();
    walk::merge(&lists, &mut merged, &part, &mut Vec::new());
    give(&mut entries, manager, set);
    if let Some(last) = last {
        let owned = entries.iter().fold(Set::default(), |all, entry| all.union(&entry.set));
        walk::prune(&lists, &mut merged, &last, &owned, &mut Vec::new());
    }
    let difference = walk::compare(&lists, &old, &merged, &mut Vec::new());
    let changed = difference.added.union(&difference.modified);
    let conflicts: Vec<(&Entry, Set)> = entries
        .iter()
        .filter(|entry| entry.manager != *manager)
        .map(|entry| (entry, entry.set.intersection(&changed)))
        .filter(|(_, set)| !set.is_empty())
        .collect();
    if !force {
        let known = if manager.name == "kubectl" {
            said_by_annotation(resource, manager, live)
        } else {
            Set::default()
        };
        let conflicts: Vec<(&Entry, Set)> = conflicts
            .into_iter()
            .map(|(entry, set)| (entry, set.difference(&known)))
            .filter(|(_, set)| !set.is_empty())
            .collect();
        if !conflicts.is_empty() {
            return Err(conflict(&conflicts));
        }
    }
    take(&mut entries, manager, &changed.union(&difference.removed));
    let mut object = walk::with_part(live, merged);
    write(&mut object, entries);
    Ok(object)
}

/// Items of a list in a configuration that nobody can tell apart, if there are any.
pub(crate) fn repeated(resource: &ResourceType, config: &Value) -> Option<String> {
    let map = config.as_object()?;
    walk::repeated(&Lists::of(resource), map, &mut Vec::new())
}

/// Fields that kubectl's client-side apply said last and that are still so. When kubectl goes over to server-side
/// apply, it has these from itself.
fn said_by_annotation(resource: &ResourceType, manager: &Manager, live: &Value) -> Set {
    let annotations = &live["metadata"]["annotations"];
    let text = annotations["kubectl.kubernetes.io/last-applied-configuration"].as_str().unwrap_or_default();
    let Ok(config) = serde_json::from_str::<Value>(text) else { return Set::default() };
    let lists = Lists::of(resource);
    let part = config_part(resource, manager, &config);
    let old = walk::managed_part(live);
    let mut merged = old.clone();
    walk::merge(&lists, &mut merged, &part, &mut Vec::new());
    let difference = walk::compare(&lists, &old, &merged, &mut Vec::new());
    walk::fields(&lists, &part, &mut Vec::new()).difference(&difference.added.union(&difference.modified))
}

fn conflict(conflicts: &[(&Entry, Set)]) -> Box<ApiError> {
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for (entry, set) in conflicts {
        let manager = &entry.manager;
        let sub = if manager.subresource.is_empty() {
            String::new()
        } else {
            format!(" with subresource {:?}", manager.subresource)
        };
        let using = if manager.applies() { String::new() } else { format!(" using {}", manager.api_version) };
        let who = format!("{:?}{sub}{using}", manager.name);
        let paths = set.paths();
        for path in &paths {
            let message = format!("conflict with {who}");
            causes.push(json!({"reason": "FieldManagerConflict", "message": message, "field": path}));
        }
        lines.push((who, paths));
    }
    let message = match lines.as_slice() {
        [(who, paths)] if paths.len() == 1 => {
            format!("Apply failed with 1 conflict: conflict with {who}: {}", paths.concat())
        }
        lines => {
            let lines: Vec<String> = lines
                .iter()
                .map(|(who, paths)| format!("conflicts with {who}:\n- {}", paths.join("\n- ")))
                .collect();
            format!("Apply failed with {} conflicts: {}", causes.len(), lines.join("\n"))
        }
    };
    let mut error = ApiError::new(409, "Conflict", message);
    error.details = json!({"causes": causes});
    error
}

/// Equal but for times of managed fields: such a write changes nothing.
pub(crate) fn same_but_times(before: &Value, after: &Value) -> bool {
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else { return false };
    if old.len() != new.len()
        || old.iter().any(|(name, value)| name != "metadata" && new.get(name) != Some(value))
    {
        return false;
    }
    let (Some(old), Some(new)) = (before["metadata"].as_object(), after["metadata"].as_object()) else {
        return false;
    };
    let rest = |map: &Map<String, Value>| map.len() - usize::from(map.contains_key("managedFields"));
    rest(old) == rest(new)
        && old.iter().all(|(name, value)| name == "managedFields" || new.get(name) == Some(value))
        && entries(old) == entries(new)
}

fn entries(metadata: &Map<String, Value>) -> Vec<Value> {
    let list = metadata.get("managedFields").and_then(Value::as_array).cloned().unwrap_or_default();
    list.into_iter()
        .map(|mut entry| {
            meta::map_of(&mut entry).remove("time");
            entry
        })
        .collect()
}

#[cfg(test)]
mod tests;
