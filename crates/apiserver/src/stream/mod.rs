//! Sessions with containers: `exec`, `attach` and `portforward`, over WebSocket or SPDY/3.1.
//!
//! A session is several streams on one connection, which stops being HTTP. Clients ask for WebSocket first (`v5.channel.k8s.io`)
//! and fall back to SPDY; `kubectl port-forward` carries SPDY within WebSocket.

mod forward;
mod session;
mod spdy;
mod websocket;

use std::sync::Arc;

use http::header::{CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::api::Api;
use crate::connections::Connection;
use crate::error::{ApiError, Result};
use crate::http::Call;
use crate::http::answer::{self, Answer};
use crate::sessions::{PodSessions, SessionOptions};
use crate::verbs::container_of;

/// Whether a subresource is a session.
pub(crate) fn is_session(subresource: &str) -> bool {
    matches!(subresource, "exec" | "attach" | "portforward")
}

/// An upgraded connection.
type Io = TokioIo<hyper::upgrade::Upgraded>;

const SPDY: &str = "SPDY/3.1";
/// How SPDY's clients name what they speak.
const SPDY_PROTOCOLS: &str = "x-stream-protocol-version";
/// SPDY within WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Streams within WebSocket, by a number in front of each message; the fifth version can close one of them.
const CHANNELS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// What was agreed on.
#[derive(Debug, Clone, PartialEq)]
enum Transport {
    /// With this subprotocol.
    WebSocket(&'static str),
    Spdy(&'static str),
}

/// What the session is.
enum Kind {
    Run(Box<SessionOptions>),
    Forward(Vec<u16>),
}

/// Answers a request for a session, and carries it on when the connection is handed over.
pub(crate) fn serve(
    api: &Arc<Api>,
    call: &Call,
    mut request: Request<Incoming>,
    from: &Arc<Connection>,
) -> Result<Answer> {
    let pod = api
        .store
        .get(&call.resource.storage, &crate::store::Key::new(call.namespace.as_str(), call.name.as_str()))
        .filter(|_| call.resource.is("", "pods"))
        .ok_or_else(|| call.not_found())?
        .value
        .clone();
    if pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", call.name)));
    }
    let kind = kind(call, &pod)?;
    let transport = agree(request.headers(), matches!(kind, Kind::Forward(_)))?;
    let Some(sessions) = api.sessions() else {
        return Err(ApiError::new(502, "BadGateway", "no kubelet is connected to this API server"));
    };
    let answer = handover(&transport, request.headers())?;
    let upgrade = hyper::upgrade::on(&mut request);
    let (from, mut drain) = (from.clone(), call.drain.clone());
    tokio::spawn(async move {
        let _underway = from.request();
        let carried = async {
            let io = TokioIo::new(upgrade.await.map_err(std::io::Error::other)?);
            carry(io, sessions, pod, transport, kind).await
        };
        let carried = tokio::select! {
            carried = carried => carried,
            // Ends with the listener, also when its owner is gone.
            _ = drain.wait_for(|drain| *drain) => Ok(()),
        };
        if let Err(error) = carried {
            tracing::debug!(%error, "a session ended");
        }
    });
    Ok(answer)
}

fn kind(call: &Call, pod: &Value) -> Result<Kind> {
    let query = &call.query;
    if call.subresource == "portforward" {
        let ports = query.all("ports").flat_map(|ports| ports.split(',')).filter(|port| !port.is_empty());
        let port = |text: &str| {
            let number = text.parse().ok().filter(|port| *port != 0);
            number.ok_or_else(|| ApiError::bad_request(format!("invalid port {text:?}")))
        };
        return Ok(Kind::Forward(ports.map(port).collect::<Result<_>>()?));
    }
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    let runs = call.subresource == "exec";
    if runs && command.is_empty() {
        return Err(ApiError::bad_request("you must specify at least one command for the container"));
    }
    // kubectl of old wrote 1 for true.
    let flag = |name: &str, default: bool| match query.find(name) {
        None | Some("") => default,
        Some(text) => matches!(text, "true" | "1" | "True" | "TRUE" | "t" | "T"),
    };
    let tty = flag("tty", false);
    let options = SessionOptions {
        container: container_of(pod, &call.name, query.get("container"))?,
        command: runs.then_some(command),
        stdin: flag("stdin", false),
        stdout: flag("stdout", true),
        stderr: flag("stderr", !tty) && !tty,
        tty,
    };
    if !(options.stdin || options.stdout || options.stderr) {
        return Err(ApiError::bad_request("you must specify at least one of stdin, stdout, stderr"));
    }
    Ok(Kind::Run(Box::new(options)))
}

/// The words of a header that may come several times, or once with commas.
fn words<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn agree(headers: &HeaderMap, forwards: bool) -> Result<Transport> {
    let wanted = words(headers, UPGRADE.as_str()).next().unwrap_or_default().to_ascii_lowercase();
    let offered = |name: &str, known: &[&'static str]| {
        words(headers, name).find_map(|word| known.iter().copied().find(|known| *known == word))
    };
    let none = || {
        let asked: Vec<&str> =
            words(headers, SEC_WEBSOCKET_PROTOCOL.as_str()).chain(words(headers, SPDY_PROTOCOLS)).collect();
        ApiError::forbidden_protocol(&asked.join(", "))
    };
    match wanted.as_str() {
        "websocket" => {
            let known: &[&str] =
                if forwards { &[TUNNEL, CHANNELS[0], CHANNELS[1]] } else { &[CHANNELS[0], CHANNELS[1]] };
            offered(SEC_WEBSOCKET_PROTOCOL.as_str(), known).map(Transport::WebSocket).ok_or_else(none)
        }
        "spdy/3.1" => {
            let known: &[&str] = if forwards { &["portforward.k8s.io"] } else { &["v4.channel.k8s.io"] };
            offered(SPDY_PROTOCOLS, known).map(Transport::Spdy).ok_or_else(none)
        }
        _ => Err(ApiError::bad_request(
            "unable to upgrade: the request asks for neither WebSocket nor SPDY/3.1",
        )),
    }
}

/// The answer after which the connection is the session's.
fn handover(transport: &Transport, headers: &HeaderMap) -> Result<Answer> {
    let mut answer: Answer = Response::new(answer::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let told = answer.headers_mut();
    told.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    match transport {
        Transport::WebSocket(protocol) => {
            let accept = websocket::accept(headers).ok_or_else(|| {
                ApiError::bad_request("unable to upgrade: the WebSocket handshake has no Sec-WebSocket-Key")
            })?;
            told.insert(UPGRADE, HeaderValue::from_static("websocket"));
            told.insert("sec-websocket-accept", accept);
            told.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        Transport::Spdy(protocol) => {
            told.insert(UPGRADE, HeaderValue::from_static(SPDY));
            told.insert(SPDY_PROTOCOLS, HeaderValue::from_static(protocol));
        }
    }
    Ok(answer)
}

async fn carry(
    io: Io,
    sessions: Arc<dyn PodSessions>,
    pod: Value,
    transport: Transport,
    kind: Kind,
) -> std::io::Result<()> {
    match (kind, transport) {
        (Kind::Run(options), Transport::WebSocket(protocol)) => {
            websocket::run(io, protocol == CHANNELS[0], sessions, pod, *options).await
        }
        (Kind::Run(options), Transport::Spdy(_)) => session::run(io, sessions, pod, *options).await,
        (Kind::Forward(_), Transport::WebSocket(protocol)) if protocol == TUNNEL => {
            let forward = |io| forward::over_spdy(io, sessions, pod);
            websocket::tunnel(io, forward).await
        }
        (Kind::Forward(ports), Transport::WebSocket(_)) => websocket::forward(io, sessions, pod, ports).await,
        (Kind::Forward(_), Transport::Spdy(_)) => forward::over_spdy(io, sessions, pod).await,
    }
}
