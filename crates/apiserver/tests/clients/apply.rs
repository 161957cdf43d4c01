//! Apply, by the client and by the server.

use serde_json::{Value, json};

use crate::support::{Cluster, client_minor};

fn deployment(image: &str, extra: &str) -> String {
    format!(
        r"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  {extra}
  template:
    metadata: {{labels: {{app: web}}}}
    spec: {{containers: [{{name: web, image: '{image}', ports: [{{containerPort: 80}}]}}]}}
"
    )
}

#[test]
fn client_side_apply_changes_only_what_the_manifest_says() {
    let cluster = Cluster::start();
    assert!(cluster.apply(&deployment("a:1", "minReadySeconds: 3")).contains("created"));
    assert!(cluster.apply(&deployment("a:1", "minReadySeconds: 3")).contains("unchanged"));
    cluster.kubectl(&["scale", "deployment", "web", "--replicas=3"]);
    assert!(cluster.apply(&deployment("a:2", "")).contains("configured"));
    let web = cluster.get(&["deployment", "web"]);
    assert_eq!(web["spec"]["replicas"], 3);
    assert!(web["spec"].get("minReadySeconds").is_none(), "what the manifest no longer says is removed");
    assert_eq!(web["spec"]["template"]["spec"]["containers"][0]["image"], "a:2");
    assert_eq!(web["metadata"]["generation"], 3);
    assert!(cluster.kubectl_with(&["diff", "-f", "-"], &deployment("a:2", "")).is_empty());
}

#[test]
fn many_documents_are_applied_and_deleted_together() {
    let cluster = Cluster::start();
    let all = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop}}\n---\n{}---\n{}",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: shop}\ndata: {x: '1'}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80}]}\n",
    );
    cluster.apply(&all);
    assert_eq!(cluster.get(&["-n", "shop", "configmap", "a"])["data"]["x"], "1");
    let pruned = cluster.kubectl_with(&["delete", "-f", "-"], &all);
    assert!(pruned.contains("namespace \"shop\" deleted"), "{pruned}");
    assert!(pruned.contains("configmap \"a\" deleted"), "{pruned}");
    assert!(cluster.refused(&["get", "namespace", "shop"], "").contains("NotFound"));
}

fn server(cluster: &Cluster, manager: &str, manifest: &str) -> String {
    let manager = format!("--field-manager={manager}");
    cluster.kubectl_with(&["apply", "--server-side", &manager, "-f", "-"], manifest)
}

fn fields(cluster: &Cluster, manager: &str) -> Value {
    let mut args = vec!["get", "deployment", "web", "-o", "json"];
    // Before 1.21 they are always shown.
    if client_minor() >= 21 {
        args.push("--show-managed-fields");
    }
    let text = cluster.kubectl(&args);
    let object: Value = serde_json::from_str(&text).expect("JSON");
    let entries = object["metadata"]["managedFields"].as_array().expect("managed fields");
    entries
        .iter()
        .find(|entry| entry["manager"] == manager)
        .map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn server_side_apply_creates_and_notes_the_fields() {
    let cluster = Cluster::start();
    server(&cluster, "one", &deployment("a:1", "replicas: 2"));
    assert_eq!(
        fields(&cluster, "one")["f:spec"],
        json!({
            "f:replicas": {},
            "f:selector": {},
            "f:template": {
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {
                    ".": {}, "f:image": {}, "f:name": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                }}},
            },
        })
    );
    let before = cluster.get(&["deployment", "web"])["metadata"]["resourceVersion"].clone();
    server(&cluster, "one", &deployment("a:1", "replicas: 2"));
    assert_eq!(cluster.get(&["deployment", "web"])["metadata"]["resourceVersion"], before, "nothing changed");
}

#[test]
fn conflicts_name_the_field_and_its_manager_and_force_takes_it() {
    let cluster = Cluster::start();
    server(&cluster, "one", &deployment("a:1", "replicas: 2"));
    let args = ["apply", "--server-side", "--field-manager=two", "-f", "-"];
    let refused = cluster.refused(&args, &deployment("a:1", "replicas: 5"));
    assert!(refused.contains("conflict with \"one\": .spec.replicas"), "{refused}");
    cluster.kubectl_with(&[&args[..], &["--force-conflicts"]].concat(), &deployment("a:1", "replicas: 5"));
    assert_eq!(cluster.get(&["deployment", "web"])["spec"]["replicas"], 5);
    assert!(fields(&cluster, "one")["f:spec"].get("f:replicas").is_none());
    assert!(fields(&cluster, "two")["f:spec"].get("f:replicas").is_some());
    // The same value is no conflict: both own it.
    server(&cluster, "three", &deployment("a:1", "replicas: 5"));
    assert!(fields(&cluster, "two")["f:spec"].get("f:replicas").is_some());
}

