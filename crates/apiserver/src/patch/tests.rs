//! What patches do to objects, and that nothing makes them panic.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{json as json_patch, merge, strategic};
use crate::resources::Registry;
use crate::resources::lists::Lists;

fn lists(group: &str, plural: &str) -> Lists {
    Lists::of(Registry::new().types().find(group, "v1", plural).unwrap())
}

fn patched(plural: &str, target: &Value, patch: &Value) -> Value {
    let group = if plural == "deployments" { "apps" } else { "" };
    strategic(target, patch, &lists(group, plural)).unwrap()
}

#[test]
fn containers_merge_by_name() {
    let pod = json!({"spec": {"containers": [
        {"name": "web", "image": "a:1", "env": [{"name": "X", "value": "1"}]}, {"name": "log", "image": "b:1"},
    ]}});
    let patch = json!({"spec": {"containers": [
        {"name": "web", "image": "a:2", "env": [{"name": "Y", "value": "2"}]}, {"name": "new", "image": "c:1"},
    ]}});
    assert_eq!(
        patched("pods", &pod, &patch)["spec"]["containers"],
        json!([
            {"name": "web", "image": "a:2", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]},
            {"name": "new", "image": "c:1"},
            {"name": "log", "image": "b:1"},
        ])
    );
}

#[test]
fn directives_delete_and_replace() {
    let pod = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}});
    let names = |patch: Value| {
        let pod = patched("pods", &pod, &json!({"spec": {"containers": patch}}));
        let list = pod["spec"]["containers"].as_array().unwrap().clone();
        list.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(json!([{"name": "a", "$patch": "delete"}])), ["b"]);
    assert_eq!(names(json!([{"$patch": "replace"}, {"name": "c"}])), ["c"]);
    let replaced = patched(
        "pods",
        &json!({"metadata": {"labels": {"a": "b"}}}),
        &json!({
            "metadata": {"labels": {"$patch": "replace", "c": "d"}},
        }),
    );
    assert_eq!(replaced["metadata"]["labels"], json!({"c": "d"}));
}

#[test]
fn retained_keys_drop_the_others() {
    let deployment =
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    assert_eq!(patched("deployments", &deployment, &patch)["spec"]["strategy"], json!({"type": "Recreate"}));
}

#[test]
fn elements_are_put_in_order() {
    let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}});
    let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]}});
    assert_eq!(
        patched("pods", &pod, &patch)["spec"]["containers"],
        json!([{"name": "b"}, {"name": "c"}, {"name": "a"}])
    );
}

#[test]
fn finalizers_are_a_set() {
    let pod = json!({"metadata": {"finalizers": ["a", "b"]}});
    let added = patched("pods", &pod, &json!({"metadata": {"finalizers": ["c", "a"]}}));
    assert_eq!(added["metadata"]["finalizers"], json!(["c", "a", "b"]));
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}});
    assert_eq!(patched("pods", &pod, &patch)["metadata"]["finalizers"], json!(["b"]));
}

#[test]
fn service_ports_merge_by_port_and_other_lists_are_replaced() {
    let service = json!({"spec": {"ports": [{"port": 80, "name": "http"}], "externalIPs": ["1.1.1.1"]}});
    let patch = json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}], "externalIPs": ["2.2.2.2"]}});
    assert_eq!(
        patched("services", &service, &patch)["spec"],
        json!({"ports": [{"port": 80, "name": "http", "targetPort": 8080}], "externalIPs": ["2.2.2.2"]})
    );
}

#[test]
fn taints_are_replaced_as_one_list() {
    let node = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoExecute"}]}});
    let patch = json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}});
    assert_eq!(patched("nodes", &node, &patch), patch);
}

#[test]
fn an_item_without_its_key_is_refused() {
    let error = strategic(&json!({}), &json!({"spec": {"containers": [{"image": "x"}]}}), &lists("", "pods"));
    assert!(error.unwrap_err().contains("merge key \"name\""));
}

#[test]
fn a_json_patch_cannot_grow_an_object_without_bound() {
    let mut operations =
        vec![json!({"op": "add", "path": "/a", "value": ["xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"]})];
    operations.extend((0..40).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})));
    assert!(json_patch(&json!({}), &operations.into()).is_err());
    let nest = json!({"op": "copy", "from": "/a", "path": "/a/a/a/a/a/a/a/a"});
    let mut operations =
        vec![json!({"op": "add", "path": "/a", "value": {"a": {"a": {"a": {"a": {"a": {"a": {}}}}}}}})];
    operations.extend(std::iter::repeat_n(nest, 5000));
    assert!(json_patch(&json!({}), &operations.into()).is_err());
}

/// JSON made of the words that patches give a meaning.
fn garbage() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "(delete|replace|merge|name|a|/spec/0|-)".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 5, |inner| {
        let key = "(\\$patch|\\$retainKeys|\\$setElementOrder/containers|\\$deleteFromPrimitiveList/finalizers|spec|\
                   metadata|containers|finalizers|labels|ports|env|name|port|op|path|from|value|test|copy|move)";
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn operations() -> impl Strategy<Value = Value> {
    let path = "((/(spec|metadata|0|1|-|a~1b|~0|))){0,4}";
    let one = ("(add|remove|replace|move|copy|test|frob)", path, path, garbage())
        .prop_map(|(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value}));
    prop::collection::vec(one, 0..6).prop_map(Value::from)
}

proptest! {
    #[test]
    fn garbage_never_panics(target in garbage(), patch in garbage(), operations in operations()) {
        let _ = json_patch(&target, &operations);
        let _ = json_patch(&target, &patch);
        let _ = strategic(&target, &patch, &lists("", "pods"));
        let mut merged = target.clone();
        merge(&mut merged, &patch);
    }

    #[test]
    fn a_merge_patch_twice_is_as_once(target in garbage(), patch in garbage()) {
        let mut once = target;
        merge(&mut once, &patch);
        let mut twice = once.clone();
        merge(&mut twice, &patch);
        prop_assert_eq!(once, twice);
    }
}
