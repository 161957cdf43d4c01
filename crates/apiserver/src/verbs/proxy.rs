//! `proxy`: a Pod or a Service, asked by way of this server.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::api::Api;
use crate::error::{ApiError, Result};
use crate::http::Call;
use crate::http::answer::{self, Answer};
use crate::meta;
use crate::store::Key;

/// What is of one connection, and of this server, and not handed on.
const KEPT: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

pub(crate) async fn proxy(api: &Arc<Api>, call: &Call, request: Request<Incoming>) -> Result<Answer> {
    let (scheme, name, port) = parts(&call.name);
    if !matches!(scheme, "" | "http") {
        return Err(ApiError::bad_request(format!(
            "{scheme} is not offered: this server asks Pods and Services by http only"
        )));
    }
    // /api/v1/namespaces/NAMESPACE/PLURAL/NAME/proxy, and what follows.
    let path = request.uri().path().splitn(9, '/').nth(8).map(|rest| format!("/{rest}"));
    if path.is_none() && request.method() == Method::GET {
        return Ok(answer::moved(&format!("{}/", request.uri().path()), request.uri().query()));
    }
    let path = path.unwrap_or_else(|| "/".to_owned());
    let key = Key::new(call.namespace.as_str(), name);
    let missing = || ApiError::not_found(&call.resource.group, &call.resource.plural, name);
    let object = api.store.get(&call.resource.storage, &key).ok_or_else(missing)?;
    let address = match call.resource.plural.as_str() {
        "pods" => pod_address(&object.value, port),
        _ => service_address(api, &call.namespace, &object.value, port)?,
    };
    let unavailable = |why: String| ApiError::new(503, "ServiceUnavailable", why);
    let address = address.ok_or_else(|| {
        unavailable(format!(
            "no endpoints available for {:?}",
            format!("{}:{name}:{port}", call.resource.singular)
        ))
    })?;
    let Some(sessions) = api.sessions() else {
        return Err(ApiError::new(502, "BadGateway", "no kubelet is connected to this API server"));
    };
    let failed = |error: &dyn std::fmt::Display| {
        unavailable(format!("error trying to reach service: {error} ({address})"))
    };
    let stream = sessions.dial(address).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    let response = sender.send_request(onward(request, &path, address)?).await;
    let mut response = response.map_err(|error| failed(&error))?;
    response.headers_mut().remove(header::CONNECTION);
    response.headers_mut().remove(header::TRANSFER_ENCODING);
    Ok(response.map(|body| body.map_err(io::Error::other).boxed_unsync()))
}

/// Scheme, name and port of `[SCHEME:]NAME[:PORT]`.
fn parts(text: &str) -> (&str, &str, &str) {
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [name, port] => ("", name, port),
        [scheme, name, port] => (scheme, name, port),
        _ => ("", text, ""),
    }
}

fn onward(request: Request<Incoming>, path: &str, address: SocketAddr) -> Result<Request<Incoming>> {
    let (mut head, body) = request.into_parts();
    let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    head.uri =
        Uri::try_from(format!("{path}{query}")).map_err(|error| ApiError::bad_request(error.to_string()))?;
    for name in KEPT {
        head.headers.remove(name);
    }
    let host = HeaderValue::from_str(&address.to_string());
    head.headers.insert(header::HOST, host.map_err(|error| ApiError::bad_request(error.to_string()))?);
    head.version = http::Version::HTTP_11;
    Ok(Request::from_parts(head, body))
}

fn pod_address(pod: &Value, port: &str) -> Option<SocketAddr> {
    let ports = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = ports.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let number = match port {
        "" => ports.next().map_or(Some(80), |port| port["containerPort"].as_u64()),
        port => {
            port.parse().ok().or_else(|| ports.find(|known| known["name"] == port)?["containerPort"].as_u64())
        }
    };
    let ip: IpAddr = pod["status"]["podIP"].as_str()?.parse().ok()?;
    Some(SocketAddr::new(ip, u16::try_from(number?).ok()?))
}

/// One of the Service's ready endpoints.
fn service_address(api: &Api, namespace: &str, service: &Value, port: &str) -> Result<Option<SocketAddr>> {
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let chosen = match port {
        "" if ports.len() == 1 => ports.first(),
        port => ports.iter().find(|known| {
            known["name"].as_str().unwrap_or_default() == port
                || known["port"].as_u64().is_some_and(|number| port.parse() == Ok(number))
        }),
    };
    let Some(chosen) = chosen else { return Ok(None) };
    let name = chosen["name"].as_str().unwrap_or_default();
    let slices = api.store.collection("endpointslices.discovery.k8s.io");
    let mut ready = Vec::new();
    for slice in slices.list(&api.store, Some(namespace)).objects {
        let slice = &slice.value;
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != meta::name(service) {
            continue;
        }
        let mut ports = slice["ports"].as_array().into_iter().flatten();
        let port = ports.find(|port| port["name"].as_str().unwrap_or_default() == name);
        let Some(port) = port.and_then(|port| u16::try_from(port["port"].as_u64()?).ok()) else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let is_ready = endpoint["conditions"]["ready"].as_bool().unwrap_or(true);
            let ip = endpoint["addresses"][0].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
            ready.extend(ip.filter(|_| is_ready).map(|ip| SocketAddr::new(ip, port)));
        }
    }
    let turn = usize::from_ne_bytes(meta::random()?);
    Ok(turn.checked_rem(ready.len()).and_then(|at| ready.get(at).copied()))
}
