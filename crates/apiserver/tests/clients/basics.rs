//! Create, read, change and delete by kubectl.

use crate::support::Cluster;

#[test]
fn a_cluster_starts_with_its_namespaces() {
    let cluster = Cluster::start();
    let names = cluster.kubectl(&["get", "namespaces", "-o", "name"]);
    let names: Vec<&str> = names.lines().collect();
    assert_eq!(
        names,
        ["namespace/default", "namespace/kube-node-lease", "namespace/kube-public", "namespace/kube-system"]
    );
    assert_eq!(cluster.get(&["service", "kubernetes"])["spec"]["clusterIP"], "10.96.0.1");
    assert_eq!(cluster.get(&["serviceaccount", "default"])["metadata"]["namespace"], "default");
}

#[test]
fn apply_changes_only_what_the_manifest_says() {
    let cluster = Cluster::start();
    let manifest = |image: &str| {
        format!(
            r"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec: {{containers: [{{name: web, image: '{image}', ports: [{{containerPort: 80}}]}}]}}
"
        )
    };
    assert!(cluster.apply(&manifest("a:1")).contains("created"));
    assert!(cluster.apply(&manifest("a:1")).contains("unchanged"));
    cluster.kubectl(&["scale", "deployment", "web", "--replicas=3"]);
    assert!(cluster.apply(&manifest("a:2")).contains("configured"));
    let web = cluster.get(&["deployment", "web"]);
    assert_eq!(web["spec"]["replicas"], 3);
    assert_eq!(web["spec"]["template"]["spec"]["containers"][0]["image"], "a:2");
    assert_eq!(web["metadata"]["generation"], 3);
}
