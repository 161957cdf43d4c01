//! The rest of what people do with kubectl day by day.

use std::process::Child;

use http::Method;
use serde_json::json;

use crate::support::http::Client;
use crate::support::{Cluster, Printing, client_minor, wait_for};

const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\nstatus: {conditions: [{type: Ready, status: 'True'}]}\n";

#[test]
fn nodes_are_cordoned_tainted_and_drained() {
    let cluster = Cluster::start();
    cluster.apply(NODE);
    cluster.kubectl(&["cordon", "node-1"]);
    assert!(cluster.kubectl(&["get", "node", "node-1"]).contains("Ready,SchedulingDisabled"));
    cluster.kubectl(&["taint", "node", "node-1", "key=value:NoSchedule"]);
    let taints = cluster.get(&["node", "node-1"])["spec"]["taints"].clone();
    assert!(
        taints
            .as_array()
            .expect("taints")
            .contains(&json!({"key": "key", "value": "value", "effect": "NoSchedule"}))
    );
    cluster.kubectl(&["taint", "node", "node-1", "key-"]);
    cluster.kubectl(&["uncordon", "node-1"]);
    assert_eq!(cluster.get(&["node", "node-1"])["spec"].get("unschedulable"), None);
    cluster.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {nodeName: node-1, containers: [{name: c, image: i}]}\n");
    let draining =
        cluster.command(&["drain", "node-1", "--force", "--timeout=20s"]).spawn().expect("kubectl");
    wait_for("the eviction", || {
        Some(()).filter(|()| cluster.get(&["pod", "p"])["metadata"]["deletionTimestamp"].is_string())
    });
    cluster.kubectl(&["delete", "pod", "p", "--grace-period=0", "--force"]);
    let output = draining.wait_with_output().expect("kubectl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_scheduler_binds_a_pod_once() {
    let cluster = Cluster::start();
    cluster.kubectl(&["run", "p", "--image=i"]);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "node-1"}});
    let path = "/api/v1/namespaces/default/pods/p/binding";
    cluster.kubectl_with(&["create", "--raw", path, "-f", "-"], &binding.to_string());
    let pod = cluster.get(&["pod", "p"]);
    assert_eq!(pod["spec"]["nodeName"], "node-1");
    assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
    let again = cluster.refused(&["create", "--raw", path, "-f", "-"], &binding.to_string());
    assert!(again.contains("already assigned to node"), "{again}");
}

#[test]
fn wait_sees_deletion_values_and_creation() {
    let cluster = Cluster::start();
    cluster.kubectl(&["run", "p", "--image=i"]);
    // Where wait cannot do it yet, a watch that prints shows that the same request is answered.
    let sees = |name: &str, condition: &str, since: u32, print: &str, line: &str| {
        if client_minor() >= since {
            let args = ["wait", &format!("pod/{name}"), condition, "--timeout=20s"];
            return Seen::Waited(cluster.command(&args).spawn().expect("kubectl"));
        }
        let only = format!("--field-selector=metadata.name={name}");
        Seen::Printed(cluster.printing(&["get", "pods", "-w", &only, "-o", print]), line.to_owned())
    };
    let gone = sees("p", "--for=delete", 0, "", "");
    let phase = "jsonpath={.status.phase}{\"\\n\"}";
    let value = sees("p", "--for=jsonpath={.status.phase}=Running", 23, phase, "Running");
    let made = sees("q", "--for=create", 31, "name", "pod/q");
    let running = json!({"status": {"phase": "Running"}});
    cluster.patch_status("pod/p", "/api/v1/namespaces/default/pods/p", &running);
    value.check();
    cluster.kubectl(&["delete", "pod", "p"]);
    gone.check();
    cluster.kubectl(&["run", "q", "--image=i"]);
    made.check();
}

/// A kubectl that waits for something, or whose output shows it.
enum Seen {
    Waited(Child),
    Printed(Printing, String),
}

