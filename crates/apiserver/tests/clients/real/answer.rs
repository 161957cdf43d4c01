//! Answers in lines that two servers can be compared by.
//!
//! The first line is the status code, and of a failure its reason and message. Then come, of an object, the fields in which it is
//! not what was sent (of a patch: what it was): `+` there is one more, `~` it has another value, `-` it is gone. What
//! every server makes up itself is left out (uid, version, time of creation, who manages which field) or stands as `<IPv4>`,
//! `<port>` and the like. Of a list there are its items' names.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Fields of `metadata` that say nothing here.
const MADE_UP: [&str; 5] = ["uid", "resourceVersion", "creationTimestamp", "managedFields", "selfLink"];

pub fn lines(code: u16, warnings: &[String], body: &[u8], base: &Value, sent: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    if answer.is_null() {
        lines.push(format!("{code} {}", plain(String::from_utf8_lossy(body).trim(), sent)));
    } else if answer["kind"] == "Status" && answer["status"] == "Failure" {
        let text = |name: &str| answer[name].as_str().unwrap_or_default();
        lines.push(format!("{code} {}: {}", text("reason"), plain(&message(text("message"), base), sent)));
        let details = &answer["details"];
        let mut causes = Vec::new();
        for cause in details["causes"].as_array().into_iter().flatten() {
            let text = |name: &str| cause[name].as_str().unwrap_or_default();
            let cause = format!("cause {} {}", text("reason"), text("field")).trim_end().to_owned();
            // Some servers say a thing twice.
            if !causes.contains(&cause) {
                causes.push(cause);
            }
        }
        lines.extend(causes);
        let text = |name: &str| details[name].as_str().unwrap_or_default();
        let kind = [text("kind"), text("group")].into_iter().filter(|text| !text.is_empty());
        let kind = kind.collect::<Vec<&str>>().join(".");
        if !kind.is_empty() {
            lines.push(format!("details {kind} {}", message(text("name"), base)).trim_end().to_owned());
        }
    } else if let Some(items) = answer["items"].as_array() {
        lines.push(code.to_string());
        lines.push(format!("kind {} {}", answer["apiVersion"], answer["kind"]));
        let names = items.iter().map(|item| item["metadata"]["name"].as_str().unwrap_or_default());
        // Controllers make it, and the lab's server in their place.
        let names: Vec<&str> = names.filter(|name| *name != "kube-root-ca.crt").collect();
        lines.push(format!("items {}", names.join(" ")).trim_end().to_owned());
        for (name, value) in answer["metadata"].as_object().into_iter().flatten() {
            match name.as_str() {
                "resourceVersion" | "selfLink" => {}
                "continue" => lines.push("continue <token>".to_owned()),
                _ => lines.push(format!("{name} {value}")),
            }
        }
    } else {
        lines.push(code.to_string());
        object(&answer, base, sent, &mut lines);
    }
    // `299 - "text"`.
    let text = |warning: &String| {
        let text =
            warning.split_once('"').map_or("", |(_, text)| text.strip_suffix('"').unwrap_or(text)).to_owned();
        format!("warning {}", text.replace("\\\"", "\"").replace("\\\\", "\\"))
    };
    lines.extend(warnings.iter().map(text));
    lines
}

/// The most of a message: what is longer shows a whole object.
const LONGEST: usize = 600;

