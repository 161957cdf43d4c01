//! Values seen as fields: what is in one, what differs between two, merging and pruning by fields.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::{Element, Set, canonical};
use crate::meta;
use crate::resources::lists::{ListKind, Lists};

/// Names of the fields down to here.
pub(crate) type Path = Vec<String>;

/// What differs between two values.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) added: Set,
    pub(crate) modified: Set,
    pub(crate) removed: Set,
}

impl Difference {
    fn put(&mut self, element: &Element, inner: Difference) {
        self.added.put(element.clone(), inner.added);
        self.modified.put(element.clone(), inner.modified);
        self.removed.put(element.clone(), inner.removed);
    }
}

/// The items of a list by their elements; `None` if the list is one value, or its items cannot be told apart.
fn items(lists: &Lists, list: &[Value], path: &Path) -> Option<Vec<(Element, usize)>> {
    let mut found = Vec::with_capacity(list.len());
    match lists.list(path) {
        ListKind::Atomic => return None,
        ListKind::Set => {
            for (at, item) in list.iter().enumerate() {
                found.push((Element::Value(item.to_string()), at));
            }
        }
        ListKind::Map(keys) => {
            for (at, item) in list.iter().enumerate() {
                found.push((key_of(item, &keys)?, at));
            }
        }
    }
    Some(found)
}

fn key_of(item: &Value, keys: &[String]) -> Option<Element> {
    let item = item.as_object()?;
    let mut parts = BTreeMap::new();
    for key in keys {
        match item.get(key) {
            Some(value) if !value.is_null() => {
                parts.insert(key.clone(), value.clone());
            }
            // The one key with a default among the built-in types.
            _ if key == "protocol" => {
                parts.insert(key.clone(), "TCP".into());
            }
            _ if keys.len() == 1 => return None,
            _ => {}
        }
    }
    Some(Element::Key(canonical(&parts)))
}

/// The fields of a map.
pub(crate) fn fields(lists: &Lists, map: &Map<String, Value>, path: &mut Path) -> Set {
    let mut set = Set::default();
    for (name, value) in map {
        path.push(name.clone());
        note(lists, Element::Field(name.clone()), value, path, &mut set, false);
        path.pop();
    }
    set
}

/// Adds an element and what is below it. `whole`: the element itself is a member, too.
fn note(lists: &Lists, element: Element, value: &Value, path: &mut Path, set: &mut Set, whole: bool) {
    match value {
        Value::Object(map) if !map.is_empty() && !lists.is_atomic_map(path) => {
            let inner = if whole { all_fields(lists, map, path) } else { fields(lists, map, path) };
            if whole && path.len() > 1 {
                set.insert(element.clone());
            }
            set.put(element, inner);
        }
        Value::Array(list) if !list.is_empty() => match items(lists, list, path) {
            None => set.insert(element),
            Some(items) => {
                let mut inner = Set::default();
                for (item, at) in items {
                    inner.insert(item.clone());
                    if let Some(Value::Object(map)) = list.get(at) {
                        let below =
                            if whole { all_fields(lists, map, path) } else { fields(lists, map, path) };
                        inner.put(item, below);
                    }
                }
                if whole {
                    set.insert(element.clone());
                }
                set.put(element, inner);
            }
        },
        _ => set.insert(element),
    }
}

/// The first items with the same key.
pub(crate) fn repeated(lists: &Lists, map: &Map<String, Value>, path: &mut Path) -> Option<String> {
    for (name, value) in map {
        path.push(name.clone());
        let found = match value {
            Value::Object(inner) => repeated(lists, inner, path),
            Value::Array(list) => {
                let keys = items(lists, list, path).unwrap_or_default();
                let same = keys.iter().enumerate().find(|(at, (key, _))| {
                    matches!(key, Element::Key(_)) && keys.iter().take(*at).any(|(other, _)| other == key)
                });
                match same {
                    Some((_, (key, _))) => {
                        Some(format!(".{}: duplicate entries for key {}", path.join("."), key.human()))
                    }
                    None => {
                        list.iter().filter_map(Value::as_object).find_map(|item| repeated(lists, item, path))
                    }
                }
            }
            _ => None,
        };
        path.pop();
        if found.is_some() {
            return found;
        }
    }
    None
}

