//! What the API says now of one kind, kept by a watch, readable without a request.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Debug,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use futures::TryStreamExt;
use k8s_openapi::{
    ClusterResourceScope, Metadata, NamespaceResourceScope, Resource,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// An object that the lab's controllers act on.
pub(crate) trait Object:
    Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned + Clone + Debug + Send + Sync + 'static
{
}

impl<K> Object for K where
    K: Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned + Clone + Debug + Send + Sync + 'static
{
}

/// Namespace (empty for a cluster-wide kind) and name.
pub(crate) type Key = (String, String);

/// Every object of one kind. Written by the watch and, at once, by whoever changed an object through the API: a
/// controller never acts on a state older than its own last write.
pub(crate) struct Store<K> {
    state: RwLock<State<K>>,
    version: watch::Sender<u64>,
    synced: watch::Sender<bool>,
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// UIDs of what was deleted, so that a late event of the watch does not bring it back.
    gone: HashSet<String>,
    /// Objects that cannot be read as `K`, so that each is reported once.
    unreadable: HashMap<Key, String>,
    /// Keys seen since a relist began.
    listed: Option<HashSet<Key>>,
}

impl<K: Object> Store<K> {
    pub(crate) fn new() -> Arc<Store<K>> {
        let state = State {
            objects: BTreeMap::new(),
            gone: HashSet::new(),
            unreadable: HashMap::new(),
            listed: None,
        };
        Arc::new(Store {
            state: RwLock::new(state),
            version: watch::Sender::new(0),
            synced: watch::Sender::new(false),
        })
    }

    /// Follows the API until the task is dropped. The watch reconnects by itself.
    pub(crate) async fn follow(self: Arc<Self>, client: Client) {
        let resource = ApiResource {
            group: K::GROUP.into(),
            version: K::VERSION.into(),
            api_version: K::API_VERSION.into(),
            kind: K::KIND.into(),
            plural: K::URL_PATH_SEGMENT.into(),
        };
        // Read as dynamic objects: one object that somebody wrote wrongly must not blind the lab for its kind.
        let api: Api<DynamicObject> = Api::all_with(client, &resource);
        let stream = watcher(api, watcher::Config::default()).default_backoff();
        let mut stream = std::pin::pin!(stream);
        loop {
            match stream.try_next().await {
                Ok(Some(event)) => self.take(event),
                Ok(None) => return,
                Err(error) => tracing::warn!(kind = K::KIND, %error, "watch failed, trying again"),
            }
        }
    }

    fn take(&self, event: watcher::Event<DynamicObject>) {
        match event {
            watcher::Event::Init => self.write().listed = Some(HashSet::new()),
            watcher::Event::InitApply(object) | watcher::Event::Apply(object) => self.take_object(object),
            watcher::Event::InitDone => {
                let mut state = self.write();
                if let Some(listed) = state.listed.take() {
                    state.objects.retain(|key, _| listed.contains(key));
                }
                state.gone.clear();
                drop(state);
                self.changed();
                self.synced.send_replace(true);
            }
            watcher::Event::Delete(object) => {
                let key = key_of(&object.metadata);
                let mut state = self.write();
                let same =
                    state.objects.get(&key).is_some_and(|held| held.metadata().uid == object.metadata.uid);
                if same {
                    state.objects.remove(&key);
                }
                state.unreadable.remove(&key);
                if let Some(uid) = &object.metadata.uid {
                    state.gone.remove(uid);
                }
                drop(state);
                self.changed();
            }
        }
    }

    fn take_object(&self, object: DynamicObject) {
        let key = key_of(&object.metadata);
        let read = serde_json::to_value(object).and_then(serde_json::from_value::<K>);
        match read {
            Ok(object) => self.put(object),
            Err(error) => {
                let problem = error.to_string();
                let mut state = self.write();
                if let Some(listed) = &mut state.listed {
                    listed.insert(key.clone());
                }
                if state.unreadable.insert(key.clone(), problem.clone()).as_ref() != Some(&problem) {
                    tracing::error!(
                        kind = K::KIND,
                        namespace = key.0,
                        name = key.1,
                        problem,
                        "object ignored"
                    );
                }
            }
        }
    }

    /// Takes an object as the API answered it, unless a newer one is held.
    pub(crate) fn put(&self, object: K) {
        let key = key_of(object.metadata());
        let mut state = self.write();
        if let Some(listed) = &mut state.listed {
            listed.insert(key.clone());
        }
        state.unreadable.remove(&key);
        if object.metadata().uid.as_ref().is_some_and(|uid| state.gone.contains(uid)) {
            return;
        }
        let stale = state.objects.get(&key).is_some_and(|held| {
            held.metadata().uid == object.metadata().uid
                && revision(held.metadata()) >= revision(object.metadata())
        });
        if stale {
            return;
        }
        state.objects.insert(key, Arc::new(object));
        drop(state);
        self.changed();
    }

    /// Takes what the caller knows the API to hold by now, until the watch tells it.
    pub(crate) fn assume(&self, object: K) {
        let key = key_of(object.metadata());
        let mut state = self.write();
        let newer = state.objects.get(&key).is_none_or(|held| {
            held.metadata().uid != object.metadata().uid
                || revision(held.metadata()) > revision(object.metadata())
        });
        if !newer {
            state.objects.insert(key, Arc::new(object));
        }
        drop(state);
        self.changed();
    }

    /// Forgets an object that the caller deleted through the API.
    pub(crate) fn forget(&self, metadata: &ObjectMeta) {
        let key = key_of(metadata);
        let mut state = self.write();
        if state.objects.get(&key).is_some_and(|held| held.metadata().uid == metadata.uid) {
            state.objects.remove(&key);
            state.gone.extend(metadata.uid.clone());
        }
        drop(state);
        self.changed();
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.read().objects.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Everything, in the order of namespace and name.
    pub(crate) fn list(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// Becomes changed whenever an object does.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Waits for the first complete list.
    pub(crate) async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as `self`.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<K>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Picks the API of a kind for an object's namespace.
pub(crate) trait Scoped: Object {
    fn api(client: Client, namespace: &str) -> Api<Self>;
}

macro_rules! namespaced {
    ($($kind:ty),* $(,)?) => {$(
        impl Scoped for $kind {
            fn api(client: Client, namespace: &str) -> Api<Self> {
                assert_namespaced::<Self>();
                Api::namespaced(client, namespace)
            }
        }
    )*};
}

macro_rules! cluster_wide {
    ($($kind:ty),* $(,)?) => {$(
        impl Scoped for $kind {
            fn api(client: Client, _namespace: &str) -> Api<Self> {
                assert_cluster_wide::<Self>();
                Api::all(client)
            }
        }
    )*};
}

fn assert_namespaced<K: Resource<Scope = NamespaceResourceScope>>() {}
fn assert_cluster_wide<K: Resource<Scope = ClusterResourceScope>>() {}

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::{
        Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service, ServiceAccount,
    },
    discovery::v1::EndpointSlice,
    storage::v1::StorageClass,
};
namespaced!(
    DaemonSet,
    Deployment,
    ReplicaSet,
    StatefulSet,
    CronJob,
    Job,
    Pod,
    Service,
    ServiceAccount,
    EndpointSlice,
    Endpoints,
    PersistentVolumeClaim
);
cluster_wide!(Namespace, Node, PersistentVolume, StorageClass);

pub(crate) fn key_of(metadata: &ObjectMeta) -> Key {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// The lab's own API server counts resource versions up.
fn revision(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, version: u64) -> Pod {
        let metadata = ObjectMeta {
            name: Some("a".into()),
            namespace: Some("default".into()),
            uid: Some(uid.into()),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        };
        Pod { metadata, ..Pod::default() }
    }

    #[test]
    fn an_older_event_does_not_undo_a_write() {
        let store = Store::<Pod>::new();
        store.put(pod("1", 5));
        store.put(pod("1", 4));
        let held = store.get("default", "a").unwrap();
        assert_eq!(held.metadata.resource_version.as_deref(), Some("5"));
    }

    #[test]
    fn a_late_event_does_not_bring_back_what_was_deleted() {
        let store = Store::<Pod>::new();
        store.put(pod("1", 5));
        store.forget(&pod("1", 5).metadata);
        store.put(pod("1", 6));
        assert!(store.get("default", "a").is_none());
        store.put(pod("2", 7));
        assert!(store.get("default", "a").is_some());
    }
}
