//! Objects that Kubernetes refuses, and that the refusal names the field.

use std::io::Write;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::json;

use crate::support::{Cluster, client_minor};

#[test]
fn refusals_name_the_field() {
    let cluster = Cluster::start();
    let pod = |spec: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {spec}\n");
    let service =
        |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {spec}\n");
    let deployment = |selector: &str, labels: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\nspec: {{selector: {selector}, template: \
             {{metadata: {{labels: {labels}}}, spec: {{containers: [{{name: c, image: i}}]}}}}}}\n"
        )
    };
    let mounting = |volume: &str, more: &str| {
        pod(&format!(
            "{{volumes: [{{name: v, {volume}}}], containers: [{{name: c, image: i, volumeMounts: [{{name: v, \
             mountPath: /v{more}}}]}}]}}"
        ))
    };
    let slice = |address: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s}}\naddressType: IPv4\n\
             endpoints: [{{addresses: [{address}]}}]\n"
        )
    };
    let policy = |spec: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: rule}}\nspec: {spec}\n"
        )
    };
    let cases = [
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_Valid}\n".to_owned(), "metadata.name"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {'b c': d}}\n".to_owned(), "metadata.labels"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a.b}\n".to_owned(), "metadata.name"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: Web}\nspec: {ports: [{port: 80}]}\n".to_owned(), "metadata.name"),
        (pod("{containers: []}"), "spec.containers: Required value"),
        (pod("{containers: [{name: c}]}"), "spec.containers[0].image: Required value"),
        (pod("{containers: [{image: i}]}"), "spec.containers[0].name: Required value"),
        (pod("{containers: [{name: c, image: i}, {name: c, image: i}]}"), "spec.containers[1].name: Duplicate value"),
        (pod("{containers: [{name: c, image: i, ports: [{containerPort: 70000}]}]}"), "ports[0].containerPort"),
        (pod("{containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /x}]}]}"), "volumeMounts[0].name: Not found"),
        (pod("{restartPolicy: Sometimes, containers: [{name: c, image: i}]}"), "spec.restartPolicy: Unsupported value"),
        (service("{selector: {a: b}}"), "spec.ports: Required value"),
        // E15: what becomes a path of the node.
        (mounting("configMap: {name: m, items: [{key: k, path: ../../x}]}", ""), "volumes[0].configMap.items[0].path"),
        (mounting("secret: {secretName: m, items: [{key: k, path: /etc/x}]}", ""), "volumes[0].secret.items[0].path"),
        (mounting("downwardAPI: {items: [{fieldRef: {fieldPath: metadata.name}, path: a/../../x}]}", ""), "volumes[0].downwardAPI.items[0].path"),
        (mounting("projected: {sources: [{configMap: {name: m, items: [{key: k, path: ..x}]}}]}", ""), "projected.sources[0].configMap.items[0].path"),
        (mounting("projected: {sources: [{serviceAccountToken: {path: ../t}}]}", ""), "projected.sources[0].serviceAccountToken.path"),
        (mounting("persistentVolumeClaim: {claimName: ../../../etc}", ""), "persistentVolumeClaim.claimName"),
        (mounting("persistentVolumeClaim: {claimName: /etc}", ""), "persistentVolumeClaim.claimName"),
        (mounting("hostPath: {path: /var/../etc}", ""), "hostPath.path"),
        (mounting("emptyDir: {}", ", subPath: ../x"), "volumeMounts.subPath"),
        (mounting("emptyDir: {}", ", subPath: /x"), "volumeMounts.subPath"),
        (mounting("emptyDir: {}", ", subPathExpr: $(A)/../x"), "volumeMounts.subPathExpr"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {..x: z}\n".to_owned(), "data[..x]"),
        // E17: where a node would reach itself.
        (slice("127.0.0.1"), "endpoints[0].addresses[0]"),
        (slice("169.254.169.254"), "endpoints[0].addresses[0]"),
        (slice("224.0.0.1"), "endpoints[0].addresses[0]"),
        (slice("0.0.0.0"), "endpoints[0].addresses[0]"),
        ("apiVersion: v1\nkind: Endpoints\nmetadata: {name: e}\nsubsets: [{addresses: [{ip: '::1'}], ports: [{port: 80}]}]\n".to_owned(), "subsets[0].addresses[0].ip"),
        (service("{ports: [{port: 80}, {port: 81}]}"), "spec.ports[0].name: Required value"),
        (service("{ports: [{port: 0}]}"), "spec.ports[0].port"),
        (service("{type: Magic, ports: [{port: 80}]}"), "spec.type: Unsupported value"),
        (service("{type: ExternalName}"), "spec.externalName: Required value"),
        (deployment("{matchLabels: {a: b}}", "{a: c}"), "`selector` does not match template `labels`"),
        (deployment("{}", "{a: c}"), "spec.selector"),
        (policy("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: nonsense}}]}]}"), "from[0].ipBlock.cidr"),
        (policy("{podSelector: {}, ingress: [{from: [{}]}]}"), "from[0]: Required value"),
        (policy("{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 70}]}]}"), "ports[0].endPort"),
        ("apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec: {template: {spec: {restartPolicy: Always, containers: [{name: c, image: i}]}}}\n".to_owned(), "restartPolicy"),
        ("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i}\nspec: {rules: [{http: {paths: [{path: /, backend: {service: {name: a, port: {number: 80}}}}]}}]}\n".to_owned(), "paths[0].pathType: Required value"),
        ("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: e}\naddressType: IPv4\nendpoints: [{addresses: ['::1']}]\n".to_owned(), "endpoints[0].addresses[0]"),
    ];
    for (manifest, wanted) in &cases {
        let refused = cluster.refused(&["create", "-f", "-"], manifest);
        assert!(
            refused.contains(wanted) && refused.contains("is invalid"),
            "{wanted}:\n{manifest}\n{refused}"
        );
    }
}

