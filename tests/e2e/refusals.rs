//! What is wrong with manifests is told whole, where it stands, before anything waits for it.

use std::fs;

use weft_tests::{Lab, ManifestFile, wait_for};

/// A5: one object twice, in two files; which one counts must not be by chance.
#[test]
fn the_last_of_an_object_that_stands_twice_counts() {
    let lab = Lab::with_nodes(1).up();
    let folder = weft_scratch::folder();
    let map = |value: u32| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: twice}}\ndata: {{value: '{value}'}}\n---\n"
        )
    };
    fs::write(folder.path().join("a.yaml"), (1..40).map(map).collect::<String>()).unwrap();
    fs::write(folder.path().join("b.yaml"), map(40)).unwrap();
    let said = lab.weft_lab("apply", &["-f", folder.path().to_str().unwrap()]);
    assert_eq!(lab.get(&["configmap", "twice"])["data"]["value"], "40");
    assert_eq!(said.stderr.matches("ConfigMap twice stands twice").count(), 39, "{said:?}");
    assert!(said.stderr.contains("a.yaml:1: ") && said.stderr.contains("b.yaml:1 counts"), "{said:?}");
    assert_eq!(said.succeeds(), "configmap/twice created\n");
}

/// A3: a version that is no more is refused with the one that is, and leaves no kind behind.
#[test]
fn former_versions_are_refused_with_those_that_are_served() {
    let lab = Lab::with_nodes(1).up();
    let apply = |text: &str| {
        let file = ManifestFile::new(text);
        lab.weft_lab("apply", &["-f", file.path().to_str().unwrap()])
    };
    let old = "apiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {name: web}\n---\napiVersion: networking.k8s.io/v1beta1\nkind: Ingress\nmetadata: {name: web}\n";
    let said = apply(old).fails_with(2);
    for told in [
        "manifest.yaml:1: Deployment web: no matches for kind Deployment in version extensions/v1beta1 (did you mean Deployment of apps/v1?)",
        "manifest.yaml:5: Ingress web: no matches for kind Ingress in version networking.k8s.io/v1beta1 (did you mean Ingress of networking.k8s.io/v1?)",
    ] {
        assert!(said.contains(told), "{said}");
    }
    assert_eq!(lab.get(&["crds"])["items"], serde_json::json!([]));
    apply("apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: web}\nspec: {a: b}\n")
        .succeeds();
    assert_eq!(lab.get(&["services.serving.knative.dev", "web"])["spec"]["a"], "b");
}

/// A10: what has failed for good ends the wait, which is otherwise longer than any test: the other Pod never runs.
#[test]
fn a_job_that_has_failed_ends_the_wait() {
    let lab = Lab::with_nodes(1).option("--timeout", "100000").running(
        "
apiVersion: v1
kind: Pod
metadata: {name: lost}
spec: {nodeName: node-9, containers: [{name: a, image: b}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: load}
spec:
  backoffLimit: 1
  template:
    spec:
      restartPolicy: Never
      containers: [{name: a, image: busybox, command: [sh, -c, 'exit 3']}]
",
    );
    let said = lab.try_up().fails_with(1);
    let told =
        "Job default/load has failed: BackoffLimitExceeded: Job has reached the specified backoff limit";
    assert!(said.contains(told), "{said}");
}

/// A11: no kubelet ends such a Pod.
#[test]
fn a_pod_of_a_node_that_does_not_exist_is_told_and_can_be_deleted() {
    let lab = Lab::with_nodes(1).up();
    let file = ManifestFile::new(
        "# a Pod\napiVersion: v1\nkind: Pod\nmetadata: {name: lost}\nspec: {nodeName: node-9, containers: [{name: a, image: b}]}\n",
    );
    let said = lab.weft_lab("apply", &["-f", file.path().to_str().unwrap()]);
    let told = "manifest.yaml:2: Pod lost: there is no node node-9: a Pod that names it never runs; the nodes are node-1";
    assert!(said.stderr.contains(told), "{said:?}");
    lab.kubectl(&["delete", "pod", "lost", "--timeout=60s"]).succeeds();
    wait_for("the Pod to be gone", || {
        let said = lab.kubectl(&["get", "pods", "-o", "name"]);
        if said.stdout.is_empty() { Ok(()) } else { Err(said) }
    });
}

/// A9: what nothing runs is not taken.
#[test]
fn ephemeral_containers_are_refused() {
    let lab = Lab::with_nodes(1)
        .running(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: b}]}\n",
        )
        .up();
    let said =
        lab.kubectl(&["debug", "web", "--image=busybox", "--attach=false", "--", "true"]).fails_with(1);
    assert!(said.contains("no kubelet of this cluster runs ephemeral containers"), "{said}");
    assert!(lab.get(&["pod", "web"])["spec"].get("ephemeralContainers").is_none());
}

/// The smaller ones: what Services lead to, by other names than a Pod's.
#[test]
fn commands_say_what_they_can_reach() {
    let lab = Lab::with_nodes(1)
        .running(
            "
apiVersion: v1
kind: Service
metadata: {name: world}
spec: {type: ExternalName, externalName: example.com}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 9999}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: a, image: b, ports: [{containerPort: 8080}]}]}
",
        )
        .up();
    let said = lab.weft_lab("forward", &["world", "0:80"]).fails_with(2);
    assert!(said.contains("Service world is but another name for example.com"), "{said}");
    let names = lab.weft_lab("exec", &["svc/web", "--", "cat", "/etc/hostname"]).succeeds();
    assert_eq!(names, "web\n");
    let said = lab.weft_lab("exec", &["dep/web", "--", "true"]).fails_with(2);
    assert!(said.contains("'dep' is no kind that has Pods"), "{said}");
    let said = lab.weft_lab("apply", &["-f", "https://example.com/app.yaml"]).fails_with(2);
    assert!(said.contains("URLs are not read"), "{said}");
    let columns = lab.kubectl(&["get", "servicecidrs"]).stdout;
    assert!(columns.contains("CIDRS") && columns.contains("10.96.0.0/16"), "{columns}");
}
