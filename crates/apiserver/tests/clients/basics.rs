//! Create, read and change by kubectl.

use serde_json::json;

use crate::support::{Cluster, client_minor};

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
    let label = &cluster.get(&["ns", "default"])["metadata"]["labels"]["kubernetes.io/metadata.name"];
    assert_eq!(label, "default");
}

/// Kinds that were in beta, and the same objects as `kubectl create KIND` would make.
const ONCE_BETA: [(&str, &str); 2] = [
    (
        "cronjob",
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: nightly}\nspec: {schedule: 0 3 * * *, jobTemplate: {spec: \
         {template: {spec: {restartPolicy: Never, containers: [{name: c, image: 'a:1'}]}}}}}\n",
    ),
    (
        "poddisruptionbudget",
        "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: calm}\nspec: {minAvailable: 1, selector: \
         {matchLabels: {app: web}}}\n",
    ),
];

#[test]
fn kubectl_creates_every_kind_that_it_has_a_command_for() {
    let cluster = Cluster::start();
    let commands = [
        "deployment web --image=a:1 --replicas=0 --port=80",
        "job once --image=a:1 -- echo hi",
        "cronjob nightly --image=a:1 --schedule=0_3_*_*_*",
        "configmap config --from-literal=a=b",
        "secret generic hidden --from-literal=a=b",
        "service clusterip inner --tcp=80:8080",
        "service nodeport outer --tcp=80:8080",
        "service externalname away --external-name=example.com",
        "serviceaccount robot",
        "role reader --verb=get --resource=pods",
        "rolebinding readers --role=reader --serviceaccount=default:robot",
        "clusterrole all --verb=* --resource=*",
        "clusterrolebinding everyone --clusterrole=all --user=jane",
        "ingress door --rule=example.com/*=inner:80",
        "quota limit --hard=pods=10",
        "poddisruptionbudget calm --selector=app=web --min-available=1",
        "priorityclass high --value=1000",
        "namespace shop",
    ];
    for command in commands {
        // Before 1.25 kubectl may ask for beta versions, which servers have no more.
        let (kind, _) = command.split_once(' ').expect("a kind");
        if client_minor() < 25
            && let Some((_, manifest)) = ONCE_BETA.iter().find(|(beta, _)| *beta == kind)
        {
            assert!(cluster.kubectl_with(&["create", "-f", "-"], manifest).contains("created"), "{command}");
            continue;
        }
        let words: Vec<String> = command.split(' ').map(|word| word.replace('_', " ")).collect();
        let mut args = vec!["create"];
        args.extend(words.iter().map(String::as_str));
        assert!(cluster.kubectl(&args).contains("created"), "{command}");
    }
    let web = cluster.get(&["deployment", "web"]);
    assert_eq!(web["spec"]["replicas"], 0, "none wanted is not the same as nothing said");
    assert_eq!(web["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"], 80);
    assert_eq!(
        cluster.get(&["job", "once"])["spec"]["template"]["spec"]["containers"][0]["command"][1],
        "hi"
    );
    assert_eq!(cluster.get(&["secret", "hidden"])["data"]["a"], "Yg==");
    assert_eq!(cluster.get(&["cronjob", "nightly"])["spec"]["schedule"], "0 3 * * *");
    assert_eq!(
        cluster.get(&["ingress", "door"])["spec"]["rules"][0]["http"]["paths"][0]["pathType"],
        "Prefix"
    );
    assert_eq!(cluster.get(&["pdb", "calm"])["spec"]["minAvailable"], 1);
    assert_eq!(cluster.get(&["priorityclass", "high"])["value"], 1000);
    assert_eq!(cluster.get(&["rolebinding", "readers"])["subjects"][0]["name"], "robot");
    let again = cluster.refused(&["create", "namespace", "shop"], "");
    assert!(
        again.contains("AlreadyExists") && again.contains("namespaces \"shop\" already exists"),
        "{again}"
    );
}

