//! The roles that every cluster starts with, as far as anybody but Kubernetes' own components is bound to them: as those of Kubernetes
//! 1.36.2, without what they say of the API group `extensions`, which is gone.

use serde_json::{Value, json};

/// API group, resources, verbs; each but the first several words.
type Rule = (&'static str, &'static str, &'static str);

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const ALL: &str = "create delete deletecollection get list patch update watch";

const VIEW: &[Rule] = &[
    (
        "",
        "bindings configmaps endpoints events limitranges namespaces namespaces/status persistentvolumeclaims \
         persistentvolumeclaims/status pods pods/log pods/status replicationcontrollers replicationcontrollers/scale \
         replicationcontrollers/status resourcequotas resourcequotas/status serviceaccounts services services/status",
        READ,
    ),
    (
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets \
         replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
        READ,
    ),
    ("autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status", READ),
    ("batch", "cronjobs cronjobs/status jobs jobs/status", READ),
    ("discovery.k8s.io", "endpointslices", READ),
    ("events.k8s.io", "events", READ),
    ("networking.k8s.io", "ingresses ingresses/status networkpolicies", READ),
    ("policy", "poddisruptionbudgets poddisruptionbudgets/status", READ),
    ("resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates", READ),
];

const EDIT: &[Rule] = &[
    ("", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy", READ),
    ("", "serviceaccounts", "impersonate"),
    ("", "pods pods/attach pods/exec pods/portforward pods/proxy", WRITE),
    ("", "pods/eviction serviceaccounts/token", "create"),
    (
        "",
        "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts \
         services services/proxy",
        WRITE,
    ),
    (
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets \
         statefulsets/scale",
        WRITE,
    ),
    ("autoscaling", "horizontalpodautoscalers", WRITE),
    ("batch", "cronjobs jobs", WRITE),
    ("coordination.k8s.io", "leases", ALL),
    ("events.k8s.io", "events", WRITE),
    ("networking.k8s.io", "ingresses networkpolicies", WRITE),
    ("policy", "poddisruptionbudgets", WRITE),
    ("resource.k8s.io", "resourceclaims resourceclaimtemplates", WRITE),
];

const ADMIN: &[Rule] = &[
    ("authorization.k8s.io", "localsubjectaccessreviews", "create"),
    ("rbac.authorization.k8s.io", "rolebindings roles", ALL),
];

/// Name, and which of the roles that gather others it is gathered by.
const GATHERED: [(&str, &str, &[Rule]); 3] = [
    ("system:aggregate-to-view", "view", VIEW),
    ("system:aggregate-to-edit", "edit", EDIT),
    ("system:aggregate-to-admin", "admin", ADMIN),
];

/// Those that gather others, each with the one that gathers it in turn.
const GATHERING: [(&str, Option<&str>); 3] =
    [("admin", None), ("edit", Some("admin")), ("view", Some("edit"))];

const BASIC: &[Rule] = &[
    ("authentication.k8s.io", "selfsubjectreviews", "create"),
    ("authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews", "create"),
];

const DELEGATOR: &[Rule] = &[
    ("authentication.k8s.io", "tokenreviews", "create"),
    ("authorization.k8s.io", "subjectaccessreviews", "create"),
];

const DISCOVERY: &[&str] = &[
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
];

const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];

const ISSUER: &[&str] = &[
    "/.well-known/openid-configuration",
    "/.well-known/openid-configuration/",
    "/openid/v1/jwks",
    "/openid/v1/jwks/",
];

/// Kind, namespace and object of each, without the API version.
pub(crate) fn all() -> Vec<(&'static str, &'static str, Value)> {
    let role = |name: &str, rules: Value| {
        let mut object = json!({"metadata": {"name": name, "labels": labels()}, "rules": rules});
        object["metadata"]["annotations"] = json!({"rbac.authorization.kubernetes.io/autoupdate": "true"});
        object
    };
    let paths = |urls: &[&str]| json!([{"nonResourceURLs": urls, "verbs": ["get"]}]);
    let everything = json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ]);
    let mut all: Vec<(&str, &str, Value)> = vec![
        ("ClusterRole", "", role("cluster-admin", everything)),
        ("ClusterRole", "", role("system:basic-user", rules(BASIC))),
        ("ClusterRole", "", role("system:discovery", paths(DISCOVERY))),
        ("ClusterRole", "", role("system:public-info-viewer", paths(PUBLIC))),
        ("ClusterRole", "", role("system:service-account-issuer-discovery", paths(ISSUER))),
        ("ClusterRole", "", role("system:auth-delegator", rules(DELEGATOR))),
    ];
    for (name, by, list) in GATHERED {
        let mut object = role(name, rules(list));
        object["metadata"]["labels"][gathers(by)] = "true".into();
        all.push(("ClusterRole", "", object));
    }
    for (name, by) in GATHERING {
        let mut object = role(name, Value::Null);
        if let Some(by) = by {
            object["metadata"]["labels"][gathers(by)] = "true".into();
        }
        object["aggregationRule"] =
            json!({"clusterRoleSelectors": [{"matchLabels": {gathers(name): "true"}}]});
        all.push(("ClusterRole", "", object));
    }
    for (name, group) in [
        ("cluster-admin", super::MASTERS),
        ("system:basic-user", "system:authenticated"),
        ("system:discovery", "system:authenticated"),
        ("system:public-info-viewer", "system:authenticated"),
        ("system:service-account-issuer-discovery", "system:serviceaccounts"),
    ] {
        let object = json!({
            "metadata": {"name": name, "labels": labels()},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
        });
        all.push(("ClusterRoleBinding", "", object));
    }
    let mut reader = role("extension-apiserver-authentication-reader", rules(&[("", "configmaps", READ)]));
    reader["rules"][0]["resourceNames"] = json!(["extension-apiserver-authentication"]);
    all.push(("Role", "kube-system", reader));
    all
}

fn labels() -> Value {
    json!({"kubernetes.io/bootstrapping": "rbac-defaults"})
}

fn gathers(by: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{by}")
}

fn rules(list: &[Rule]) -> Value {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let rule = |(group, resources, verbs): &Rule| json!({"apiGroups": [group], "resources": words(resources), "verbs": words(verbs)});
    list.iter().map(rule).collect()
}