/// From this version on kubectl leaves checking fields to the server. Before it checks itself, by what the server
/// publishes of its types.
const SERVER_VALIDATES: u32 = 25;

/// What kubectl says beside what it does.
fn warnings(cluster: &Cluster, args: &[&str], input: &str) -> String {
    let mut command = cluster.command(args);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("kubectl");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("write to kubectl");
    let output = child.wait_with_output().expect("kubectl");
    let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{warnings}");
    warnings
}

#[test]
fn misspelt_and_mistyped_fields_are_refused_with_no_flags() {
    let cluster = Cluster::start();
    let cases = [
        ("spec: {replcas: 3}", "unknown field \"spec.replcas\""),
        ("spec: {replicas: '3'}", "spec.replicas"),
        ("spec: {template: {spec: {containers: [{name: c, image: i, prots: []}]}}}", "containers[0].prots"),
    ];
    for (spec, wanted) in cases {
        let manifest = format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\n{spec}\n");
        let refused = cluster.refused(&["apply", "-f", "-"], &manifest);
        if client_minor() >= SERVER_VALIDATES {
            assert!(refused.contains(wanted), "{wanted}: {refused}");
            continue;
        }
        assert!(refused.contains("ValidationError(Deployment.spec"), "{refused}");
        let path = "/apis/apps/v1/namespaces/default/deployments?fieldValidation=Strict";
        let (code, _, status) = cluster.send(Method::POST, path, "application/yaml", &manifest);
        assert!(
            code == 400 && status["message"].as_str().is_some_and(|message| message.contains(wanted)),
            "{status}"
        );
    }
    let kept = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nfuture: {x: 1}\n";
    let warnings = if client_minor() >= SERVER_VALIDATES {
        warnings(&cluster, &["apply", "--validate=warn", "-f", "-"], kept)
    } else {
        let path = "/api/v1/namespaces/default/configmaps?fieldValidation=Warn";
        let (code, warnings, made) = cluster.send(Method::POST, path, "application/yaml", kept);
        assert_eq!(code, 201, "{made}");
        warnings.concat().replace('\\', "")
    };
    assert!(warnings.contains("unknown field \"future\""), "{warnings}");
    cluster.kubectl_with(&["apply", "--validate=false", "-f", "-"], kept);
}