/// As `fields`, every map and list being a member as well.
fn all_fields(lists: &Lists, map: &Map<String, Value>, path: &mut Path) -> Set {
    let mut set = Set::default();
    for (name, value) in map {
        path.push(name.clone());
        note(lists, Element::Field(name.clone()), value, path, &mut set, true);
        path.pop();
    }
    set
}

/// From `before` to `after`.
pub(crate) fn compare(
    lists: &Lists,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    path: &mut Path,
) -> Difference {
    let mut difference = Difference::default();
    for (name, value) in after {
        path.push(name.clone());
        let element = Element::Field(name.clone());
        match before.get(name) {
            None => note(lists, element, value, path, &mut difference.added, true),
            Some(old) if old == value => {}
            Some(old) => compare_values(lists, &element, old, value, path, &mut difference),
        }
        path.pop();
    }
    for (name, value) in before.iter().filter(|(name, _)| !after.contains_key(*name)) {
        path.push(name.clone());
        note(lists, Element::Field(name.clone()), value, path, &mut difference.removed, true);
        path.pop();
    }
    difference
}

fn compare_values(
    lists: &Lists,
    element: &Element,
    old: &Value,
    new: &Value,
    path: &mut Path,
    difference: &mut Difference,
) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) if !lists.is_atomic_map(path) => {
            let inner = compare(lists, old, new, path);
            difference.put(element, inner);
        }
        (Value::Array(old_list), Value::Array(new_list)) => {
            match (items(lists, old_list, path), items(lists, new_list, path)) {
                (Some(old_items), Some(new_items)) => {
                    let inner = compare_items(lists, (old_list, &old_items), (new_list, &new_items), path);
                    difference.put(element, inner);
                }
                _ => difference.modified.insert(element.clone()),
            }
        }
        _ => difference.modified.insert(element.clone()),
    }
}

type Items<'a> = (&'a [Value], &'a [(Element, usize)]);

fn compare_items(lists: &Lists, old: Items<'_>, new: Items<'_>, path: &mut Path) -> Difference {
    let mut difference = Difference::default();
    let olds: BTreeMap<&Element, &Value> =
        old.1.iter().filter_map(|(element, at)| Some((element, old.0.get(*at)?))).collect();
    let news: BTreeMap<&Element, &Value> =
        new.1.iter().filter_map(|(element, at)| Some((element, new.0.get(*at)?))).collect();
    let whole = |set: &mut Set, element: &Element, value: &Value, path: &mut Path| {
        set.insert(element.clone());
        if let Value::Object(map) = value {
            set.put(element.clone(), all_fields(lists, map, path));
        }
    };
    for (element, value) in &news {
        match (olds.get(element), value) {
            (None, value) => whole(&mut difference.added, element, value, path),
            (Some(Value::Object(old)), Value::Object(new)) => {
                let inner = compare(lists, old, new, path);
                difference.put(element, inner);
            }
            _ => {}
        }
    }
    for (element, value) in olds.iter().filter(|(element, _)| !news.contains_key(*element)) {
        whole(&mut difference.removed, element, value, path);
    }
    difference
}

/// Puts `config` over `live`.
pub(crate) fn merge(
    lists: &Lists,
    live: &mut Map<String, Value>,
    config: &Map<String, Value>,
    path: &mut Path,
) {
    for (name, value) in config {
        path.push(name.clone());
        match (live.get_mut(name), value) {
            (Some(Value::Object(old)), Value::Object(new)) if !lists.is_atomic_map(path) => {
                merge(lists, old, new, path);
            }
            (Some(Value::Array(old)), Value::Array(new)) => merge_lists(lists, old, new, path),
            _ => {
                live.insert(name.clone(), value.clone());
            }
        }
        path.pop();
    }
}

