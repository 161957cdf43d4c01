//! Watches, conditions and Events against a real API server that misbehaves on request.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod support;

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1 as core;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use support::{Cluster, LIMIT};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use weft_kube::{
    Client, Condition, Mirror, ObjectRef, WarningEvent, WatchHealth, keep_conditions, watch_nodes, watch_pods,
};
use weft_model::{Node, NodeName, Pod, PodKey};

impl Cluster {
    fn nodes(&self) -> Api<core::Node> {
        Api::all(self.kube.clone())
    }

    fn pods(&self) -> Api<core::Pod> {
        Api::namespaced(self.kube.clone(), "default")
    }

    async fn add_node(&self, name: &str, range: &str) {
        let node = json!({ "metadata": { "name": name }, "spec": { "podCIDR": range, "podCIDRs": [range] } });
        self.nodes().create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    }

    async fn add_pod(&self, name: &str, node: &str) {
        let spec = json!({ "nodeName": node, "containers": [{ "name": "c", "image": "i" }] });
        let pod = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap();
    }

    async fn follow_nodes(&self) -> Watched<NodeName, Node> {
        let (mirror, seen) = watch::channel(Mirror::default());
        let (health, follows) = watch::channel(WatchHealth::default());
        let task = tokio::spawn(watch_nodes(self.client().await, mirror, health));
        Watched { seen, follows, task }
    }

    async fn follow_pods(&self, node: &str) -> Watched<PodKey, Pod> {
        let (mirror, seen) = watch::channel(Mirror::default());
        let (health, follows) = watch::channel(WatchHealth::default());
        let task = tokio::spawn(watch_pods(self.client().await, node.into(), mirror, health));
        Watched { seen, follows, task }
    }
}

struct Watched<K, V> {
    seen: watch::Receiver<Mirror<K, V>>,
    follows: watch::Receiver<WatchHealth>,
    task: JoinHandle<()>,
}

impl<K: Ord + Clone + std::fmt::Display, V: PartialEq> Watched<K, V> {
    /// Waits until exactly these are known.
    #[track_caller]
    fn has(&mut self, names: &[&str]) -> impl Future<Output = ()> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let keys = |objects: &BTreeMap<K, V>| objects.keys().map(ToString::to_string).collect::<Vec<_>>();
        let mut seen = self.seen.clone();
        async move {
            let wanted = |m: &Mirror<K, V>| m.is_synced() && keys(m.objects()) == names;
            let in_time = timeout(LIMIT, seen.wait_for(wanted)).await.is_ok();
            assert!(in_time, "waited for {names:?}, there are {:?}", keys(seen.borrow().objects()));
        }
    }

    async fn fails(&mut self) -> String {
        let failing = timeout(LIMIT, self.follows.wait_for(|health| health.error.is_some())).await;
        failing.expect("the watch goes on").unwrap().error.clone().unwrap()
    }

    async fn recovers(&mut self) {
        timeout(LIMIT, self.follows.wait_for(|health| health.error.is_none()))
            .await
            .expect("waited")
            .unwrap();
    }
}

impl<K, V> Drop for Watched<K, V> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn nodes_that_come_change_and_go() {
    let cluster = Cluster::start().await;
    cluster.add_node("a", "10.244.0.0/24").await;
    let mut nodes = cluster.follow_nodes().await;
    nodes.has(&["a"]).await;
    cluster.add_node("b", "10.244.1.0/24").await;
    nodes.has(&["a", "b"]).await;
    let address = json!({ "status": { "addresses": [{ "type": "InternalIP", "address": "192.168.1.2" }] } });
    let api = cluster.nodes();
    api.patch_status("a", &PatchParams::default(), &Patch::Merge(address)).await.unwrap();
    let known =
        |m: &Mirror<NodeName, Node>| m.objects().get(&"a".into()).is_some_and(|n| n.addresses.len() == 1);
    timeout(LIMIT, nodes.seen.wait_for(known)).await.expect("the address").unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    nodes.has(&["b"]).await;
}

#[tokio::test]
async fn only_this_nodes_pods_are_known() {
    let cluster = Cluster::start().await;
    cluster.add_pod("mine", "a").await;
    cluster.add_pod("theirs", "b").await;
    let mut pods = cluster.follow_pods("a").await;
    pods.has(&["default/mine"]).await;
    cluster.add_pod("mine-too", "a").await;
    cluster.add_pod("theirs-too", "b").await;
    pods.has(&["default/mine", "default/mine-too"]).await;
}

