//! What Roles and bindings allow, as kubectl and clients in the cluster meet it. The answers are those of Kubernetes 1.36.2 to the same.

use http::Method;
use serde_json::json;

use crate::support::Cluster;
use crate::support::http::Client;

const ROLES: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: mine, namespace: shop}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: own-map, namespace: shop}
rules:
- {apiGroups: [""], resources: [configmaps], resourceNames: [mine], verbs: [get, list, watch, update]}
- {apiGroups: ["", apps], resources: [pods/log, "*/scale"], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: own-map, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: own-map}
subjects:
- {kind: ServiceAccount, name: web}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: viewers, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects:
- {kind: User, apiGroup: rbac.authorization.k8s.io, name: jane}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: operators}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects:
- {kind: Group, apiGroup: rbac.authorization.k8s.io, name: operators}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: nothing}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: none}
subjects:
- {kind: User, apiGroup: rbac.authorization.k8s.io, name: lost}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: templates, labels: {rbac.authorization.k8s.io/aggregate-to-view: "true"}}
rules:
- {apiGroups: [""], resources: [podtemplates], verbs: [get, list]}
"#;

const WEB: &str = "system:serviceaccount:shop:web";

/// Makes a role, and gives it to these subjects in all namespaces.
fn grant(cluster: &Cluster, role: &str, verbs: &str, resources: &str, subjects: &[&str]) {
    let (verbs, resources) = (format!("--verb={verbs}"), format!("--resource={resources}"));
    cluster.kubectl(&["create", "clusterrole", role, &verbs, &resources]);
    let role_ref = format!("--clusterrole={role}");
    cluster.kubectl(&[&["create", "clusterrolebinding", role, &role_ref], subjects].concat());
}

#[test]
fn rights_are_what_roles_and_bindings_give() {
    let cluster = Cluster::start();
    cluster.apply(ROLES);
    let cases = [
        (WEB, "get configmaps/mine -n shop", true),
        (WEB, "update configmaps/mine -n shop", true),
        (WEB, "get configmaps/other -n shop", false),
        (WEB, "list configmaps -n shop", false),
        (WEB, "get configmaps/mine -n default", false),
        (WEB, "get pods --subresource=log -n shop", true),
        (WEB, "get pods -n shop", false),
        (WEB, "get deployments.apps --subresource=scale -n shop", true),
        (WEB, "get /version", true),
        (WEB, "get /metrics", false),
        (WEB, "create selfsubjectaccessreviews.authorization.k8s.io", true),
        ("jane", "list pods -n shop", true),
        ("jane", "get namespaces/shop -n shop", true),
        ("jane", "list pods -n default", false),
        ("jane", "list secrets -n shop", false),
        ("jane", "delete pods -n shop", false),
        // By a role that another one gathers, and that by a third.
        ("jane", "list podtemplates -n shop", true),
        ("operators-only", "list podtemplates -n default", false),
        ("nobody", "list pods -n shop", false),
    ];
    for (user, question, allowed) in cases {
        let words: Vec<&str> = question.split(' ').collect();
        let arguments = [&["auth", "can-i", "--as", user], words.as_slice()].concat();
        if allowed {
            assert_eq!(cluster.kubectl(&arguments).trim(), "yes", "{user} {question}");
        } else {
            assert!(!cluster.refused(&arguments, "").contains("yes"), "{user} {question}");
        }
    }
    let of_group = |question: &[&str]| {
        let who = ["auth", "can-i", "--as", "joe", "--as-group", "operators"];
        cluster.kubectl(&[&who, question].concat())
    };
    for question in ["delete pods", "list podtemplates", "get secrets -A", "create pods --subresource=exec"] {
        let words: Vec<&str> = question.split(' ').collect();
        assert_eq!(of_group(&words).trim(), "yes", "{question}");
    }
    let list = cluster.kubectl(&["auth", "can-i", "--list", "--as", WEB, "-n", "shop"]);
    assert!(list.lines().any(|line| line.starts_with("configmaps ") && line.contains("[mine]")), "{list}");
    assert!(list.lines().any(|line| line.contains("[/version/]")), "{list}");
    assert_eq!(cluster.kubectl(&["auth", "can-i", "delete", "nodes"]).trim(), "yes", "the administrator");
}

#[test]
fn a_refusal_says_who_may_not_do_what() {
    let cluster = Cluster::start();
    cluster.apply(ROLES);
    let cases = [
        (
            WEB,
            "get pods -n shop",
            "pods is forbidden: User \"system:serviceaccount:shop:web\" cannot list resource \"pods\" in API group \"\" in the \
             namespace \"shop\"",
        ),
        (
            WEB,
            "get pods -A",
            "pods is forbidden: User \"system:serviceaccount:shop:web\" cannot list resource \"pods\" in API group \"\" at the \
             cluster scope",
        ),
        (
            WEB,
            "get deployment api -n shop",
            "deployments.apps \"api\" is forbidden: User \"system:serviceaccount:shop:web\" cannot get resource \"deployments\" \
             in API group \"apps\" in the namespace \"shop\"",
        ),
        (
            "jane",
            "delete configmap mine -n shop",
            "configmaps \"mine\" is forbidden: User \"jane\" cannot delete resource \"configmaps\" in API group \"\" in the \
             namespace \"shop\"",
        ),
        ("jane", "get --raw /metrics", "forbidden: User \"jane\" cannot get path \"/metrics\""),
        (
            "lost",
            "get nodes",
            "nodes is forbidden: User \"lost\" cannot list resource \"nodes\" in API group \"\" at the cluster scope: RBAC: \
             clusterrole.rbac.authorization.k8s.io \"none\" not found",
        ),
    ];
    for (user, request, message) in cases {
        let words: Vec<&str> = request.split(' ').collect();
        let told = cluster.refused(&[words.as_slice(), &["--as", user]].concat(), "");
        assert!(told.contains(&format!("(Forbidden): {message}\n")), "{user} {request}: {told}");
    }
}

