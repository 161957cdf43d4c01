//! The watch protocol, and lists that watches begin from.

use http::Method;
use serde_json::{Value, json};
use weft_apiserver::Config;

use crate::support::Cluster;
use crate::support::http::Client;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}})
}

fn pair(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

async fn version(client: &Client) -> String {
    let (_, list) = client.get(MAPS).await;
    list["metadata"]["resourceVersion"].as_str().expect("a version").to_owned()
}

#[tokio::test]
async fn a_watch_from_a_list_reports_every_later_change_in_order() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let from = version(&client).await;
    let mut watch = client.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
    client.create(MAPS, &map("a", json!({}))).await;
    client.merge(&format!("{MAPS}/a"), &json!({"data": {"x": "1"}})).await;
    client.create(MAPS, &map("b", json!({}))).await;
    client.delete(&format!("{MAPS}/a")).await;
    let wanted = [("ADDED", "a"), ("MODIFIED", "a"), ("ADDED", "b"), ("DELETED", "a")];
    let mut last = from.parse::<u64>().expect("a number");
    for (kind, name) in wanted {
        let event = watch.next().await.expect("an event");
        assert_eq!(
            (event["type"].as_str(), event["object"]["metadata"]["name"].as_str()),
            (Some(kind), Some(name))
        );
        assert_eq!(event["object"]["kind"], "ConfigMap");
        let version: u64 = event["object"]["metadata"]["resourceVersion"]
            .as_str()
            .expect("a version")
            .parse()
            .expect("a number");
        assert!(version > last, "versions grow: {version} after {last}");
        last = version;
    }
    // The same again from the past.
    let mut again = client.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
    for (kind, name) in wanted {
        assert_eq!(again.step().await, pair(kind, name));
    }
}

#[tokio::test]
async fn a_watch_without_a_version_begins_with_the_state() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    client.create(MAPS, &map("a", json!({}))).await;
    for query in ["watch=1", "watch=true&resourceVersion=0", "watch&resourceVersion="] {
        let mut watch = client.watch(&format!("{MAPS}?{query}&fieldSelector=metadata.name=a")).await;
        assert_eq!(watch.step().await, pair("ADDED", "a"), "{query}");
    }
}

#[tokio::test]
async fn objects_that_enter_or_leave_the_selection_are_added_or_deleted() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let from = version(&client).await;
    let mut watch =
        client.watch(&format!("{MAPS}?watch=1&labelSelector=app%3Dweb&resourceVersion={from}")).await;
    client.create(MAPS, &map("a", json!({"app": "api"}))).await;
    let path = format!("{MAPS}/a");
    client.merge(&path, &json!({"metadata": {"labels": {"app": "web"}}})).await;
    client.merge(&path, &json!({"data": {"x": "1"}})).await;
    let left = client.merge(&path, &json!({"metadata": {"labels": {"app": "api"}}})).await;
    assert_eq!(watch.step().await, pair("ADDED", "a"));
    assert_eq!(watch.step().await, pair("MODIFIED", "a"));
    let event = watch.next().await.expect("an event");
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    assert_eq!(event["object"]["metadata"]["labels"]["app"], "web", "the last state that was selected");
}

#[tokio::test]
async fn a_watch_list_ends_its_initial_events_with_a_bookmark() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    client.create(MAPS, &map("a", json!({}))).await;
    let query =
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = client.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(watch.step().await, pair("ADDED", "a"));
    assert_eq!(watch.step().await, pair("ADDED", "kube-root-ca.crt"));
    let bookmark = watch.next().await.expect("a bookmark");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], version(&client).await.as_str());
    client.create(MAPS, &map("b", json!({}))).await;
    assert_eq!(watch.step().await, pair("ADDED", "b"));
    let (code, status) = client.get(&format!("{MAPS}?watch=true&sendInitialEvents=true")).await;
    assert_eq!((code, status["reason"].as_str()), (422, Some("Invalid")));
}

#[tokio::test]
async fn a_watch_ends_after_its_timeout_with_a_bookmark() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let query = "watch=true&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion=";
    let mut watch = client.watch(&format!("{MAPS}?{query}&fieldSelector=metadata.name=none")).await;
    assert_eq!(watch.next().await.expect("a bookmark")["type"], "BOOKMARK");
    assert!(watch.next().await.is_none(), "the watch is over");
}