#[test]
fn a_field_that_its_only_owner_no_longer_applies_is_removed() {
    let cluster = Cluster::start();
    let with = |extra: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a, labels: {{a: b}}}}\ndata: {{kept: '1'{extra}}}\n"
        )
    };
    server(&cluster, "one", &with(", gone: '2', shared: '3'"));
    server(&cluster, "two", &with(", shared: '3'"));
    server(&cluster, "one", &with(""));
    assert_eq!(cluster.get(&["configmap", "a"])["data"], json!({"kept": "1", "shared": "3"}));
    let bare = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
    server(&cluster, "one", bare);
    server(&cluster, "two", bare);
    let map = cluster.get(&["configmap", "a"]);
    assert!(map.get("data").is_none() && map["metadata"].get("labels").is_none(), "{map}");
}

#[test]
fn list_items_belong_to_who_applied_them() {
    let cluster = Cluster::start();
    let service = |ports: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  ports: [{ports}]\n")
    };
    server(&cluster, "one", &service("{name: http, port: 80}"));
    server(&cluster, "two", &service("{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}"));
    let names = || {
        let service = cluster.get(&["service", "web"]);
        let ports = service["spec"]["ports"].as_array().expect("ports").clone();
        ports.iter().map(|port| port["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(), ["http", "dns", "dns-tcp"]);
    server(&cluster, "two", &service("{name: dns-tcp, port: 53}"));
    assert_eq!(names(), ["http", "dns-tcp"]);
}

#[test]
fn an_update_takes_what_it_changes() {
    let cluster = Cluster::start();
    server(&cluster, "one", &deployment("a:1", "replicas: 2"));
    cluster.kubectl(&["set", "image", "deployment/web", "web=a:9"]);
    let containers = |manager: &str| {
        fields(&cluster, manager)["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"web\"}"]
            .clone()
    };
    assert!(containers("one").get("f:image").is_none());
    assert!(containers("kubectl-set").get("f:image").is_some());
    let args = ["apply", "--server-side", "--field-manager=one", "-f", "-"];
    let refused = cluster.refused(&args, &deployment("a:1", "replicas: 2"));
    assert!(refused.contains(".spec.template.spec.containers[name=\"web\"].image"), "{refused}");
}

#[test]
fn moving_from_client_side_to_server_side_works() {
    let cluster = Cluster::start();
    cluster.apply(&deployment("a:1", "replicas: 2"));
    let args = ["apply", "--server-side", "-f", "-"];
    cluster.kubectl_with(&args, &deployment("a:2", "replicas: 2"));
    cluster.kubectl_with(&args, &deployment("a:3", ""));
    let web = cluster.get(&["deployment", "web"]);
    assert_eq!(web["spec"]["template"]["spec"]["containers"][0]["image"], "a:3");
    if client_minor() >= 26 {
        assert_eq!(web["spec"]["replicas"], 1, "nobody says replicas any more: the default");
    } else {
        // Only from 1.26 on does kubectl take over what its client-side apply owned.
        assert_eq!(web["spec"]["replicas"], 2, "kubectl-client-side-apply says so still");
    }
}

const EVERYTHING: &str = include_str!("everything.yaml");
const KINDS: &str = "nodes,pods,events,services,endpointslices,deployments,replicasets,statefulsets,daemonsets,jobs,\
                     cronjobs,ingressclasses,ingresses,networkpolicies,configmaps,secrets,serviceaccounts,pvc,roles,\
                     rolebindings,leases,hpa,pdb";

fn versions(cluster: &Cluster) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = cluster.get(&[KINDS]);
    let items = list["items"].as_array().expect("items").iter();
    items
        .map(|item| {
            let name = format!("{}/{}", text(&item["kind"]), text(&item["metadata"]["name"]));
            (name, text(&item["metadata"]["resourceVersion"]))
        })
        .collect()
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let cluster = Cluster::start();
    cluster.apply(EVERYTHING);
    let once = versions(&cluster);
    let again = cluster.apply(EVERYTHING);
    // kubectl sends these again in any cluster: lists that are one value and whose items got defaults, texts that are
    // kept encoded, a selector that is always replaced.
    let mut sent = vec!["web-1", "db", "deny", "hidden", "calm"];
    if client_minor() < 21 {
        // It does not know batch/v1's CronJobs, and compares them as it does types that nobody knows: lists as one value.
        sent.push("nightly");
    }
    let changed = again.lines().filter(|line| !line.ends_with(" unchanged"));
    let stray: Vec<&str> =
        changed.filter(|line| !sent.iter().any(|name| line.contains(&format!("/{name} ")))).collect();
    assert_eq!(stray, [""; 0], "{again}");
    assert_eq!(versions(&cluster), once);

    let cluster = Cluster::start();
    let args = ["apply", "--server-side", "-f", "-"];
    cluster.kubectl_with(&args, EVERYTHING);
    let once = versions(&cluster);
    cluster.kubectl_with(&args, EVERYTHING);
    assert_eq!(versions(&cluster), once);
    assert!(cluster.kubectl_with(&["diff", "--server-side", "-f", "-"], EVERYTHING).is_empty());
}