#[test]
fn what_is_immutable_stays() {
    let cluster = Cluster::start();
    cluster.kubectl(&["create", "deployment", "web", "--image=a"]);
    let patch = r#"{"spec": {"selector": {"matchLabels": {"app": "b"}}, "template": {"metadata": {"labels": {"app": "b"}}}}}"#;
    let refused = cluster.refused(&["patch", "deployment", "web", "-p", patch], "");
    assert!(refused.contains("spec.selector") && refused.contains("field is immutable"), "{refused}");
    let set = include_str!("everything.yaml").split("---\n").find(|part| part.contains("kind: StatefulSet"));
    let set = set.expect("there is one");
    cluster.apply(set);
    cluster.apply(&set.replace("image: 'a:1'", "image: 'a:2'"));
    let refused = cluster.refused(&["apply", "-f", "-"], &set.replace("storage: 1Gi", "storage: 2Gi"));
    assert!(refused.contains("updates to statefulset spec for fields other than"), "{refused}");
    let locked = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nimmutable: true\ndata: {x: '1'}\n";
    cluster.apply(locked);
    let refused = cluster.refused(&["patch", "configmap", "a", "-p", r#"{"data": {"x": "2"}}"#], "");
    assert!(refused.contains("field is immutable"), "{refused}");
    cluster.apply("apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\nspec: {podCIDR: 10.0.0.0/24}\n");
    let patch = r#"{"spec": {"podCIDR": "10.0.1.0/24", "podCIDRs": ["10.0.1.0/24"]}}"#;
    assert!(
        cluster
            .refused(&["patch", "node", "node-1", "--type=merge", "-p", patch], "")
            .contains("spec.podCIDRs")
    );
}

#[test]
fn bodies_are_of_a_known_type() {
    let cluster = Cluster::start();
    let path = "/api/v1/namespaces/default/configmaps";
    let map =
        |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string();
    for (kind, code) in [
        ("application/json; charset=utf-8", 201),
        ("APPLICATION/JSON", 409),
        ("application/yaml", 409),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/merge-patch+json", 415),
    ] {
        let answer = cluster.send(Method::POST, path, kind, &map("one"));
        assert_eq!(answer.0, code, "{kind}: {answer:?}");
    }
    let (code, _, status) = cluster.send(Method::PUT, &format!("{path}/one"), "text/plain", &map("one"));
    assert_eq!((code, status["reason"].as_str()), (415, Some("UnsupportedMediaType")));
}

/// A mebibyte of what they hold, whatever it takes to write it down.
#[test]
fn maps_and_secrets_have_a_size() {
    const MOST: usize = 1024 * 1024;
    let cluster = Cluster::start();
    let encoded = |size: usize| STANDARD.encode("x".repeat(size));
    let cases = [
        ("configmaps", json!({"data": {"x": "y".repeat(MOST)}}), 201),
        ("configmaps", json!({"data": {"x": "y".repeat(MOST + 1)}}), 422),
        ("configmaps", json!({"data": {"x": "y"}, "binaryData": {"z": encoded(MOST - 1)}}), 201),
        ("configmaps", json!({"data": {"x": "y"}, "binaryData": {"z": encoded(MOST)}}), 422),
        ("secrets", json!({"data": {"x": encoded(MOST)}}), 201),
        ("secrets", json!({"data": {"x": encoded(MOST + 1)}}), 422),
    ];
    for (number, (plural, mut object, code)) in cases.into_iter().enumerate() {
        object["metadata"] = json!({"name": format!("number-{number}")});
        let path = format!("/api/v1/namespaces/default/{plural}");
        let (answered, _, status) =
            cluster.send(Method::POST, &path, "application/json", &object.to_string());
        assert_eq!(answered, code, "{number}: {}", status["message"]);
    }
}
