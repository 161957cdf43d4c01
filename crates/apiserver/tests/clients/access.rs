//! Who may ask, what is found where, and requests that make no sense.

use http::Method;
use serde_json::{Value, json};

use crate::support::http::Client;
use crate::support::{Cluster, client_minor};

#[tokio::test]
async fn without_a_token_nothing_is_answered() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    for token in ["", "wrong", "Bearer"] {
        for path in ["/api", "/apis", "/version", "/api/v1/pods", "/openapi/v3", "/nonsense"] {
            let (code, status) = client.with_token(token).get(path).await;
            assert_eq!((code, status["reason"].as_str()), (401, Some("Unauthorized")), "{token:?} {path}");
        }
    }
    let token = if client_minor() >= 24 {
        cluster.kubectl(&["create", "token", "default"])
    } else {
        let request =
            client.create("/api/v1/namespaces/default/serviceaccounts/default/token", &json!({})).await;
        request["status"]["token"].as_str().expect("a token").to_owned()
    };
    let itself = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    client.with_token(token.trim()).create(itself, &json!({})).await;
    let review = json!({"spec": {"token": token.trim()}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let found = client.create(reviews, &review).await;
    assert_eq!(found["status"]["user"]["username"], "system:serviceaccount:default:default");
    cluster.kubectl(&["delete", "serviceaccount", "default"]);
    assert_eq!(client.with_token(token.trim()).get("/api/v1/pods").await.0, 401, "the account is gone");
    assert_eq!(client.create(reviews, &review).await["status"].get("authenticated"), None);
}

#[test]
fn kubectl_finds_resources_and_rights() {
    let cluster = Cluster::start();
    let resources = cluster.kubectl(&["api-resources", "-o", "name"]);
    for name in
        ["pods", "deployments.apps", "ingressclasses.networking.k8s.io", "endpointslices.discovery.k8s.io"]
    {
        assert!(resources.lines().any(|line| line == name), "{name} in {resources}");
    }
    assert!(cluster.kubectl(&["api-versions"]).lines().any(|line| line == "networking.k8s.io/v1"));
    assert_eq!(cluster.kubectl(&["auth", "can-i", "delete", "pods"]).trim(), "yes");
    let me = if client_minor() >= 28 {
        cluster.kubectl(&["auth", "whoami"])
    } else {
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        cluster.kubectl_with(&["create", "--raw", path, "-f", "-"], "{}")
    };
    assert!(me.contains("kubernetes-admin"), "{me}");
    assert!(cluster.kubectl(&["explain", "deployment.spec.template.spec.containers"]).contains("image"));
    let version: Value = serde_json::from_str(&cluster.kubectl(&["version", "-o", "json"])).expect("JSON");
    let served = version["serverVersion"]["gitVersion"].as_str();
    assert!(served.is_some_and(|version| version.starts_with("v1.")), "{version}");
}

#[tokio::test]
async fn old_clients_find_types_in_one_document() {
    let cluster = Cluster::start();
    let (code, document) = Client::new(&cluster).get("/openapi/v2").await;
    assert_eq!(code, 200);
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let kind = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    assert_eq!(patch["x-kubernetes-group-version-kind"], kind);
    let names: Vec<&str> =
        patch["parameters"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
    assert!(names.contains(&"dryRun") && names.contains(&"fieldValidation"), "{names:?}");
    let definitions = document["definitions"].as_object().expect("definitions");
    let spec = |name: &str| &definitions[&format!("io.k8s.api.{name}Spec")]["properties"];
    let merges = |property: &Value| {
        let extension =
            |name: &str| property[format!("x-kubernetes-patch-{name}")].as_str().unwrap_or_default();
        (extension("merge-key").to_owned(), extension("strategy").to_owned())
    };
    let both = |key: &str, strategy: &str| (key.to_owned(), strategy.to_owned());
    assert_eq!(merges(&spec("core.v1.Pod")["containers"]), both("name", "merge"));
    assert_eq!(merges(&spec("core.v1.Pod")["volumes"]), both("name", "merge,retainKeys"));
    assert_eq!(merges(&spec("core.v1.Pod")["tolerations"]), both("", ""));
    assert_eq!(merges(&spec("core.v1.Service")["ports"]), both("port", "merge"));
    assert_eq!(merges(&spec("apps.v1.Deployment")["strategy"]), both("", "retainKeys"));
    assert_eq!(merges(&spec("policy.v1.PodDisruptionBudget")["selector"]), both("", "replace"));
    // Go clients take the whole document for broken if one reference leads nowhere.
    let text = document.to_string();
    for reference in text.split("#/definitions/").skip(1) {
        let name = reference.split('"').next().unwrap_or_default();
        assert!(definitions.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let cases = [
        ("/apis/nosuch.example.com", 404),
        ("/apis/apps/v9", 404),
        ("/api/v1/namespaces/default/things", 404),
        ("/api/v1/namespaces/default/pods/none", 404),
        ("/api/v1/namespaces/default/pods/none/nosub", 404),
        ("/api/v1/namespaces/default/nodes", 404),
        ("/api/v1/pods/none", 404),
        ("/openapi/v3/apis/nosuch/v1", 404),
    ];
    for (path, wanted) in cases {
        let (code, status) = client.get(path).await;
        assert_eq!((code, status["kind"].as_str()), (wanted, Some("Status")), "{path}");
    }
    let (_, status) = client.get("/apis/apps/v1/namespaces/default/deployments/none").await;
    assert_eq!(status["message"], "deployments.apps \"none\" not found");
    assert_eq!(status["details"], json!({"name": "none", "group": "apps", "kind": "deployments"}));
}

#[tokio::test]
async fn bodies_that_make_no_sense_are_refused() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    const MAPS: &str = "/api/v1/namespaces/default/configmaps";
    let raw = |body: &str, kind: &str| client.request(Method::POST, MAPS, kind, body.to_owned());
    let deep = format!("{{\"data\":{}1{}}}", "[".repeat(4000), "]".repeat(4000));
    for body in
        ["", "{", "[]", "null", "3", "\"x\"", "{\"metadata\":[]}", "{\"metadata\":{\"name\":3}}", &deep]
    {
        let response = client.send(raw(body, "application/json")).await.expect("an answer");
        assert_eq!(response.status(), 400, "{}", body.get(..40).unwrap_or(body));
    }
    let response =
        client.send(raw("k8s\0garbage", "application/vnd.kubernetes.protobuf")).await.expect("an answer");
    assert_eq!(response.status(), 400);
    let large = format!("{{\"data\":{{\"x\":\"{}\"}}}}", "x".repeat(4 * 1024 * 1024));
    let code = client.send(raw(&large, "application/json")).await.map(|response| response.status().as_u16());
    assert!(code.is_err() || code.as_ref().is_ok_and(|code| *code == 413), "{code:?}");
    let wrong = [
        json!({"apiVersion": "v2", "metadata": {"name": "a"}}),
        json!({"kind": "Secret", "metadata": {"name": "a"}}),
        json!({"metadata": {"name": "a", "namespace": "other"}}),
        json!({"metadata": {"name": "a"}, "data": {"x": 1}}),
    ];
    for body in wrong {
        let (code, status) = client.call(Method::POST, MAPS, "application/json", &body).await;
        assert_eq!(code, 400, "{status}");
    }
    let (code, status) =
        client.call(Method::PATCH, &format!("{MAPS}/kube-root-ca.crt"), "text/plain", &json!({})).await;
    assert_eq!((code, status["reason"].as_str()), (415, Some("UnsupportedMediaType")));
    let (code, _) = client.call(Method::PUT, MAPS, "application/json", &json!({})).await;
    assert_eq!(code, 405);
    for method in [Method::DELETE, Method::POST] {
        let (code, _) = client.call(method, "/api/v1/configmaps", "application/json", &json!({})).await;
        assert_eq!(code, 405, "nothing is written to all namespaces at once");
    }
    for query in ["labelSelector=a%3D%3D%3Db", "fieldSelector=spec.x%3Db", "limit=x", "resourceVersion=x"] {
        let (code, status) = client.get(&format!("{MAPS}?{query}")).await;
        assert_eq!((code, status["kind"].as_str()), (400, Some("Status")), "{query}");
    }
}

#[tokio::test]
async fn discovery_says_the_same_in_both_forms() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let mut request = client.request(Method::GET, "/apis", "", String::new());
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    request.headers_mut().insert("accept", accept.parse().expect("a header"));
    let response = client.send(request).await.expect("an answer");
    let kind = response.headers()["content-type"].to_str().expect("text").to_owned();
    assert_eq!(kind, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
    let aggregated: Value = serde_json::from_slice(&body).expect("JSON");
    let names = |list: &Value, path: &str| -> Vec<String> {
        let list = list.as_array().expect("a list").iter();
        list.map(|item| item.pointer(path).expect("a name").as_str().expect("text").to_owned()).collect()
    };
    let (_, groups) = client.get("/apis").await;
    assert_eq!(names(&aggregated["items"], "/metadata/name"), names(&groups["groups"], "/name"));
    let (_, apps) = client.get("/apis/apps/v1").await;
    let plain: Vec<String> =
        names(&apps["resources"], "/name").into_iter().filter(|name| !name.contains('/')).collect();
    let group = aggregated["items"]
        .as_array()
        .expect("groups")
        .iter()
        .find(|group| group["metadata"]["name"] == "apps");
    assert_eq!(names(&group.expect("apps")["versions"][0]["resources"], "/resource"), plain);
}

#[tokio::test]
async fn one_listener_drains_while_another_serves() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    let (stop, drain) = tokio::sync::watch::channel(false);
    let server = cluster.server.clone();
    let serving = tokio::spawn(async move { server.serve(listener, drain).await });
    let mut watch = client.watch("/api/v1/pods?watch=true").await;
    stop.send_replace(true);
    serving.await.expect("no panic").expect("a clean end");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the drained listener is closed");
    client
        .create(
            "/api/v1/namespaces/default/pods",
            &json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        )
        .await;
    assert_eq!(watch.step().await, ("ADDED".to_owned(), "p".to_owned()));
}

/// E16: who holds connections without ever asking anything keeps nobody out, and loses the oldest.
#[test]
fn idle_connections_keep_nobody_out() {
    let cluster = Cluster::start();
    let address = cluster.url.trim_start_matches("https://").to_owned();
    let mut held: Vec<_> =
        (0..400).map(|_| std::net::TcpStream::connect(&address).expect("connect")).collect();
    assert!(cluster.kubectl(&["get", "namespaces"]).contains("kube-system"));
    let first = held.first_mut().expect("a connection");
    first.set_read_timeout(Some(crate::support::LIMIT)).expect("a limit");
    // Closed by the server: an end or a reset, and no waiting.
    let end = std::io::Read::read(first, &mut [0]);
    assert!(
        matches!(&end, Ok(0)) || end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    );
    assert!(cluster.kubectl(&["get", "nodes"]).is_empty());
}

/// D12: built-in groups come before others, whatever their names.
#[test]
fn built_in_groups_are_found_first() {
    let cluster = Cluster::start();
    cluster.apply(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: networkpolicies.a.example}\n\
         spec: {group: a.example, scope: Namespaced, names: {plural: networkpolicies, kind: NetworkPolicy}, versions: \
         [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}\n",
    );
    cluster.apply(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: rule}\nspec: {podSelector: {}}\n",
    );
    assert!(cluster.kubectl(&["get", "networkpolicies"]).contains("rule"));
    let groups = cluster.kubectl(&["get", "--raw", "/apis"]);
    let at = |name: &str| groups.find(&format!("\"name\":\"{name}\"")).expect("a group");
    assert!(at("apps") < at("networking.k8s.io") && at("networking.k8s.io") < at("a.example"), "{groups}");
}

/// D10: one version, which counts as a release where charts compare it.
#[test]
fn the_version_is_a_release() {
    let cluster = Cluster::start();
    let version: serde_json::Value =
        serde_json::from_str(&cluster.kubectl(&["get", "--raw", "/version"])).expect("JSON");
    let told = version["gitVersion"].as_str().expect("a version");
    assert_eq!(told, weft_apiserver::VERSION);
    assert!(!told.split('+').next().expect("a part").contains('-'), "{told}");
    assert_eq!((version["major"].as_str(), version["minor"].as_str()), (Some("1"), Some("34")));
}
