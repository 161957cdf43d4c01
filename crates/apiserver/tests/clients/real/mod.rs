//! What a real kube-apiserver answers, and that this one answers the same.
//!
//! The tables in `tests/real` have requests that we wrote and the answers of a real server. Each is played, from its first entry to
//! its last, to a server of its own. An answer that differs fails the test, unless the table says beside it what Weft's is
//! and why.
//!
//! Recorded again, for another version, they are by a server that has nothing yet (`docs/apiserver.md` says how).

mod answer;
mod play;
mod table;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use weft_apiserver::Config;

use crate::support::Cluster;
use crate::support::http::Client;
use play::Player;
use table::Table;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("start a runtime")
}

/// Plays a table to a new server, and panics with what differs.
fn replay(name: &str) {
    let path = folder().join(format!("{name}.txt"));
    let table = Table::read(&std::fs::read_to_string(&path).expect("read the table"));
    let config = Config {
        service_ranges: ["10.96.0.0/16", "fd00:10:96::/112"]
            .map(|range| range.parse().expect("a range"))
            .into(),
        ..Config::default()
    };
    let cluster = Cluster::with(config);
    let mut player = Player::new(Client::new(&cluster), name);
    let mut told = String::new();
    let mut count = 0;
    runtime().block_on(async {
        player.prepare().await;
        for entry in &table.entries {
            let found = player.play(entry).await;
            let Some(wanted) = entry.missed(&found) else { continue };
            count += 1;
            let _ = writeln!(told, "\n== {}\n{}", entry.title, entry.request);
            table::difference(wanted, &found, &mut told);
        }
    });
    assert!(
        count == 0,
        "{count} of {} answers in {} differ (- wanted, + found):\n{told}",
        table.entries.len(),
        path.display()
    );
}

macro_rules! tables {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        const TABLES: &[&str] = &[$(stringify!($name)),*];
    };
}

tables! {
    services slices pods metadata patches apply lists deletion workloads jobs policies ingresses
    configuration cluster access autoscaling subresources
}

#[test]
fn every_table_is_played() {
    let entries = std::fs::read_dir(folder()).expect("list the tables");
    let mut found: Vec<String> = entries
        .map(|entry| {
            entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned()
        })
        .collect();
    found.sort();
    let mut played = TABLES.to_vec();
    played.sort_unstable();
    assert_eq!(found, played);
}

/// What is said of an object without a server is what a server says of it.
#[test]
fn objects_that_are_taken_are_checked_to_be_good() {
    let mut told = String::new();
    for name in TABLES {
        let path = folder().join(format!("{name}.txt"));
        let table = Table::read(&std::fs::read_to_string(&path).expect("read the table"));
        for entry in table.entries.iter().filter(|entry| entry.is_taken()) {
            let Some(object) = Player::created(entry, name) else { continue };
            for refusal in weft_apiserver::check(&object) {
                let _ = writeln!(told, "{name}: {}: {}", entry.title, refusal.message);
            }
        }
    }
    assert!(told.is_empty(), "{told}");
}

/// Writes what the server at `WEFT_REAL_SERVER` (`127.0.0.1:6443`) answers into the tables; `WEFT_REAL_CA` is a file with its
/// authority, `WEFT_REAL_TOKEN` an administrator's token.
#[test]
#[ignore = "asks a real kube-apiserver"]
fn record() {
    let setting = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let ca = std::fs::read_to_string(setting("WEFT_REAL_CA")).expect("read the authority");
    let client = || Client::to(&setting("WEFT_REAL_SERVER"), &ca, &setting("WEFT_REAL_TOKEN"));
    for name in TABLES {
        let path = folder().join(format!("{name}.txt"));
        let mut table = Table::read(&std::fs::read_to_string(&path).expect("read the table"));
        runtime().block_on(async {
            let (_, version) = client().get("/version").await;
            let version = version["gitVersion"].as_str().expect("a version").to_owned();
            let mut player = Player::new(client(), name);
            let (code, made) = player.prepare().await;
            assert_eq!(code, 201, "not a server without objects: {made}");
            for entry in &mut table.entries {
                entry.real = player.play(entry).await;
            }
            table.head =
                format!("# Answers of kube-apiserver {version}, recorded on {}.", today(&player.date));
        });
        std::fs::write(&path, table.to_string()).expect("write the table");
    }
}

/// `2026-11-30`, of a `date` header.
fn today(header: &str) -> String {
    let time = jiff::fmt::rfc2822::parse(header).expect("the server tells the date");
    time.strftime("%Y-%m-%d").to_string()
}