fn merge_lists(lists: &Lists, live: &mut Vec<Value>, config: &[Value], path: &mut Path) {
    let (Some(old), Some(new)) = (items(lists, live, path), items(lists, config, path)) else {
        live.clear();
        live.extend_from_slice(config);
        return;
    };
    let places: BTreeMap<Element, usize> = old.into_iter().collect();
    for (element, at) in new {
        let Some(value) = config.get(at) else { continue };
        match (places.get(&element).and_then(|place| live.get_mut(*place)), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(lists, old, new, path),
            (Some(_), _) => {}
            (None, value) => live.push(value.clone()),
        }
    }
}

/// Removes what is in `last` and that nobody in `owned` has.
pub(crate) fn prune(lists: &Lists, map: &mut Map<String, Value>, last: &Set, owned: &Set, path: &mut Path) {
    let none = Set::default();
    for element in last.members() {
        if let Element::Field(name) = element
            && !owned.contains(element)
            && owned.child(element).is_none()
        {
            map.remove(name);
        }
    }
    for (element, inner) in last.children() {
        let Element::Field(name) = element else { continue };
        let held = owned.child(element).unwrap_or(&none);
        path.push(name.clone());
        let emptied = match map.get_mut(name) {
            Some(Value::Object(value)) => {
                prune(lists, value, inner, held, path);
                value.is_empty()
            }
            Some(Value::Array(list)) => {
                prune_list(lists, list, inner, held, path);
                list.is_empty()
            }
            _ => false,
        };
        path.pop();
        if emptied && !owned.contains(element) && held.is_empty() {
            map.remove(name);
        }
    }
}

fn prune_list(lists: &Lists, list: &mut Vec<Value>, last: &Set, owned: &Set, path: &mut Path) {
    let Some(found) = items(lists, list, path) else { return };
    let none = Set::default();
    let mut gone = Vec::new();
    for (element, at) in found {
        let held = owned.child(&element).unwrap_or(&none);
        if last.contains(&element) && !owned.contains(&element) && held.is_empty() {
            gone.push(at);
        } else if let (Some(inner), Some(Value::Object(item))) = (last.child(&element), list.get_mut(at)) {
            prune(lists, item, inner, held, path);
        }
    }
    let mut at = 0;
    list.retain(|_| {
        at += 1;
        !gone.contains(&(at - 1))
    });
}

/// The object without what nobody manages: its identity and the server's own metadata.
pub(crate) fn managed_part(object: &Value) -> Map<String, Value> {
    const SERVERS: &[&str] = &[
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "selfLink",
    ];
    let mut part = Map::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        match name.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                let kept = value.as_object().into_iter().flatten();
                let kept = kept.filter(|(name, _)| !SERVERS.contains(&name.as_str()));
                let metadata: Map<String, Value> =
                    kept.map(|(name, value)| (name.clone(), value.clone())).collect();
                if !metadata.is_empty() {
                    part.insert(name.clone(), metadata.into());
                }
            }
            _ => {
                part.insert(name.clone(), value.clone());
            }
        }
    }
    part
}

/// Removes nulls at any depth: in a configuration they mean "not said".
pub(crate) fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// Puts a managed part back under an object's identity.
pub(crate) fn with_part(object: &Value, part: Map<String, Value>) -> Value {
    let mut out = object.clone();
    let map = meta::map_of(&mut out);
    let identity = map.get("metadata").cloned().unwrap_or_default();
    map.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind"));
    let mut metadata = Map::new();
    let managed = managed_part(object);
    let was = managed.get("metadata");
    for (name, value) in identity.as_object().into_iter().flatten() {
        if was.is_none_or(|was| was.get(name).is_none()) {
            metadata.insert(name.clone(), value.clone());
        }
    }
    for (name, value) in part {
        match (name.as_str(), value) {
            ("metadata", Value::Object(fields)) => metadata.extend(fields),
            (_, value) => {
                map.insert(name, value);
            }
        }
    }
    map.insert("metadata".to_owned(), metadata.into());
    out
}