#[tokio::test]
async fn more_nodes_than_a_page() {
    let cluster = Cluster::start().await;
    let names: Vec<String> = (0..620).map(|i| format!("n{i:03}")).collect();
    for name in &names {
        let node = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        cluster.nodes().create(&PostParams::default(), &node).await.unwrap();
    }
    let mut nodes = cluster.follow_nodes().await;
    nodes.has(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn a_closed_watch_goes_on_where_it_ended() {
    let cluster = Cluster::start().await;
    cluster.add_node("a", "10.244.0.0/24").await;
    let mut nodes = cluster.follow_nodes().await;
    nodes.has(&["a"]).await;
    for i in 0..5 {
        cluster.server.faults().close_watches();
        cluster.add_node(&format!("b{i}"), &format!("10.244.{}.0/24", i + 1)).await;
    }
    nodes.has(&["a", "b0", "b1", "b2", "b3", "b4"]).await;
}

#[tokio::test]
async fn a_version_that_expired_is_listed_anew() {
    let cluster = Cluster::start().await;
    cluster.add_node("a", "10.244.0.0/24").await;
    let mut nodes = cluster.follow_nodes().await;
    nodes.has(&["a"]).await;
    // What happens while nobody may connect is forgotten before the watch comes back.
    cluster.server.faults().set_answer(Some(503));
    cluster.server.faults().close_watches();
    nodes.fails().await;
    cluster.server.faults().set_answer(None);
    cluster.nodes().delete("a", &DeleteParams::default()).await.unwrap();
    cluster.add_node("b", "10.244.1.0/24").await;
    cluster.server.faults().forget_history();
    nodes.has(&["b"]).await;
    nodes.recovers().await;
}

#[tokio::test]
async fn errors_of_the_server_change_nothing_and_are_survived() {
    let cluster = Cluster::start().await;
    cluster.add_node("a", "10.244.0.0/24").await;
    let mut nodes = cluster.follow_nodes().await;
    nodes.has(&["a"]).await;
    for status in [410, 429, 500, 401] {
        cluster.server.faults().set_answer(Some(status));
        cluster.server.faults().close_watches();
        nodes.fails().await;
        nodes.has(&["a"]).await;
        cluster.server.faults().set_answer(None);
        nodes.recovers().await;
    }
    cluster.add_node("b", "10.244.1.0/24").await;
    nodes.has(&["a", "b"]).await;
}

#[tokio::test]
async fn a_server_that_is_away_changes_nothing_and_is_waited_for() {
    let cluster = Cluster::start().await;
    cluster.add_node("a", "10.244.0.0/24").await;
    let mut nodes = cluster.follow_nodes().await;
    nodes.has(&["a"]).await;
    cluster.server.faults().set_refuse_connections(true);
    cluster.server.faults().close_connections();
    nodes.fails().await;
    nodes.has(&["a"]).await;
    cluster.server.faults().set_refuse_connections(false);
    nodes.recovers().await;
    cluster.add_node("b", "10.244.1.0/24").await;
    nodes.has(&["a", "b"]).await;
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start() {
    let cluster = Cluster::start().await;
    cluster.server.faults().set_refuse_connections(true);
    let mut nodes = cluster.follow_nodes().await;
    nodes.fails().await;
    assert!(!nodes.seen.borrow().is_synced());
    cluster.server.faults().set_refuse_connections(false);
    nodes.has(&[]).await;
}

#[tokio::test]
async fn a_slow_server_is_waited_for() {
    let cluster = Cluster::start().await;
    cluster.add_node("a", "10.244.0.0/24").await;
    cluster.server.faults().set_delay(Duration::from_secs(2));
    let mut nodes = cluster.follow_nodes().await;
    nodes.has(&["a"]).await;
    assert_eq!(nodes.follows.borrow().failures, 0);
}

#[tokio::test]
async fn a_kubeconfig_that_is_missing_or_nonsense_is_named() {
    let folder = weft_scratch::folder();
    let path = folder.path().join("there-is-none");
    let error = Client::new(Some(&path)).await.err().unwrap().to_string();
    assert!(error.contains("there-is-none"), "{error}");
    std::fs::write(&path, "nonsense: [").unwrap();
    let error = Client::new(Some(&path)).await.err().unwrap().to_string();
    assert!(error.contains("there-is-none"), "{error}");
}

fn condition(status: bool, message: &str) -> Condition {
    Condition { kind: "NetworkUnavailable", status, reason: "Test".to_owned(), message: message.to_owned() }
}

/// As kube-apiserver has it: a client without a name of its own would be called "unknown" there.
#[tokio::test]
async fn what_is_written_says_who_wrote_it() {
    let cluster = Cluster::start().await;
    cluster.client().await.make_dns_service(&["10.96.0.10".parse().unwrap()]).await.unwrap();
    let services: Api<core::Service> = Api::namespaced(cluster.kube.clone(), "kube-system");
    let written = services.get("kube-dns").await.unwrap().metadata.managed_fields.unwrap();
    let writers: Vec<&str> = written.iter().filter_map(|entry| entry.manager.as_deref()).collect();
    assert_eq!(writers, ["weft"]);
}

async fn wait_for_condition(cluster: &Cluster, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let node = serde_json::to_value(cluster.nodes().get(name).await.unwrap()).unwrap();
        let conditions = node["status"]["conditions"].clone();
        if wanted(&conditions) {
            return conditions;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited for a condition: {conditions}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn of_kind(conditions: &Value, kind: &str) -> Option<Value> {
    conditions.as_array()?.iter().find(|c| c["type"] == kind).cloned()
}

#[tokio::test]
async fn conditions_are_kept_beside_those_of_others() {
    let cluster = Cluster::start().await;
    cluster.add_node("a", "10.244.0.0/24").await;
    let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
    cluster.nodes().patch_status("a", &PatchParams::default(), &Patch::Strategic(ready)).await.unwrap();
    let (wanted, follow) = watch::channel(vec![condition(true, "not yet")]);
    let task = tokio::spawn(keep_conditions(cluster.client().await, "a".into(), follow));
    let is = |status: &'static str| {
        move |all: &Value| of_kind(all, "NetworkUnavailable").is_some_and(|c| c["status"] == status)
    };
    let first = wait_for_condition(&cluster, "a", is("True")).await;
    assert!(of_kind(&first, "Ready").is_some(), "{first}");
    assert!(of_kind(&first, "NetworkUnavailable").unwrap()["lastTransitionTime"].is_string());
    wanted.send_replace(vec![condition(false, "up")]);
    let second = wait_for_condition(&cluster, "a", is("False")).await;
    assert_eq!(second.as_array().unwrap().len(), 2);
    drop(wanted);
    timeout(LIMIT, task).await.expect("it ends with its sender").unwrap();
}

#[tokio::test]
async fn conditions_wait_for_a_server_that_is_away() {
    let cluster = Cluster::start().await;
    cluster.add_node("a", "10.244.0.0/24").await;
    cluster.server.faults().set_answer(Some(500));
    let (_wanted, follow) = watch::channel(vec![condition(false, "up")]);
    let task = tokio::spawn(keep_conditions(cluster.client().await, "a".into(), follow));
    sleep(Duration::from_millis(200)).await;
    cluster.server.faults().set_answer(None);
    wait_for_condition(&cluster, "a", |all| of_kind(all, "NetworkUnavailable").is_some()).await;
    task.abort();
}

#[tokio::test]
async fn an_event_stands_once_however_many_tell_it() {
    let cluster = Cluster::start().await;
    let warning = |reporter: &str| WarningEvent {
        about: ObjectRef { kind: "Node", namespace: None, name: "a".to_owned(), uid: "uid-of-a".to_owned() },
        reporter: reporter.into(),
        reason: "PodRangeConflict",
        message: "range 10.244.0.0/24 of a and b".to_owned(),
        key: "b 10.244.0.0/24".to_owned(),
    };
    let client = cluster.client().await;
    client.publish(&warning("a")).await.unwrap();
    client.publish(&warning("b")).await.unwrap();
    let events: Api<core::Event> = Api::namespaced(cluster.kube.clone(), "default");
    let all = events.list(&Default::default()).await.unwrap().items;
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].count, Some(2));
    assert_eq!(all[0].reason.as_deref(), Some("PodRangeConflict"));
    assert_eq!(all[0].involved_object.name.as_deref(), Some("a"));
}
