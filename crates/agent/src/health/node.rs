//! `/healthz` and `/livez`, as kube-proxy has them (KEP-3836).

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use hyper::{StatusCode, header::HeaderValue};
use jiff::Timestamp;
use serde_json::json;
use tokio::{net::TcpListener, sync::watch, time::sleep};
use weft_kube::Mirror;
use weft_model::{Node, NodeName};

use crate::{
    drain::Drain,
    http::{self, Answer, JSON, TEXT, respond},
    node::{InSync, thread::Handle},
};

/// Between two attempts to have a port that somebody else has: an earlier proxy, perhaps, that is about to go.
const AGAIN: Duration = Duration::from_secs(2);

/// What the answers come from.
#[derive(Clone)]
pub(crate) struct NodeHealth {
    pub(crate) name: NodeName,
    pub(crate) node: Handle,
    pub(crate) nodes: watch::Receiver<Mirror<NodeName, Node>>,
}

/// Serves at `address` until the drain begins.
pub(crate) async fn serve_node(
    address: SocketAddr,
    health: NodeHealth,
    mut drain: Drain,
) -> anyhow::Result<()> {
    let listener = tokio::select! {
        () = drain.begun() => return Ok(()),
        listener = bind(address) => listener,
    };
    let answer = move |path: String| {
        let health = health.clone();
        async move { health.answer(&path).await }
    };
    http::serve(listener, answer, drain).await
}

async fn bind(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        let bound = match TcpListener::bind(address).await {
            // A kernel without IPv6.
            Err(error)
                if error.raw_os_error() == Some(libc::EAFNOSUPPORT) && address.ip().is_unspecified() =>
            {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
            }
            bound => bound,
        };
        match bound {
            Ok(listener) => return listener,
            Err(error) if !told => {
                told = true;
                tracing::error!(
                    "/healthz and /livez cannot be served on {address}: {error}; trying again. Is kube-proxy still \
                     running? --healthz names another address, or `off`"
                );
            }
            Err(_) => {}
        }
        sleep(AGAIN).await;
    }
}

impl NodeHealth {
    async fn answer(&self, path: &str) -> Answer {
        match path {
            "/healthz" => self.healthz().await,
            "/livez" => self.livez().await,
            _ => respond(StatusCode::NOT_FOUND, TEXT, "there are /healthz and /livez\n".into()),
        }
    }

    /// Load balancers send a node that is about to go, or that does not know its Services, nothing new.
    async fn healthz(&self) -> Answer {
        let in_sync = self.node.in_sync().await;
        let leaving = self.nodes.borrow().objects().get(&self.name).is_some_and(|node| node.leaving);
        let times = times(&in_sync);
        let body = json!({ "lastUpdated": times.0, "currentTime": times.1, "nodeEligible": !leaving });
        json_answer(in_sync.holds && !leaving, &body)
    }

    /// Whether the process serves; what the cluster is like does not matter: restarting it would help nobody.
    async fn livez(&self) -> Answer {
        let in_sync = self.node.in_sync().await;
        let times = times(&in_sync);
        json_answer(in_sync.answers, &json!({ "lastUpdated": times.0, "currentTime": times.1 }))
    }
}

/// When the data plane was last written to, and now; RFC 3339, in UTC.
fn times(in_sync: &InSync) -> (Option<String>, String) {
    let last = in_sync.last_written.and_then(|at| Timestamp::try_from(at).ok());
    (last.map(|at| at.to_string()), Timestamp::now().to_string())
}

fn json_answer(well: bool, body: &serde_json::Value) -> Answer {
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = respond(status, JSON, body.to_string());
    answer.headers_mut().insert("X-Content-Type-Options", HeaderValue::from_static("nosniff"));
    answer
}
