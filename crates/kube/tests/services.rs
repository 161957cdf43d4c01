//! What is heard of Services and EndpointSlices adds up to what the API server has, whatever happens on the way.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod support;

use std::{collections::BTreeMap, time::Instant};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use support::{Cluster, LIMIT};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use weft_kube::{ServiceEvents, WatchHealth, watch_services, watch_slices};
use weft_model::services::{Event, TrafficPolicy};

/// What the events come to, by kind and name.
struct Heard {
    events: mpsc::Receiver<(Instant, Event)>,
    services: Listed,
    slices: Listed,
    last: Vec<Event>,
    follows: watch::Receiver<WatchHealth>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Listed {
    known: BTreeMap<String, u32>,
    list: u32,
    whole: bool,
}

impl Listed {
    fn end(&mut self) {
        let list = self.list;
        self.known.retain(|_, seen| *seen == list);
        self.whole = true;
    }

    fn names(&self) -> Vec<&str> {
        self.known.keys().map(String::as_str).collect()
    }
}

impl Heard {
    /// What the data plane hears.
    async fn of(cluster: &Cluster) -> Self {
        // A channel of one: the watches wait.
        let (served, events) = mpsc::channel(1);
        Self::by(cluster, ServiceEvents { served, all: None }, events).await
    }

