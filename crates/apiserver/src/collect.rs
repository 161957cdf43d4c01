//! Deleting: grace, finalizers, dependents, namespaces; and what else follows from a change.
//!
//! There is no collector that looks at everything. Whatever a deletion leads to is done before its request is answered
//! (but for the contents of namespaces), from indexes by owner and by namespace: the cost is that of what is deleted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::admission::Write;
use crate::api::Api;
use crate::error::{ApiError, Result};
use crate::meta;
use crate::resources::{ResourceType, Types};
use crate::store::{Key, Object, Reference, Refusal};
use crate::verbs::ATTEMPTS;

const FOREGROUND: &str = "foregroundDeletion";
const INSTANCES: &str = "customresourcecleanup.apiextensions.k8s.io";

const EVENTS: &str = "events";
/// How many writes pass between two looks for old Events.
const EVENT_SWEEP: u64 = 256;
const EVENT_LIMIT: usize = 5_000;
const EVENT_SECONDS: i64 = 3600;

/// How long a namespace that is deleted keeps its contents.
const NAMESPACE_DELAY: Duration = Duration::from_secs(1);

/// What becomes of the objects that name the deleted one as their owner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Policy {
    Background,
    Foreground,
    Orphan,
}

/// `DeleteOptions`.
#[derive(Debug, Clone)]
pub(crate) struct Deletion {
    pub(crate) grace: Option<i64>,
    pub(crate) policy: Policy,
    pub(crate) uid: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) dry_run: bool,
}

impl Deletion {
    /// As the server deletes on its own account.
    pub(crate) fn background() -> Deletion {
        Deletion { grace: None, policy: Policy::Background, uid: None, version: None, dry_run: false }
    }
}

/// Deletes an object, or marks it as being deleted; the object, and whether it is gone.
pub(crate) fn delete(
    api: &Arc<Api>,
    resource: &Arc<ResourceType>,
    key: &Key,
    options: &Deletion,
) -> Result<(Arc<Object>, bool)> {
    let mut sweep = Sweep::new(api);
    let object = sweep.delete(resource, key, options)?;
    if options.dry_run {
        let gone = mark(api, resource, &object.value, options).is_none();
        return Ok((object, gone));
    }
    sweep.run();
    match api.store.get(&resource.storage, key) {
        Some(now) if meta::uid(&now.value) == meta::uid(&object.value) => Ok((now, false)),
        _ => Ok((object, true)),
    }
}

/// After an object has gone: its dependents, and who waited for it.
pub(crate) fn removed(api: &Arc<Api>, resource: &Arc<ResourceType>, object: &Arc<Object>) {
    let mut sweep = Sweep::new(api);
    sweep.removed(resource, object);
    sweep.run();
}

/// What is still to do because of a deletion. A queue, since chains of owners may be long.
struct Sweep<'a> {
    api: &'a Arc<Api>,
    types: Arc<Types>,
    queue: VecDeque<Step>,
}

enum Step {
    Delete(Reference, Policy),
    /// One of its owners has gone.
    Disown(Reference),
    /// What it waited for may have gone.
    Release(Reference),
}

