//! From a request to its handler.

pub(crate) mod answer;
pub(crate) mod duplicates;
pub(crate) mod options;
pub(crate) mod path;
pub(crate) mod query;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT, WARNING};
use http::{Method, Request};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::watch as signal;

use crate::api::Api;
use crate::auth::{self, User};
use crate::authorize::{Ask, authorize};
use crate::connections::Connection;
use crate::error::{ApiError, Result};
use crate::resources::{ResourceType, Types};
use crate::view::{Form, View};
use crate::{discovery, openapi, patch, schema, stream, verbs, watch};
use answer::Answer;
use path::{Path, Target};
use query::Query;

/// Bodies larger than this are refused, as by Kubernetes.
const MAX_BODY: usize = 3 * 1024 * 1024;

/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// A request for objects, taken apart.
pub(crate) struct Call {
    pub(crate) types: Arc<Types>,
    pub(crate) resource: Arc<ResourceType>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    pub(crate) query: Query,
    pub(crate) accept: String,
    pub(crate) content_type: String,
    pub(crate) agent: String,
    pub(crate) user: User,
    pub(crate) body: Bytes,
    /// What the client should be told beside the answer.
    pub(crate) warnings: Mutex<Vec<String>>,
    /// True when the listener that this came by drains.
    pub(crate) drain: signal::Receiver<bool>,
}

impl Call {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<Value> {
        let kind = self.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/vnd.kubernetes.protobuf" => {
                schema::decode(&self.body).map_err(|error| ApiError::bad_request(error.to_string()))
            }
            "application/yaml" => patch::apply_body(&self.body),
            "" | "application/json" => parse_json(&self.body),
            _ => Err(ApiError::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: application/json, \
                 application/yaml, application/vnd.kubernetes.protobuf",
            )),
        }
    }

    /// Who is noted as the manager of the fields that this call sets.
    pub(crate) fn manager(&self) -> String {
        match self.query.get("fieldManager") {
            "" => {
                let name = self.agent.split('/').next().unwrap_or_default();
                let name: String = name.chars().filter(|c| !c.is_control()).take(128).collect();
                if name.is_empty() { "unknown".to_owned() } else { name }
            }
            name => name.to_owned(),
        }
    }

    pub(crate) fn warn(&self, warning: String) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        // A write that is tried again finds the same again.
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    pub(crate) fn view(&self) -> Result<View> {
        let form = Form::accepted(&self.accept)?;
        View::new(self.resource.clone(), form, self.query.get("includeObject"))
    }

    pub(crate) fn not_found(&self) -> Box<ApiError> {
        ApiError::not_found(&self.resource.group, &self.resource.plural, &self.name)
    }
}

pub(crate) fn parse_json(body: &[u8]) -> Result<Value> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("the request body is not JSON: {error}")))
}

/// Answers one request; never fails.
pub(crate) async fn handle(
    api: Arc<Api>,
    request: Request<Incoming>,
    from: &Arc<Connection>,
    drain: signal::Receiver<bool>,
) -> Answer {
    let delay = api.faults.delay();
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    if let Some(code) = api.faults.answer() {
        return answer::error(&fault(code));
    }
    let method = request.method().clone();
    let uri = request.uri().clone();
    let answer = match route(&api, request, from, drain).await {
        Ok(answer) => answer,
        Err(error) => answer::error(&error),
    };
    tracing::debug!(%method, path = uri.path(), query = uri.query(), code = answer.status().as_u16(), "request");
    answer
}

fn fault(code: u16) -> Box<ApiError> {
    let (reason, message) = match code {
        410 => ("Expired", "too old resource version"),
        429 => ("TooManyRequests", "too many requests, please try again later"),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
        _ => ("InternalError", "an error on the server"),
    };
    let mut error = ApiError::new(code, reason, message);
    if code == 429 {
        error.details = serde_json::json!({"retryAfterSeconds": 1});
    }
    error
}

