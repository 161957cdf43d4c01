//! How lists and maps of each type merge: what the Go types and OpenAPI say with `patchMergeKey`, `listType`,
//! `listMapKey` and `mapType`.

use std::sync::Arc;

use serde_json::Value;

use super::{CustomSchema, ResourceType};

/// How a list merges in server-side apply.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ListKind {
    /// As one value.
    Atomic,
    /// Scalars, each at most once.
    Set,
    /// Objects told apart by these fields.
    Map(Vec<String>),
}

/// The rules of one type. Paths are field names; list items add nothing to them.
#[derive(Debug, Clone)]
pub(crate) struct Lists {
    group: String,
    plural: String,
    custom: Option<Arc<CustomSchema>>,
}

impl Lists {
    pub(crate) fn of(resource: &ResourceType) -> Lists {
        Lists {
            group: resource.group.clone(),
            plural: resource.plural.clone(),
            custom: resource.custom.clone(),
        }
    }

    pub(crate) fn list(&self, path: &[String]) -> ListKind {
        if let Some(kind) = metadata_list(path) {
            return kind;
        }
        if let Some(custom) = &self.custom {
            return custom_list(&custom.schema, path);
        }
        let (parent, field) = tail(path);
        // Merged by patches, but not by apply.
        let patched_only = matches!(
            (self.plural.as_str(), field),
            (_, "hostIPs") | ("jobs", "conditions") | ("serviceaccounts", "imagePullSecrets")
        );
        if patched_only {
            return ListKind::Atomic;
        }
        let keys: &[&str] = match (parent, field) {
            ("containers" | "initContainers" | "ephemeralContainers", "ports") => {
                &["containerPort", "protocol"]
            }
            ("spec", "ports") if self.plural == "services" => &["port", "protocol"],
            (_, "topologySpreadConstraints") => &["topologyKey", "whenUnsatisfiable"],
            ("resources", "claims") => &["name"],
            _ if self.is_address_set(field) => return ListKind::Set,
            (_, "podCIDRs") => return ListKind::Set,
            _ => match self.merge_key(path) {
                Some(key) => return ListKind::Map(vec![key.to_owned()]),
                None => return ListKind::Atomic,
            },
        };
        ListKind::Map(keys.iter().map(|key| (*key).to_owned()).collect())
    }

    fn is_address_set(&self, field: &str) -> bool {
        self.group == "discovery.k8s.io" && field == "addresses"
    }

    /// The key by which a strategic merge patch merges a list of objects.
    pub(crate) fn merge_key(&self, path: &[String]) -> Option<&'static str> {
        let (parent, field) = tail(path);
        Some(match (parent, field) {
            ("metadata", "ownerReferences") => "uid",
            (_, "containers" | "initContainers" | "ephemeralContainers" | "volumes") => "name",
            (_, "imagePullSecrets" | "resourceClaims" | "schedulingGates" | "env") => "name",
            ("status", "resourceClaimStatuses") => "name",
            (_, "volumeMounts") => "mountPath",
            (_, "volumeDevices") => "devicePath",
            ("containers" | "initContainers" | "ephemeralContainers", "ports") => "containerPort",
            ("spec", "ports") if self.plural == "services" => "port",
            (_, "hostAliases" | "podIPs" | "hostIPs") => "ip",
            (_, "topologySpreadConstraints") => "topologyKey",
            ("status", "conditions") => "type",
            ("status", "addresses") if self.plural == "nodes" => "type",
            (_, "secrets") if self.plural == "serviceaccounts" => "name",
            (_, "webhooks" | "matchConditions" | "variables")
                if self.group == "admissionregistration.k8s.io" =>
            {
                "name"
            }
            ("spec", "drivers") if self.plural == "csinodes" => "name",
            _ => return None,
        })
    }

    /// Does a strategic merge patch merge this list of scalars as a set?
    pub(crate) fn merges_scalars(&self, path: &[String]) -> bool {
        matches!(tail(path), ("metadata", "finalizers") | ("spec", "podCIDRs"))
    }

    /// Does a strategic merge patch replace this map as a whole?
    pub(crate) fn replaces(&self, path: &[String]) -> bool {
        self.plural == "poddisruptionbudgets" && tail(path) == ("spec", "selector")
    }

    /// Does a strategic merge patch name what stays of this object, or of each in this list: a union, of which one field
    /// is set?
    pub(crate) fn retains_keys(&self, path: &[String]) -> bool {
        let (parent, field) = tail(path);
        field == "volumes" || self.plural == "deployments" && (parent, field) == ("spec", "strategy")
    }

    /// Is this map one value in server-side apply?
    pub(crate) fn is_atomic_map(&self, path: &[String]) -> bool {
        if let Some(custom) = &self.custom {
            let found = schema_at(&custom.schema, path);
            return found.is_some_and(|schema| schema["x-kubernetes-map-type"] == "atomic");
        }
        let (parent, field) = tail(path);
        match field {
            "selector" | "labelSelector" | "namespaceSelector" | "podSelector" | "nodeSelector" => {
                parent != "metadata"
            }
            "configMapKeyRef" | "secretKeyRef" | "fieldRef" | "resourceFieldRef" | "secretRef"
            | "roleRef" | "scopeSelector" | "nodeSelectorTerms" | "objectSelector" | "scaleTargetRef" => true,
            "requiredDuringSchedulingIgnoredDuringExecution" => parent == "nodeAffinity",
            _ => false,
        }
    }
}

fn tail(path: &[String]) -> (&str, &str) {
    match path {
        [.., parent, field] => (parent, field),
        [field] => ("", field),
        [] => ("", ""),
    }
}

fn metadata_list(path: &[String]) -> Option<ListKind> {
    match path {
        [metadata, field] if metadata == "metadata" => Some(match field.as_str() {
            "ownerReferences" => ListKind::Map(vec!["uid".to_owned()]),
            "finalizers" => ListKind::Set,
            _ => ListKind::Atomic,
        }),
        _ => None,
    }
}

fn custom_list(schema: &Value, path: &[String]) -> ListKind {
    let Some(schema) = schema_at(schema, path) else { return ListKind::Atomic };
    match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => ListKind::Set,
        Some("map") => ListKind::Map(
            schema["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|key| key.as_str().map(str::to_owned))
                .collect(),
        ),
        _ => ListKind::Atomic,
    }
}

/// The schema of a field, looking through lists.
fn schema_at<'a>(schema: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(schema, |schema, name| {
        let mut schema = schema;
        while let Some(items) = schema.get("items") {
            schema = items;
        }
        schema
            .get("properties")
            .and_then(|fields| fields.get(name))
            .or_else(|| schema.get("additionalProperties").filter(|value| value.is_object()))
    })
}
