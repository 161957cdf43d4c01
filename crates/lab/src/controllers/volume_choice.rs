//! Which volume a claim gets, decided without the API.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{
            ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
            PersistentVolumeSpec,
        },
        storage::v1::StorageClass,
    },
    apimachinery::pkg::{api::resource::Quantity as Written, apis::meta::v1::ObjectMeta},
};
use weft_apiserver::Quantity;

use super::selector::selects;

/// The class of claims that name none, where no StorageClass is marked as the one for these.
const STANDARD: &str = "standard";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const PROVISIONER: &str = "weft.dev/lab";
/// The provisioner of classes whose volumes are made by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// What a claim gets.
#[derive(Debug, PartialEq)]
pub(super) enum Choice {
    /// A volume that is there.
    Held(Arc<PersistentVolume>),
    /// One that is to be made, still without its folder.
    New(Box<PersistentVolume>),
    /// Nothing: there is no volume for it, and it is not one that gets a new one.
    None,
}

/// What a claim that is not bound gets.
pub(super) fn choose(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    classes: &[Arc<StorageClass>],
) -> Choice {
    let Some(spec) = &claim.spec else { return Choice::None };
    let wanted = spec.volume_name.as_deref().filter(|name| !name.is_empty());
    let is_picky = wanted.is_some() || spec.selector.is_some();
    let class = match (&spec.storage_class_name, default_class(classes)) {
        (Some(class), _) => Some(class.as_str()),
        (None, Some(class)) => class.metadata.name.as_deref(),
        // The lab's own default keeps no claim from the volume that it asks for.
        (None, None) => (!is_picky).then_some(STANDARD),
    };
    let named = |volume: &&Arc<PersistentVolume>| {
        wanted.is_none_or(|wanted| volume.metadata.name.as_deref() == Some(wanted))
    };
    let kept = |volume: &&Arc<PersistentVolume>| is_for(volume, claim);
    // A volume that names the claim is taken as it is by a claim that names the volume.
    let mutual = volumes.iter().filter(named).find(|volume| is_for(volume, claim) && wanted.is_some());
    let fitting = || volumes.iter().filter(named).filter(|volume| fits(volume, spec));
    let free = || {
        fitting()
            .filter(|volume| is_free(volume) && is_of_class(volume, class))
            .min_by(|one, other| size(one).partial_cmp(&size(other)).unwrap_or(std::cmp::Ordering::Equal))
    };
    if let Some(volume) = mutual.or_else(|| fitting().find(kept)).or_else(free) {
        return Choice::Held(volume.clone());
    }
    let Some(class) = class.filter(|class| !class.is_empty() && !is_picky) else { return Choice::None };
    if !is_provisioned(class, volumes, classes) {
        return Choice::None;
    }
    Choice::New(Box::new(new_volume(claim, spec, class, classes)))
}

/// Whether a volume is kept for this claim, by its name or by itself.
pub(super) fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = reference(volume) else { return false };
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && reference.uid.as_ref().is_none_or(|uid| Some(uid) == claim.metadata.uid.as_ref())
}

/// Whether a volume names this very claim, not only one of its name.
pub(super) fn names(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    reference(volume).is_some_and(|reference| reference.uid == claim.metadata.uid)
}

fn reference(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

fn is_free(volume: &PersistentVolume) -> bool {
    reference(volume).is_none()
}

/// Whether a volume is what a claim asks for, whatever its class.
fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaimSpec) -> bool {
    let Some(spec) = &volume.spec else { return false };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let requested = claim.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let requested = requested.and_then(amount);
    volume.metadata.deletion_timestamp.is_none()
        && mode(&spec.volume_mode) == mode(&claim.volume_mode)
        && claim.access_modes.iter().flatten().all(|mode| modes.contains(mode))
        && requested.is_none_or(|requested| size(volume).is_some_and(|size| size >= requested))
        && claim.selector.as_ref().is_none_or(|selector| selects(selector, volume.metadata.labels.as_ref()))
}

fn is_of_class(volume: &PersistentVolume, class: Option<&str>) -> bool {
    class.is_none_or(|class| class_of(volume) == class)
}

fn class_of(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default()
}

fn size(volume: &PersistentVolume) -> Option<Quantity> {
    amount(volume.spec.as_ref()?.capacity.as_ref()?)
}

fn amount(amounts: &BTreeMap<String, Written>) -> Option<Quantity> {
    amounts.get("storage").and_then(|amount| Quantity::parse(&amount.0))
}

/// The class that claims get that name none: of several the newest.
fn default_class(classes: &[Arc<StorageClass>]) -> Option<&Arc<StorageClass>> {
    let is_default = |class: &&Arc<StorageClass>| {
        let annotations = class.metadata.annotations.as_ref();
        annotations
            .and_then(|all| all.get("storageclass.kubernetes.io/is-default-class"))
            .is_some_and(|is| is == "true")
    };
    classes.iter().filter(is_default).max_by_key(|class| class.metadata.creation_timestamp.clone())
}

/// Whether claims of a class get new volumes: not those of a class whose volumes are made by hand. A class that nobody has made is one
/// of the cluster that the manifests are for, unless there are volumes of it.
fn is_provisioned(class: &str, volumes: &[Arc<PersistentVolume>], classes: &[Arc<StorageClass>]) -> bool {
    if let Some(class) = classes.iter().find(|one| one.metadata.name.as_deref() == Some(class)) {
        return class.provisioner != NO_PROVISIONER;
    }
    let by_hand = |volume: &PersistentVolume| {
        !volume.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(PROVISIONED_BY))
    };
    class == STANDARD || !volumes.iter().any(|volume| class_of(volume) == class && by_hand(volume))
}

fn new_volume(
    claim: &PersistentVolumeClaim,
    spec: &PersistentVolumeClaimSpec,
    class: &str,
    classes: &[Arc<StorageClass>],
) -> PersistentVolume {
    let policy = classes.iter().find(|one| one.metadata.name.as_deref() == Some(class));
    let policy = policy.and_then(|class| class.reclaim_policy.clone());
    let uid = claim.metadata.uid.clone().unwrap_or_default();
    let metadata = ObjectMeta {
        name: Some(format!("pvc-{uid}")),
        annotations: Some(BTreeMap::from([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())])),
        ..ObjectMeta::default()
    };
    let requested = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let capacity = requested.and_then(|requests| requests.get("storage")).cloned();
    let spec = PersistentVolumeSpec {
        access_modes: spec.access_modes.clone(),
        capacity: capacity.map(|capacity| BTreeMap::from([("storage".to_owned(), capacity)])),
        claim_ref: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("PersistentVolumeClaim".to_owned()),
            namespace: claim.metadata.namespace.clone(),
            name: claim.metadata.name.clone(),
            uid: Some(uid),
            ..ObjectReference::default()
        }),
        persistent_volume_reclaim_policy: Some(policy.unwrap_or_else(|| "Delete".to_owned())),
        storage_class_name: Some(class.to_owned()),
        volume_mode: spec.volume_mode.clone(),
        ..PersistentVolumeSpec::default()
    };
    PersistentVolume { metadata, spec: Some(spec), status: None }
}

#[cfg(test)]
mod tests;
