//! Server-side apply on values.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Manager, applied, updated};
use crate::resources::{Registry, ResourceType};

fn pods() -> ResourceType {
    (**Registry::new().types().find("", "v1", "pods").unwrap()).clone()
}

fn manager(name: &str, resource: &ResourceType) -> Manager {
    Manager::update(name.to_owned(), resource, "").applying()
}

/// An object that nobody manages.
fn bare() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": "u"}})
}

fn apply(name: &str, live: &Value, config: &Value) -> Value {
    let resource = pods();
    applied(&manager(name, &resource), &resource, live, config, true).unwrap()
}

fn without_managers(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    object
}

#[test]
fn what_two_apply_together_stays_until_both_let_go() {
    let config = |extra: Value| json!({"metadata": {"name": "p", "labels": extra}});
    let live = apply("one", &bare(), &config(json!({"a": "1", "b": "2"})));
    let live = apply("two", &live, &config(json!({"b": "2"})));
    let nothing = json!({"metadata": {"name": "p"}});
    let live = apply("one", &live, &nothing);
    assert_eq!(live["metadata"]["labels"], json!({"b": "2"}));
    let live = apply("two", &live, &nothing);
    assert_eq!(live["metadata"].get("labels"), None);
    assert_eq!(live["metadata"].get("managedFields"), None);
}

#[test]
fn nested_items_keep_what_others_own() {
    let config = |container: Value| json!({"spec": {"containers": [container]}});
    let live = apply(
        "one",
        &bare(),
        &config(json!({"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}]})),
    );
    let live = apply("two", &live, &config(json!({"name": "c", "env": [{"name": "B", "value": "2"}]})));
    let live = apply("one", &live, &config(json!({"name": "c", "image": "i"})));
    assert_eq!(
        live["spec"]["containers"],
        json!([{"name": "c", "image": "i", "env": [{"name": "B", "value": "2"}]}])
    );
}

#[test]
fn an_update_owns_what_it_adds_and_nobody_what_it_removes() {
    let resource = pods();
    let live = apply("one", &bare(), &json!({"metadata": {"labels": {"a": "1"}, "annotations": {"x": "y"}}}));
    let mut changed = live.clone();
    changed["metadata"]["labels"] = json!({"a": "1", "b": "2"});
    changed["metadata"].as_object_mut().unwrap().remove("annotations");
    updated(&Manager::update("hand".to_owned(), &resource, ""), &resource, Some(&live), &mut changed);
    let entries = changed["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["fieldsV1"], json!({"f:metadata": {"f:labels": {"f:a": {}}}}));
    assert_eq!(entries[1]["fieldsV1"], json!({"f:metadata": {"f:labels": {"f:b": {}}}}));
    // The applier's next apply without the label that another added leaves it.
    let live = apply("one", &changed, &json!({"metadata": {"labels": {"a": "1"}}}));
    assert_eq!(live["metadata"]["labels"], json!({"a": "1", "b": "2"}));
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        "[ab]{0,2}".prop_map(Value::from)
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        let key = "(containers|name|env|ports|containerPort|labels|selector|finalizers|volumes|image|value)";
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn config() -> impl Strategy<Value = Value> {
    (value(), value()).prop_map(|(spec, labels)| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels}, "spec": spec})
    })
}

proptest! {
    #[test]
    fn applying_twice_is_as_applying_once(before in config(), config in config()) {
        let live = apply("other", &bare(), &before);
        let once = apply("one", &live, &config);
        let twice = apply("one", &once, &config);
        prop_assert_eq!(&once, &twice);
    }

    #[test]
    fn who_applied_alone_and_lets_go_leaves_nothing(config in config()) {
        let live = apply("one", &bare(), &config);
        let after = apply("one", &live, &json!({"metadata": {"name": "p"}}));
        prop_assert_eq!(without_managers(&after), bare());
    }

    #[test]
    fn garbage_for_managed_fields_never_panics(live in config(), managers in value(), fields in value(), config in config()) {
        let mut live = live;
        live["metadata"]["managedFields"] = json!([
            {"manager": "m", "operation": "Apply", "fieldsV1": fields}, managers, {"fieldsV1": {"k:{": {}, "v:": {}, "f": {}}},
        ]);
        let resource = pods();
        let _ = applied(&manager("one", &resource), &resource, &live, &config, false);
        let before = live.clone();
        updated(&Manager::update("hand".to_owned(), &resource, ""), &resource, Some(&before), &mut live);
    }
}
