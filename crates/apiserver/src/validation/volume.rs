//! The volumes of a Pod: what a node makes paths of.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, is_given, list, named, names, one_of};
use crate::error::FieldError;
use crate::quantity::Quantity;

/// Every kind of volume, in the order in which they are looked at.
const KINDS: [&str; 31] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
    "local",
];

const HOST_PATHS: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Checks a Pod's volumes and gives their names.
pub(super) fn check<'a>(value: &'a Value, at: &str, errors: &mut Errors) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (place, volume) in list(value, at, errors).iter().enumerate() {
        let at = format!("{at}[{place}]");
        let faults = errors.len();
        one_kind(volume, &at, errors);
        source(volume, &at, errors);
        let name = volume["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else {
            named(&volume["name"], &format!("{at}.name"), names::dns_label, errors);
        }
        if !seen.insert(name) && errors.len() == faults {
            errors.push(FieldError::duplicate(format!("{at}.name"), &volume["name"]));
        }
    }
    seen
}

fn one_kind(volume: &Value, at: &str, errors: &mut Errors) {
    let mut given = KINDS.into_iter().filter(|kind| !volume[*kind].is_null());
    if given.next().is_none() {
        errors.push(FieldError::required(at, "must specify a volume type"));
    }
    for kind in given {
        errors.push(FieldError::forbidden(format!("{at}.{kind}"), "may not specify more than 1 volume type"));
    }
}

/// What a volume is made from.
fn source(volume: &Value, at: &str, errors: &mut Errors) {
    for (kind, name) in [("configMap", "name"), ("secret", "secretName"), ("downwardAPI", "")] {
        let (source, field) = (&volume[kind], format!("{at}.{kind}"));
        if source.is_null() {
            continue;
        }
        if !name.is_empty() && !is_given(&source[name]) {
            errors.push(FieldError::required(format!("{field}.{name}"), ""));
        }
        mode(&source["defaultMode"], &format!("{field}.defaultMode"), errors);
        items(source, kind, &field, errors);
    }
    let sources = format!("{at}.projected.sources");
    for (place, projection) in list(&volume["projected"]["sources"], &sources, errors).iter().enumerate() {
        for kind in ["configMap", "secret", "downwardAPI"] {
            items(&projection[kind], kind, &format!("{sources}[{place}].{kind}"), errors);
        }
        for kind in ["serviceAccountToken", "clusterTrustBundle"] {
            if projection[kind].is_object() {
                relative(&projection[kind]["path"], &format!("{sources}[{place}].{kind}.path"), errors);
            }
        }
    }
    if volume["hostPath"].is_object() {
        let (path, field) = (&volume["hostPath"]["path"], format!("{at}.hostPath.path"));
        match path.as_str() {
            None | Some("") => errors.push(FieldError::required(field, "")),
            Some(text) if goes_up(text) => errors.push(FieldError::invalid(field, path, NO_UP)),
            Some(_) => {}
        }
        one_of(&volume["hostPath"]["type"], &format!("{at}.hostPath.type"), &HOST_PATHS, errors);
    }
    if volume["persistentVolumeClaim"].is_object() {
        let (name, field) =
            (&volume["persistentVolumeClaim"]["claimName"], format!("{at}.persistentVolumeClaim.claimName"));
        if is_given(name) {
            // No claim can have such a name. A real server takes the Pod, which then waits for ever.
            named(name, &field, names::dns_subdomain, errors);
        } else {
            errors.push(FieldError::required(field, ""));
        }
    }
}

fn mode(mode: &Value, field: &str, errors: &mut Errors) {
    if mode.as_i64().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        let why = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(field, mode, why));
    }
}

/// A PersistentVolume's spec.
pub(super) fn persistent(spec: &Value, errors: &mut Errors) {
    let modes = list(&spec["accessModes"], "spec.accessModes", errors);
    if modes.is_empty() {
        errors.push(FieldError::required("spec.accessModes", ""));
    }
    for mode in modes {
        one_of(mode, "spec.accessModes", &ACCESS_MODES, errors);
    }
    let capacity = &spec["capacity"];
    let sizes = capacity.as_object().map_or(0, serde_json::Map::len);
    if sizes == 0 {
        errors.push(FieldError::required("spec.capacity", ""));
    }
    if sizes != 1 || capacity["storage"].is_null() {
        errors.push(FieldError::not_supported("spec.capacity", capacity, &["storage"]));
    }
    let size = &capacity["storage"];
    if size.as_str().and_then(Quantity::parse).is_some_and(|size| size.is_zero() || size.is_negative()) {
        errors.push(FieldError::invalid("spec.capacity[storage]", size, "must be greater than zero"));
    }
    one_kind(spec, "spec", errors);
    let policies = ["Delete", "Recycle", "Retain"];
    one_of(&spec["persistentVolumeReclaimPolicy"], "spec.persistentVolumeReclaimPolicy", &policies, errors);
    one_of(&spec["volumeMode"], "spec.volumeMode", &["Block", "Filesystem"], errors);
}

pub(super) const ACCESS_MODES: [&str; 4] =
    ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

const NO_UP: &str = "must not contain '..'";

/// The files that a volume picks from its source.
fn items(source: &Value, kind: &str, at: &str, errors: &mut Errors) {
    for (place, item) in list(&source["items"], &format!("{at}.items"), errors).iter().enumerate() {
        let field = |name: &str| format!("{at}.items[{place}].{name}");
        if kind != "downwardAPI" && item["key"].as_str().is_none_or(str::is_empty) {
            errors.push(FieldError::required(field("key"), ""));
        }
        relative(&item["path"], &field("path"), errors);
    }
}

/// A path of a file within a volume. What begins with two dots is the kubelet's own.
fn relative(path: &Value, field: &str, errors: &mut Errors) {
    if path.as_str().is_none_or(str::is_empty) {
        errors.push(FieldError::required(field, ""));
        return;
    }
    descending(path, field, errors);
    if path.as_str().is_some_and(|text| text.starts_with("..") && !goes_up(text)) {
        errors.push(FieldError::invalid(field, path, "must not start with '..'"));
    }
}

/// A path, if there is one, that stays below where it begins.
pub(super) fn descending(path: &Value, field: &str, errors: &mut Errors) {
    let Some(text) = path.as_str() else { return };
    if text.starts_with('/') {
        errors.push(FieldError::invalid(field, path, "must be a relative path"));
    }
    if goes_up(text) {
        errors.push(FieldError::invalid(field, path, NO_UP));
    }
}

fn goes_up(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}
