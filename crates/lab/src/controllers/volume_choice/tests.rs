use std::sync::Arc;

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use serde_json::{Value, json};

use super::{Choice, choose};

fn claim(mut spec: Value) -> PersistentVolumeClaim {
    spec["accessModes"] = json!(["ReadWriteOnce"]);
    spec["resources"] = json!({ "requests": { "storage": "1Gi" } });
    let metadata = json!({ "name": "data", "namespace": "shop", "uid": "u1" });
    serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
}

/// A volume made by hand, without class if `class` is empty.
fn volume(name: &str, size: &str, class: &str) -> Value {
    json!({
        "metadata": { "name": name, "labels": { "name": name } },
        "spec": {
            "capacity": { "storage": size }, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"],
            "storageClassName": class, "persistentVolumeReclaimPolicy": "Retain",
        },
    })
}

fn class(name: &str, provisioner: &str, is_default: bool) -> Value {
    json!({
        "metadata": {
            "name": name, "annotations": { "storageclass.kubernetes.io/is-default-class": is_default.to_string() },
        },
        "provisioner": provisioner, "reclaimPolicy": "Retain",
    })
}

/// The name of the volume that a claim gets, `pvc-…` for a new one.
fn chosen(claim: &PersistentVolumeClaim, volumes: &[Value], classes: &[Value]) -> Option<String> {
    match of(claim, volumes, classes) {
        Choice::Held(volume) => volume.metadata.name.clone(),
        Choice::New(volume) => volume.metadata.name,
        Choice::None => None,
    }
}

fn of(claim: &PersistentVolumeClaim, volumes: &[Value], classes: &[Value]) -> Choice {
    let volumes: Vec<Arc<PersistentVolume>> =
        volumes.iter().map(|volume| Arc::new(serde_json::from_value(volume.clone()).unwrap())).collect();
    let classes: Vec<Arc<StorageClass>> =
        classes.iter().map(|class| Arc::new(serde_json::from_value(class.clone()).unwrap())).collect();
    choose(claim, &volumes, &classes)
}

#[test]
fn a_plain_claim_gets_a_volume_of_its_own() {
    let Choice::New(made) = of(&claim(json!({})), &[volume("other", "1Gi", "")], &[]) else { panic!() };
    let made = serde_json::to_value(made).unwrap();
    assert_eq!(made["metadata"]["name"], "pvc-u1");
    assert_eq!(
        made["spec"],
        json!({
            "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" },
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "shop", "name": "data", "uid": "u1",
            },
            "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "standard",
        })
    );
}

#[test]
fn a_claim_without_a_class_gets_the_default_one() {
    let classes = [class("slow", "example.com/x", false), class("fast", "example.com/x", true)];
    let Choice::New(made) = of(&claim(json!({})), &[], &classes) else { panic!() };
    let spec = made.spec.unwrap();
    assert_eq!(spec.storage_class_name.as_deref(), Some("fast"));
    assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Retain"));
}

#[test]
fn a_claim_of_the_empty_class_gets_nothing_new() {
    let claim = claim(json!({ "storageClassName": "" }));
    assert_eq!(chosen(&claim, &[volume("small", "1Mi", ""), volume("other", "1Gi", "manual")], &[]), None);
    let volumes = [volume("large", "5Gi", ""), volume("fits", "1024Mi", ""), volume("small", "1Mi", "")];
    assert_eq!(chosen(&claim, &volumes, &[]).as_deref(), Some("fits"));
}

#[test]
fn a_claim_of_a_class_that_nobody_has_made_gets_a_new_volume_unless_there_are_some() {
    let claim = claim(json!({ "storageClassName": "manual" }));
    assert_eq!(chosen(&claim, &[], &[]).as_deref(), Some("pvc-u1"));
    assert_eq!(chosen(&claim, &[volume("a", "2Gi", "manual")], &[]).as_deref(), Some("a"));
    assert_eq!(chosen(&claim, &[volume("a", "1Mi", "manual")], &[]), None);
    let local = class("manual", "kubernetes.io/no-provisioner", false);
    assert_eq!(chosen(&claim, &[], &[local]), None);
    let mut taken = volume("a", "2Gi", "manual");
    taken["spec"]["claimRef"] = json!({ "namespace": "shop", "name": "other" });
    assert_eq!(chosen(&claim, &[taken], &[]), None);
}

#[test]
fn a_claim_that_asks_for_one_volume_gets_that_or_none() {
    let named = claim(json!({ "volumeName": "b" }));
    let volumes = [volume("a", "1Gi", ""), volume("b", "2Gi", "")];
    assert_eq!(chosen(&named, &volumes, &[]).as_deref(), Some("b"));
    assert_eq!(chosen(&named, &[volume("a", "1Gi", "")], &[]), None);
    let default = class("fast", "example.com/x", true);
    assert_eq!(chosen(&named, &volumes, &[default]), None, "it is of the default class, the volume of none");
    let selecting = claim(json!({ "selector": { "matchLabels": { "name": "b" } } }));
    assert_eq!(chosen(&selecting, &volumes, &[]).as_deref(), Some("b"));
    assert_eq!(chosen(&selecting, &[volume("a", "1Gi", "")], &[]), None);
}

#[test]
fn a_volume_that_is_kept_for_a_claim_is_that_claims_alone() {
    let kept = |uid: Option<&str>| {
        let mut kept = volume("kept", "9Gi", "other");
        kept["spec"]["claimRef"] = json!({ "namespace": "shop", "name": "data", "uid": uid });
        [volume("a", "1Gi", "manual"), kept]
    };
    let claim = claim(json!({ "storageClassName": "manual" }));
    assert_eq!(chosen(&claim, &kept(None), &[]).as_deref(), Some("kept"));
    assert_eq!(chosen(&claim, &kept(Some("u1")), &[]).as_deref(), Some("kept"));
    assert_eq!(chosen(&claim, &kept(Some("u0")), &[]).as_deref(), Some("a"), "it was another claim's");
}

#[test]
fn a_claim_gets_no_volume_that_lacks_its_modes_or_goes() {
    let claim = claim(json!({ "storageClassName": "" }));
    for change in [
        json!({ "spec": { "accessModes": ["ReadOnlyMany"] } }),
        json!({ "spec": { "volumeMode": "Block" } }),
        json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }),
    ] {
        let mut volume = volume("a", "1Gi", "");
        for (part, fields) in change.as_object().unwrap() {
            for (field, value) in fields.as_object().unwrap() {
                volume[part][field] = value.clone();
            }
        }
        assert_eq!(chosen(&claim, &[volume], &[]), None, "{change}");
    }
}
