//! `dig`, and what it saw.

use std::collections::BTreeSet;

use weft_tests::{Place, wait_for};

/// An answer as `dig` shows it: records are `NAME TTL IN TYPE VALUE`, one blank between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// `NOERROR`, `NXDOMAIN`, …
    pub(super) status: String,
    /// `qr aa rd`.
    pub(super) flags: BTreeSet<String>,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additional: Vec<Record>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) ttl: u32,
    pub(super) kind: String,
    pub(super) value: String,
}

/// Asks once, as it is told; the question is fully qualified. No answer at all is none.
pub(super) fn dig(from: &Place, arguments: &[&str]) -> Option<Answer> {
    let shown = ["+noall", "+comments", "+answer", "+authority", "+additional", "+nocookie"];
    let output = from.runs(&[&["dig"], &shown[..], arguments].concat());
    let answer = parse(&output.stdout);
    assert!(answer.is_some() || output.code != Some(0), "{}\n{}", output.command, output.stdout);
    answer
}

/// Asks until the answer has these values, in any order: what was just made takes a moment to reach the node.
#[track_caller]
pub(super) fn answers(from: &Place, name: &str, kind: &str, values: &[&str]) -> Answer {
    let expected: BTreeSet<&str> = values.iter().copied().collect();
    let answer = until(from, name, kind, |answer| {
        let values: BTreeSet<&str> =
            answer.answers.iter().filter(|one| one.kind == kind).map(|one| one.value.as_str()).collect();
        answer.status == "NOERROR" && values == expected
    });
    let of_kind = answer.answers.iter().filter(|one| one.kind == kind).count();
    assert_eq!(of_kind, values.len(), "each once: {answer:?}");
    answer
}

/// Asks until the answer is like this.
#[track_caller]
pub(super) fn until(from: &Place, name: &str, kind: &str, good: impl Fn(&Answer) -> bool) -> Answer {
    wait_for(&format!("{} to be told {name} {kind}", from.what()), || match dig(from, &[name, kind]) {
        Some(answer) if good(&answer) => Ok(answer),
        other => Err(other),
    })
}

/// There is no such name: with an SOA, so that clients know for how long.
#[track_caller]
pub(super) fn has_no_such_name(from: &Place, name: &str, kind: &str) {
    let answer = until(from, name, kind, |answer| answer.status == "NXDOMAIN");
    is_negative(&answer);
}

/// The name is there and has no such record.
#[track_caller]
pub(super) fn has_no_such_record(from: &Place, name: &str, kind: &str) {
    let answer = until(from, name, kind, |answer| answer.status == "NOERROR" && answer.answers.is_empty());
    is_negative(&answer);
}

#[track_caller]
fn is_negative(answer: &Answer) {
    let kinds: Vec<&str> = answer.authorities.iter().map(|one| one.kind.as_str()).collect();
    assert!(answer.answers.is_empty() && kinds == ["SOA"], "{answer:?}");
    assert!(answer.flags.contains("aa"), "from who knows: {answer:?}");
}

fn parse(text: &str) -> Option<Answer> {
    let mut answer = Answer::default();
    let mut section = None;
    for line in text.lines().map(str::trim) {
        if let Some((_, rest)) = line.split_once("status: ") {
            answer.status = rest.split(',').next()?.to_owned();
        } else if let Some(rest) = line.strip_prefix(";; flags: ") {
            answer.flags = rest.split(';').next()?.split_whitespace().map(str::to_owned).collect();
        } else if let Some(name) = line.strip_prefix(";; ") {
            section = name.strip_suffix(" SECTION:").map(str::to_owned);
        } else if !line.is_empty() && !line.starts_with(';') {
            let record = record(line)?;
            match section.as_deref() {
                Some("ANSWER") => answer.answers.push(record),
                Some("AUTHORITY") => answer.authorities.push(record),
                Some("ADDITIONAL") => answer.additional.push(record),
                _ => {}
            }
        }
    }
    (!answer.status.is_empty()).then_some(answer)
}

fn record(line: &str) -> Option<Record> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, ttl, "IN", kind, value @ ..] = words.as_slice() else { return None };
    Some(Record {
        name: (*name).to_owned(),
        ttl: ttl.parse().ok()?,
        kind: (*kind).to_owned(),
        value: value.join(" "),
    })
}