#[tokio::test]
async fn a_version_that_history_has_forgotten_is_gone() {
    let cluster = Cluster::with(Config { history: 4, ..Config::default() });
    let client = Client::new(&cluster);
    let from = version(&client).await;
    for at in 0..6 {
        client.create(MAPS, &map(&format!("m{at}"), json!({}))).await;
    }
    let mut watch = client.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
    let event = watch.next().await.expect("an event");
    assert_eq!((event["type"].as_str(), event["object"]["code"].as_i64()), (Some("ERROR"), Some(410)));
    assert_eq!(event["object"]["reason"], "Expired");
    assert!(watch.next().await.is_none());
    let (code, _) = client.get(&format!("{MAPS}?watch=true&resourceVersion=999999")).await;
    assert_eq!(code, 410, "a version of the future belongs to another server's life");
}

#[tokio::test]
async fn lists_come_in_pieces_that_add_up() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    for at in 0..7 {
        client.create(MAPS, &map(&format!("m{at}"), json!({"part": "yes"}))).await;
    }
    let (mut names, mut token, mut versions) = (Vec::new(), String::new(), Vec::new());
    loop {
        let (code, list) = client.get(&format!("{MAPS}?limit=3&labelSelector=part&continue={token}")).await;
        assert_eq!(code, 200, "{list}");
        assert_eq!(list["kind"], "ConfigMapList");
        names.extend(
            list["items"].as_array().expect("items").iter().map(|item| item["metadata"]["name"].clone()),
        );
        versions.push(list["metadata"]["resourceVersion"].clone());
        token = list["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            break;
        }
        // What is created between pieces does not change the version that a watch will start from.
        client
            .create("/api/v1/namespaces/default/secrets", &json!({"metadata": {"generateName": "s-"}}))
            .await;
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
    assert!(versions.windows(2).all(|pair| pair[0] == pair[1]));
    let (code, _) = client.get(&format!("{MAPS}?continue=nonsense")).await;
    assert_eq!(code, 400);
    let (code, status) =
        client.get(&format!("{MAPS}?resourceVersion=999999&resourceVersionMatch=NotOlderThan")).await;
    assert_eq!(
        (code, status["details"]["causes"][0]["reason"].as_str()),
        (504, Some("ResourceVersionTooLarge"))
    );
}

#[tokio::test]
async fn faults_do_what_they_say() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let faults = cluster.server.faults();
    let from = version(&client).await;
    for code in [410, 429, 503] {
        faults.set_answer(Some(code));
        let (found, status) = client.get(MAPS).await;
        assert_eq!((found, status["kind"].as_str()), (code, Some("Status")));
    }
    faults.set_answer(None);
    let mut watch = client.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
    faults.close_watches();
    assert!(watch.next().await.is_none());
    client.create(MAPS, &map("a", json!({}))).await;
    faults.forget_history();
    let mut watch = client.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
    assert_eq!(watch.next().await.expect("an event")["object"]["code"], 410);
    let from = version(&client).await;
    let mut watch = client.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
    faults.set_refuse_connections(true);
    assert!(watch.next().await.is_none(), "the connection is cut");
    let request = client.request(Method::GET, MAPS, "application/json", String::new());
    assert!(client.send(request).await.is_err(), "and no new one is taken");
    faults.set_refuse_connections(false);
    assert_eq!(client.get(MAPS).await.0, 200);
}

#[tokio::test]
async fn metadata_alone_can_be_listed_and_watched() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    client.create(MAPS, &json!({"metadata": {"name": "a"}, "data": {"x": "1"}})).await;
    let mut request = client.request(Method::GET, &format!("{MAPS}/a"), "", String::new());
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    request.headers_mut().insert("accept", accept.parse().expect("a header"));
    let response = client.send(request).await.expect("an answer");
    let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
    let object: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((object["kind"].as_str(), &object["data"]), (Some("PartialObjectMetadata"), &Value::Null));
    assert_eq!(object["metadata"]["name"], "a");
}
