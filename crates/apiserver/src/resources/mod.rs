//! Which resource types there are: the built-in table and those that CustomResourceDefinitions add.

mod builtin;
pub(crate) mod crd;
pub(crate) mod lists;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

pub(crate) use crd::CustomSchema;

/// One resource in one version, as served.
#[derive(Debug, Clone)]
pub(crate) struct ResourceType {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    pub(crate) subresources: Vec<String>,
    /// Only POST, nothing stored: reviews.
    pub(crate) review: bool,
    /// Which collection holds the objects: one for all versions of a resource.
    pub(crate) storage: String,
    /// `apiVersion` of what the collection holds.
    pub(crate) storage_version: String,
    /// Set for custom resources.
    pub(crate) custom: Option<Arc<CustomSchema>>,
}

impl ResourceType {
    /// `v1` or `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Where its objects are, as OpenAPI writes it.
    pub(crate) fn collection_path(&self) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let scope = if self.namespaced { "/namespaces/{namespace}" } else { "" };
        format!("{root}/{}{scope}/{}", self.api_version(), self.plural)
    }

    pub(crate) fn has(&self, subresource: &str) -> bool {
        self.subresources.iter().any(|name| name == subresource)
    }

    /// Is this the core or named group's built-in resource?
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    pub(crate) fn verbs(&self) -> &'static [&'static str] {
        if self.review {
            &["create"]
        } else {
            &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        }
    }
}

/// A version's name and its resources.
pub(crate) type Version = (String, Vec<Arc<ResourceType>>);

/// All resource types at one moment.
#[derive(Debug, Default)]
pub(crate) struct Types {
    by_path: HashMap<(String, String, String), Arc<ResourceType>>,
    /// Group → versions, preferred first, each with its resources by plural.
    pub(crate) groups: BTreeMap<String, Vec<Version>>,
}

impl Types {
    fn add(&mut self, resource: ResourceType) {
        let resource = Arc::new(resource);
        let path = (resource.group.clone(), resource.version.clone(), resource.plural.clone());
        if self.by_path.insert(path, resource.clone()).is_some() {
            return;
        }
        let versions = self.groups.entry(resource.group.clone()).or_default();
        match versions.iter_mut().find(|(version, _)| *version == resource.version) {
            Some((_, resources)) => resources.push(resource),
            None => versions.push((resource.version.clone(), vec![resource])),
        }
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<ResourceType>> {
        self.by_path.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    pub(crate) fn has_version(&self, group: &str, version: &str) -> bool {
        self.groups.get(group).is_some_and(|versions| versions.iter().any(|(name, _)| name == version))
    }

    /// By `apiVersion` and `kind`, as owner references name their objects.
    pub(crate) fn find_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<ResourceType>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let (_, resources) = self.groups.get(group)?.iter().find(|(name, _)| name == version)?;
        resources.iter().find(|resource| resource.kind == kind && !resource.review)
    }

    /// The type whose API version is the one that `storage` holds.
    pub(crate) fn of_storage(&self, storage: &str) -> Option<&Arc<ResourceType>> {
        self.by_path.values().find(|resource| {
            resource.storage == storage && resource.api_version() == resource.storage_version
        })
    }

    /// Every type, each group's versions in order of preference.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<ResourceType>> {
        self.groups.values().flatten().flat_map(|(_, resources)| resources)
    }
}

/// The live set of types.
#[derive(Debug)]
pub(crate) struct Registry {
    current: RwLock<Arc<Types>>,
    custom: RwLock<BTreeMap<String, Vec<ResourceType>>>,
}

impl Registry {
    pub(crate) fn new() -> Registry {
        let registry = Registry { current: RwLock::default(), custom: RwLock::default() };
        registry.rebuild();
        registry
    }

    pub(crate) fn types(&self) -> Arc<Types> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves what a CustomResourceDefinition defines, in place of what it defined before.
    pub(crate) fn define(&self, definition: &Value) {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let types = crd::types(definition);
        self.custom.write().unwrap_or_else(PoisonError::into_inner).insert(name, types);
        self.rebuild();
    }

    pub(crate) fn undefine(&self, name: &str) {
        self.custom.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.rebuild();
    }

    fn rebuild(&self) {
        let mut types = Types::default();
        for resource in builtin::types() {
            types.add(resource);
        }
        let custom = self.custom.read().unwrap_or_else(PoisonError::into_inner);
        for resource in custom.values().flatten() {
            types.add(resource.clone());
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(types);
    }
}
