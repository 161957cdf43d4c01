//! Subresources: status, scale, log, binding, eviction, token and the like.

use std::sync::Arc;

use futures::StreamExt;
use http::Method;
use serde_json::{Map, Value, json};

use super::{ATTEMPTS, delete, existing, get, patch, show, update};
use crate::admission::{Attempt, Write};
use crate::api::Api;
use crate::collect;
use crate::error::{ApiError, FieldError, Result};
use crate::http::Call;
use crate::http::answer::{self, Answer};
use crate::logs::{LogError, LogOptions};
use crate::meta;
use crate::patch as patches;
use crate::store::{Key, Object};

pub(crate) async fn subresource(api: &Arc<Api>, method: &Method, call: &Call) -> Result<Answer> {
    if !call.resource.has(&call.subresource) {
        return Err(ApiError::no_such_resource());
    }
    match (call.subresource.as_str(), method.as_str()) {
        ("scale", "GET") => {
            let object = existing(api, call)?;
            Ok(answer::json(200, &Scale::of(call).read(&object.value)))
        }
        ("scale", "PUT" | "PATCH") => scale(api, method, call),
        ("log", "GET") => log(api, call).await,
        ("binding", "POST") => bind(api, call, &call.name, &call.json()?),
        ("eviction", "POST") => evict(api, call),
        ("token", "POST") => token(api, call),
        ("finalize", "PUT") => finalize(api, call),
        ("ephemeralcontainers", "PUT" | "PATCH") if !api.ephemeral_containers => Err(ApiError::new(
            403,
            "Forbidden",
            format!(
                "no kubelet of this cluster runs ephemeral containers: 'kubectl exec {} -- COMMAND' runs a command in the \
                 Pod's network, with its names and volumes",
                call.name
            ),
        )),
        ("scale" | "log" | "binding" | "eviction" | "token" | "finalize", _) => {
            Err(ApiError::method_not_allowed())
        }
        (_, "GET") => get(api, call),
        (_, "PUT") => update(api, call),
        (_, "PATCH") => patch(api, call),
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Where a type keeps its numbers.
struct Scale {
    desired: Vec<String>,
    current: Vec<String>,
    selector: Option<Vec<String>>,
}

impl Scale {
    fn of(call: &Call) -> Scale {
        let path = |text: &str| -> Vec<String> {
            text.trim_start_matches('.').split('.').map(str::to_owned).collect()
        };
        match &call.resource.custom {
            Some(custom) => Scale {
                desired: path(custom.scale["specReplicasPath"].as_str().unwrap_or("spec.replicas")),
                current: path(custom.scale["statusReplicasPath"].as_str().unwrap_or("status.replicas")),
                selector: custom.scale["labelSelectorPath"].as_str().map(path),
            },
            None => {
                Scale { desired: path("spec.replicas"), current: path("status.replicas"), selector: None }
            }
        }
    }

    fn read(&self, object: &Value) -> Value {
        let at = |path: &[String]| path.iter().try_fold(object, |value, name| value.get(name));
        let metadata = &object["metadata"];
        let mut scale = json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {
                "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
                "creationTimestamp": metadata["creationTimestamp"],
            },
            "spec": {"replicas": at(&self.desired).and_then(Value::as_i64).unwrap_or(0)},
            "status": {"replicas": at(&self.current).and_then(Value::as_i64).unwrap_or(0)},
        });
        let selector = match &self.selector {
            Some(path) => at(path).and_then(Value::as_str).map(str::to_owned),
            None => Some(selector_text(&object["spec"]["selector"])),
        };
        if let Some(selector) = selector {
            scale["status"]["selector"] = selector.into();
        }
        scale
    }

    fn write(&self, object: &mut Value, replicas: i64) {
        if let Some((last, parents)) = self.desired.split_last() {
            let parent = parents.iter().fold(object, |value, name| {
                meta::map_of(value).entry(name.as_str()).or_insert_with(|| Value::Object(Map::new()))
            });
            meta::map_of(parent).insert(last.clone(), replicas.into());
        }
    }
}

/// A label selector as `a=b,c in (d,e)`.
pub(crate) fn selector_text(selector: &Value) -> String {
    let labels = selector.get("matchLabels").unwrap_or(selector);
    let mut parts: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<&str> =
            expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let values = values.join(",");
        match expression["operator"].as_str() {
            Some("In") => parts.push(format!("{key} in ({values})")),
            Some("NotIn") => parts.push(format!("{key} notin ({values})")),
            Some("Exists") => parts.push(key.to_owned()),
            Some("DoesNotExist") => parts.push(format!("!{key}")),
            _ => {}
        }
    }
    parts.join(",")
}

