//! A plain HTTP client with the administrator's token.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Cluster, LIMIT};

/// One request a connection: simple, and faults of one do not touch another.
pub struct Client {
    address: String,
    token: String,
    tls: TlsConnector,
}

impl Client {
    pub fn new(cluster: &Cluster) -> Client {
        let address = cluster.url.trim_start_matches("https://");
        Client::to(address, cluster.server.ca_pem(), cluster.server.token())
    }

    /// A client of the server at `address`, whatever it is.
    pub fn to(address: &str, ca: &str, token: &str) -> Client {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(ca.as_bytes()).expect("a PEM certificate");
        roots.add(ca).expect("a certificate authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Client {
            address: address.to_owned(),
            token: token.to_owned(),
            tls: TlsConnector::from(Arc::new(config)),
        }
    }

    /// The same client with another token.
    pub fn with_token(&self, token: &str) -> Client {
        Client { address: self.address.clone(), token: token.to_owned(), tls: self.tls.clone() }
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> std::io::Result<Response<Incoming>> {
        let stream = TcpStream::connect(&self.address).await?;
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let stream = self.tls.connect(name, stream).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        tokio::time::timeout(LIMIT, sender.send_request(request))
            .await
            .map_err(std::io::Error::other)?
            .map_err(std::io::Error::other)
    }

    pub fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: String,
    ) -> Request<Full<Bytes>> {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.address)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", content_type)
            .header("user-agent", "test/1")
            .body(Full::from(body))
            .expect("a request")
    }

    /// Status code and JSON body.
    pub async fn call(&self, method: Method, path: &str, content_type: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let response = self.send(self.request(method, path, content_type, body)).await.expect("an answer");
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("{path}: not JSON: {bytes:?}")))
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, "application/json", &Value::Null).await
    }

    /// Creates, and panics unless that works.
    pub async fn create(&self, path: &str, object: &Value) -> Value {
        let (code, made) = self.call(Method::POST, path, "application/json", object).await;
        assert_eq!(code, 201, "{made}");
        made
    }

    pub async fn merge(&self, path: &str, patch: &Value) -> Value {
        let (code, made) = self.call(Method::PATCH, path, "application/merge-patch+json", patch).await;
        assert_eq!(code, 200, "{made}");
        made
    }

    pub async fn delete(&self, path: &str) -> Value {
        let (code, gone) = self.call(Method::DELETE, path, "application/json", &Value::Null).await;
        assert_eq!(code, 200, "{gone}");
        gone
    }

    pub async fn watch(&self, path: &str) -> Watch {
        let request = self.request(Method::GET, path, "application/json", String::new());
        let response = self.send(request).await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        Watch { body: response.into_body(), buffer: Vec::new() }
    }
}

/// A running watch.
pub struct Watch {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next event; `None` when the server ended the watch.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an event is a line of JSON"));
            }
            let frame = tokio::time::timeout(LIMIT, self.body.frame()).await.expect("waited for an event");
            let Some(Ok(frame)) = frame else { return None };
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// Type and name of the next event.
    pub async fn step(&mut self) -> (String, String) {
        let event = self.next().await.expect("the watch goes on");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}