#[tokio::test]
async fn a_token_of_an_account_has_the_rights_of_the_account() {
    let cluster = Cluster::start();
    cluster.apply(ROLES);
    cluster.kubectl(&["create", "serviceaccount", "web", "-n", "shop"]);
    let admin = Client::new(&cluster);
    let tokens = "/api/v1/namespaces/shop/serviceaccounts/web/token";
    let issued = admin.create(tokens, &json!({})).await;
    let web = admin.with_token(issued["status"]["token"].as_str().expect("a token"));
    let maps = "/api/v1/namespaces/shop/configmaps";
    assert_eq!(web.get(&format!("{maps}/mine")).await.0, 200);
    assert_eq!(web.get(&format!("{maps}?fieldSelector=metadata.name%3Dmine")).await.0, 200);
    let (code, status) = web.get(maps).await;
    assert_eq!((code, status["reason"].as_str()), (403, Some("Forbidden")));
    assert_eq!(status["details"], json!({"kind": "configmaps"}));
    assert_eq!(web.get("/api").await.0, 200);
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let asked = json!({"spec": {"resourceAttributes":
        {"verb": "get", "resource": "configmaps", "name": "mine", "namespace": "shop"}}});
    let status = web.create(review, &asked).await["status"].clone();
    let by =
        "RBAC: allowed by RoleBinding \"own-map/shop\" of Role \"own-map\" to ServiceAccount \"web/shop\"";
    assert_eq!(status, json!({"allowed": true, "reason": by}));
    // It is nobody else, and nobody else says that it is.
    let mut request = web.request(Method::GET, "/api/v1/pods", "application/json", String::new());
    request.headers_mut().insert("impersonate-user", "kubernetes-admin".parse().expect("a name"));
    assert_eq!(web.send(request).await.expect("an answer").status(), 403);
    // Who would be somebody else is never served as who they are.
    for (header, value) in
        [("impersonate-user", &b"jan\xe9"[..]), ("impersonate-group", b"g"), ("impersonate-uid", b"u")]
    {
        let mut request = admin.request(Method::GET, "/api/v1/pods", "application/json", String::new());
        request.headers_mut().insert(header, http::HeaderValue::from_bytes(value).expect("a value"));
        assert_eq!(admin.send(request).await.expect("an answer").status(), 400, "{header}");
    }
    // Rights end with their binding.
    cluster.kubectl(&["delete", "rolebinding", "own-map", "-n", "shop"]);
    assert_eq!(web.get(&format!("{maps}/mine")).await.0, 403);
}

#[test]
fn what_a_change_would_make_takes_the_right_to_make_it() {
    let cluster = Cluster::start();
    grant(&cluster, "change", "get,patch,update", "configmaps,leases", &["--user=clerk"]);
    let object = |group: &str, kind: &str, name: &str| {
        json!({"apiVersion": group, "kind": kind, "metadata": {"name": name}}).to_string()
    };
    let (map, lease) = (object("v1", "ConfigMap", "new"), object("coordination.k8s.io/v1", "Lease", "new"));
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/new";
    let requests = [
        (vec!["apply", "--server-side", "-f", "-"], &map, "configmaps \"new\""),
        (vec!["replace", "--raw", path, "-f", "-"], &lease, "leases.coordination.k8s.io \"new\""),
    ];
    for (request, object, what) in requests {
        let told = cluster.refused(&[request.as_slice(), &["--as", "clerk"]].concat(), object);
        assert!(
            told.contains(what) && told.contains("\"clerk\" cannot create resource"),
            "{request:?}: {told}"
        );
    }
    cluster.apply(&map);
    cluster.kubectl_with(&["apply", "--server-side", "-f", "-", "--as", "clerk", "--force-conflicts"], &map);
}

/// A real server refuses without a reason: `pods "web" is forbidden: `.
#[tokio::test]
async fn a_session_takes_the_right_to_make_one_whatever_the_method() {
    let cluster = Cluster::start();
    let sessions = "pods/exec,pods/attach,pods/portforward";
    grant(
        &cluster,
        "read",
        "get",
        sessions,
        &["--serviceaccount=default:one", "--serviceaccount=default:both"],
    );
    grant(&cluster, "make", "create", sessions, &["--serviceaccount=default:both"]);
    let admin = Client::new(&cluster);
    for (account, code) in [("one", 403), ("both", 404)] {
        cluster.kubectl(&["create", "serviceaccount", account]);
        let path = format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
        let issued = admin.create(&path, &json!({})).await;
        let client = admin.with_token(issued["status"]["token"].as_str().expect("a token"));
        for session in ["exec?command=ls&stdout=true", "attach?stdout=true", "portforward?ports=80"] {
            let answer = client.get(&format!("/api/v1/namespaces/default/pods/web/{session}")).await;
            assert_eq!(answer.0, code, "{account} {session}: {answer:?}");
            let why = answer.1["message"].as_str().unwrap_or_default();
            assert_eq!(
                why.contains("cannot create resource \"pods/"),
                code == 403,
                "{account} {session}: {why}"
            );
        }
    }
}
