//! Many writers at once: what a watch tells adds up to what a list shows.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use weft_apiserver::Config;

use crate::support::Cluster;
use crate::support::http::{Client, Watch};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WRITERS: u64 = 4;
const ROUNDS: u64 = 60;

/// Numbers that differ from writer to writer and are the same in every run.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

async fn write(client: Arc<Client>, writer: u64) {
    let mut state = writer;
    for round in 0..ROUNDS {
        let name = format!("m{}", next(&mut state) % 8);
        let path = format!("{MAPS}/{name}");
        let (code, answer) = match next(&mut state) % 4 {
            0 => client.call(Method::DELETE, &path, "application/json", &Value::Null).await,
            1 => {
                client
                    .call(Method::POST, MAPS, "application/json", &json!({"metadata": {"name": name}}))
                    .await
            }
            _ => {
                let patch = json!({"data": {format!("w{writer}"): round.to_string()}});
                client.call(Method::PATCH, &path, "application/merge-patch+json", &patch).await
            }
        };
        assert!(matches!(code, 200 | 201 | 404 | 409), "{answer}");
    }
}

type Held = BTreeMap<String, Value>;

fn key(object: &Value) -> String {
    object["metadata"]["name"].as_str().expect("a name").to_owned()
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().expect("a version").parse().expect("a number")
}

async fn list(client: &Client) -> (Held, u64) {
    let (_, list) = client.get(MAPS).await;
    let items = list["items"].as_array().expect("items").iter();
    (items.map(|item| (key(item), item.clone())).collect(), version(&list))
}

/// Follows a watch until it shows the state at `end`.
async fn follow(mut watch: Watch, mut held: Held, mut seen: u64, end: u64) -> Held {
    while seen < end {
        let event = watch.next().await.expect("the watch goes on");
        let object = event["object"].clone();
        assert!(version(&object) > seen, "versions grow");
        seen = version(&object);
        let before = held.get(&key(&object)).cloned();
        match (event["type"].as_str(), before) {
            (Some("ADDED"), None) => {
                held.insert(key(&object), object);
            }
            (Some("MODIFIED"), Some(old)) => {
                assert_eq!(old["metadata"]["uid"], object["metadata"]["uid"], "one life, one uid");
                held.insert(key(&object), object);
            }
            (Some("DELETED"), Some(_)) => {
                held.remove(&key(&object));
            }
            (kind, before) => panic!("{kind:?} of {object} after {before:?}"),
        }
    }
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_watches_tell_adds_up_to_what_lists_show() {
    let cluster = Cluster::with(Config { history: 100_000, ..Config::default() });
    let client = Arc::new(Client::new(&cluster));
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(client.clone(), writer + 1))).collect();
    // Watches that begin while all of that goes on.
    let mut watches = Vec::new();
    for _ in 0..4 {
        let (held, from) = list(&client).await;
        watches.push((client.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await, held, from));
    }
    for writer in writers {
        writer.await.expect("no panic");
    }
    let marker = client.create(MAPS, &json!({"metadata": {"name": "last"}})).await;
    let (wanted, _) = list(&client).await;
    for (watch, held, from) in watches {
        assert_eq!(follow(watch, held, from, version(&marker)).await, wanted);
    }
}

#[tokio::test]
async fn of_two_writes_from_one_version_one_wins() {
    let cluster = Cluster::start();
    let client = Arc::new(Client::new(&cluster));
    client.create(MAPS, &json!({"metadata": {"name": "a"}, "data": {"n": "0"}})).await;
    let (mut wins, mut conflicts) = (0, 0);
    for round in 0..10 {
        let (_, before) = client.get(&format!("{MAPS}/a")).await;
        let tries: Vec<_> = (0..4)
            .map(|writer| {
                let client = client.clone();
                let mut object = before.clone();
                object["data"]["n"] = format!("{round}-{writer}").into();
                tokio::spawn(async move {
                    client.call(Method::PUT, &format!("{MAPS}/a"), "application/json", &object).await.0
                })
            })
            .collect();
        for attempt in tries {
            match attempt.await.expect("no panic") {
                200 => wins += 1,
                409 => conflicts += 1,
                other => panic!("HTTP {other}"),
            }
        }
    }
    assert_eq!((wins, conflicts), (10, 30));
}
