//! Readiness, liveness and startup probes. HTTP, TCP and gRPC probes come from the node, as a kubelet's do.

use std::{net::IpAddr, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use k8s_openapi::{
    api::core::v1::{Container, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;

use super::{Kubelets, node::Node};
use crate::place::Cgroup;

/// Where and how a container is probed.
pub(super) struct Target {
    pub(super) kubelets: Arc<Kubelets>,
    pub(super) node: Arc<Node>,
    pub(super) address: IpAddr,
    pub(super) container: Container,
    /// How to run a command inside; none if the responder stands in for the container, whose exec probes succeed.
    pub(super) inside: Option<Inside>,
}

/// A container that runs for real.
#[derive(Clone)]
pub(super) struct Inside {
    pub(super) folder: std::path::PathBuf,
    pub(super) cgroup: Cgroup,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: std::path::PathBuf,
}

/// How often, how long and how many times.
pub(super) struct Rhythm {
    pub(super) delay: Duration,
    pub(super) period: Duration,
    pub(super) failures: i32,
    pub(super) successes: i32,
    timeout: Duration,
}

impl Rhythm {
    pub(super) fn of(probe: &Probe) -> Rhythm {
        let seconds = |value: Option<i32>, default: i32, least: i32| {
            Duration::from_secs(
                value.filter(|value| *value > 0).unwrap_or(default).max(least).unsigned_abs().into(),
            )
        };
        Rhythm {
            delay: seconds(probe.initial_delay_seconds, 0, 0),
            period: seconds(probe.period_seconds, 10, 1),
            timeout: seconds(probe.timeout_seconds, 1, 1),
            failures: probe.failure_threshold.unwrap_or(3).max(1),
            successes: probe.success_threshold.unwrap_or(1).max(1),
        }
    }
}

impl Target {
    /// Probes once.
    pub(super) async fn check(&self, probe: &Probe) -> Result<()> {
        let timeout = Rhythm::of(probe).timeout;
        match tokio::time::timeout(timeout, self.try_once(probe)).await {
            Ok(result) => result,
            Err(_) => bail!("no answer within {} s", timeout.as_secs()),
        }
    }

    async fn try_once(&self, probe: &Probe) -> Result<()> {
        if let Some(http) = &probe.http_get {
            let port = port_number(&http.port, &self.container)?;
            let host = http.host.as_deref().and_then(|host| host.parse().ok()).unwrap_or(self.address);
            let stream = self.connect(host, port).await?;
            let path = http.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
            let mut headers = String::new();
            for header in http.http_headers.iter().flatten() {
                headers.push_str(&format!("{}: {}\r\n", header.name, header.value));
            }
            if !headers.to_ascii_lowercase().starts_with("host:")
                && !headers.to_ascii_lowercase().contains("\nhost:")
            {
                headers.push_str(&format!("Host: {}\r\n", bracketed(host, port)));
            }
            let request = format!(
                "GET {path} HTTP/1.1\r\n{headers}User-Agent: kube-probe/1.34\r\nAccept: */*\r\nConnection: close\r\n\r\n"
            );
            if http.scheme.as_deref() == Some("HTTPS") {
                let name = ServerName::IpAddress(host.into());
                return http_status(connector()?.connect(name, stream).await.context("TLS")?, &request).await;
            }
            return http_status(stream, &request).await;
        }
        if let Some(tcp) = &probe.tcp_socket {
            let host = tcp.host.as_deref().and_then(|host| host.parse().ok()).unwrap_or(self.address);
            return self.connect(host, port_number(&tcp.port, &self.container)?).await.map(drop);
        }
        if let Some(grpc) = &probe.grpc {
            return self.connect(self.address, u16::try_from(grpc.port)?).await.map(drop);
        }
        match (&probe.exec, &self.inside) {
            (Some(exec), Some(inside)) => {
                self.execute(exec.command.as_deref().unwrap_or_default(), inside).await
            }
            _ => Ok(()),
        }
    }

    async fn connect(&self, host: IpAddr, port: u16) -> Result<TcpStream> {
        let domain = if host.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let open = move || Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP));
        let socket = self.node.run(open).await??;
        let stream = TcpSocket::from_std_stream(socket.into()).connect((host, port).into()).await;
        stream.with_context(|| format!("dial tcp {}", bracketed(host, port)))
    }

    /// Runs a command inside the container. 0 is success.
    pub(super) async fn execute(&self, command: &[String], inside: &Inside) -> Result<()> {
        let mut child = super::container::start_inside(&self.kubelets, command, inside, Stdio::null).await?;
        let status = child.wait().await?;
        if status.success() { Ok(()) } else { bail!("command {command:?} ended with {status}") }
    }
}

/// Sends a request and judges the status of the answer: 200 to 399 is success.
async fn http_status(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Result<()> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut buffer = [0; 512];
    while !answer.contains(&b'\n') && answer.len() < 4096 {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
    let line = String::from_utf8_lossy(&answer);
    let code: u16 = line
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("no HTTP answer: {:?}", line.lines().next().unwrap_or_default()))?;
    if (200..400).contains(&code) { Ok(()) } else { bail!("HTTP probe failed with statuscode: {code}") }
}

/// A port by number, or by the name that the container gives it.
pub(super) fn port_number(port: &IntOrString, container: &Container) -> Result<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match name.parse() {
            Ok(number) => number,
            Err(_) => {
                container
                    .ports
                    .iter()
                    .flatten()
                    .find(|port| port.name.as_ref() == Some(name))
                    .with_context(|| format!("no port of container {} is named {name}", container.name))?
                    .container_port
            }
        },
    };
    u16::try_from(number).with_context(|| format!("{number} is no port"))
}

fn bracketed(host: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(host, port).to_string()
}

/// Probes do not verify certificates: a kubelet's do not either.
fn connector() -> Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}

#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