#[test]
fn run_expose_label_annotate_scale_and_set() {
    let cluster = Cluster::start();
    cluster.kubectl(&["run", "web", "--image=a:1", "--port=80", "--labels=app=web"]);
    cluster.kubectl(&["expose", "pod", "web", "--port=80", "--target-port=8080"]);
    assert_eq!(cluster.get(&["service", "web"])["spec"]["selector"]["app"], "web");
    cluster.kubectl(&["label", "pod", "web", "tier=front"]);
    cluster.kubectl(&["annotate", "pod", "web", "note=some text"]);
    let refused = cluster.refused(&["label", "pod", "web", "tier=back"], "");
    assert!(refused.contains("already has a value"), "{refused}");
    cluster.kubectl(&["label", "--overwrite", "pod", "web", "tier=back", "app-"]);
    let pod = cluster.get(&["pod", "web"]);
    assert_eq!(pod["metadata"]["labels"], json!({"tier": "back"}));
    assert_eq!(pod["metadata"]["annotations"]["note"], "some text");
    cluster.kubectl(&["create", "deployment", "api", "--image=a:1"]);
    cluster.kubectl(&["scale", "deployment", "api", "--replicas=4", "--current-replicas=1"]);
    cluster.kubectl(&["set", "image", "deployment/api", "a=a:2"]);
    cluster.kubectl(&["set", "env", "deployment/api", "KEY=value"]);
    cluster.kubectl(&["rollout", "restart", "deployment/api"]);
    cluster.kubectl(&["autoscale", "deployment", "api", "--max=5", "--cpu-percent=50"]);
    let api = cluster.get(&["deployment", "api"]);
    assert_eq!(api["spec"]["replicas"], 4);
    let container = &api["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        (container["image"].as_str(), container["env"][0]["name"].as_str()),
        (Some("a:2"), Some("KEY"))
    );
    assert_eq!(api["metadata"]["generation"], 5);
    let scaler = cluster.get(&["hpa", "api"]);
    assert_eq!(scaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    let old = cluster.get(&["horizontalpodautoscalers.v1.autoscaling", "api"]);
    assert_eq!(old["spec"]["targetCPUUtilizationPercentage"], 50);
}

#[test]
fn defaults_are_filled_in() {
    let cluster = Cluster::start();
    cluster.kubectl(&["run", "web", "--image=a", "--port=80"]);
    let pod = cluster.get(&["pod", "web"]);
    let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(container["ports"][0]["protocol"], "TCP");
    assert_eq!(
        (spec["restartPolicy"].as_str(), spec["dnsPolicy"].as_str()),
        (Some("Always"), Some("ClusterFirst"))
    );
    assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(
        (pod["status"]["phase"].as_str(), pod["status"]["qosClass"].as_str()),
        (Some("Pending"), Some("BestEffort"))
    );
    cluster.apply("{\"apiVersion\": \"v1\", \"kind\": \"Secret\", \"metadata\": {\"name\": \"s\"}, \"stringData\": {\"a\": \"b\"}}");
    let secret = cluster.get(&["secret", "s"]);
    assert_eq!((secret["data"]["a"].as_str(), secret["type"].as_str()), (Some("Yg=="), Some("Opaque")));
    assert!(secret.get("stringData").is_none());
    cluster.kubectl(&["create", "job", "j", "--image=a"]);
    let job = cluster.get(&["job", "j"]);
    let uid = job["metadata"]["uid"].as_str();
    assert_eq!(job["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"].as_str(), uid);
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
    assert_eq!(job["spec"]["backoffLimit"], 6);
}

#[test]
fn rollout_status_and_wait_follow_the_status() {
    let cluster = Cluster::start();
    cluster.kubectl(&["create", "deployment", "web", "--image=a:1", "--replicas=2"]);
    let slow =
        cluster.command(&["rollout", "status", "deployment/web", "--timeout=20s"]).spawn().expect("kubectl");
    let waiting = cluster
        .command(&["wait", "deployment/web", "--for=condition=Available", "--timeout=20s"])
        .spawn()
        .expect("kubectl");
    let status = json!({"status": {
        "observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2,
        "conditions": [{"type": "Available", "status": "True"}],
    }});
    cluster.patch_status("deployment/web", "/apis/apps/v1/namespaces/default/deployments/web", &status);
    for child in [slow, waiting] {
        let output = child.wait_with_output().expect("kubectl");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}{err}");
    }
    let web = cluster.get(&["deployment", "web"]);
    assert_eq!(web["metadata"]["generation"], 1, "a status is no change of what is wanted");
    cluster.kubectl(&[
        "patch",
        "deployment",
        "web",
        "-p",
        r#"{"status": {"replicas": 9}, "spec": {"paused": true}}"#,
    ]);
    let web = cluster.get(&["deployment", "web"]);
    assert_eq!(
        (web["status"]["replicas"].as_i64(), web["metadata"]["generation"].as_i64()),
        (Some(2), Some(2))
    );
}

#[test]
fn a_dry_run_changes_nothing() {
    let cluster = Cluster::start();
    cluster.kubectl(&["create", "deployment", "web", "--image=a:1", "--dry-run=server"]);
    assert!(cluster.refused(&["get", "deployment", "web"], "").contains("NotFound"));
    cluster.kubectl(&["create", "configmap", "a", "--from-literal=x=1"]);
    cluster.kubectl(&["patch", "configmap", "a", "--dry-run=server", "-p", r#"{"data": {"x": "2"}}"#]);
    cluster.kubectl(&["delete", "configmap", "a", "--dry-run=server"]);
    assert_eq!(cluster.get(&["configmap", "a"])["data"]["x"], "1");
}

#[test]
fn replace_needs_the_version_that_it_read() {
    let cluster = Cluster::start();
    cluster.kubectl(&["create", "configmap", "a", "--from-literal=x=1"]);
    let old = cluster.kubectl(&["get", "configmap", "a", "-o", "json"]);
    cluster.kubectl(&["patch", "configmap", "a", "-p", r#"{"data": {"x": "2"}}"#]);
    let refused = cluster.refused(&["replace", "-f", "-"], &old);
    assert!(refused.contains("the object has been modified"), "{refused}");
    let new = cluster.kubectl(&["get", "configmap", "a", "-o", "json"]).replace("\"2\"", "\"3\"");
    cluster.kubectl_with(&["replace", "-f", "-"], &new);
    assert_eq!(cluster.get(&["configmap", "a"])["data"]["x"], "3");
}

#[test]
fn generated_names_differ() {
    let cluster = Cluster::start();
    let manifest = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "part-"}}"#;
    let make = || cluster.kubectl_with(&["create", "-o", "name", "-f", "-"], manifest);
    let (one, two) = (make(), make());
    assert!(one.starts_with("configmap/part-") && one.trim().len() == "configmap/part-".len() + 5, "{one}");
    assert_ne!(one, two);
}
