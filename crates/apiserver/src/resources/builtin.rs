//! The built-in resource types.

use super::ResourceType;
use crate::error::qualified;

/// Group/version, plural, kind, short names, categories, scope, subresources.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    Scope,
    &'static [&'static str],
);

#[derive(Clone, Copy, PartialEq)]
enum Scope {
    Namespaced,
    Cluster,
    /// Namespaced, created only.
    LocalReview,
    /// Cluster-wide, created only.
    Review,
}

use Scope::{Cluster, LocalReview, Namespaced, Review};

const ALL: &[&str] = &["all"];
const API: &[&str] = &["api-extensions"];
const SCALED: &[&str] = &["scale", "status"];
const STATUS: &[&str] = &["status"];

const TABLE: &[Row] = &[
    ("v1", "bindings", "Binding", &[], &[], LocalReview, &[]),
    ("v1", "componentstatuses", "ComponentStatus", &["cs"], &[], Cluster, &[]),
    ("v1", "configmaps", "ConfigMap", &["cm"], &[], Namespaced, &[]),
    ("v1", "endpoints", "Endpoints", &["ep"], &[], Namespaced, &[]),
    ("v1", "events", "Event", &["ev"], &[], Namespaced, &[]),
    ("v1", "limitranges", "LimitRange", &["limits"], &[], Namespaced, &[]),
    ("v1", "namespaces", "Namespace", &["ns"], &[], Cluster, &["finalize", "status"]),
    ("v1", "nodes", "Node", &["no"], &[], Cluster, STATUS),
    ("v1", "persistentvolumeclaims", "PersistentVolumeClaim", &["pvc"], &[], Namespaced, STATUS),
    ("v1", "persistentvolumes", "PersistentVolume", &["pv"], &[], Cluster, STATUS),
    (
        "v1",
        "pods",
        "Pod",
        &["po"],
        ALL,
        Namespaced,
        &[
            "attach",
            "binding",
            "ephemeralcontainers",
            "eviction",
            "exec",
            "log",
            "portforward",
            "proxy",
            "resize",
            "status",
        ],
    ),
    ("v1", "podtemplates", "PodTemplate", &[], &[], Namespaced, &[]),
    ("v1", "replicationcontrollers", "ReplicationController", &["rc"], ALL, Namespaced, SCALED),
    ("v1", "resourcequotas", "ResourceQuota", &["quota"], &[], Namespaced, STATUS),
    ("v1", "secrets", "Secret", &[], &[], Namespaced, &[]),
    ("v1", "serviceaccounts", "ServiceAccount", &["sa"], &[], Namespaced, &["token"]),
    ("v1", "services", "Service", &["svc"], ALL, Namespaced, &["proxy", "status"]),
    (
        "admissionregistration.k8s.io/v1",
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        &[],
        API,
        Cluster,
        &[],
    ),
    (
        "admissionregistration.k8s.io/v1",
        "validatingadmissionpolicies",
        "ValidatingAdmissionPolicy",
        &[],
        API,
        Cluster,
        STATUS,
    ),
    (
        "admissionregistration.k8s.io/v1",
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        &[],
        API,
        Cluster,
        &[],
    ),
    (
        "admissionregistration.k8s.io/v1",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        &[],
        API,
        Cluster,
        &[],
    ),
    (
        "apiextensions.k8s.io/v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        &["crd", "crds"],
        API,
        Cluster,
        STATUS,
    ),
    ("apiregistration.k8s.io/v1", "apiservices", "APIService", &[], API, Cluster, STATUS),
    ("apps/v1", "controllerrevisions", "ControllerRevision", &[], &[], Namespaced, &[]),
    ("apps/v1", "daemonsets", "DaemonSet", &["ds"], ALL, Namespaced, STATUS),
    ("apps/v1", "deployments", "Deployment", &["deploy"], ALL, Namespaced, SCALED),
    ("apps/v1", "replicasets", "ReplicaSet", &["rs"], ALL, Namespaced, SCALED),
    ("apps/v1", "statefulsets", "StatefulSet", &["sts"], ALL, Namespaced, SCALED),
    ("authentication.k8s.io/v1", "selfsubjectreviews", "SelfSubjectReview", &[], &[], Review, &[]),
    ("authentication.k8s.io/v1", "tokenreviews", "TokenReview", &[], &[], Review, &[]),
    (
        "authorization.k8s.io/v1",
        "localsubjectaccessreviews",
        "LocalSubjectAccessReview",
        &[],
        &[],
        LocalReview,
        &[],
    ),
    ("authorization.k8s.io/v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", &[], &[], Review, &[]),
    ("authorization.k8s.io/v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", &[], &[], Review, &[]),
    ("authorization.k8s.io/v1", "subjectaccessreviews", "SubjectAccessReview", &[], &[], Review, &[]),
    (
        "autoscaling/v2",
        "horizontalpodautoscalers",
        "HorizontalPodAutoscaler",
        &["hpa"],
        ALL,
        Namespaced,
        STATUS,
    ),
    (
        "autoscaling/v1",
        "horizontalpodautoscalers",
        "HorizontalPodAutoscaler",
        &["hpa"],
        ALL,
        Namespaced,
        STATUS,
    ),
    ("batch/v1", "cronjobs", "CronJob", &["cj"], ALL, Namespaced, STATUS),
    ("batch/v1", "jobs", "Job", &[], ALL, Namespaced, STATUS),
    (
        "certificates.k8s.io/v1",
        "certificatesigningrequests",
        "CertificateSigningRequest",
        &["csr"],
        &[],
        Cluster,
        &["approval", "status"],
    ),
    ("coordination.k8s.io/v1", "leases", "Lease", &[], &[], Namespaced, &[]),
    ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice", &[], &[], Namespaced, &[]),
    ("events.k8s.io/v1", "events", "Event", &["ev"], &[], Namespaced, &[]),
    ("flowcontrol.apiserver.k8s.io/v1", "flowschemas", "FlowSchema", &[], &[], Cluster, STATUS),
    (
        "flowcontrol.apiserver.k8s.io/v1",
        "prioritylevelconfigurations",
        "PriorityLevelConfiguration",
        &[],
        &[],
        Cluster,
        STATUS,
    ),
    ("networking.k8s.io/v1", "ingressclasses", "IngressClass", &[], &[], Cluster, &[]),
    ("networking.k8s.io/v1", "ingresses", "Ingress", &["ing"], &[], Namespaced, STATUS),
    ("networking.k8s.io/v1", "ipaddresses", "IPAddress", &["ip"], &[], Cluster, &[]),
    ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy", &["netpol"], &[], Namespaced, &[]),
    ("networking.k8s.io/v1", "servicecidrs", "ServiceCIDR", &[], &[], Cluster, STATUS),
    ("node.k8s.io/v1", "runtimeclasses", "RuntimeClass", &[], &[], Cluster, &[]),
    ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", &["pdb"], &[], Namespaced, STATUS),
    ("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", &[], &[], Cluster, &[]),
    ("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", &[], &[], Cluster, &[]),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding", &[], &[], Namespaced, &[]),
    ("rbac.authorization.k8s.io/v1", "roles", "Role", &[], &[], Namespaced, &[]),
    ("resource.k8s.io/v1", "deviceclasses", "DeviceClass", &[], &[], Cluster, &[]),
    ("resource.k8s.io/v1", "resourceclaims", "ResourceClaim", &[], &[], Namespaced, STATUS),
    ("resource.k8s.io/v1", "resourceclaimtemplates", "ResourceClaimTemplate", &[], &[], Namespaced, &[]),
    ("resource.k8s.io/v1", "resourceslices", "ResourceSlice", &[], &[], Cluster, &[]),
    ("scheduling.k8s.io/v1", "priorityclasses", "PriorityClass", &["pc"], &[], Cluster, &[]),
    ("storage.k8s.io/v1", "csidrivers", "CSIDriver", &[], &[], Cluster, &[]),
    ("storage.k8s.io/v1", "csinodes", "CSINode", &[], &[], Cluster, &[]),
    ("storage.k8s.io/v1", "csistoragecapacities", "CSIStorageCapacity", &[], &[], Namespaced, &[]),
    ("storage.k8s.io/v1", "storageclasses", "StorageClass", &["sc"], &[], Cluster, &[]),
    ("storage.k8s.io/v1", "volumeattributesclasses", "VolumeAttributesClass", &["vac"], &[], Cluster, &[]),
    ("storage.k8s.io/v1", "volumeattachments", "VolumeAttachment", &[], &[], Cluster, STATUS),
];

/// The table as values.
pub(super) fn types() -> impl Iterator<Item = ResourceType> {
    TABLE.iter().map(|row| {
        let (api_version, plural, kind, short_names, categories, scope, subresources) = *row;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        // Events are one collection under two groups, in two shapes; so are both versions of autoscalers.
        let (storage, storage_version) = match (group, plural) {
            ("events.k8s.io", "events") => ("events".to_owned(), "v1"),
            ("autoscaling", _) => (qualified(group, plural), "autoscaling/v2"),
            _ => (qualified(group, plural), api_version),
        };
        ResourceType {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            // Kubernetes gives singular names in lower case.
            singular: kind.to_lowercase(),
            short_names: owned(short_names),
            categories: owned(categories),
            namespaced: matches!(scope, Namespaced | LocalReview),
            subresources: owned(subresources),
            review: matches!(scope, Review | LocalReview),
            storage,
            storage_version: storage_version.to_owned(),
            custom: None,
        }
    })
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
