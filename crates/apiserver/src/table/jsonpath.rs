//! The part of JSONPath that printer columns use: `.a.b[0]['c'][?(@.d=="e")].f[*]`.

use serde_json::Value;

/// What the path leads to; nothing when it cannot be read.
pub(super) fn find<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![object];
    let mut rest = path.trim().trim_start_matches('$');
    while !rest.is_empty() {
        let Some((step, tail)) = step(rest) else { return Vec::new() };
        found = found.into_iter().flat_map(|value| step.follow(value)).collect();
        rest = tail;
    }
    found
}

enum Step<'t> {
    Field(String),
    Index(i64),
    All,
    /// Items whose value at the path equals the text.
    Equal(&'t str, String),
}

fn step(text: &str) -> Option<(Step<'_>, &str)> {
    if let Some(rest) = text.strip_prefix('.') {
        let mut name = String::new();
        let mut chars = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|(_, c)| c)),
                '.' | '[' => {
                    end = at;
                    break;
                }
                c => name.push(c),
            }
        }
        let step = if name == "*" { Step::All } else { Step::Field(name) };
        return Some((step, rest.get(end..)?));
    }
    let inner = text.strip_prefix('[')?;
    if let Some(filter) = inner.strip_prefix("?(@") {
        let (condition, rest) = filter.split_once(")]")?;
        let (path, wanted) = condition.split_once("==")?;
        let wanted = wanted.trim().trim_matches(['"', '\'']).to_owned();
        return Some((Step::Equal(path.trim(), wanted), rest));
    }
    let (inside, rest) = inner.split_once(']')?;
    let step = match inside {
        "*" => Step::All,
        name if name.starts_with(['\'', '"']) => Step::Field(name.trim_matches(['\'', '"']).to_owned()),
        index => Step::Index(index.parse().ok()?),
    };
    Some((step, rest))
}

impl Step<'_> {
    fn follow<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Step::Field(name) => value.get(name).into_iter().collect(),
            Step::Index(index) => {
                let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let at = if *index < 0 { index + i64::try_from(list.len()).unwrap_or(0) } else { *index };
                usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().collect()
            }
            Step::All => match value {
                Value::Array(list) => list.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            },
            Step::Equal(path, wanted) => {
                let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let equal = |item: &&Value| {
                    find(item, path).first().is_some_and(|found| match found {
                        Value::String(text) => text == wanted,
                        other => other.to_string() == *wanted,
                    })
                };
                list.iter().filter(equal).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::find;

    #[test]
    fn printer_columns_find_their_values() {
        let object = json!({"spec": {"a.b": 1, "list": [{"n": "x"}, {"n": "y"}]}, "status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"},
        ]}});
        assert_eq!(find(&object, ".spec.list[1].n"), [&json!("y")]);
        assert_eq!(find(&object, ".spec.list[*].n"), [&json!("x"), &json!("y")]);
        assert_eq!(find(&object, ".spec.a\\.b"), [&json!(1)]);
        assert_eq!(find(&object, ".spec['a.b']"), [&json!(1)]);
        assert_eq!(find(&object, r#".status.conditions[?(@.type=="Ready")].status"#), [&json!("True")]);
        assert!(find(&object, ".spec.gone.further").is_empty());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(path in "[.\\[\\]?()@='a*0-9\\\\ü-]{0,24}") {
            find(&json!({"a": [{"a": 1}]}), &path);
        }
    }
}
