//! Pods of a controller: whose they are, how they stand, and how they are made from a template.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Pod, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
    jiff::Timestamp,
};
use serde::Serialize;

use crate::world::Object;

/// The reference that makes `owner` the controller of an object.
pub(super) fn owner_reference<K: Object>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::API_VERSION.into(),
        kind: K::KIND.into(),
        name: owner.metadata().name.clone().unwrap_or_default(),
        uid: owner.metadata().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// UID of the controller of an object.
pub(crate) fn controller_uid(metadata: &ObjectMeta) -> Option<&str> {
    let references = metadata.owner_references.as_deref().unwrap_or_default();
    references
        .iter()
        .find(|reference| reference.controller == Some(true))
        .map(|reference| reference.uid.as_str())
}

/// Those of `objects` that `owner` controls.
pub(crate) fn owned<K: Object, O: Object>(objects: &[Arc<K>], owner: &O) -> Vec<Arc<K>> {
    let uid = owner.metadata().uid.as_deref();
    objects
        .iter()
        .filter(|object| uid.is_some() && controller_uid(object.metadata()) == uid)
        .cloned()
        .collect()
}

/// A Pod made from a template. `name` is whole; the caller has chosen it.
pub(super) fn pod_from<O: Object>(owner: &O, template: &PodTemplateSpec, name: String) -> Pod {
    let given = template.metadata.clone().unwrap_or_default();
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: owner.metadata().namespace.clone(),
        labels: given.labels,
        annotations: given.annotations,
        finalizers: given.finalizers,
        owner_references: Some(vec![owner_reference(owner)]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: template.spec.clone(), status: None }
}

/// Adds a label to a Pod that is being made.
pub(super) fn label(metadata: &mut ObjectMeta, key: &str, value: &str) {
    metadata.labels.get_or_insert_with(BTreeMap::new).insert(key.into(), value.into());
}

/// Deleted, but not gone yet.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Succeeded or Failed: its containers will not run again.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Counts as a replica.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminating(pod) && !is_finished(pod)
}

/// The Pod's phase, `Pending` before anybody said one.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Has the condition Ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready =
        conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// Counts of a set of Pods, as the workload kinds report them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) replicas: i32,
    pub(super) ready: i32,
    pub(super) available: i32,
    /// When a ready Pod becomes available, if one waits for that.
    pub(super) soonest: Option<Duration>,
}

/// Counts Pods; available is who has been ready for `min_ready_seconds`.
pub(super) fn count<'p>(pods: impl IntoIterator<Item = &'p Pod>, min_ready_seconds: Option<i32>) -> Counts {
    let mut counts = Counts::default();
    let wanted = i64::from(min_ready_seconds.unwrap_or(0));
    for pod in pods {
        counts.replicas += 1;
        let Some(since) = ready_since(pod) else { continue };
        counts.ready += 1;
        let missing = wanted - (Timestamp::now().as_second() - since.as_second());
        if wanted == 0 || missing <= 0 {
            counts.available += 1;
        } else {
            let missing = Duration::from_secs(missing.unsigned_abs());
            counts.soonest = Some(counts.soonest.map_or(missing, |soonest| soonest.min(missing)));
        }
    }
    counts
}

/// A name for one of many: `base` and five random letters, as Kubernetes writes them.
pub(super) fn with_suffix(base: &str) -> String {
    let kept: String = base.chars().take(57).collect();
    format!("{}-{}", kept.trim_end_matches('-'), random_letters(5))
}

/// Letters that make no words.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

fn random_letters(count: usize) -> String {
    use std::hash::{BuildHasher, RandomState};
    let mut number = RandomState::new().hash_one(count);
    spell(&mut number, count)
}

/// A short name for what `value` says: equal values have equal names.
pub(super) fn hash_of(value: &impl Serialize) -> String {
    // FNV-1a: the same in every run, which the standard library's hashers do not promise.
    let text = serde_json::to_string(value).unwrap_or_default();
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let mut hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    spell(&mut hash, 10)
}

fn spell(number: &mut u64, count: usize) -> String {
    let base = LETTERS.len() as u64;
    let mut text = String::with_capacity(count);
    for _ in 0..count {
        text.push(LETTERS.get((*number % base) as usize).copied().map_or('b', char::from));
        *number /= base;
    }
    text
}
