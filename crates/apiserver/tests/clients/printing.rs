//! What people see: get, get -o wide, get -w, describe.

use serde_json::json;

use crate::support::{Cluster, client_minor};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn header(cluster: &Cluster, args: &[&str]) -> String {
    let text = cluster.kubectl(&[&["get"], args].concat());
    text.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn with_everything() -> Cluster {
    let cluster = Cluster::start();
    cluster.apply(include_str!("everything.yaml"));
    cluster
}

#[test]
fn every_table_has_the_columns_that_people_know() {
    let cluster = with_everything();
    let cases: &[(&[&str], &str)] = &[
        (&["pods"], "NAME READY STATUS RESTARTS AGE"),
        (&["pods", "-o", "wide"], "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES"),
        (&["nodes"], "NAME STATUS ROLES AGE VERSION"),
        (&["services"], "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE"),
        (&["services", "-o", "wide"], "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR"),
        (&["deployments"], "NAME READY UP-TO-DATE AVAILABLE AGE"),
        (&["deployments", "-o", "wide"], "NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR"),
        (&["replicasets"], "NAME DESIRED CURRENT READY AGE"),
        (&["statefulsets"], "NAME READY AGE"),
        (&["daemonsets"], "NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE SELECTOR AGE"),
        (&["jobs"], "NAME STATUS COMPLETIONS DURATION AGE"),
        (&["cronjobs"], "NAME SCHEDULE TIMEZONE SUSPEND ACTIVE LAST SCHEDULE AGE"),
        (&["ingresses"], "NAME CLASS HOSTS ADDRESS PORTS AGE"),
        (&["configmaps"], "NAME DATA AGE"),
        (&["secrets"], "NAME TYPE DATA AGE"),
        (&["namespaces"], "NAME STATUS AGE"),
        (&["events"], "LAST SEEN TYPE REASON OBJECT MESSAGE"),
        (&["endpointslices"], "NAME ADDRESSTYPE PORTS ENDPOINTS AGE"),
        (&["networkpolicies"], "NAME POD-SELECTOR AGE"),
        (&["pvc"], "NAME STATUS VOLUME CAPACITY ACCESS MODES STORAGECLASS VOLUMEATTRIBUTESCLASS AGE"),
        (&["serviceaccounts"], "NAME SECRETS AGE"),
        (&["roles"], "NAME CREATED AT"),
        (&["leases"], "NAME HOLDER AGE"),
        (&["pods", "-A"], "NAMESPACE NAME READY STATUS RESTARTS AGE"),
    ];
    for (args, wanted) in cases {
        assert_eq!(header(&cluster, args), *wanted, "{args:?}");
    }
}

#[test]
fn a_running_pod_reads_as_running() {
    let cluster = with_everything();
    let row = |cluster: &Cluster| {
        let text = cluster.kubectl(&["get", "pod", "front", "-o", "wide", "--no-headers"]);
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row(&cluster)[1..3], ["0/1", "Pending"]);
    let status = json!({"status": {
        "phase": "Running", "podIP": "10.244.0.7", "podIPs": [{"ip": "10.244.0.7"}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "c", "ready": true, "restartCount": 2, "state": {"running": {}}}],
    }});
    cluster.patch_status("pod/front", &format!("{PODS}/front"), &status);
    let found = row(&cluster);
    assert_eq!(
        (found[1..4].join(" "), found[5..7].join(" ")),
        ("1/1 Running 2".into(), "10.244.0.7 node-1".into())
    );
    let crash = json!({"status": {"containerStatuses": [{
        "name": "c", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    }]}});
    cluster.patch_status("pod/front", &format!("{PODS}/front"), &crash);
    assert_eq!(row(&cluster)[1..3], ["0/1", "CrashLoopBackOff"]);
    cluster.kubectl(&["delete", "pod", "front", "--wait=false"]);
    assert_eq!(row(&cluster)[2], "Terminating");
}

#[test]
fn describe_works_on_what_people_describe() {
    let cluster = with_everything();
    let cases = [
        ("pod/front", "Node:"),
        ("node/node-1", "Addresses:"),
        ("service/web", "Endpoints:"),
        ("deployment/web", "StrategyType:"),
        ("replicaset/old", "Pods Status:"),
        ("statefulset/db", "Update Strategy:"),
        ("daemonset/agent", "Node-Selector:"),
        ("job/once", "Parallelism:"),
        ("cronjob/nightly", "Schedule:"),
        ("ingress/door", "Rules:"),
        ("configmap/config", "Data"),
        ("secret/hidden", "Type:"),
        ("namespace/default", "Status:"),
        ("networkpolicy/deny", "PodSelector:"),
        ("endpointslice/web-1", "AddressType:"),
        ("serviceaccount/robot", "Tokens:"),
        ("pvc/data", "Access Modes:"),
    ];
    // Events are found by the uid of what they are about.
    let uid = cluster.get(&["pod", "front"])["metadata"]["uid"].clone();
    let patch = json!({"involvedObject": {"uid": uid}}).to_string();
    cluster.kubectl(&["patch", "event", "front.1", "--type=merge", "-p", &patch]);
    for (object, wanted) in cases {
        // Before 1.25 kubectl may ask for beta versions of these, which servers have no more: then they are described
        // by newer ones only.
        if client_minor() < 25 && ["cronjob/nightly", "endpointslice/web-1"].contains(&object) {
            let (kind, _) = object.split_once('/').expect("kind and name");
            let found = cluster.get(&[object])["kind"].as_str().map(str::to_lowercase);
            assert_eq!(found.as_deref(), Some(kind));
            continue;
        }
        let text = cluster.kubectl(&["describe", object]);
        assert!(text.contains(wanted), "describe {object}: {text}");
    }
    let text = cluster.kubectl(&["describe", "pod", "front"]);
    assert!(text.contains("went well"), "events are found by what they are about: {text}");
    // Before 1.31 kubectl reads Endpoints, not EndpointSlices.
    if client_minor() < 31 {
        cluster.apply(
            "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\nsubsets: [{addresses: [{ip: 10.244.0.7}], ports: [{port: \
             8080}]}]\n",
        );
    }
    let text = cluster.kubectl(&["describe", "service", "web"]);
    assert!(text.contains("10.244.0.7:8080"), "{text}");
}

#[test]
fn get_watch_prints_changes_as_they_happen() {
    let cluster = with_everything();
    let printing = cluster.printing(&["get", "pods", "-w"]);
    let expect = |what: &str, start: &str, contains: &str| {
        printing.expect(what, |line| line.starts_with(start) && line.contains(contains));
    };
    expect("the header", "NAME", "STATUS");
    expect("the Pod that is there", "front", "Pending");
    cluster.kubectl(&["run", "second", "--image=a"]);
    expect("the new Pod", "second", "Pending");
    cluster.patch_status("pod/second", &format!("{PODS}/second"), &json!({"status": {"phase": "Failed"}}));
    expect("its end", "second", "Failed");
}

#[test]
fn events_are_one_thing_in_two_groups() {
    let cluster = with_everything();
    let new = cluster.get(&["events.v1.events.k8s.io", "front.1"]);
    assert_eq!((new["note"].as_str(), new["regarding"]["name"].as_str()), (Some("went well"), Some("front")));
    let found = if client_minor() >= 26 {
        cluster.kubectl(&["events", "--for", "pod/front"])
    } else {
        let about = "involvedObject.kind=Pod,involvedObject.name=front";
        cluster.kubectl(&["get", "events", "--field-selector", about])
    };
    assert!(found.contains("went well"), "{found}");
    assert!(cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=other"]).is_empty());
}
