//! Pieces of cells.

use serde_json::Value;

use crate::meta;

pub(super) use crate::verbs::selector_text;

/// How long ago, as kubectl says it.
pub(super) fn since(time: &str) -> String {
    meta::age(time).map_or_else(|| "<unknown>".to_owned(), duration)
}

/// The object's age.
pub(super) fn age_of(object: &Value) -> Value {
    since(object["metadata"]["creationTimestamp"].as_str().unwrap_or_default()).into()
}

/// `9s`, `3m20s`, `15m`, `2h5m`, `3d4h`, `12d`, `2y30d`.
pub(super) fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |major: i64, unit: &str, minor: i64, small: &str| {
        if minor == 0 { format!("{major}{unit}") } else { format!("{major}{unit}{minor}{small}") }
    };
    match (seconds, minutes, hours, days) {
        (..120, ..) => format!("{seconds}s"),
        (_, ..10, ..) => pair(minutes, "m", seconds % 60, "s"),
        (_, ..180, ..) => format!("{minutes}m"),
        (_, _, ..8, _) => pair(hours, "h", minutes % 60, "m"),
        (_, _, ..48, _) => format!("{hours}h"),
        (.., ..8) => pair(days, "d", hours % 24, "h"),
        (.., ..730) => format!("{days}d"),
        (.., ..2920) => pair(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// Text, or `<none>`.
pub(super) fn or_none(text: impl Into<String>) -> Value {
    let text = text.into();
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// A text field, or empty.
pub(super) fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(super) fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn selector(value: &Value) -> Value {
    or_none(selector_text(value))
}

/// One field of every item, joined by commas.
pub(super) fn joined(list: &Value, field: &str) -> Value {
    let words: Vec<&str> = items(list).iter().map(|item| word(&item[field])).collect();
    words.join(",").into()
}

/// What a scalar looks like in a cell.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The first three and how many more.
pub(super) fn some(words: &[String]) -> Value {
    match words {
        [] => "<none>".into(),
        words if words.len() > 3 => format!(
            "{} + {} more...",
            words.iter().take(3).cloned().collect::<Vec<_>>().join(","),
            words.len() - 3
        )
        .into(),
        words => words.join(",").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        let cases = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (900, "15m"),
            (7500, "125m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (86_400, "24h"),
            (172_800, "2d"),
            (270_000, "3d3h"),
            (1_036_800, "12d"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }
}