    /// What DNS hears, and what the data plane hears beside it.
    async fn all_of(cluster: &Cluster) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (all, events) = mpsc::channel(1);
        let (served, mut others) = mpsc::channel(1);
        let (beside, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some((_, event)) = others.recv().await {
                let _ = beside.send(event);
            }
        });
        (Self::by(cluster, ServiceEvents { served, all: Some(all) }, events).await, heard)
    }

    async fn by(cluster: &Cluster, sender: ServiceEvents, events: mpsc::Receiver<(Instant, Event)>) -> Self {
        let (health, follows) = watch::channel(WatchHealth::default());
        let (other, _) = watch::channel(WatchHealth::default());
        let tasks = vec![
            tokio::spawn(watch_services(cluster.client().await, sender.clone(), health)),
            tokio::spawn(watch_slices(cluster.client().await, sender, other)),
        ];
        Self {
            events,
            services: Listed::default(),
            slices: Listed::default(),
            last: Vec::new(),
            follows,
            tasks,
        }
    }

    fn hear(&mut self, event: Event) {
        let (services, slices) = (&mut self.services, &mut self.slices);
        match &event {
            Event::ServicesBegin => services.list += 1,
            Event::Service(service) => drop(services.known.insert(service.key.to_string(), services.list)),
            Event::ServiceGone(key) => drop(services.known.remove(&key.to_string())),
            Event::ServicesEnd => services.end(),
            Event::SlicesBegin => slices.list += 1,
            Event::Slice(slice) => drop(slices.known.insert(slice.key.to_string(), slices.list)),
            Event::SliceGone(key) => drop(slices.known.remove(&key.to_string())),
            Event::SlicesEnd => slices.end(),
        }
        self.last.push(event);
    }

    #[track_caller]
    fn has(&mut self, services: &[&str], slices: &[&str]) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let there = async {
                loop {
                    let whole = self.services.whole && self.slices.whole;
                    if whole && self.services.names() == services && self.slices.names() == slices {
                        return;
                    }
                    let (_, event) = self.events.recv().await.expect("the watches go on");
                    self.hear(event);
                }
            };
            if timeout(LIMIT, there).await.is_err() {
                let (s, e) = (self.services.names(), self.slices.names());
                panic!("{place}: waited for {services:?} {slices:?}, there are {s:?} {e:?}");
            }
        }
    }

    async fn until(&mut self, wanted: impl Fn(&Event) -> bool) {
        let heard = async {
            while !self.last.iter().any(&wanted) {
                let (_, event) = self.events.recv().await.expect("the watches go on");
                self.hear(event);
            }
        };
        timeout(LIMIT, heard).await.expect("an event");
    }

    async fn fails(&mut self) {
        timeout(LIMIT, self.follows.wait_for(|health| health.error.is_some()))
            .await
            .expect("a failure")
            .unwrap();
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn services(cluster: &Cluster) -> Api<Service> {
    Api::namespaced(cluster.kube.clone(), "default")
}

fn slices(cluster: &Cluster) -> Api<EndpointSlice> {
    Api::namespaced(cluster.kube.clone(), "default")
}

async fn add_service(cluster: &Cluster, name: &str, labels: Value) {
    let object =
        json!({ "metadata": { "name": name, "labels": labels }, "spec": { "ports": [{ "port": 80 }] } });
    services(cluster).create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

async fn add_slice(cluster: &Cluster, name: &str, labels: Value) {
    let object = json!({
        "metadata": { "name": name, "labels": labels }, "addressType": "IPv4",
        "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
        "endpoints": [{ "addresses": ["10.244.0.2"] }],
    });
    slices(cluster).create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

async fn web(cluster: &Cluster) {
    add_service(cluster, "web", json!({})).await;
    add_slice(cluster, "web-1", json!({ "kubernetes.io/service-name": "web" })).await;
}

/// The API server makes this one for itself.
const OWN: &str = "default/kubernetes";

async fn own_services(cluster: &Cluster) -> Vec<String> {
    let all: Api<Service> = Api::all(cluster.kube.clone());
    let all = all.list(&Default::default()).await.unwrap().items;
    all.into_iter()
        .map(|one| format!("{}/{}", one.metadata.namespace.unwrap(), one.metadata.name.unwrap()))
        .collect()
}

#[tokio::test]
async fn what_comes_changes_and_goes_is_heard() {
    let cluster = Cluster::start().await;
    web(&cluster).await;
    let mut heard = Heard::of(&cluster).await;
    heard.has(&[OWN, "default/web"], &["default/web-1"]).await;
    let local = json!({ "spec": { "internalTrafficPolicy": "Local" } });
    services(&cluster).patch("web", &PatchParams::default(), &Patch::Merge(local)).await.unwrap();
    heard
        .until(|event| matches!(event, Event::Service(one) if one.internal_policy == TrafficPolicy::Local))
        .await;
    add_slice(&cluster, "web-2", json!({ "kubernetes.io/service-name": "web" })).await;
    heard.has(&[OWN, "default/web"], &["default/web-1", "default/web-2"]).await;
    services(&cluster).delete("web", &DeleteParams::default()).await.unwrap();
    slices(&cluster).delete("web-2", &DeleteParams::default()).await.unwrap();
    heard.has(&[OWN], &["default/web-1"]).await;
}

#[tokio::test]
async fn what_is_headless_somebody_elses_or_no_services_is_not_heard_of() {
    let cluster = Cluster::start().await;
    web(&cluster).await;
    add_service(&cluster, "a", json!({ "service.kubernetes.io/headless": "" })).await;
    add_service(&cluster, "b", json!({ "service.kubernetes.io/service-proxy-name": "x" })).await;
    add_slice(&cluster, "a", json!({})).await;
    let elses = json!({ "kubernetes.io/service-name": "b", "service.kubernetes.io/service-proxy-name": "x" });
    add_slice(&cluster, "b", elses).await;
    let mut heard = Heard::of(&cluster).await;
    heard.has(&[OWN, "default/web"], &["default/web-1"]).await;
    let elses = json!({ "metadata": { "labels": { "service.kubernetes.io/service-proxy-name": "x" } } });
    services(&cluster).patch("web", &PatchParams::default(), &Patch::Merge(elses)).await.unwrap();
    heard.has(&[OWN], &["default/web-1"]).await;
}

#[tokio::test]
async fn dns_hears_of_what_is_headless_or_somebody_elses_and_the_data_plane_does_not() {
    let cluster = Cluster::start().await;
    web(&cluster).await;
    add_service(&cluster, "a", json!({ "service.kubernetes.io/headless": "" })).await;
    add_service(&cluster, "b", json!({ "service.kubernetes.io/service-proxy-name": "x" })).await;
    let headless = json!({ "kubernetes.io/service-name": "a", "service.kubernetes.io/headless": "" });
    add_slice(&cluster, "a", headless).await;
    let (mut all, mut served) = Heard::all_of(&cluster).await;
    all.has(&["default/a", "default/b", OWN, "default/web"], &["default/a", "default/web-1"]).await;
    // One that becomes somebody else's is gone for the data plane only.
    let elses = json!({ "metadata": { "labels": { "service.kubernetes.io/service-proxy-name": "x" } } });
    services(&cluster).patch("web", &PatchParams::default(), &Patch::Merge(elses)).await.unwrap();
    all.until(|event| matches!(event, Event::Service(one) if &*one.key.name == "web" && one.not_ours)).await;
    all.has(&["default/a", "default/b", OWN, "default/web"], &["default/a", "default/web-1"]).await;
    let mut known = Listed::default();
    let heard = async {
        while let Some(event) = served.recv().await {
            match event {
                Event::Service(service) => drop(known.known.insert(service.key.to_string(), 0)),
                Event::Slice(slice) => drop(known.known.insert(slice.key.to_string(), 0)),
                Event::ServiceGone(key) if &*key.name == "web" => return,
                _ => {}
            }
        }
    };
    timeout(LIMIT, heard).await.expect("web goes");
    assert_eq!(known.names(), [OWN, "default/web", "default/web-1"]);
}

#[tokio::test]
async fn more_than_a_page() {
    let cluster = Cluster::start().await;
    let names: Vec<String> = (0..1100).map(|i| format!("s{i:04}")).collect();
    for name in &names {
        add_slice(&cluster, name, json!({ "kubernetes.io/service-name": "web" })).await;
    }
    let mut heard = Heard::of(&cluster).await;
    let wanted: Vec<String> = names.iter().map(|name| format!("default/{name}")).collect();
    heard.has(&[OWN], &wanted.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn what_went_while_nobody_could_ask_is_gone() {
    let cluster = Cluster::start().await;
    web(&cluster).await;
    let mut heard = Heard::of(&cluster).await;
    heard.has(&[OWN, "default/web"], &["default/web-1"]).await;
    for status in [410, 429, 503] {
        cluster.server.faults().set_answer(Some(status));
        cluster.server.faults().close_watches();
        heard.fails().await;
        cluster.server.faults().set_answer(None);
        services(&cluster).delete("web", &DeleteParams::default()).await.unwrap();
        slices(&cluster).delete("web-1", &DeleteParams::default()).await.unwrap();
        add_service(&cluster, "api", json!({})).await;
        cluster.server.faults().forget_history();
        heard.has(&["default/api", OWN], &[]).await;
        services(&cluster).delete("api", &DeleteParams::default()).await.unwrap();
        web(&cluster).await;
        heard.has(&[OWN, "default/web"], &["default/web-1"]).await;
    }
}

#[tokio::test]
async fn broken_connections_lose_nothing() {
    let cluster = Cluster::start().await;
    let mut heard = Heard::of(&cluster).await;
    heard.has(&[OWN], &[]).await;
    for i in 0..5 {
        cluster.server.faults().close_connections();
        add_service(&cluster, &format!("s{i}"), json!({})).await;
    }
    heard.has(&[OWN, "default/s0", "default/s1", "default/s2", "default/s3", "default/s4"], &[]).await;
    assert_eq!(own_services(&cluster).await.len(), 6);
}