impl<'a> Sweep<'a> {
    fn new(api: &'a Arc<Api>) -> Sweep<'a> {
        Sweep { api, types: api.registry.types(), queue: VecDeque::new() }
    }

    fn run(&mut self) {
        while let Some(step) = self.queue.pop_front() {
            let (Step::Delete(reference, _) | Step::Disown(reference) | Step::Release(reference)) = &step;
            let Some(resource) = self.types.of_storage(&reference.storage).cloned() else { continue };
            match &step {
                Step::Delete(reference, policy) => {
                    let options = Deletion { policy: *policy, ..Deletion::background() };
                    match self.delete(&resource, &reference.key, &options) {
                        Ok(_) => {}
                        Err(error) if error.code == 404 => {}
                        Err(error) => {
                            tracing::warn!(resource = resource.plural, key = ?reference.key, %error, "could not delete");
                        }
                    }
                }
                Step::Disown(reference) => self.disown(reference),
                Step::Release(reference) => self.release(&resource, &reference.key),
            }
        }
    }

    /// The object as it is after the first step.
    fn delete(&mut self, resource: &Arc<ResourceType>, key: &Key, options: &Deletion) -> Result<Arc<Object>> {
        let api = self.api;
        let missing = || ApiError::not_found(&resource.group, &resource.plural, &key.name);
        for _ in 0..ATTEMPTS {
            let before = api.store.get(&resource.storage, key).ok_or_else(missing)?;
            check(resource, &before, options)?;
            if options.dry_run {
                return Ok(before);
            }
            let written = match mark(api, resource, &before.value, options) {
                Some(value) if value == before.value => {
                    self.queue.push_back(Step::Release(reference(resource, key)));
                    return Ok(before);
                }
                Some(value) => {
                    let written = api.store.replace(&resource.storage, key.clone(), before.version, value);
                    if let Ok(object) = &written {
                        self.follow(resource, key, object, options);
                    }
                    written
                }
                None => {
                    if options.policy == Policy::Orphan {
                        orphan(api, meta::uid(&before.value));
                    }
                    let written = api.store.remove(&resource.storage, key.clone(), before.version);
                    if let Ok(last) = &written {
                        self.removed(resource, last);
                    }
                    written
                }
            };
            match written {
                Err(Refusal::Stale) => {}
                written => return written.map_err(|_| missing()),
            }
        }
        Err(ApiError::modified(&resource.group, &resource.plural, &key.name))
    }

    /// What a mark leads to.
    fn follow(&mut self, resource: &ResourceType, key: &Key, object: &Object, options: &Deletion) {
        if resource.is("", "namespaces") {
            return empty_soon(self.api, reference(resource, key));
        }
        let contents = if meta::has_finalizer(&object.value, INSTANCES) {
            instances(self.api, &object.value)
        } else if meta::has_finalizer(&object.value, FOREGROUND) {
            self.api.store.index().dependents(meta::uid(&object.value))
        } else {
            Vec::new()
        };
        let policy = options.policy;
        self.queue.extend(contents.into_iter().map(|reference| Step::Delete(reference, policy)));
        self.queue.push_back(Step::Release(reference(resource, key)));
    }

    /// Takes away the server's own finalizers whose reason has gone, and the object if nothing else holds it.
    fn release(&mut self, resource: &Arc<ResourceType>, key: &Key) {
        let api = self.api;
        for _ in 0..ATTEMPTS {
            let Some(object) = api.store.get(&resource.storage, key) else { return };
            if !meta::is_deleting(&object.value) {
                return;
            }
            let keeps = |finalizer: &str| match finalizer {
                FOREGROUND => api.store.index().has_dependents(meta::uid(&object.value)),
                INSTANCES => !api.store.collection(&key.name).is_empty(),
                _ => true,
            };
            let left: Vec<&str> =
                meta::finalizers(&object.value).filter(|finalizer| keeps(finalizer)).collect();
            let occupied = resource.is("", "namespaces") && !api.store.index().is_empty(&key.name);
            let grace = object.value["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
            let written = if left.is_empty() && !occupied && grace == 0 {
                api.store.remove(&resource.storage, key.clone(), object.version).map(|last| {
                    self.removed(resource, &last);
                })
            } else if left.len() < meta::finalizers(&object.value).count() {
                let mut value = object.value.clone();
                value["metadata"]["finalizers"] = json!(left);
                api.store.replace(&resource.storage, key.clone(), object.version, value).map(drop)
            } else {
                return;
            };
            if written != Err(Refusal::Stale) {
                return;
            }
        }
    }

    fn removed(&mut self, resource: &Arc<ResourceType>, object: &Arc<Object>) {
        let api = self.api;
        forget(api, resource, &object.value);
        let index = api.store.index();
        self.queue.extend(index.dependents(meta::uid(&object.value)).into_iter().map(Step::Disown));
        for owner in object.value["metadata"]["ownerReferences"].as_array().into_iter().flatten() {
            let found = owner["uid"].as_str().and_then(|uid| index.by_uid(uid));
            self.queue.extend(found.map(Step::Release));
        }
        if resource.custom.is_some() {
            let storage = "customresourcedefinitions.apiextensions.k8s.io".to_owned();
            let key = Key::new("", format!("{}.{}", resource.plural, resource.group));
            self.queue.push_back(Step::Release(Reference { storage, key }));
        }
        let namespace = meta::namespace(&object.value);
        if !namespace.is_empty() && index.is_empty(namespace) {
            let key = Key::new("", namespace);
            self.queue.push_back(Step::Release(Reference { storage: "namespaces".to_owned(), key }));
        }
    }

    /// An object one of whose owners has gone is deleted with its last owner.
    fn disown(&mut self, reference: &Reference) {
        let api = self.api;
        for _ in 0..ATTEMPTS {
            let Some(object) = api.store.get(&reference.storage, &reference.key) else { return };
            let owners = object.value["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
            let left: Vec<Value> = owners.into_iter().filter(|owner| is_alive(api, owner)).collect();
            if left.is_empty() {
                return self.queue.push_back(Step::Delete(reference.clone(), Policy::Background));
            }
            let mut value = object.value.clone();
            value["metadata"]["ownerReferences"] = left.into();
            let written = api.store.replace(&reference.storage, reference.key.clone(), object.version, value);
            if !matches!(written, Err(Refusal::Stale)) {
                return;
            }
        }
    }
}

/// Deletes what is in a namespace, and then the namespace. Not at once: clients delete a namespace and the objects in
/// it by one manifest, and expect to find both.
fn empty_soon(api: &Arc<Api>, namespace: Reference) {
    let work = {
        let api = api.clone();
        move || {
            let contents = api.store.index().in_namespace(&namespace.key.name);
            let mut sweep = Sweep::new(&api);
            sweep.queue.extend(contents.into_iter().map(|found| Step::Delete(found, Policy::Background)));
            sweep.queue.push_back(Step::Release(namespace));
            sweep.run();
        }
    };
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => {
            runtime.spawn(async move {
                tokio::time::sleep(NAMESPACE_DELAY).await;
                work();
            });
        }
        Err(_) => work(),
    }
}

fn reference(resource: &ResourceType, key: &Key) -> Reference {
    Reference { storage: resource.storage.clone(), key: key.clone() }
}

fn is_alive(api: &Api, owner: &Value) -> bool {
    owner["uid"].as_str().is_some_and(|uid| api.store.index().by_uid(uid).is_some())
}

fn check(resource: &ResourceType, before: &Object, options: &Deletion) -> Result<()> {
    let found = &before.value["metadata"];
    for (what, name, wanted) in
        [("UID", "uid", &options.uid), ("ResourceVersion", "resourceVersion", &options.version)]
    {
        let found = found[name].as_str().unwrap_or_default();
        if wanted.as_ref().is_some_and(|wanted| wanted != found) {
            let wanted = wanted.as_deref().unwrap_or_default();
            let after = if what == "UID" { "deleted and then recreated" } else { "modified" };
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). The object might have \
                 been {after}"
            );
            return Err(ApiError::conflict(&resource.group, &resource.kind, meta::name(&before.value), &why));
        }
    }
    let kept = ["default", "kube-system", "kube-public", "kube-node-lease"];
    if resource.is("", "namespaces") && kept.contains(&meta::name(&before.value)) {
        let why = "this namespace may not be deleted";
        return Err(ApiError::forbidden("", "namespaces", meta::name(&before.value), why));
    }
    Ok(())
}

