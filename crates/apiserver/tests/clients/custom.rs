//! CustomResourceDefinitions and what they define.

use http::Method;
use serde_json::json;

use crate::support::{Cluster, client_minor};

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat, shortNames: [bt], categories: [all]}
  versions:
    - name: v1
      served: true
      storage: true
      subresources:
        status: {}
        scale: {specReplicasPath: .spec.oars, statusReplicasPath: .status.oars}
      additionalPrinterColumns:
        - {name: Length, type: integer, jsonPath: .spec.length}
        - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}
        - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              required: [length]
              properties:
                length: {type: integer, minimum: 1}
                colour: {type: string, enum: [red, blue], default: red}
                oars: {type: integer}
                crew:
                  type: array
                  x-kubernetes-list-type: map
                  x-kubernetes-list-map-keys: [name]
                  items: {type: object, properties: {name: {type: string}, rank: {type: string}}}
                anything: {type: object, x-kubernetes-preserve-unknown-fields: true}
            status: {type: object, x-kubernetes-preserve-unknown-fields: true}
    - {name: v2beta1, served: true, storage: false, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
"#;

fn boat(spec: &str) -> String {
    format!("apiVersion: example.com/v1\nkind: Boat\nmetadata: {{name: b}}\nspec: {spec}\n")
}

fn defined() -> Cluster {
    let cluster = Cluster::start();
    cluster.apply(DEFINITION);
    cluster.kubectl(&["wait", "--for=condition=established", "crd/boats.example.com", "--timeout=20s"]);
    cluster
}

#[test]
fn a_defined_type_is_served_like_any_other() {
    let cluster = defined();
    let manifest = boat("{length: 9, unknown: 1, anything: {kept: true}, crew: [{name: ann, rank: mate}]}");
    let refused = cluster.refused(&["apply", "-f", "-"], &manifest);
    // Before 1.25 kubectl checks itself, by the schema that the server publishes.
    let wanted =
        if client_minor() >= 25 { "unknown field \"spec.unknown\"" } else { "unknown field \"unknown\"" };
    assert!(refused.contains(wanted), "{refused}");
    let strict = "/apis/example.com/v1/namespaces/default/boats?fieldValidation=Strict";
    let (code, _, status) = cluster.send(Method::POST, strict, "application/yaml", &manifest);
    let message = status["message"].as_str().unwrap_or_default();
    assert!(code == 400 && message.contains("unknown field \"spec.unknown\""), "{status}");
    cluster.kubectl_with(&["apply", "--validate=false", "-f", "-"], &manifest);
    let found = cluster.get(&["bt", "b"]);
    assert_eq!(found["spec"]["colour"], "red", "the schema's default");
    assert!(found["spec"].get("unknown").is_none(), "what the schema does not know is pruned");
    assert_eq!(found["spec"]["anything"], json!({"kept": true}));
    let patch =
        json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}, "spec": {"length": 1}});
    cluster.patch_status("boat/b", "/apis/example.com/v1/namespaces/default/boats/b", &patch);
    let row = cluster.kubectl(&["get", "boats", "--no-headers"]);
    assert_eq!(row.split_whitespace().take(3).collect::<Vec<_>>(), ["b", "9", "True"]);
    cluster.kubectl(&["scale", "boat", "b", "--replicas=4"]);
    assert_eq!(cluster.get(&["boat", "b"])["spec"]["oars"], 4);
    assert_eq!(cluster.get(&["boats.v2beta1.example.com", "b"])["apiVersion"], "example.com/v2beta1");
    assert!(cluster.kubectl(&["get", "all"]).contains("boat.example.com/b"));
    assert!(cluster.kubectl(&["explain", "boat.spec"]).contains("length"));
    assert!(cluster.kubectl(&["describe", "boat", "b"]).contains("Colour"));
    cluster.apply(&boat("{length: 10}"));
    assert_eq!(cluster.get(&["boat", "b"])["spec"]["length"], 10);
}

#[test]
fn objects_are_held_against_the_schema() {
    let cluster = defined();
    for (spec, field) in [
        ("{}", "spec.length"),
        ("{length: long}", "spec.length"),
        ("{length: 0}", "spec.length"),
        ("{length: 1, colour: green}", "spec.colour"),
    ] {
        // Before 1.25 kubectl would check itself, and not ask.
        let refused = cluster.refused(&["create", "--validate=false", "-f", "-"], &boat(spec));
        assert!(refused.contains(field), "{spec}: {refused}");
    }
    let refused = cluster.refused(&["patch", "boat", "b", "--type=strategic", "-p", "{}"], "");
    assert!(!refused.is_empty());
}

#[test]
fn lists_merge_by_the_keys_of_the_schema() {
    let cluster = defined();
    let apply = |manager: &str, crew: &str| {
        let manager = format!("--field-manager={manager}");
        let manifest = boat(&format!("{{length: 9, crew: [{crew}]}}"));
        cluster.kubectl_with(&["apply", "--server-side", &manager, "-f", "-"], &manifest);
    };
    apply("one", "{name: ann, rank: mate}");
    apply("two", "{name: bob, rank: cook}");
    let names = || {
        let crew = cluster.get(&["boat", "b"])["spec"]["crew"].as_array().expect("a crew").clone();
        crew.iter().map(|sailor| sailor["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(), ["ann", "bob"]);
    apply("one", "");
    assert_eq!(names(), ["bob"]);
}

#[test]
fn deleting_the_definition_deletes_its_objects() {
    let cluster = defined();
    cluster.apply(&boat("{length: 9}"));
    cluster.kubectl(&["delete", "crd", "boats.example.com"]);
    let refused = cluster.refused(&["get", "boats.example.com"], "");
    assert!(refused.contains("the server doesn't have a resource type"), "{refused}");
    cluster.apply(DEFINITION);
    assert!(cluster.kubectl(&["get", "boats", "-o", "name"]).is_empty());
}

#[test]
fn a_definition_must_make_sense() {
    let cluster = Cluster::start();
    let refused = cluster.refused(
        &["create", "-f", "-"],
        &DEFINITION.replace("name: boats.example.com", "name: x.example.com"),
    );
    assert!(refused.contains("metadata.name"), "{refused}");
    let refused =
        cluster.refused(&["create", "-f", "-"], &DEFINITION.replace("storage: true", "storage: false"));
    assert!(refused.contains("exactly one version marked as storage version"), "{refused}");
    let shadow = DEFINITION.replace("boats.example.com", "deployments.apps");
    let shadow =
        shadow.replace("group: example.com", "group: apps").replace("plural: boats", "plural: deployments");
    let refused = cluster.refused(&["create", "-f", "-"], &shadow.replace("name: v1\n", "name: v9\n"));
    assert!(refused.contains("a built-in resource has this name"), "{refused}");
}
