//! The cluster as the API tells it: one watch a kind, shared by every controller and kubelet of the lab.

mod events;
mod store;

use std::sync::Arc;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{
            Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service, ServiceAccount,
        },
        discovery::v1::EndpointSlice,
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinSet;

pub(crate) use events::Events;
pub(crate) use store::{Object, Scoped, Store, key_of};

/// Every kind that the lab acts on, and the client that changes them.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) events: Arc<Events>,
    pub(crate) nodes: Arc<Store<Node>>,
    pub(crate) namespaces: Arc<Store<Namespace>>,
    pub(crate) service_accounts: Arc<Store<ServiceAccount>>,
    pub(crate) pods: Arc<Store<Pod>>,
    pub(crate) deployments: Arc<Store<Deployment>>,
    pub(crate) replica_sets: Arc<Store<ReplicaSet>>,
    pub(crate) stateful_sets: Arc<Store<StatefulSet>>,
    pub(crate) daemon_sets: Arc<Store<DaemonSet>>,
    pub(crate) jobs: Arc<Store<Job>>,
    pub(crate) cron_jobs: Arc<Store<CronJob>>,
    pub(crate) services: Arc<Store<Service>>,
    pub(crate) endpoint_slices: Arc<Store<EndpointSlice>>,
    pub(crate) endpoints: Arc<Store<Endpoints>>,
    pub(crate) persistent_volume_claims: Arc<Store<PersistentVolumeClaim>>,
    pub(crate) persistent_volumes: Arc<Store<PersistentVolume>>,
    pub(crate) storage_classes: Arc<Store<StorageClass>>,
}

impl World {
    /// Starts the watches in `tasks` and waits until each has its first complete list.
    pub(crate) async fn follow(client: Client, tasks: &mut JoinSet<()>) -> World {
        let world = World {
            nodes: Store::new(),
            namespaces: Store::new(),
            service_accounts: Store::new(),
            pods: Store::new(),
            deployments: Store::new(),
            replica_sets: Store::new(),
            stateful_sets: Store::new(),
            daemon_sets: Store::new(),
            jobs: Store::new(),
            cron_jobs: Store::new(),
            services: Store::new(),
            endpoint_slices: Store::new(),
            endpoints: Store::new(),
            persistent_volume_claims: Store::new(),
            persistent_volumes: Store::new(),
            storage_classes: Store::new(),
            events: Arc::new(Events::start(client.clone(), tasks)),
            client,
        };
        macro_rules! each {
            ($($field:ident),*) => {
                $(tasks.spawn(world.$field.clone().follow(world.client.clone()));)*
                futures::join!($(world.$field.synced()),*);
            };
        }
        each!(
            nodes,
            namespaces,
            service_accounts,
            pods,
            deployments,
            replica_sets,
            stateful_sets,
            daemon_sets,
            jobs,
            cron_jobs,
            services,
            endpoint_slices,
            endpoints,
            persistent_volume_claims,
            persistent_volumes,
            storage_classes
        );
        world
    }
}

/// Writes go through the API and, as it answered them, into the store.
impl<K: Scoped + Serialize> Store<K> {
    /// Makes an object. One that exists already is left as it is.
    pub(crate) async fn create(&self, client: &Client, object: &K) -> kube::Result<()> {
        let namespace = object.metadata().namespace.clone().unwrap_or_default();
        match K::api(client.clone(), &namespace).create(&PostParams::default(), object).await {
            Ok(made) => self.put(made),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Merges `patch` into an object. One that is gone is no error: the watch will tell.
    pub(crate) async fn patch(
        &self,
        client: &Client,
        metadata: &ObjectMeta,
        patch: &Value,
    ) -> kube::Result<()> {
        let (namespace, name) = key_of(metadata);
        if self.holds(metadata, patch) {
            return Ok(());
        }
        let api = K::api(client.clone(), &namespace);
        self.took(api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await)
    }

    /// Merges `status` into an object's status.
    pub(crate) async fn patch_status(
        &self,
        client: &Client,
        metadata: &ObjectMeta,
        status: &Value,
    ) -> kube::Result<()> {
        let (namespace, name) = key_of(metadata);
        let patch = serde_json::json!({ "metadata": { "uid": metadata.uid }, "status": status });
        if self.holds(metadata, &patch) {
            return Ok(());
        }
        let api = K::api(client.clone(), &namespace);
        match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            // Another object has the name by now: what was to be said concerns nobody.
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(()),
            other => self.took(other),
        }
    }

    /// Whether merging `patch` would change nothing.
    fn holds(&self, metadata: &ObjectMeta, patch: &Value) -> bool {
        let (namespace, name) = key_of(metadata);
        let held = self.get(&namespace, &name).filter(|held| held.metadata().uid == metadata.uid);
        held.and_then(|held| serde_json::to_value(&*held).ok()).is_some_and(|held| contains(&held, patch))
    }

    fn took(&self, answer: kube::Result<K>) -> kube::Result<()> {
        match answer {
            Ok(object) => self.put(object),
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Deletes an object, this very one and none that took its name. `grace` in seconds, the object's own if absent.
    pub(crate) async fn delete(
        &self,
        client: &Client,
        metadata: &ObjectMeta,
        grace: Option<u32>,
    ) -> kube::Result<()> {
        let (namespace, name) = key_of(metadata);
        let preconditions = Preconditions { uid: metadata.uid.clone(), resource_version: None };
        let mut params = DeleteParams::background().preconditions(preconditions);
        params.grace_period_seconds = grace;
        match K::api(client.clone(), &namespace).delete(&name, &params).await {
            Ok(either::Either::Left(object))
                if object.metadata().deletion_timestamp.is_some() && grace != Some(0) =>
            {
                self.put(object);
            }
            Ok(_) => self.forget(metadata),
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {
                self.forget(metadata)
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Whether a JSON merge patch (RFC 7396) would leave `value` as it is.
fn contains(value: &Value, patch: &Value) -> bool {
    match patch {
        Value::Object(fields) => fields.iter().all(|(key, wanted)| match value.get(key) {
            None => wanted.is_null(),
            Some(held) => contains(held, wanted),
        }),
        other => value == other,
    }
}

#[cfg(test)]
mod tests {
    use super::contains;
    use serde_json::json;

    #[test]
    fn a_patch_that_changes_nothing_is_seen() {
        let held = json!({ "spec": { "replicas": 2 }, "status": { "ready": 1, "list": [1] } });
        assert!(contains(&held, &json!({ "status": { "ready": 1, "gone": null } })));
        assert!(!contains(&held, &json!({ "status": { "ready": 2 } })));
        assert!(!contains(&held, &json!({ "status": { "list": [1, 2] } })));
        assert!(!contains(&held, &json!({ "status": null })));
    }
}
