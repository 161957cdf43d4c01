//! Deletion: grace, finalizers, owners, namespaces.

use http::Method;
use serde_json::{Value, json};

use crate::support::http::Client;
use crate::support::{Cluster, wait_for};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";

fn pod(name: &str, owner: Option<&Value>, node: &str) -> Value {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    if !node.is_empty() {
        pod["spec"]["nodeName"] = node.into();
    }
    if let Some(owner) = owner {
        pod["metadata"]["ownerReferences"] = json!([{
            "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
        }]);
    }
    pod
}

fn set(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]},
    }}})
}

#[tokio::test]
async fn a_pod_on_a_node_gets_its_grace_and_its_kubelet_ends_it() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    client.create(PODS, &pod("p", None, "node-1")).await;
    let deleting = cluster
        .command(&["delete", "pod", "p", "--grace-period=7", "--wait=true", "--timeout=20s"])
        .spawn()
        .expect("kubectl");
    let marked = wait_for("the mark", || {
        Some(cluster.get(&["pod", "p"])).filter(|pod| pod["metadata"]["deletionTimestamp"].is_string())
    });
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
    let (_, still) = client.get(&format!("{PODS}/p")).await;
    let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}});
    let (code, status) =
        client.call(Method::DELETE, &format!("{PODS}/p"), "application/json", &options).await;
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")));
    let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": still["metadata"]["uid"]}});
    let (code, _) = client.call(Method::DELETE, &format!("{PODS}/p"), "application/json", &options).await;
    assert_eq!(code, 200);
    assert_eq!(client.get(&format!("{PODS}/p")).await.0, 404);
    assert!(deleting.wait_with_output().expect("kubectl").status.success(), "kubectl delete saw the Pod go");
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_taken_away() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let maps = "/api/v1/namespaces/default/configmaps";
    client.create(maps, &json!({"metadata": {"name": "a", "finalizers": ["example.com/x"]}})).await;
    let held = client.delete(&format!("{maps}/a")).await;
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    let add = json!({"metadata": {"finalizers": ["example.com/x", "example.com/y"]}});
    let (code, _) =
        client.call(Method::PATCH, &format!("{maps}/a"), "application/merge-patch+json", &add).await;
    assert_eq!(code, 422, "none can be added any more");
    client.merge(&format!("{maps}/a"), &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(client.get(&format!("{maps}/a")).await.0, 404);
}

#[tokio::test]
async fn dependents_go_with_their_last_owner() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let one = client.create(SETS, &set("one")).await;
    let two = client.create(SETS, &set("two")).await;
    client.create(PODS, &pod("of-one", Some(&one), "")).await;
    let mut both = pod("of-both", Some(&one), "");
    let second = pod("x", Some(&two), "")["metadata"]["ownerReferences"][0].clone();
    both["metadata"]["ownerReferences"].as_array_mut().expect("owners").push(second);
    both["metadata"]["ownerReferences"][1]["controller"] = false.into();
    client.create(PODS, &both).await;
    client.delete(&format!("{SETS}/one")).await;
    assert_eq!(client.get(&format!("{PODS}/of-one")).await.0, 404);
    let (_, left) = client.get(&format!("{PODS}/of-both")).await;
    assert_eq!(left["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(1));
    client.delete(&format!("{SETS}/two")).await;
    assert_eq!(client.get(&format!("{PODS}/of-both")).await.0, 404);
    // One that is made after its owner has gone does not stay either.
    client.create(PODS, &pod("late", Some(&one), "")).await;
    assert_eq!(client.get(&format!("{PODS}/late")).await.0, 404);
}

#[tokio::test]
async fn orphans_stay_and_foreground_waits() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let owner = client.create(SETS, &set("one")).await;
    client.create(PODS, &pod("p", Some(&owner), "")).await;
    cluster.kubectl(&["delete", "rs", "one", "--cascade=orphan"]);
    let (code, kept) = client.get(&format!("{PODS}/p")).await;
    assert_eq!((code, kept["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len)), (200, 0));

    let owner = client.create(SETS, &set("two")).await;
    client.create(PODS, &pod("q", Some(&owner), "node-1")).await;
    cluster.kubectl(&["delete", "rs", "two", "--cascade=foreground", "--wait=false"]);
    let (_, waiting) = client.get(&format!("{SETS}/two")).await;
    assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let options = json!({"gracePeriodSeconds": 0});
    client.call(Method::DELETE, &format!("{PODS}/q"), "application/json", &options).await;
    assert_eq!(client.get(&format!("{SETS}/two")).await.0, 404);
}

#[tokio::test]
async fn a_namespace_goes_when_its_last_object_has_gone() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    cluster.kubectl(&["create", "namespace", "shop"]);
    cluster.kubectl(&["-n", "shop", "create", "deployment", "web", "--image=a"]);
    let pods = "/api/v1/namespaces/shop/pods";
    client.create(pods, &pod("p", None, "node-1")).await;
    let ending = client.delete("/api/v1/namespaces/shop").await;
    assert_eq!(ending["status"]["phase"], "Terminating");
    wait_for("the contents to go", || {
        Some(cluster.kubectl(&["-n", "shop", "get", "deployments", "-o", "name"])).filter(String::is_empty)
    });
    let refused = cluster.refused(&["-n", "shop", "create", "configmap", "x"], "");
    assert!(refused.contains("because it is being terminated"), "{refused}");
    let options = json!({"gracePeriodSeconds": 0});
    client.call(Method::DELETE, &format!("{pods}/p"), "application/json", &options).await;
    assert_eq!(client.get("/api/v1/namespaces/shop").await.0, 404);
    let missing = cluster.refused(&["-n", "nowhere", "create", "configmap", "x"], "");
    assert!(missing.contains("namespaces \"nowhere\" not found"), "{missing}");
    assert!(cluster.refused(&["delete", "namespace", "default"], "").contains("may not be deleted"));
}

#[test]
fn collections_are_deleted_by_selector() {
    let cluster = Cluster::start();
    for (name, label) in [("a", "x=1"), ("b", "x=1"), ("c", "x=2")] {
        cluster.kubectl(&["create", "configmap", name]);
        cluster.kubectl(&["label", "configmap", name, label]);
    }
    cluster.kubectl(&["delete", "configmap", "-l", "x=1"]);
    let left = cluster.kubectl(&["get", "configmap", "-o", "name"]);
    assert_eq!(left.lines().collect::<Vec<_>>(), ["configmap/c", "configmap/kube-root-ca.crt"]);
    cluster.kubectl(&["delete", "configmap", "--all"]);
    assert!(cluster.kubectl(&["get", "configmap", "-o", "name"]).is_empty());
}

#[tokio::test]
async fn a_long_chain_of_owners_is_followed_to_its_end() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let maps = "/api/v1/namespaces/default/configmaps";
    let mut owner = client.create(maps, &json!({"metadata": {"name": "m0"}})).await;
    for at in 1..300 {
        let mut next = pod(&format!("m{at}"), Some(&owner), "");
        next.as_object_mut().expect("an object").remove("spec");
        owner = client.create(maps, &next).await;
    }
    client.delete(&format!("{maps}/m0")).await;
    assert_eq!(client.get(&format!("{maps}/m299")).await.0, 404);
}