/// The object marked as being deleted; `None` when nothing keeps it.
fn mark(api: &Api, resource: &ResourceType, before: &Value, options: &Deletion) -> Option<Value> {
    let mut finalizers: Vec<Value> = before["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let mut hold = |name: &str, wanted: bool| {
        if wanted && !finalizers.iter().any(|finalizer| finalizer == name) {
            finalizers.push(name.into());
        }
    };
    let dependents = || api.store.index().has_dependents(meta::uid(before));
    hold(FOREGROUND, options.policy == Policy::Foreground && dependents());
    let custom = resource.is("apiextensions.k8s.io", "customresourcedefinitions");
    // A definition's name is where its objects are kept.
    hold(INSTANCES, custom && !api.store.collection(meta::name(before)).is_empty());
    let contents = resource.is("", "namespaces");
    let grace = if resource.is("", "pods") { pod_grace(before, options.grace) } else { 0 };
    if finalizers.is_empty() && grace == 0 && !contents {
        return None;
    }
    let mut object = before.clone();
    let deleting = meta::is_deleting(before);
    let metadata = meta::metadata(&mut object);
    if !finalizers.is_empty() {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
    let left = metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64);
    // A second request may only shorten the time.
    if !deleting || left.is_some_and(|left| grace < left) {
        metadata.insert("deletionTimestamp".to_owned(), meta::after(grace).into());
        if !contents {
            metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
        }
        if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
            metadata.insert("generation".to_owned(), (generation + 1).into());
        }
    }
    if contents {
        meta::map(meta::map_of(&mut object), "status").insert("phase".to_owned(), "Terminating".into());
    }
    Some(object)
}