fn scale(api: &Arc<Api>, method: &Method, call: &Call) -> Result<Answer> {
    let scale = Scale::of(call);
    let write = Write::of(api, call);
    // Patches are YAML when they are applied, and otherwise JSON, which is YAML as well.
    let body = if method == Method::PUT { call.json()? } else { patches::apply_body(&call.body)? };
    if method == Method::PUT {
        let kind = body["kind"].as_str().unwrap_or("Scale");
        if kind != "Scale" {
            let why = format!("{kind} in version \"v1\" cannot be handled as a Scale");
            return Err(ApiError::bad_request(why));
        }
        if meta::name(&body).is_empty() {
            let why = format!(
                "the name of the object ({} based on URL) was undeterminable: name must be provided",
                call.name
            );
            return Err(ApiError::bad_request(why));
        }
    }
    for _ in 0..ATTEMPTS {
        let before = existing(api, call)?;
        let mut wanted = scale.read(&before.value);
        if method == Method::PUT {
            wanted.clone_from(&body);
        } else if call.content_type.starts_with("application/json-patch+json") {
            wanted = patches::json(&wanted, &body)
                .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
        } else {
            patches::merge(&mut wanted, &body);
        }
        let version = wanted["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if !version.is_empty() && version != before.version.to_string() {
            return Err(ApiError::modified(&call.resource.group, &call.resource.plural, &call.name));
        }
        let replicas = match wanted["spec"].get("replicas") {
            None => 0,
            Some(value) => {
                value.as_i64().filter(|count| (0..=i64::from(i32::MAX)).contains(count)).ok_or_else(|| {
                    let error =
                        FieldError::invalid("spec.replicas", value, "must be greater than or equal to 0");
                    ApiError::invalid("autoscaling", "Scale", &call.name, &[error])
                })?
            }
        };
        let mut object = before.value.clone();
        meta::metadata(&mut object).remove("resourceVersion");
        scale.write(&mut object, replicas);
        if let Attempt::Done(after) = write.update(&before, object)? {
            return Ok(answer::json(200, &scale.read(&after.value)));
        }
    }
    Err(ApiError::modified(&call.resource.group, &call.resource.plural, &call.name))
}

/// The container that a client means: the one that it names, or a Pod's only one.
pub(crate) fn container_of(pod: &Value, name: &str, wanted: &str) -> Result<String> {
    let names: Vec<&str> = ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .filter_map(|list| pod["spec"][*list].as_array())
        .flatten()
        .filter_map(|container| container["name"].as_str())
        .collect();
    match (wanted, names.as_slice()) {
        ("", [only]) => Ok((*only).to_owned()),
        ("", names) => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            names.join(" ")
        ))),
        (wanted, names) if names.contains(&wanted) => Ok(wanted.to_owned()),
        _ => Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {name}"))),
    }
}

async fn log(api: &Arc<Api>, call: &Call) -> Result<Answer> {
    let pod = existing(api, call)?.value.clone();
    let query = &call.query;
    let mut errors = Vec::new();
    for (name, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        let Some(number) = query.number(name)?.filter(|number| *number < least) else { continue };
        let why = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
        errors.push(FieldError::invalid(name, &number.into(), why));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid("", "PodLogOptions", &call.name, &errors));
    }
    let container = container_of(&pod, &call.name, query.get("container"))?;
    let count = |name: &str| Ok::<_, Box<ApiError>>(query.number(name)?.and_then(|n| u64::try_from(n).ok()));
    let options = LogOptions {
        container,
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        tail_lines: count("tailLines")?,
        since_seconds: count("sinceSeconds")?,
        since_time: query.find("sinceTime").filter(|text| !text.is_empty()).map(str::to_owned),
        limit_bytes: count("limitBytes")?,
    };
    if pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", call.name)));
    }
    let Some(source) = api.logs() else {
        return Err(ApiError::new(502, "BadGateway", "no kubelet is connected to this API server"));
    };
    match source.logs(pod, options).await {
        Ok(stream) => {
            let mut drain = call.drain.clone();
            let end = async move {
                // Ends with the listener, also when its owner is gone.
                let _ = drain.wait_for(|drain| *drain).await;
            };
            Ok(answer::stream("text/plain", stream.take_until(Box::pin(end)).boxed()))
        }
        Err(LogError::Unavailable(why)) => Err(ApiError::bad_request(why)),
        Err(LogError::Node(why)) => Err(ApiError::new(502, "BadGateway", why)),
    }
}

