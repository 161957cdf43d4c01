//! Sets of field paths, as `metadata.managedFields` holds them (FieldsV1).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Element {
    /// `f:name`.
    Field(String),
    /// `k:{"name":"x"}`: the item of a list map; its keys as JSON.
    Key(String),
    /// `v:"x"`: the item of a set, as JSON.
    Value(String),
}

impl Element {
    fn parse(text: &str) -> Option<Element> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Element::Field(rest.to_owned())),
            // Parsed and written again, so that equal keys are equal texts.
            "k" => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(rest).ok()?;
                Some(Element::Key(canonical(&keys)))
            }
            "v" => Some(Element::Value(serde_json::from_str::<Value>(rest).ok()?.to_string())),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Element::Field(name) => format!("f:{name}"),
            Element::Key(keys) => format!("k:{keys}"),
            Element::Value(value) => format!("v:{value}"),
        }
    }

    /// As conflicts name it: `.spec`, `[name="x"]`.
    pub(super) fn human(&self) -> String {
        match self {
            Element::Field(name) => format!(".{name}"),
            Element::Key(keys) => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let parts: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("[{}]", parts.join(","))
            }
            Element::Value(value) => format!("[={value}]"),
        }
    }
}

/// Keys in their order, as JSON.
pub(crate) fn canonical(keys: &BTreeMap<String, Value>) -> String {
    let mut text = String::from("{");
    for (at, (key, value)) in keys.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(&format!("{}:{value}", Value::from(key.as_str())));
    }
    text + "}"
}

/// A set of paths, as a tree.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Set {
    members: BTreeSet<Element>,
    children: BTreeMap<Element, Set>,
}

impl Set {
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(Set::is_empty)
    }

    pub(crate) fn insert(&mut self, element: Element) {
        self.members.insert(element);
    }

    pub(crate) fn contains(&self, element: &Element) -> bool {
        self.members.contains(element)
    }

    pub(crate) fn child(&self, element: &Element) -> Option<&Set> {
        self.children.get(element)
    }

    /// Puts a set below an element; nothing if it is empty.
    pub(crate) fn put(&mut self, element: Element, set: Set) {
        if !set.is_empty() {
            self.children.insert(element, set);
        }
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Element> {
        self.members.iter()
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = (&Element, &Set)> {
        self.children.iter()
    }

    pub(crate) fn union(&self, other: &Set) -> Set {
        let mut result = self.clone();
        result.members.extend(other.members.iter().cloned());
        for (element, set) in &other.children {
            let merged = result.children.get(element).map_or_else(|| set.clone(), |mine| mine.union(set));
            result.children.insert(element.clone(), merged);
        }
        result
    }

    pub(crate) fn difference(&self, other: &Set) -> Set {
        self.combine(
            other,
            |mine, theirs| mine && !theirs,
            |mine, theirs| match theirs {
                Some(theirs) => mine.difference(theirs),
                None => mine.clone(),
            },
        )
    }

    pub(crate) fn intersection(&self, other: &Set) -> Set {
        self.combine(
            other,
            |mine, theirs| mine && theirs,
            |mine, theirs| match theirs {
                Some(theirs) => mine.intersection(theirs),
                None => Set::default(),
            },
        )
    }

    fn combine(
        &self,
        other: &Set,
        member: impl Fn(bool, bool) -> bool,
        child: impl Fn(&Set, Option<&Set>) -> Set,
    ) -> Set {
        let members =
            self.members.iter().filter(|element| member(true, other.members.contains(element))).cloned();
        let mut result = Set { members: members.collect(), children: BTreeMap::new() };
        for (element, set) in &self.children {
            result.put(element.clone(), child(set, other.children.get(element)));
        }
        result
    }

    /// Every path, as conflicts name them.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut out: Vec<String> = self.members.iter().map(Element::human).collect();
        for (element, set) in &self.children {
            out.extend(set.paths().into_iter().map(|rest| element.human() + &rest));
        }
        out.sort();
        out
    }

    pub(crate) fn from_json(value: &Value) -> Set {
        let mut set = Set::default();
        for (text, inner) in value.as_object().into_iter().flatten() {
            let Some(element) = Element::parse(text) else { continue };
            let map = inner.as_object();
            if map.is_none_or(|map| map.is_empty() || map.contains_key(".")) {
                set.members.insert(element.clone());
            }
            set.put(element, Set::from_json(inner));
        }
        set
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut out = Map::new();
        for element in &self.members {
            out.insert(element.text(), Value::Object(Map::new()));
        }
        for (element, set) in &self.children {
            let mut inner = set.to_json();
            if self.members.contains(element)
                && let Some(map) = inner.as_object_mut()
            {
                map.insert(".".to_owned(), Value::Object(Map::new()));
            }
            out.insert(element.text(), inner);
        }
        Value::Object(out)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Set;

    #[test]
    fn sets_survive_the_way_through_json() {
        let fields = json!({
            "f:spec": {
                "f:replicas": {},
                "f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}},
                "f:finalizers": {"v:\"a\"": {}},
            },
        });
        let set = Set::from_json(&fields);
        assert_eq!(set.to_json(), fields);
        assert!(set.paths().contains(&".spec.containers[name=\"web\"].image".to_owned()));
        assert!(set.difference(&set).is_empty());
        assert_eq!(set.intersection(&set), set);
        assert_eq!(set.union(&Set::default()), set);
    }
}