/// A Pod that no kubelet runs needs no time to end.
fn pod_grace(pod: &Value, wanted: Option<i64>) -> i64 {
    let unscheduled = pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unscheduled || over {
        return 0;
    }
    wanted.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30).max(0)
}

/// State beside the store that belongs to the object.
fn forget(api: &Arc<Api>, resource: &ResourceType, object: &Value) {
    if resource.is("", "services") {
        api.services.free(object);
    } else if resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
        api.registry.undefine(meta::name(object));
    }
}

/// Takes the owner out of its dependents.
fn orphan(api: &Arc<Api>, uid: &str) {
    let dependents = api.store.index().dependents(uid);
    for reference in dependents {
        for _ in 0..ATTEMPTS {
            let Some(object) = api.store.get(&reference.storage, &reference.key) else { break };
            let mut value = object.value.clone();
            if let Some(owners) = value["metadata"]["ownerReferences"].as_array_mut() {
                owners.retain(|owner| owner["uid"] != uid);
            }
            let written = api.store.replace(&reference.storage, reference.key.clone(), object.version, value);
            if !matches!(written, Err(Refusal::Stale)) {
                break;
            }
        }
    }
}

/// The objects of a CustomResourceDefinition.
fn instances(api: &Api, definition: &Value) -> Vec<Reference> {
    let storage = meta::name(definition).to_owned();
    let page = api.store.collection(&storage).list(&api.store, None);
    page.objects
        .iter()
        .map(|object| Reference { storage: storage.clone(), key: Key::of(&object.value) })
        .collect()
}

/// After an object came to be.
pub(crate) fn created(api: &Arc<Api>, resource: &Arc<ResourceType>, object: &Arc<Object>) {
    if resource.is("", "namespaces") {
        furnish(api, meta::name(&object.value));
    } else if resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
        api.registry.define(&object.value);
    }
    if resource.storage == EVENTS && object.version.is_multiple_of(EVENT_SWEEP) {
        expire_events(api);
    }
    // Its owner may have gone while it was on its way.
    let owners =
        object.value["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !owners.is_empty() && !owners.iter().any(|owner| is_alive(api, owner)) {
        let mut sweep = Sweep::new(api);
        let reference = Reference { storage: resource.storage.clone(), key: Key::of(&object.value) };
        sweep.queue.push_back(Step::Delete(reference, Policy::Background));
        sweep.run();
    }
}

/// Events are kept for an hour, as by Kubernetes, and no more than so many.
fn expire_events(api: &Arc<Api>) {
    let mut events = api.store.collection(EVENTS).list(&api.store, None).objects;
    events.sort_by_key(|event| std::cmp::Reverse(event.version));
    for (at, event) in events.iter().enumerate() {
        let value = &event.value;
        let times = [&value["series"]["lastObservedTime"], &value["lastTimestamp"], &value["eventTime"]];
        let time =
            times.into_iter().find_map(Value::as_str).or(value["metadata"]["creationTimestamp"].as_str());
        let age = time.and_then(meta::age).unwrap_or(0);
        if at >= EVENT_LIMIT || age > EVENT_SECONDS {
            // Somebody else may have removed or renewed it meanwhile: then it is not ours to remove.
            let _ = api.store.remove(EVENTS, Key::of(value), event.version);
        }
    }
}

/// After an object changed.
pub(crate) fn updated(api: &Arc<Api>, resource: &Arc<ResourceType>, before: &Value, after: &Arc<Object>) {
    if resource.is("apiextensions.k8s.io", "customresourcedefinitions")
        && before["spec"] != after.value["spec"]
    {
        api.registry.define(&after.value);
    } else if resource.is("", "services") {
        api.services.free_dropped(before, &after.value);
    }
}

/// What every namespace has.
fn furnish(api: &Arc<Api>, namespace: &str) {
    let authority = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"},
        "data": {"ca.crt": api.ca_pem},
    });
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let types = api.registry.types();
    for (plural, object) in [("serviceaccounts", account), ("configmaps", authority)] {
        let Some(resource) = types.find("", "v1", plural) else { continue };
        if let Err(error) = Write::internal(api, resource.clone()).create(namespace, object) {
            tracing::warn!(namespace, plural, %error, "could not make what every namespace has");
        }
    }
}
