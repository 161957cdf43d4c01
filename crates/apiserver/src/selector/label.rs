//! Label selectors: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.

use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::validation::names;

/// A conjunction of requirements.
#[derive(Debug, Clone, Default)]
pub(crate) struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone)]
enum Operator {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

impl LabelSelector {
    pub(crate) fn parse(text: &str) -> Result<LabelSelector> {
        split(text)
            .into_iter()
            .map(|part| requirement(part.trim()))
            .collect::<Result<_, String>>()
            .map(LabelSelector)
            .map_err(|why| ApiError::bad_request(format!("unable to parse label selector {text:?}: {why}")))
    }

    /// `labels`: the labels of an object, or null.
    pub(crate) fn matches(&self, labels: &Value) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key).and_then(Value::as_str);
            match (&requirement.operator, value) {
                (Operator::Exists, value) => value.is_some(),
                (Operator::Absent, value) => value.is_none(),
                (Operator::In(values), value) => value.is_some_and(|value| values.iter().any(|v| v == value)),
                // Objects without the key match as well.
                (Operator::NotIn(values), value) => {
                    value.is_none_or(|value| values.iter().all(|v| v != value))
                }
                (Operator::Greater(bound), value) => number(value).is_some_and(|value| value > *bound),
                (Operator::Less(bound), value) => number(value).is_some_and(|value| value < *bound),
            }
        })
    }
}

/// Whether a label selector as objects have it (`matchLabels`, `matchExpressions`) selects these labels.
pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    let all = selector["matchLabels"].as_object().into_iter().flatten();
    if all.into_iter().any(|(key, value)| labels.get(key) != Some(value)) {
        return false;
    }
    selector["matchExpressions"].as_array().into_iter().flatten().all(|expression| {
        let value = expression["key"].as_str().and_then(|key| labels.get(key));
        let listed =
            || value.is_some_and(|value| expression["values"].as_array().is_some_and(|v| v.contains(value)));
        match expression["operator"].as_str() {
            Some("In") => listed(),
            Some("NotIn") => !listed(),
            Some("Exists") => value.is_some(),
            Some("DoesNotExist") => value.is_none(),
            _ => false,
        }
    })
}

fn number(value: Option<&str>) -> Option<i64> {
    value?.parse().ok()
}

/// At commas outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.extend(text.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(text.get(start..));
    parts
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let make = |key: &str, operator| {
        let key = key.trim();
        sound(key, names::label_key(key))?;
        Ok(Requirement { key: key.to_owned(), operator })
    };
    if let Some(key) = text.strip_prefix('!') {
        return make(key, Operator::Absent);
    }
    if let Some((head, list)) = text.split_once('(') {
        let list = list.strip_suffix(')').ok_or("missing )")?;
        let values = list.split(',').map(value).collect::<Result<Vec<_>, _>>()?;
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => make(key, Operator::In(values)),
            (Some(key), Some("notin"), None) => make(key, Operator::NotIn(values)),
            _ => Err(format!("{head:?}: expected KEY in (...) or KEY notin (...)")),
        };
    }
    if let Some((key, text)) = text.split_once("!=") {
        return make(key, Operator::NotIn(vec![value(text)?]));
    }
    if let Some((key, text)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return make(key, Operator::In(vec![value(text)?]));
    }
    let bound = |text: &str| text.trim().parse::<i64>().map_err(|_| format!("{text:?} is not a number"));
    if let Some((key, text)) = text.split_once('>') {
        return make(key, Operator::Greater(bound(text)?));
    }
    if let Some((key, text)) = text.split_once('<') {
        return make(key, Operator::Less(bound(text)?));
    }
    make(text, Operator::Exists)
}

fn value(text: &str) -> Result<String, String> {
    let text = text.trim();
    sound(text, names::label_value(text))?;
    Ok(text.to_owned())
}

fn sound(text: &str, faults: names::Faults) -> Result<(), String> {
    if faults.is_empty() { Ok(()) } else { Err(format!("{text:?}: {}", faults.join(", "))) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::LabelSelector;

    fn selects(selector: &str, labels: serde_json::Value) -> bool {
        LabelSelector::parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn every_operator_selects_as_kubernetes_does() {
        let labels = json!({"app": "web", "tier": "front", "weight": "7"});
        for selector in [
            "",
            "app=web",
            "app==web",
            "app!=api",
            "gone!=x",
            "app in (web,api)",
            "app notin (api)",
            "gone notin (x)",
            "app",
            "!gone",
            "weight>6",
            "weight<8",
            "app=web,tier in (front, back),!gone",
        ] {
            assert!(selects(selector, labels.clone()), "{selector}");
        }
        for selector in ["app=api", "app!=web", "app in (api)", "app notin (web)", "gone", "!app", "weight>7"]
        {
            assert!(!selects(selector, labels.clone()), "{selector}");
        }
    }

    #[test]
    fn what_is_not_a_selector_is_refused() {
        for selector in ["a=b=c", "=x", "a in b", "a in (b", "a>b", ",", "a b", "a=-x", "!"] {
            assert!(LabelSelector::parse(selector).is_err(), "{selector}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "[a-z!=<>(), in.ü/]{0,40}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                selector.matches(&json!({"a": "b"}));
            }
        }
    }

    #[test]
    fn objects_select_by_labels() {
        let labels = json!({"a": "1", "b": "2"});
        for (selector, chosen) in [
            (json!({"matchLabels": {"a": "1"}}), true),
            (json!({"matchLabels": {"a": "1", "c": "3"}}), false),
            (json!({"matchExpressions": [{"key": "b", "operator": "In", "values": ["1", "2"]}]}), true),
            (json!({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["2"]}]}), false),
            (json!({"matchExpressions": [{"key": "c", "operator": "DoesNotExist"}]}), true),
            (json!({"matchExpressions": [{"key": "c", "operator": "Exists"}]}), false),
            (json!({}), true),
        ] {
            assert_eq!(super::selects(&selector, &labels), chosen, "{selector}");
        }
    }
}
