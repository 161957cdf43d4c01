//! Manifests of the world, by what they have in common: each trait in a small one of our own.

use weft_tests::{Lab, wait_for};

const TRAITS: &str = r#"
# D1: the labels that kubelets have always set.
apiVersion: v1
kind: Pod
metadata: {name: old-selector, labels: {app: old}}
spec:
  nodeSelector: {beta.kubernetes.io/os: linux}
  containers:
  - {name: main, image: busybox, command: [sleep, '86400']}
---
# D2: a tool that an init container brings, from an image that is not here.
apiVersion: v1
kind: Pod
metadata: {name: brought-tool}
spec:
  initContainers:
  - {name: bring, image: tools, command: [cp, /usr/local/bin/weft-no-such-tool, /shared/], volumeMounts: [{name: s, mountPath: /shared}]}
  containers:
  - {name: main, image: app, command: [/shared/weft-no-such-tool], ports: [{containerPort: 80}], volumeMounts: [{name: s, mountPath: /shared}]}
  volumes: [{name: s, emptyDir: {}}]
---
# D3: lists of a kind.
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBindingList
items:
- {metadata: {name: one}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}}
- {metadata: {name: two}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}}
---
# D7: a client in the cluster, and what it may do.
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: default}]
---
# D4: nothing where a definition wants an object.
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: stores.weft.example}
spec:
  group: weft.example
  scope: Namespaced
  names: {plural: stores, kind: Store}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {network: {type: object}, size: {type: integer}}}}
