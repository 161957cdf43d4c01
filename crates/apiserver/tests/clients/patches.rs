//! The kinds of patch, as kubectl sends them.

use serde_json::json;

use crate::support::Cluster;

fn with_pod() -> Cluster {
    let cluster = Cluster::start();
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {a: b}, finalizers: [example.com/one]}\n\
         spec: {containers: [{name: one, image: 'a:1'}, {name: two, image: 'b:1'}]}\n",
    );
    cluster
}

#[test]
fn strategic_patches_merge_containers_by_name() {
    let cluster = with_pod();
    cluster.kubectl(&[
        "patch",
        "pod",
        "p",
        "-p",
        r#"{"spec": {"containers": [{"name": "two", "image": "b:2"}]}}"#,
    ]);
    let pod = cluster.get(&["pod", "p"]);
    let images: Vec<_> =
        pod["spec"]["containers"].as_array().expect("containers").iter().map(|c| &c["image"]).collect();
    assert_eq!(images, ["a:1", "b:2"]);
    cluster.kubectl(&[
        "patch",
        "pod",
        "p",
        "-p",
        r#"{"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/one"]}}"#,
    ]);
    assert!(cluster.get(&["pod", "p"])["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty));
}

#[test]
fn merge_patches_replace_lists_and_remove_nulls() {
    let cluster = with_pod();
    let patch = r#"{"metadata": {"labels": {"a": null, "c": "d"}, "finalizers": ["example.com/two"]}}"#;
    cluster.kubectl(&["patch", "pod", "p", "--type=merge", "-p", patch]);
    let metadata = &cluster.get(&["pod", "p"])["metadata"];
    assert_eq!(
        (&metadata["labels"], &metadata["finalizers"]),
        (&json!({"c": "d"}), &json!(["example.com/two"]))
    );
}

#[test]
fn json_patches_do_all_of_their_operations_or_none() {
    let cluster = with_pod();
    let patch = |patch: &str| -> Vec<String> {
        ["patch", "pod", "p", "--type=json", "-p", patch].map(str::to_owned).to_vec()
    };
    let run = |args: &[String]| cluster.kubectl(&args.iter().map(String::as_str).collect::<Vec<_>>());
    run(&patch(
        r#"[{"op": "test", "path": "/metadata/labels/a", "value": "b"}, {"op": "add", "path": "/metadata/labels/x", "value": "y"}]"#,
    ));
    let failing = patch(
        r#"[{"op": "remove", "path": "/metadata/labels/x"}, {"op": "test", "path": "/metadata/labels/a", "value": "z"}]"#,
    );
    let refused = cluster.refused(&failing.iter().map(String::as_str).collect::<Vec<_>>(), "");
    assert!(refused.contains("invalid") || refused.contains("Invalid"), "{refused}");
    assert_eq!(cluster.get(&["pod", "p"])["metadata"]["labels"], json!({"a": "b", "x": "y"}));
}

#[test]
fn a_patch_changes_neither_identity_nor_what_is_frozen() {
    let cluster = with_pod();
    let before = cluster.get(&["pod", "p"]);
    let patch = r#"{"metadata": {"uid": null, "creationTimestamp": null, "generation": 99}}"#;
    cluster.kubectl(&["patch", "pod", "p", "--type=merge", "-p", patch]);
    let after = cluster.get(&["pod", "p"]);
    for field in ["uid", "creationTimestamp", "generation"] {
        assert_eq!(before["metadata"][field], after["metadata"][field], "{field}");
    }
    let refused = cluster.refused(&["patch", "pod", "p", "-p", r#"{"spec": {"hostNetwork": true}}"#], "");
    assert!(refused.contains("pod updates may not change fields other than"), "{refused}");
    let stale = r#"{"metadata": {"resourceVersion": "1", "labels": {"q": "r"}}}"#;
    assert!(cluster.refused(&["patch", "pod", "p", "-p", stale], "").contains("has been modified"));
}
