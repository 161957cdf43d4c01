//! kubectl, unchanged, with nothing but `--kubeconfig`.

use weft_tests::{Lab, ManifestFile, wait_for, wait_until};

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: nginx, image: nginx, ports: [{containerPort: 80}]}]}
";

#[test]
fn every_verb_works_against_a_lab() {
    let lab = Lab::with_nodes(2).running(DEPLOYMENT).up();
    let kubectl = |words: &str| lab.kubectl(&words.split(' ').collect::<Vec<_>>()).succeeds();

    let nodes = kubectl("get nodes");
    assert!(nodes.lines().filter(|line| line.contains(" Ready ")).count() == 2, "{nodes}");
    let wide = kubectl("get pods -o wide");
    assert!(wide.contains("10.244.") && wide.contains("node-"), "{wide}");

    assert!(kubectl("scale deploy/web --replicas=4").contains("scaled"));
    kubectl("rollout status deploy/web --timeout=60s");
    assert_eq!(lab.get(&["pods", "-l", "app=web"])["items"].as_array().unwrap().len(), 4);

    assert!(kubectl("label pods -l app=web tier=front").contains("labeled"));
    assert_eq!(lab.get(&["pods", "-l", "tier=front"])["items"].as_array().unwrap().len(), 4);
    kubectl(r#"patch deploy web -p {"spec":{"template":{"metadata":{"annotations":{"a":"b"}}}}}"#);
    kubectl("rollout status deploy/web --timeout=60s");
    assert!(kubectl("describe deploy web").contains("StrategyType:"));
    assert!(kubectl("logs deploy/web").contains("stands in for nginx"));

    kubectl("create configmap settings --from-literal=color=blue");
    assert_eq!(lab.get(&["configmap", "settings"])["data"]["color"], "blue");
    kubectl("create namespace other");
    kubectl("run lonely --image=nginx --port=80 -n other");
    kubectl("wait pod/lonely -n other --for=condition=Ready --timeout=60s");
    kubectl("delete pod lonely -n other");
    assert!(lab.kubectl(&["get", "pod", "lonely", "-n", "other"]).code == Some(1));
    kubectl("delete namespace other");

    kubectl("delete deploy web");
    wait_until("the Pods of the deleted Deployment to go", || {
        lab.get(&["pods"])["items"].as_array().unwrap().is_empty()
    });
}

#[test]
fn apply_works_on_the_client_and_on_the_server() {
    let lab = Lab::with_nodes(1).up();
    let file = ManifestFile::new(DEPLOYMENT);
    let path = file.path();
    let path = path.to_str().unwrap();
    assert!(lab.kubectl(&["apply", "-f", path]).succeeds().contains("created"));
    assert!(lab.kubectl(&["apply", "-f", path]).succeeds().contains("unchanged"));
    assert!(lab.kubectl(&["diff", "-f", path]).succeeds().is_empty());
    std::fs::write(file.path(), DEPLOYMENT.replace("replicas: 2", "replicas: 3")).unwrap();
    assert!(lab.kubectl(&["apply", "-f", path]).succeeds().contains("configured"));
    lab.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", path]).succeeds();
    wait_for("three ready replicas", || {
        let status = lab.get(&["deploy", "web"])["status"].clone();
        if status["readyReplicas"] == 3 { Ok(()) } else { Err(status) }
    });
}

#[test]
fn watch_shows_changes_as_they_happen() {
    let lab = Lab::with_nodes(1).up();
    let mut watch = std::process::Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(lab.folder().join("kubeconfig"))
        .args(["get", "configmaps", "-w", "-o", "name"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    lab.kubectl(&["create", "configmap", "news"]).succeeds();
    let output = std::io::BufReader::new(watch.stdout.take().unwrap());
    let seen = std::io::BufRead::lines(output).map_while(Result::ok).any(|line| line == "configmap/news");
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert!(seen);
}
