//! Strategic merge patch: merges lists by key, and obeys the directives `$patch`, `$retainKeys`,
//! `$setElementOrder/…` and `$deleteFromPrimitiveList/…`.

use serde_json::{Map, Value};

use crate::resources::lists::Lists;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// The patched object; an error says which part of the patch makes no sense.
pub(crate) fn strategic(target: &Value, patch: &Value, lists: &Lists) -> Result<Value, String> {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else {
        return Err("a strategic merge patch must be an object".to_owned());
    };
    merge_map(target.clone(), patch, lists, &mut Vec::new()).map(Value::Object)
}

fn merge_map(
    mut target: Map<String, Value>,
    patch: &Map<String, Value>,
    lists: &Lists,
    path: &mut Vec<String>,
) -> Result<Map<String, Value>, String> {
    match patch.get(DIRECTIVE).map(Value::as_str) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => return Ok(plain_map(patch)),
        Some(Some("delete")) => return Ok(Map::new()),
        Some(_) => return Err(format!("{}: unknown $patch directive {}", at(path), patch[DIRECTIVE])),
    }
    if let Some(retained) = patch.get(RETAIN) {
        retain(&mut target, patch, retained, path)?;
    }
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix(DELETE) {
            delete_scalars(&mut target, list, value, path)?;
        }
    }
    for (name, value) in patch.iter().filter(|(name, _)| !is_directive(name)) {
        if value.is_null() {
            target.remove(name);
            continue;
        }
        path.push(name.clone());
        let merged = match (target.remove(name), value) {
            (_, Value::Object(new)) if lists.replaces(path) => plain_map(new).into(),
            (Some(Value::Object(old)), Value::Object(new)) => merge_map(old, new, lists, path)?.into(),
            (Some(Value::Array(old)), Value::Array(new)) => merge_list(old, new, lists, path)?.into(),
            (_, Value::Object(new)) => merge_map(Map::new(), new, lists, path)?.into(),
            (_, Value::Array(new)) => merge_list(Vec::new(), new, lists, path)?.into(),
            (_, scalar) => scalar.clone(),
        };
        path.pop();
        target.insert(name.clone(), merged);
    }
    for (name, order) in patch {
        if let (Some(list), Value::Array(order)) = (name.strip_prefix(ORDER), order) {
            path.push(list.to_owned());
            let key = lists.merge_key(path);
            path.pop();
            if let Some(Value::Array(items)) = target.get_mut(list) {
                reorder(items, order, key);
            }
        }
    }
    Ok(target)
}

fn is_directive(name: &str) -> bool {
    name == DIRECTIVE || name == RETAIN || name.starts_with(ORDER) || name.starts_with(DELETE)
}

fn at(path: &[String]) -> String {
    if path.is_empty() { "the object".to_owned() } else { path.join(".") }
}

fn retain(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    retained: &Value,
    path: &[String],
) -> Result<(), String> {
    let Some(retained) = retained.as_array() else {
        return Err(format!("{}: $retainKeys is not a list", at(path)));
    };
    let kept = |name: &str| retained.iter().any(|kept| kept == name);
    let stray = patch.iter().find(|(name, value)| !is_directive(name) && !value.is_null() && !kept(name));
    if let Some((name, _)) = stray {
        return Err(format!("{}: {name} is patched but not in $retainKeys", at(path)));
    }
    target.retain(|name, _| kept(name));
    Ok(())
}

fn delete_scalars(
    target: &mut Map<String, Value>,
    list: &str,
    values: &Value,
    path: &[String],
) -> Result<(), String> {
    let Some(values) = values.as_array() else {
        return Err(format!("{}: {DELETE}{list} is not a list", at(path)));
    };
    if let Some(Value::Array(items)) = target.get_mut(list) {
        items.retain(|item| !values.contains(item));
    }
    Ok(())
}