/// Puts a Pod on a node; `name` is the Pod's.
pub(crate) fn bind(api: &Arc<Api>, call: &Call, name: &str, body: &Value) -> Result<Answer> {
    let node = body["target"]["name"].as_str().unwrap_or_default();
    let kind = body["target"]["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        let error = FieldError::not_supported("target.kind", &kind.into(), &["Node", "<empty>"]);
        return Err(ApiError::invalid("", "Binding", name, &[error]));
    }
    if node.is_empty() {
        let error = FieldError::required("target.name", "");
        return Err(ApiError::invalid("", "Binding", name, &[error]));
    }
    let key = Key::new(call.namespace.as_str(), name);
    for _ in 0..ATTEMPTS {
        let before = api.store.get("pods", &key).ok_or_else(|| ApiError::not_found("", "pods", name))?;
        let refused = |why: String| ApiError::conflict("", "pods/binding", name, &why);
        if meta::is_deleting(&before.value) {
            return Err(refused(format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        match before.value["spec"]["nodeName"].as_str().unwrap_or_default() {
            "" => {}
            found => return Err(refused(format!("pod {name} is already assigned to node {found:?}"))),
        }
        let mut pod = before.value.clone();
        pod["spec"]["nodeName"] = node.into();
        let scheduled = json!({
            "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": meta::now(),
        });
        let status = meta::map(meta::map_of(&mut pod), "status");
        let conditions = status.entry("conditions").or_insert_with(|| json!([]));
        if let Some(conditions) = conditions.as_array_mut() {
            conditions.retain(|condition| condition["type"] != "PodScheduled");
            conditions.push(scheduled);
        }
        if call.query.dry_run() || api.store.replace("pods", key.clone(), before.version, pod).is_ok() {
            return Ok(answer::json(
                201,
                &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
            ));
        }
    }
    Err(ApiError::modified("", "pods", name))
}

fn evict(api: &Arc<Api>, call: &Call) -> Result<Answer> {
    let body = call.json()?;
    existing(api, call)?;
    let inner = body["deleteOptions"].to_string();
    let body = if body["deleteOptions"].is_object() { inner.into() } else { bytes::Bytes::new() };
    let request = Call { body, content_type: "application/json".to_owned(), ..shallow(call) };
    let options = delete::options_of(&request)?;
    let key = Key::new(call.namespace.as_str(), call.name.as_str());
    collect::delete(api, &call.resource, &key, &options)?;
    Ok(answer::json(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

/// The same call without its body.
fn shallow(call: &Call) -> Call {
    Call {
        types: call.types.clone(),
        resource: call.resource.clone(),
        namespace: call.namespace.clone(),
        name: call.name.clone(),
        subresource: String::new(),
        query: call.query.clone(),
        accept: call.accept.clone(),
        content_type: call.content_type.clone(),
        agent: call.agent.clone(),
        user: call.user.clone(),
        body: bytes::Bytes::new(),
        warnings: std::sync::Mutex::default(),
        drain: call.drain.clone(),
    }
}

fn token(api: &Arc<Api>, call: &Call) -> Result<Answer> {
    let account = existing(api, call)?;
    let mut body = call.json()?;
    let asked = body["spec"]["expirationSeconds"].as_i64().unwrap_or(3600);
    if asked < 600 {
        let why = "may not specify a duration less than 10 minutes";
        let error = FieldError::invalid("spec.expirationSeconds", &asked.into(), why);
        return Err(ApiError::invalid("authentication.k8s.io", "TokenRequest", "", &[error]));
    }
    let wanted = asked.min(86_400 * 365);
    let (token, expires) = api.tokens.issue(&call.namespace, &call.name, meta::uid(&account.value), wanted);
    let body_map = meta::map_of(&mut body);
    body_map.insert("apiVersion".to_owned(), "authentication.k8s.io/v1".into());
    body_map.insert("kind".to_owned(), "TokenRequest".into());
    meta::map(body_map, "spec").insert("expirationSeconds".to_owned(), wanted.into());
    body_map.insert("status".to_owned(), json!({"token": token, "expirationTimestamp": expires}));
    Ok(answer::json(201, &body))
}

/// Namespaces are finalized by what deletes their contents; a client's request changes nothing.
fn finalize(api: &Arc<Api>, call: &Call) -> Result<Answer> {
    let object: Arc<Object> = existing(api, call)?;
    show(call, 200, &object)
}
