//! The way of every write into the store: what the server sets itself, defaults, checks, bookkeeping.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::Api;
use crate::collect;
use crate::defaults;
use crate::error::{ApiError, Result};
use crate::fields::{self, Manager};
use crate::http::Call;
use crate::meta;
use crate::resources::{ResourceType, Types};
use crate::store::{Key, Object, Refusal};
use crate::validation;

/// One attempt at an optimistic write.
pub(crate) enum Attempt {
    Done(Arc<Object>),
    /// Another write came in between: read again.
    Stale,
}

/// Who writes what, and how.
pub(crate) struct Write<'a> {
    api: &'a Arc<Api>,
    types: Arc<Types>,
    resource: Arc<ResourceType>,
    manager: Manager,
    subresource: String,
    dry_run: bool,
    /// Who is told of what is taken and should not be relied on.
    call: Option<&'a Call>,
    /// Server-side apply: the configuration, and whether it takes fields from others.
    config: Option<(&'a Value, bool)>,
}

/// Server-owned metadata: never taken from a client.
const SYSTEM: &[&str] =
    &["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"];

impl<'a> Write<'a> {
    pub(crate) fn of(api: &'a Arc<Api>, call: &'a Call) -> Write<'a> {
        Write {
            api,
            types: call.types.clone(),
            resource: call.resource.clone(),
            manager: Manager::update(call.manager(), &call.resource, &call.subresource),
            subresource: call.subresource.clone(),
            dry_run: call.query.dry_run(),
            call: Some(call),
            config: None,
        }
    }

    /// A write of the server itself.
    pub(crate) fn internal(api: &'a Arc<Api>, resource: Arc<ResourceType>) -> Write<'a> {
        Write {
            api,
            types: api.registry.types(),
            manager: Manager::update("kube-apiserver".to_owned(), &resource, ""),
            resource,
            subresource: String::new(),
            dry_run: false,
            call: None,
            config: None,
        }
    }

    /// The same write, of the status.
    pub(crate) fn of_status(mut self) -> Write<'a> {
        self.subresource = "status".to_owned();
        self
    }

    /// The same write as a server-side apply of `config`.
    pub(crate) fn applying(mut self, config: &'a Value, force: bool) -> Write<'a> {
        self.config = Some((config, force));
        self.manager = self.manager.applying();
        self
    }

    /// Makes an object; `namespace` is empty for cluster-wide ones.
    pub(crate) fn create(&self, namespace: &str, mut object: Value) -> Result<Arc<Object>> {
        let resource = &self.resource;
        self.identify(namespace, &mut object)?;
        if resource.namespaced {
            self.check_namespace(namespace, meta::name(&object))?;
        }
        if object["metadata"]["resourceVersion"].as_str().is_some_and(|version| !version.is_empty()) {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        if resource.is("", "pods") {
            self.prioritize(&mut object)?;
            self.check_runtime_class(&object)?;
        }
        defaults::initial_status(resource, &mut object);
        defaults::apply(resource, &mut object, None);
        let reserved = match resource.is("", "services") {
            true => Some(self.api.services.reserve(&mut object, None)?),
            false => None,
        };
        validation::create(resource, &self.types, &object)?;
        self.warn(&object);
        match self.config {
            Some((config, _)) => fields::created_by_apply(&self.manager, resource, config, &mut object),
            None => fields::updated(&self.manager, resource, None, &mut object),
        }
        if self.dry_run {
            return Ok(Object::unstored(object));
        }
        let key = Key::of(&object);
        let name = key.name.clone();
        let stored = self
            .api
            .store
            .insert(&resource.storage, key, object)
            .map_err(|_| ApiError::already_exists(&resource.group, &resource.plural, &name))?;
        if let Some(reserved) = reserved {
            reserved.keep();
        }
        collect::created(self.api, resource, &stored);
        // Creation may have made the type ready, as it does of CustomResourceDefinitions.
        Ok(self.api.store.get(&resource.storage, &Key::of(&stored.value)).unwrap_or(stored))
    }

    fn warn(&self, object: &Value) {
        if let Some(call) = self.call
            && self.subresource.is_empty()
        {
            validation::warnings(&self.resource, object).into_iter().for_each(|warning| call.warn(warning));
        }
    }

    /// Name, uid and times of a new object.
    fn identify(&self, namespace: &str, object: &mut Value) -> Result<()> {
        meta::map_of(object).insert("apiVersion".to_owned(), self.resource.storage_version.clone().into());
        let metadata = meta::metadata(object);
        for name in SYSTEM.iter().chain(&["selfLink"]) {
            // Where nobody counts, it is the client's.
            if *name != "generation" || defaults::has_generation(&self.resource) {
                metadata.remove(*name);
            }
        }
        metadata.retain(|_, value| !is_nothing(value));
        let named = metadata.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
        if !named {
            let prefix = metadata.get("generateName").and_then(Value::as_str).filter(|p| !p.is_empty());
            if let Some(prefix) = prefix {
                let name = meta::generated_name(prefix)?;
                metadata.insert("name".to_owned(), name.into());
            }
        }
        if self.resource.namespaced {
            metadata.insert("namespace".to_owned(), namespace.into());
        }
        metadata.insert("uid".to_owned(), meta::new_uid()?.into());
        metadata.insert("creationTimestamp".to_owned(), meta::now().into());
        if defaults::has_generation(&self.resource) {
            metadata.insert("generation".to_owned(), 1.into());
        }
        Ok(())
    }

    /// A Pod's priority is its class's.
    fn prioritize(&self, pod: &mut Value) -> Result<()> {
        let Some(class) = pod["spec"]["priorityClassName"].as_str().filter(|class| !class.is_empty()) else {
            let given = pod["spec"]["priority"].as_i64().filter(|priority| *priority != 0);
            let Some(given) = given else { return Ok(()) };
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
                 computed 0 from the given PriorityClass name"
            );
            return Err(ApiError::forbidden("", "pods", meta::name(pod), &why));
        };
        let found = self.api.store.get("priorityclasses.scheduling.k8s.io", &Key::new("", class));
        let found = found.ok_or_else(|| {
            let why = format!("no PriorityClass with name {class} was found");
            ApiError::forbidden("", "pods", meta::name(pod), &why)
        })?;
        for (field, from) in [("priority", "value"), ("preemptionPolicy", "preemptionPolicy")] {
            set_or_remove(&mut pod["spec"], field, found.value.get(from));
        }
        Ok(())
    }

    /// A Pod's runtime class must be there.
    fn check_runtime_class(&self, pod: &Value) -> Result<()> {
        let Some(class) = pod["spec"]["runtimeClassName"].as_str() else { return Ok(()) };
        if self.api.store.get("runtimeclasses.node.k8s.io", &Key::new("", class)).is_some() {
            return Ok(());
        }
        let why = format!("pod rejected: RuntimeClass {class:?} not found");
        Err(ApiError::forbidden("", "pods", meta::name(pod), &why))
    }

    fn check_namespace(&self, namespace: &str, name: &str) -> Result<()> {
        let Some(found) = self.api.store.get("namespaces", &Key::new("", namespace)) else {
            return Err(ApiError::not_found("", "namespaces", namespace));
        };
        if meta::is_deleting(&found.value) {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let mut error = ApiError::forbidden(&self.resource.group, &self.resource.plural, name, &why);
            error.details["causes"] = json!([{
                "reason": "NamespaceTerminating",
                "message": format!("namespace {namespace} is being terminated"),
                "field": "metadata.namespace",
            }]);
            return Err(error);
        }
        Ok(())
    }

    /// Replaces `before` by `object`, as a client sent it.
    pub(crate) fn update(&self, before: &Arc<Object>, object: Value) -> Result<Attempt> {
        let resource = &self.resource;
        let given = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if !given.is_empty() && given != "0" && given != before.version.to_string() {
            return Err(self.modified(before));
        }
        let uid = meta::uid(&object);
        if !uid.is_empty() && uid != meta::uid(&before.value) {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                meta::uid(&before.value)
            );
            return Err(ApiError::conflict(
                &resource.group,
                &resource.plural,
                meta::name(&before.value),
                &why,
            ));
        }
        let versioned = !given.is_empty() && given != "0";
        let mut object = self.keep(&before.value, object);
        defaults::apply(resource, &mut object, Some(&before.value));
        match self.store(before, object)? {
            Attempt::Stale if versioned => Err(self.modified(before)),
            attempt => Ok(attempt),
        }
    }

    /// Applies the configuration to `before`.
    pub(crate) fn apply(&self, before: &Arc<Object>) -> Result<Attempt> {
        let Some((config, force)) = self.config else {
            return Err(ApiError::new(500, "InternalError", "apply without a configuration"));
        };
        let given = config["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if !given.is_empty() && given != before.version.to_string() {
            return Err(self.modified(before));
        }
        let applied = fields::applied(&self.manager, &self.resource, &before.value, config, force)?;
        let managed = applied["metadata"]["managedFields"].clone();
        let mut object = self.keep(&before.value, applied);
        meta::metadata(&mut object).insert("managedFields".to_owned(), managed);
        defaults::apply(&self.resource, &mut object, Some(&before.value));
        self.store(before, object)
    }

    fn modified(&self, before: &Object) -> Box<ApiError> {
        ApiError::modified(&self.resource.group, &self.resource.plural, meta::name(&before.value))
    }

    /// What a write may not change stays: system metadata, and the part that the other (sub)resource owns.
    fn keep(&self, before: &Value, sent: Value) -> Value {
        let mut object = match self.subresource.as_str() {
            "status" => self.with_status(before, &sent),
            // Approval writes conditions.
            "approval" => {
                let mut object = before.clone();
                set_or_remove(&mut object, "status", sent.get("status"));
                object
            }
            "ephemeralcontainers" => {
                let mut object = before.clone();
                let wanted = sent["spec"].get("ephemeralContainers");
                set_or_remove(&mut object["spec"], "ephemeralContainers", wanted);
                object
            }
            _ => {
                let mut object = sent;
                if self.resource.has("status") {
                    set_or_remove(&mut object, "status", before.get("status"));
                }
                object
            }
        };
        let metadata = meta::metadata(&mut object);
        for name in SYSTEM {
            match before["metadata"].get(*name) {
                Some(value) => metadata.insert((*name).to_owned(), value.clone()),
                None => metadata.remove(*name),
            };
        }
        for name in ["name", "namespace", "resourceVersion"] {
            if let Some(value) = before["metadata"].get(name) {
                metadata.insert(name.to_owned(), value.clone());
            }
        }
        metadata.remove("selfLink");
        metadata.retain(|_, value| !is_nothing(value));
        object
    }

    fn with_status(&self, before: &Value, sent: &Value) -> Value {
        let mut object = before.clone();
        set_or_remove(&mut object, "status", sent.get("status"));
        // What keeps these up writes metadata along with the status.
        if matches!(self.resource.plural.as_str(), "nodes" | "pods" | "services")
            && self.resource.group.is_empty()
        {
            for name in ["labels", "annotations"] {
                set_or_remove(&mut object["metadata"], name, sent["metadata"].get(name));
            }
        }
        set_or_remove(&mut object["metadata"], "managedFields", sent["metadata"].get("managedFields"));
        object
    }

    fn store(&self, before: &Arc<Object>, mut object: Value) -> Result<Attempt> {
        let resource = &self.resource;
        let reserved = match resource.is("", "services") && self.subresource.is_empty() {
            true => Some(self.api.services.reserve(&mut object, Some(&before.value))?),
            false => None,
        };
        validation::update(resource, &self.types, &self.subresource, &before.value, &object)?;
        self.warn(&object);
        if defaults::has_generation(resource) && defaults::desired_differs(resource, &before.value, &object) {
            let generation = before.value["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            meta::metadata(&mut object).insert("generation".to_owned(), generation.into());
        }
        if self.config.is_none() {
            fields::updated(&self.manager, resource, Some(&before.value), &mut object);
        }
        if fields::same_but_times(&before.value, &object) {
            return Ok(Attempt::Done(before.clone()));
        }
        if self.dry_run {
            return Ok(Attempt::Done(Object::unstored(object)));
        }
        let key = Key::of(&before.value);
        let ended = is_finished(&object);
        match self.api.store.replace(&resource.storage, key.clone(), before.version, object) {
            Ok(stored) => {
                if let Some(reserved) = reserved {
                    reserved.keep();
                }
                if ended && let Ok(last) = self.api.store.remove(&resource.storage, key, stored.version) {
                    collect::removed(self.api, resource, &last);
                    return Ok(Attempt::Done(last));
                }
                collect::updated(self.api, resource, &before.value, &stored);
                Ok(Attempt::Done(stored))
            }
            Err(Refusal::Stale) => Ok(Attempt::Stale),
            Err(_) => Err(ApiError::not_found(&resource.group, &resource.plural, &key.name)),
        }
    }
}

/// A null, or an empty map or list, which metadata has not.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Being deleted, and nobody holds it any more.
fn is_finished(object: &Value) -> bool {
    meta::is_deleting(object)
        && meta::finalizers(object).next().is_none()
        && object["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty)
        && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

fn set_or_remove(object: &mut Value, name: &str, value: Option<&Value>) {
    let object = meta::map_of(object);
    match value {
        Some(value) => object.insert(name.to_owned(), value.clone()),
        None => object.remove(name),
    };
}