---
apiVersion: weft.example/v1
kind: Store
metadata: {name: empty}
spec: {network: , size: 3}
---
# D5: a database that is not in the cluster, and a Service that nothing is behind.
apiVersion: v1
kind: Service
metadata: {name: external}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: external}
subsets: [{addresses: [{ip: 192.168.1.254}], ports: [{port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
---
# D6: a sidecar's named port, and a Job with indexes.
apiVersion: v1
kind: Pod
metadata: {name: with-sidecar, labels: {app: with-sidecar}}
spec:
  initContainers:
  - {name: proxy, image: envoy, restartPolicy: Always, ports: [{name: metrics, containerPort: 9000}]}
  containers: [{name: main, image: app, ports: [{containerPort: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: with-sidecar}
spec: {selector: {app: with-sidecar}, ports: [{port: 80, targetPort: metrics}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: indexed}
spec:
  completions: 3
  parallelism: 3
  completionMode: Indexed
  template: {spec: {restartPolicy: Never, containers: [{name: main, image: app}]}}
"#;

#[test]
fn manifests_of_the_world_behave_as_in_a_cluster() {
    let lab = Lab::with_nodes(2).running(TRAITS).up();
    let pod = lab.pod("old-selector");

    // D2: both are stood in for.
    let brought = lab.kubectl(&["logs", "brought-tool", "-c", "bring"]).succeeds();
    assert!(brought.contains("stands in for tools"), "{brought}");
    assert!(lab.kubectl(&["logs", "brought-tool"]).succeeds().contains("stands in for app"));

    // D3, D4
    let bindings = lab.get(&["rolebindings"])["items"].as_array().unwrap().len();
    assert_eq!(bindings, 3, "of the list, and one more");
    let store = lab.get(&["stores.weft.example", "empty"]);
    assert_eq!(store["spec"], serde_json::json!({ "size": 3 }));

    // D5
    let address = |service: &str| std::net::SocketAddr::new(lab.cluster_ip(service), 80);
    pod.connects_to(address("external"));
    let slices = lab.get(&["endpointslices", "-l", "kubernetes.io/service-name=nobody"]);
    let slices = slices["items"].as_array().unwrap();
    assert_eq!(slices.len(), 1, "{slices:?}");
    assert!(slices[0]["endpoints"].as_array().is_none_or(Vec::is_empty), "{slices:?}");
    let endpoints = lab.get(&["endpoints", "with-sidecar"]);
    assert_eq!(endpoints["subsets"][0]["ports"][0]["port"], 9000, "{endpoints}");

    // D6
    pod.connects_to(address("with-sidecar")).comes_from("with-sidecar");
    wait_for("the Job to tell its indexes", || {
        let told = lab.get(&["job", "indexed"])["status"].clone();
        if told["completedIndexes"] == "0-2" { Ok(()) } else { Err(told) }
    });

    // D7: as a client in the cluster starts: by its variables, its token and the authority beside it.
    let inside = |words: &str| lab.kubectl(&["exec", "old-selector", "--", "sh", "-c", words]).succeeds();
    let client = |path: &str| {
        inside(&format!(
            "cd /var/run/secrets/kubernetes.io/serviceaccount && curl -s --cacert ca.crt \
             -H \"Authorization: Bearer $(cat token)\" \
             https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/api/v1/namespaces/$(cat namespace)/pods{path}"
        ))
    };
    assert!(client("/$HOSTNAME").contains("\"old-selector\""));
    assert!(client("").contains("cannot list resource"), "no role says so");
    let variables = inside("env");
    let external = format!("EXTERNAL_SERVICE_HOST={}", lab.cluster_ip("external"));
    assert!(
        variables.contains(&external) && variables.contains("EXTERNAL_PORT_80_TCP_PROTO=tcp"),
        "{variables}"
    );

    // D8: the network that /sys tells of is the Pod's, or the node's.
    let mut devices: Vec<String> =
        inside("ls /sys/class/net").split_whitespace().map(str::to_owned).collect();
    devices.sort();
    assert_eq!(devices, ["eth0", "lo"]);
    let node = lab.node("node-1").runs(&["ls", "/sys/class/net"]).succeeds();
    assert!(node.contains("weft0") && node.contains("eth0"), "{node}");
    assert!(lab.node("node-1").runs(&["ls", "/sys/fs/cgroup"]).succeeds().len() > 1);

    // D10: one version.
    let version = lab.kubectl(&["get", "--raw", "/version"]).succeeds();
    let version: serde_json::Value = serde_json::from_str(&version).unwrap();
    let node = lab.get(&["node", "node-1"]);
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], version["gitVersion"]);

    // D1: who cannot be placed is told which term failed.
    lab.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: nowhere}\nspec: {nodeSelector: {disk: ssd}, containers: [{name: a, image: b}]}\n");
    wait_for("an Event that names the term", || {
        let events = lab.get(&["events", "--field-selector", "involvedObject.name=nowhere"]);
        let told = events["items"].as_array().unwrap().iter().any(|event| {
            event["reason"] == "FailedScheduling"
                && event["message"]
                    .as_str()
                    .unwrap_or_default()
                    .contains("0/2 nodes are available: 2 node(s) didn't match")
                && event["message"].as_str().unwrap_or_default().contains("disk=ssd")
        });
        if told { Ok(()) } else { Err(events["items"].clone()) }
    });
}

/// E15: what a manifest calls a path stays where it belongs, refused with file and line; and contained where it is not refused.
#[test]
fn paths_of_manifests_stay_where_they_belong() {
    let lab = Lab::with_nodes(1)
        .running(
            "
apiVersion: v1
kind: ConfigMap
metadata: {name: files}
data: {hello: there}
---
apiVersion: v1
kind: Pod
metadata: {name: mounts}
spec:
  containers:
  - name: main
    image: busybox
    command: [sleep, '86400']
    volumeMounts:
    - {name: files, mountPath: /../../weft-mounted}
    - {name: data, mountPath: /data/deep, subPath: a/b}
    - {name: host, mountPath: /host}
  volumes:
  - {name: files, configMap: {name: files, defaultMode: 0750, items: [{key: hello, path: deep/hello}]}}
  - {name: data, persistentVolumeClaim: {claimName: data}}
  - {name: host, hostPath: {path: /dev}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
",
        )
        .up();
    let inside = |words: &str| lab.kubectl(&["exec", "mounts", "--", "sh", "-c", words]);
    assert_eq!(
        inside("cat /weft-mounted/deep/hello; stat -c %a /weft-mounted/deep/hello").succeeds(),
        "there750\n"
    );
    assert!(!std::fs::exists("/weft-mounted").unwrap());
    inside("touch /data/deep/kept").succeeds();
    assert!(lab.folder().join("claims/default/data/a/b/kept").exists());
    // Nothing of the machine is writable, also not what is mounted below.
    assert!(inside("touch /host/x").code != Some(0));
    assert!(inside("touch /host/shm/weft-x").code != Some(0));
    // A link that a container plants leads the lab nowhere.
    inside("rm -rf /weft-mounted/deep && ln -s /etc /weft-mounted/deep").succeeds();
    let refused = |claim: &str| {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: bad}}\nspec:\n  containers: [{{name: a, image: b}}]\n  volumes:\n  - {{name: v, persistentVolumeClaim: {{claimName: '{claim}'}}}}\n"
        );
        let file = weft_tests::ManifestFile::new(&pod);
        let output = lab.weft_lab("apply", &["-f", file.path().to_str().unwrap()]);
        assert!(
            output.code != Some(0) && output.stderr.contains("manifest.yaml:7: Pod bad: "),
            "{}",
            output.stderr
        );
    };
    refused("../../../etc");
    refused("/etc");
}