async fn route(
    api: &Arc<Api>,
    request: Request<Incoming>,
    from: &Arc<Connection>,
    drain: signal::Receiver<bool>,
) -> Result<Answer> {
    let header = |name: HeaderName| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = auth::bearer(authorization);
    let user = token.and_then(|token| api.user(token)).ok_or_else(ApiError::unauthorized)?;
    from.introduce();
    let user = auth::impersonated(api, user, request.headers())?;
    let accept = header(ACCEPT);
    let types = api.registry.types();
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    let path = Path::parse(request.uri().path());
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let ask = match &path {
        Path::Resource { group, target, .. } => Ask::objects(request.method(), group, target, &query),
        _ => Ask::path(request.method(), request.uri().path()),
    };
    authorize(api, &user, &ask)?;
    // Whoever reads a session's streams can write to them as well: WebSocket's clients ask by GET.
    if let Path::Resource { target, .. } = &path
        && stream::is_session(&target.subresource)
    {
        authorize(api, &user, &Ask { verb: "create", ..ask })?;
    }
    match path {
        Path::Resource { group, version, target } => {
            let method = request.method().clone();
            let (content_type, agent) = (header(CONTENT_TYPE), header(USER_AGENT));
            let Target { namespace, plural, name, subresource, rest } = target;
            let resource = types.find(&group, &version, &plural).cloned();
            let proxied = subresource == "proxy";
            let known = |resource: &Arc<ResourceType>| match rest.is_empty() {
                true => !(proxied || stream::is_session(&subresource)) || resource.has(&subresource),
                false => proxied && resource.has(&subresource),
            };
            if !types.groups.contains_key(&group) {
                return Ok(answer::no_page());
            }
            let resource = resource.filter(known).ok_or_else(ApiError::no_such_resource)?;
            let streams = proxied || stream::is_session(&subresource);
            // What becomes a stream is not read here.
            let (body, request) = match streams {
                true => (Bytes::new(), Some(request)),
                false => (read_body(request).await?, None),
            };
            let call = Call {
                types,
                resource,
                namespace,
                name,
                subresource,
                query,
                accept,
                content_type,
                agent,
                user,
                body,
                drain,
                warnings: Mutex::default(),
            };
            match request {
                Some(request) if proxied => verbs::proxy(api, &call, request).await,
                Some(request) => stream::serve(api, &call, request, from),
                None => objects(api, &method, call).await,
            }
        }
        _ if !read => Err(ApiError::method_not_allowed()),
        Path::Groups { core } if discovery::wants_aggregated(&accept) => {
            let body = discovery::aggregated(&types, core).to_string();
            Ok(answer::bytes(
                200,
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                Bytes::from(body),
            ))
        }
        Path::Groups { core: true } => Ok(answer::json(200, &discovery::core_versions())),
        Path::Groups { core: false } => Ok(answer::json(200, &discovery::groups(&types))),
        Path::Group(group) => Ok(answer::json(200, &discovery::group(&types, &group)?)),
        Path::Version { group, version } => {
            Ok(answer::json(200, &discovery::resources(&types, &group, &version)?))
        }
        Path::Other(parts) => {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            other(&types, &parts, &accept)
        }
    }
}

fn other(types: &Types, parts: &[&str], accept: &str) -> Result<Answer> {
    match parts {
        ["version"] => Ok(answer::json(200, &discovery::version())),
        ["healthz" | "livez" | "readyz", ..] => Ok(answer::text(200, "ok")),
        ["openapi", "v2"] => Ok(openapi::v2(types, accept)),
        ["openapi", "v3"] => Ok(answer::json(200, &openapi::v3_index(types))),
        ["openapi", "v3", "api", version] => Ok(answer::json(200, &openapi::v3(types, "", version)?)),
        ["openapi", "v3", "apis", group, version] => {
            Ok(answer::json(200, &openapi::v3(types, group, version)?))
        }
        [] => Ok(answer::json(200, &serde_json::json!({"paths": ["/api", "/apis", "/version"]}))),
        _ => Ok(answer::no_page()),
    }
}

async fn read_body(request: Request<Incoming>) -> Result<Bytes> {
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    let Ok(body) = tokio::time::timeout(BODY_LIMIT, body).await else {
        return Err(ApiError::new(408, "Timeout", "the request body did not arrive in time"));
    };
    match body {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {MAX_BODY}"),
        )),
        Err(error) => Err(ApiError::bad_request(format!("reading the request body: {error}"))),
    }
}

/// Answers with the warnings that came up, be it a success or not.
async fn objects(api: &Arc<Api>, method: &Method, call: Call) -> Result<Answer> {
    if call.resource.is("", "endpoints") {
        call.warn("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned());
    }
    let mut answer = match handled(api, method, &call).await {
        Ok(answer) => answer,
        Err(error) => answer::error(&error),
    };
    let warnings = call.warnings.lock().unwrap_or_else(PoisonError::into_inner);
    for warning in warnings.iter() {
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {warning:?}")) {
            answer.headers_mut().append(WARNING, value);
        }
    }
    Ok(answer)
}

async fn handled(api: &Arc<Api>, method: &Method, call: &Call) -> Result<Answer> {
    let scope = (call.resource.namespaced, call.namespace.is_empty(), call.name.is_empty());
    match scope {
        // A cluster-wide object below a namespace, or a namespaced one without.
        (false, false, _) | (true, true, false) => return Err(ApiError::no_such_resource()),
        _ => {}
    }
    if !call.subresource.is_empty() {
        return verbs::subresource(api, method, call).await;
    }
    if call.resource.review {
        return verbs::review(api, method, call);
    }
    let writes = !matches!(*method, Method::GET | Method::HEAD);
    if call.resource.namespaced && call.namespace.is_empty() && writes {
        return Err(ApiError::method_not_allowed());
    }
    let watching = call.query.flag("watch");
    if method == Method::GET && (call.name.is_empty() || watching) {
        options::list(&call.query, watching)?;
    }
    match (method.as_str(), call.name.is_empty()) {
        ("GET", _) if watching => {
            let view = call.view()?;
            Ok(answer::stream("application/json", watch::start(api, call, view)?))
        }
        ("GET", true) => verbs::list(api, call),
        ("GET" | "HEAD", false) => verbs::get(api, call),
        ("POST", true) => verbs::create(api, call),
        ("PUT", false) => verbs::update(api, call),
        ("PATCH", false) => verbs::patch(api, call),
        ("DELETE", false) => verbs::delete(api, call),
        ("DELETE", true) => verbs::delete_collection(api, call),
        _ => Err(ApiError::method_not_allowed()),
    }
}