impl Seen {
    fn check(self) {
        match self {
            Seen::Waited(child) => {
                let output = child.wait_with_output().expect("kubectl");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
            Seen::Printed(printing, wanted) => printing.expect(&wanted, |line| line == wanted),
        }
    }
}

#[test]
fn replace_force_edit_and_raw_requests() {
    let cluster = Cluster::start();
    cluster.kubectl(&["run", "p", "--image=a:1"]);
    let uid = cluster.get(&["pod", "p"])["metadata"]["uid"].clone();
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {hostNetwork: true, containers: [{name: c, image: i}]}\n";
    cluster.kubectl_with(&["replace", "--force", "-f", "-"], manifest);
    assert_ne!(cluster.get(&["pod", "p"])["metadata"]["uid"], uid);
    cluster.kubectl(&["create", "configmap", "a", "--from-literal=x=before"]);
    let mut edit = cluster.command(&["edit", "configmap", "a"]);
    let output = edit.env("KUBE_EDITOR", "sed -i s/before/after/").output().expect("kubectl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(cluster.get(&["configmap", "a"])["data"]["x"], "after");
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"]), "ok");
    let refused = cluster.refused(&["exec", "p", "--", "true"], "");
    assert!(
        refused.contains("no kubelet is connected") || refused.contains("does not have a host assigned"),
        "{refused}"
    );
}

#[test]
fn selectors_choose_what_is_listed() {
    let cluster = Cluster::start();
    for (name, labels, node) in
        [("a", "app=web,tier=1", "n1"), ("b", "app=web", "n2"), ("c", "app=api", "n1")]
    {
        let labels = labels.replace('=', ": '").replace(',', "', ") + "'";
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{nodeName: {node}, containers: [{{name: c, image: i}}]}}\n"
        ));
    }
    let names = |args: &[&str]| {
        let text = cluster.kubectl(&[&["get", "pods", "-o", "name"], args].concat());
        text.lines().map(|line| line.trim_start_matches("pod/").to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&["-l", "app=web"]), "a b");
    assert_eq!(names(&["-l", "app in (web,api),!tier"]), "b c");
    assert_eq!(names(&["-l", "tier>0"]), "a");
    assert_eq!(names(&["--field-selector", "spec.nodeName=n1"]), "a c");
    assert_eq!(names(&["--field-selector", "spec.nodeName!=n1,metadata.name!=c"]), "b");
    assert_eq!(names(&["--chunk-size=1"]), "a b c");
    assert_eq!(names(&["--sort-by=.spec.nodeName"]), "a c b");
}

#[tokio::test]
async fn debug_adds_a_container_to_a_running_pod() {
    let cluster = Cluster::start();
    cluster.kubectl(&["run", "p", "--image=i"]);
    if client_minor() >= 23 {
        cluster.kubectl(&["debug", "p", "--image=tools", "--container=look", "--attach=false", "--", "true"]);
    } else {
        // Older ones send a kind that servers know no more; this is what newer ones send.
        let patch = json!({"spec": {"ephemeralContainers": [{"name": "look", "image": "tools", "command": ["true"]}]}});
        let path = "/api/v1/namespaces/default/pods/p/ephemeralcontainers";
        let strategic = "application/strategic-merge-patch+json";
        let (code, pod) = Client::new(&cluster).call(Method::PATCH, path, strategic, &patch).await;
        assert_eq!(code, 200, "{pod}");
    }
    let pod = cluster.get(&["pod", "p"]);
    assert_eq!(pod["spec"]["ephemeralContainers"][0]["name"], "look");
}

#[test]
fn a_kustomization_is_applied() {
    let cluster = Cluster::start();
    let folder = weft_scratch::folder();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("write");
    write("kustomization.yaml", "namePrefix: dev-\nresources: [map.yaml]\n");
    write("map.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: '1'}\n");
    cluster.kubectl(&["apply", "-k", folder.path().to_str().expect("a path")]);
    assert_eq!(cluster.get(&["configmap", "dev-a"])["data"]["x"], "1");
}
