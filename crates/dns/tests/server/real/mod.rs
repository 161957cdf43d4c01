//! What CoreDNS answers, and that this server answers the same.
//!
//! `tests/real/objects.yaml` are Services and EndpointSlices. `questions.rs` makes questions of them, `odd.txt` has those that nothing
//! would make. `answers.txt` has what a CoreDNS answered to each; where Weft answers otherwise on purpose, it says why and what.
//! `docs/dns.md` says how it is recorded anew.

mod answer;
mod objects;
mod questions;
mod table;

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use answer::Asker;
use objects::Objects;
use table::Table;

use crate::support::Place;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap()
}

#[test]
fn what_coredns_answers_is_answered() {
    let objects = Objects::read(&read("objects.yaml"));
    let place = Place::new(|zone| objects.fill(zone));
    let asker = Asker::new(place.address);
    let table = Table::read(&read("answers.txt"));
    let (mut told, mut count, mut all) = (String::new(), 0, 0);
    for entry in &table.entries {
        for kind in &entry.kinds {
            all += 1;
            let found = asker.ask(&entry.name, kind);
            let wanted = entry.weft.as_ref().map_or(&entry.real, |weft| &weft.answer);
            if found != *wanted {
                count += 1;
                let _ = writeln!(told, "{} {kind}\n- {wanted}\n+ {found}", entry.name);
            }
        }
    }
    assert!(count == 0, "{count} of {all} answers differ (- wanted, + found):\n{told}");
}

#[test]
fn every_question_has_its_answer() {
    let wanted = questions::all(&Objects::read(&read("objects.yaml")), &read("odd.txt"));
    let table = Table::read(&read("answers.txt"));
    let found: Vec<(String, String)> = table
        .entries
        .iter()
        .flat_map(|entry| entry.kinds.iter().map(|kind| (entry.name.clone(), kind.clone())))
        .collect();
    let missing: Vec<_> = wanted.iter().filter(|question| !found.contains(question)).collect();
    let stray: Vec<_> = found.iter().filter(|question| !wanted.contains(question)).collect();
    assert!(
        missing.is_empty() && stray.is_empty(),
        "record again: without an answer {missing:?}, without a question {stray:?}"
    );
}

/// Writes what the server at `WEFT_REAL_DNS` (`127.0.0.1:1053`) answers into the table.
#[test]
#[ignore = "asks a real CoreDNS"]
fn record() {
    let server: SocketAddr =
        std::env::var("WEFT_REAL_DNS").expect("WEFT_REAL_DNS is not set").parse().unwrap();
    let asker = Asker::new(server);
    let before = Table::read(&read("answers.txt"));
    let mut table = Table { head: before.head.clone(), entries: Vec::new() };
    for (name, kind) in questions::all(&Objects::read(&read("objects.yaml")), &read("odd.txt")) {
        let real = asker.ask(&name, &kind);
        table.add(&name, &kind, real, before.weft(&name, &kind));
    }
    fs::write(file("answers.txt"), table.to_string()).unwrap();
}
