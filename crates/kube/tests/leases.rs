//! Leases and LoadBalancer addresses, written against the API server.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Cluster, LIMIT};
use tokio::{sync::watch, time::timeout};
use weft_kube::{LeaseError, Mirror, WatchHealth, watch_balanced, watch_leases};
use weft_model::{LeaseWrite, services::ServiceKey};

const LABEL: &str = "weft.network/announces";
const DURATION: Duration = Duration::from_secs(2);

fn held(holder: Option<&str>) -> LeaseWrite {
    LeaseWrite { holder: holder.map(str::to_owned), duration: DURATION, ..LeaseWrite::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lease_has_no_field_for_is_kept_with_it() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let voters = vec!["node-2".to_owned(), "node-3".to_owned()];
    let write = LeaseWrite { epoch: Some(1_700_000_000), voters: voters.clone(), ..held(Some("node-1")) };
    let written = client.put_lease("a", LABEL, None, &write).await.unwrap();
    assert_eq!((written.epoch, &written.voters), (Some(1_700_000_000), &voters));
    let plain = client.put_lease("a", LABEL, Some(&written), &held(Some("node-1"))).await.unwrap();
    assert_eq!((plain.epoch, plain.voters), (None, Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_written_only_by_who_has_seen_it() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let first = client.put_lease("a", LABEL, None, &held(Some("node-1"))).await.unwrap();
    assert_eq!((first.holder.as_deref(), first.duration), (Some("node-1"), DURATION));
    let taken = client.put_lease("a", LABEL, None, &held(Some("node-2"))).await;
    assert!(matches!(taken, Err(LeaseError::Conflict(Some(lease))) if lease == first));
    let renewed = client.put_lease("a", LABEL, Some(&first), &held(Some("node-1"))).await.unwrap();
    assert_eq!(renewed.transitions, 0);
    let stale = client.put_lease("a", LABEL, Some(&first), &held(Some("node-2"))).await;
    assert!(matches!(stale, Err(LeaseError::Conflict(Some(lease))) if lease == renewed));
    let (sender, mut seen) = watch::channel(Mirror::default());
    tokio::spawn(watch_leases(
        cluster.client().await,
        LABEL,
        sender,
        watch::channel(WatchHealth::default()).0,
    ));
    timeout(LIMIT, seen.wait_for(|mirror| mirror.objects().get("a") == Some(&renewed)))
        .await
        .unwrap()
        .unwrap();
    let given = client.put_lease("a", LABEL, Some(&renewed), &held(None)).await.unwrap();
    assert_eq!(given.holder, None);
    let moved = client.put_lease("a", LABEL, Some(&given), &held(Some("node-2"))).await.unwrap();
    assert_eq!(moved.transitions, 1);
    assert!(matches!(client.delete_lease(&given).await, Err(LeaseError::Conflict(Some(_)))));
    client.delete_lease(&moved).await.unwrap();
    client.delete_lease(&moved).await.unwrap();
    let gone = client.put_lease("a", LABEL, Some(&moved), &held(Some("node-1"))).await;
    assert!(matches!(gone, Err(LeaseError::Conflict(None))));
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_written_into_the_status_and_cleared() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let api: kube::Api<k8s_openapi::api::core::v1::Service> =
        kube::Api::namespaced(cluster.kube.clone(), "default");
    let service = serde_json::from_value(json!({
        "metadata": { "name": "web" }, "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] },
    }))
    .unwrap();
    api.create(&Default::default(), &service).await.unwrap();
    let (sender, mut seen) = watch::channel(Mirror::default());
    tokio::spawn(watch_balanced(cluster.client().await, sender, watch::channel(WatchHealth::default()).0));
    let key = ServiceKey::new("default", "web");
    let mut held = async |wanted: &[std::net::IpAddr]| {
        let matches = |mirror: &Mirror<ServiceKey, Option<weft_model::BalancedService>>| {
            mirror.objects().get(&key).and_then(Option::as_ref).is_some_and(|service| service.held == wanted)
        };
        let mirror = timeout(LIMIT, seen.wait_for(matches)).await.unwrap().unwrap();
        mirror.objects().get(&key).cloned().flatten().unwrap()
    };
    let before = held(&[]).await;
    let address = "192.0.2.1".parse().unwrap();
    client.write_ingress(&before, &[address]).await.unwrap();
    let after = held(&[address]).await;
    // What was decided on an older state is not written.
    client.write_ingress(&before, &[]).await.unwrap();
    assert_eq!(held(&[address]).await, after);
    client.write_ingress(&after, &[]).await.unwrap();
    held(&[]).await;
}
