//! Watches that follow the API for as long as the process lives.
//!
//! Nodes and Pods are few enough to be kept in a [`Mirror`]. Services and EndpointSlices are many: they are decoded
//! field by field to what the network uses, and passed on one by one.

mod follow;
mod health;
mod read;
mod sink;

use std::{collections::BTreeMap, time::Instant};

use k8s_openapi::api::{coordination::v1 as coordination, core::v1 as core};
use kube::{Resource, core::Request};
use tokio::sync::{mpsc, watch};
use weft_model::{
    BalancedService, Lease, Node, NodeName, Pod, PodKey,
    dns::NamespaceEvent,
    services::{Event, ServiceKey},
};

use crate::{Client, Mirror, balanced::BalancedObject, convert, lease, services};
use follow::{Follower, Selectors};
use sink::{Into, Mirrored, Passed, Sorted};

pub(crate) use follow::Versioned;
pub use health::{WatchHealth, Watches};

/// What is heard, and when. A full channel holds the watch up, not the memory.
pub type Events<E> = mpsc::Sender<(Instant, E)>;

/// Who hears of Services and EndpointSlices.
#[derive(Clone, Debug)]
pub struct ServiceEvents {
    /// Hears of those that this network carries traffic for: neither headless nor somebody else's.
    pub served: Events<Event>,
    /// Hears of all: they have names. Without it the API server is not asked for them.
    pub all: Option<Events<Event>>,
}

/// Keeps `mirror` equal to the cluster's Nodes. Does not return; drop it to end.
pub async fn watch_nodes(
    client: Client,
    mirror: watch::Sender<Mirror<NodeName, Node>>,
    health: watch::Sender<WatchHealth>,
) {
    let convert = |object: &core::Node| {
        let node = convert::node(object);
        (node.name.clone(), node)
    };
    let url = Request::new(core::Node::url_path(&(), None));
    Follower::new("Nodes", client, url, Selectors::default(), Mirrored::new(mirror, convert), health)
        .run()
        .await;
}

/// Keeps `mirror` equal to the Pods that are bound to `node`. Does not return; drop it to end.
pub async fn watch_pods(
    client: Client,
    node: NodeName,
    mirror: watch::Sender<Mirror<PodKey, Pod>>,
    health: watch::Sender<WatchHealth>,
) {
    let convert = |object: &core::Pod| {
        let pod = convert::pod(object);
        (pod.key.clone(), pod)
    };
    let own = Selectors { fields: Some(format!("spec.nodeName={node}")), ..Selectors::default() };
    let url = Request::new(core::Pod::url_path(&(), None));
    Follower::new("Pods", client, url, own, Mirrored::new(mirror, convert), health).run().await;
}

/// Passes on what happens to Services. Does not return; drop it to end.
pub async fn watch_services(client: Client, events: ServiceEvents, health: watch::Sender<WatchHealth>) {
    let into = Into {
        begin: || Event::ServicesBegin,
        set: |object| Event::Service(services::service(object)),
        remove: |object: services::ServiceObject| Event::ServiceGone(services::service(object).key),
        end: || Event::ServicesEnd,
    };
    let url = Request::new("/api/v1/services");
    let labels = events.all.is_none().then(|| services::OURS.to_owned());
    let wanted = Selectors { labels, ..Selectors::default() };
    let sink = Sorted::new(events, into, services::ServiceObject::is_ours);
    Follower::new("Services", client, url, wanted, sink, health).run().await;
}

/// Passes on what happens to the EndpointSlices of Services. Does not return; drop it to end.
pub async fn watch_slices(client: Client, events: ServiceEvents, health: watch::Sender<WatchHealth>) {
    let into = Into {
        begin: || Event::SlicesBegin,
        set: |object| Event::Slice(services::slice(object)),
        remove: |object: services::SliceObject| Event::SliceGone(services::slice(object).key),
        end: || Event::SlicesEnd,
    };
    let url = Request::new("/apis/discovery.k8s.io/v1/endpointslices");
    let labels = match &events.all {
        Some(_) => services::SERVICE_NAME.to_owned(),
        None => format!("{},{}", services::SERVICE_NAME, services::OURS),
    };
    let wanted = Selectors { labels: Some(labels), ..Selectors::default() };
    let sink = Sorted::new(events, into, services::SliceObject::is_ours);
    Follower::new("EndpointSlices", client, url, wanted, sink, health).run().await;
}

/// Passes on which Namespaces there are. Does not return; drop it to end.
pub async fn watch_namespaces(
    client: Client,
    events: Events<NamespaceEvent>,
    health: watch::Sender<WatchHealth>,
) {
    let into = Into {
        begin: || NamespaceEvent::Begin,
        set: |object: services::NamespaceObject| NamespaceEvent::Namespace(object.own_name()),
        remove: |object: services::NamespaceObject| NamespaceEvent::Gone(object.own_name()),
        end: || NamespaceEvent::End,
    };
    let url = Request::new("/api/v1/namespaces");
    let all = Selectors::default();
    Follower::new("Namespaces", client, url, all, Passed::new(events, into), health).run().await;
}

/// Keeps `mirror` equal to the Leases of `kube-system` that have the label. Does not return; drop it to end.
pub async fn watch_leases(
    client: Client,
    label: &str,
    mirror: watch::Sender<Mirror<String, Lease>>,
    health: watch::Sender<WatchHealth>,
) {
    let convert = |object: &coordination::Lease| {
        let lease = lease::lease(object);
        (lease.name.clone(), lease)
    };
    let url = Request::new(coordination::Lease::url_path(&(), Some(lease::NAMESPACE)));
    let labelled = Selectors { labels: Some(label.to_owned()), ..Selectors::default() };
    let what = format!("Leases {label}");
    Follower::new(what, client, url, labelled, Mirrored::new(mirror, convert), health).run().await;
}

/// Keeps `mirror` equal to the Services, as far as they want addresses from outside or have some. Does not return; drop
/// it to end.
pub async fn watch_balanced(
    client: Client,
    mirror: watch::Sender<Mirror<ServiceKey, Option<BalancedService>>>,
    health: watch::Sender<WatchHealth>,
) {
    let convert = |object: &BalancedObject| (object.key(), object.balanced());
    let url = Request::new("/api/v1/services");
    let all = Selectors::default();
    Follower::new("LoadBalancer Services", client, url, all, Mirrored::new(mirror, convert), health)
        .run()
        .await;
}

/// Keeps `mirror` equal to the data of the ConfigMap `kube-system/weft`. Does not return; drop it to end.
pub async fn watch_settings(
    client: Client,
    mirror: watch::Sender<Mirror<String, BTreeMap<String, String>>>,
    health: watch::Sender<WatchHealth>,
) {
    let convert = |object: &core::ConfigMap| {
        (object.metadata.name.clone().unwrap_or_default(), object.data.clone().unwrap_or_default())
    };
    let url = Request::new(core::ConfigMap::url_path(&(), Some(lease::NAMESPACE)));
    let own = Selectors { fields: Some("metadata.name=weft".to_owned()), ..Selectors::default() };
    Follower::new("ConfigMap kube-system/weft", client, url, own, Mirrored::new(mirror, convert), health)
        .run()
        .await;
}
