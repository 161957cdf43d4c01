//! Liveness, readiness and metrics.

use hyper::StatusCode;

use super::{Answer, TEXT, respond};
use crate::socket::Server;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is at `path`.
pub(crate) async fn answer(server: Server, path: String) -> Answer {
    match path.as_str() {
        // The process answers, whatever the cluster is like: restarting it would help nobody.
        "/livez" => match server.node.status().await {
            Ok(_) => respond(StatusCode::OK, TEXT, "ok\n".into()),
            Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        },
        "/readyz" | "/healthz" => {
            let blocked = server.node.readiness().borrow().blocked.clone();
            match blocked {
                None => respond(StatusCode::OK, TEXT, "ok\n".into()),
                Some(why) => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
            }
        }
        "/metrics" => {
            let text = match server.status().await {
                Ok(status) => {
                    server.metrics.encode(&status, server.dns.as_ref()).map_err(|error| error.to_string())
                }
                Err(error) => Err(error),
            };
            match text {
                Ok(text) => respond(StatusCode::OK, OPENMETRICS, text),
                Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
            }
        }
        _ => respond(StatusCode::NOT_FOUND, TEXT, "there are /livez, /readyz and /metrics\n".into()),
    }
}