/// A message on one line, without what no other server would say: versions, times, generated names, objects.
fn message(text: &str, base: &Value) -> String {
    let (text, difference) = text.split_once("\n@@").map_or((text, false), |(text, _)| (text, true));
    let mut text = text.replace('\n', "\\n");
    if difference {
        text.push('…');
    }
    let shown = "patch: Invalid value: \"";
    if let Some(start) = text.find(shown).map(|at| at + shown.len())
        && let Some(end) = text.rfind("}\": ")
        && end > start
    {
        text.replace_range(start..=end, "<object>");
    }
    for (before, after) in [("current: ", ""), ("in record (", ")")] {
        let Some(start) = text.find(before).map(|at| at + before.len()) else { continue };
        let length = text[start..].bytes().take_while(u8::is_ascii_digit).count();
        if length > 0 && text[start + length..].starts_with(after) {
            text.replace_range(start..start + length, "<version>");
        }
    }
    if let Some(prefix) = base["metadata"]["generateName"].as_str().filter(|prefix| !prefix.is_empty()) {
        let parts: Vec<&str> = text.split(prefix).collect();
        let mut out = parts.first().map_or_else(String::new, |part| (*part).to_owned());
        for part in parts.iter().skip(1) {
            out.push_str(prefix);
            let made = part.bytes().take_while(u8::is_ascii_alphanumeric).count() == 5;
            out.push_str(if made { "<made>" } else { "" });
            out.push_str(if made { &part[5..] } else { part });
        }
        text = out;
    }
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The fields in which an answer is not `base`, those of one map on a line.
fn object(answer: &Value, base: &Value, sent: &str, lines: &mut Vec<String>) {
    let (mut before, mut after) = (Fields::new(), Fields::new());
    flatten(base, "", "", &mut before);
    flatten(answer, "", "", &mut after);
    let told = |(parent, name): &(String, String)| {
        let made_up = parent == "metadata" && (MADE_UP.contains(&name.as_str()) || name == "namespace")
            || parent.starts_with("metadata.managedFields");
        // The account of Pods is given by an admission that needs controllers.
        let account = answer["kind"] == "Pod" && parent == "spec" && name.starts_with("serviceAccount");
        !made_up && (!account || sent.contains("serviceAccount"))
    };
    let mut found: BTreeMap<(&str, char), Vec<String>> = BTreeMap::new();
    let paths: BTreeSet<&(String, String)> = before.keys().chain(after.keys()).collect();
    for path in paths.into_iter().filter(|path| told(path)) {
        let (parent, name) = path;
        let (sign, text) = match (before.get(path), after.get(path)) {
            (old, Some(new)) if old != Some(new) => {
                let sign = if old.is_some() { '~' } else { '+' };
                (sign, format!("{name} {}", value(answer, path, new, sent)))
            }
            (Some(_), None) => ('-', name.clone()),
            _ => continue,
        };
        found.entry((parent.as_str(), sign)).or_default().push(text);
    }
    for ((parent, sign), fields) in found {
        let colon = if parent.is_empty() { "" } else { ": " };
        lines.push(format!("{sign} {parent}{colon}{}", fields.join(", ")));
    }
}

/// A value, or what stands for one that the server made up.
fn value(answer: &Value, (parent, name): &(String, String), value: &str, sent: &str) -> String {
    let own = |text: &str| sent.contains(text.trim_matches('"'));
    if matches!(name.as_str(), "nodePort" | "healthCheckNodePort") && !own(value) && value != "0" {
        return "<port>".to_owned();
    }
    if (parent.as_str(), name.as_str()) == ("metadata", "name")
        && answer["metadata"]["generateName"].is_string()
        && !own(value)
    {
        return "<generated>".to_owned();
    }
    if is_time(value.trim_matches('"')) && !own(value) {
        return "<time>".to_owned();
    }
    plain(value, sent)
}

fn is_time(text: &str) -> bool {
    text.len() >= 20 && text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok()
}

/// A text in which stands `<IPv4>`, `<IPv6>`, `<uid>` for what was not sent.
fn plain(text: &str, sent: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    let end = |word: &mut String, out: &mut String| {
        let trimmed = word.trim_end_matches([':', '.']);
        let rest = word[trimmed.len()..].to_owned();
        let known = trimmed.is_empty() || sent.contains(trimmed);
        let is_uid = trimmed.len() == 36 && trimmed.bytes().filter(|byte| *byte == b'-').count() == 4;
        match () {
            () if known => out.push_str(trimmed),
            () if trimmed.starts_with("10.96.") && trimmed.parse::<std::net::Ipv4Addr>().is_ok() => {
                out.push_str("<IPv4>")
            }
            () if trimmed.starts_with("fd00:10:96::") => out.push_str("<IPv6>"),
            () if is_uid => out.push_str("<uid>"),
            () => out.push_str(trimmed),
        }
        out.push_str(&rest);
        word.clear();
    };
    for letter in text.chars() {
        if letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | ':') {
            word.push(letter);
        } else {
            end(&mut word, &mut out);
            out.push(letter);
        }
    }
    end(&mut word, &mut out);
    out
}

/// The map that a field is in and the field's name, and its value.
type Fields = BTreeMap<(String, String), String>;

/// The fields below `parent`.`name`; lists of plain values are one.
fn flatten(value: &Value, parent: &str, name: &str, found: &mut Fields) {
    let path = match (parent, name) {
        ("", name) => name.to_owned(),
        (parent, "") => parent.to_owned(),
        (parent, name) => format!("{parent}.{name}"),
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(name, inner)| flatten(inner, &path, name, found));
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            for (at, inner) in list.iter().enumerate() {
                flatten(inner, parent, &format!("{name}[{at}]"), found);
            }
        }
        Value::Null if path.is_empty() => {}
        value => {
            found.insert((parent.to_owned(), name.to_owned()), value.to_string());
        }
    }
}