fn merge_list(
    old: Vec<Value>,
    new: &[Value],
    lists: &Lists,
    path: &mut Vec<String>,
) -> Result<Vec<Value>, String> {
    let Some(key) = lists.merge_key(path) else {
        if lists.merges_scalars(path) {
            let mut merged = old.clone();
            for item in new {
                if !merged.contains(item) {
                    merged.push(item.clone());
                }
            }
            return Ok(arranged(merged, new, &old, None));
        }
        return Ok(new.iter().map(plain).collect());
    };
    if new.iter().any(|item| item[DIRECTIVE] == "replace" && item.get(key).is_none()) {
        let items = new.iter().filter(|item| item[DIRECTIVE] != "replace" || item.get(key).is_some());
        return Ok(items.map(plain).collect());
    }
    let mut merged = old.clone();
    for item in new {
        let Some(patch) = item.as_object() else {
            return Err(format!("{}: the item {item} is not an object", at(path)));
        };
        let Some(id) = patch.get(key).filter(|id| !id.is_null()) else {
            return Err(format!("{}: the item {item} does not contain the merge key {key:?}", at(path)));
        };
        let place = merged.iter().position(|found| found.get(key) == Some(id));
        match (patch.get(DIRECTIVE).and_then(Value::as_str), place) {
            (Some("delete"), _) => merged.retain(|found| found.get(key) != Some(id)),
            (_, Some(place)) => {
                let Some(slot) = merged.get_mut(place) else { continue };
                let before = match slot.take() {
                    Value::Object(before) => before,
                    _ => Map::new(),
                };
                *slot = merge_map(before, patch, lists, path)?.into();
            }
            (_, None) => merged.push(merge_map(Map::new(), patch, lists, path)?.into()),
        }
    }
    Ok(arranged(merged, new, &old, Some(key)))
}

/// The items of a patch stand in its order; the others where they stood before those of them that there were, and behind new ones.
fn arranged(items: Vec<Value>, patch: &[Value], old: &[Value], key: Option<&str>) -> Vec<Value> {
    let id = |item: &Value| match key {
        Some(key) => item.get(key).cloned().unwrap_or_default(),
        None => item.clone(),
    };
    let place = |list: &[Value], item: &Value| list.iter().position(|other| id(other) == id(item));
    let (mut patched, rest): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| place(patch, item).is_some());
    patched.sort_by_key(|item| place(patch, item));
    let (mut patched, mut rest) = (patched.into_iter().peekable(), rest.into_iter().peekable());
    let mut all = Vec::new();
    while let (Some(left), Some(right)) = (rest.peek(), patched.peek()) {
        let first = place(old, left).zip(place(old, right)).is_some_and(|(left, right)| left < right);
        all.extend(if first { rest.next() } else { patched.next() });
    }
    all.extend(rest);
    all.extend(patched);
    all
}

/// Items named in `order` stand in that order; the others keep their place before the item that followed them.
fn reorder(items: &mut Vec<Value>, order: &[Value], key: Option<&str>) {
    let id = |item: &Value| match key {
        Some(key) => item.get(key).cloned().unwrap_or_default(),
        None => item.clone(),
    };
    let ranks: Vec<Option<usize>> = items
        .iter()
        .map(|item| {
            let wanted = id(item);
            order.iter().position(|entry| id(entry) == wanted)
        })
        .collect();
    let mut named: Vec<(usize, usize)> =
        ranks.iter().enumerate().filter_map(|(place, rank)| Some(((*rank)?, place))).collect();
    named.sort_unstable();
    let mut rest =
        ranks.iter().enumerate().filter(|(_, rank)| rank.is_none()).map(|(place, _)| place).peekable();
    let mut places = Vec::with_capacity(items.len());
    for (_, place) in named {
        while let Some(other) = rest.next_if(|other| *other < place) {
            places.push(other);
        }
        places.push(place);
    }
    places.extend(rest);
    let mut taken: Vec<Option<Value>> = items.drain(..).map(Some).collect();
    items.extend(places.into_iter().filter_map(|place| taken.get_mut(place).and_then(Option::take)));
}

/// A value of the patch taken as it is: without directives and nulls.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => plain_map(map).into(),
        Value::Array(list) => {
            list.iter().filter(|item| item[DIRECTIVE] != "delete").map(plain).collect::<Vec<_>>().into()
        }
        scalar => scalar.clone(),
    }
}

fn plain_map(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter()
        .filter(|(name, value)| !is_directive(name) && !value.is_null())
        .map(|(name, value)| (name.clone(), plain(value)))
        .collect()
}
