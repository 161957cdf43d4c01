//! The servers: each in a namespace of its own, with the same names and the same upstream.

use std::{
    fmt::{self, Write as _},
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use weft_scratch::Folder;

use super::{names, upstream::Upstream};
use crate::topology::{Scratch, join};

/// Where every server listens, in its own namespace.
pub const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2)), 53);
/// Who asks.
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1));
/// Whom servers ask.
pub const UPSTREAM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2)), 5300);
/// The servers' core; the client has the other one.
pub const SERVER_CORE: usize = 1;
const PATIENCE: Duration = Duration::from_secs(60);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Weft,
    /// unbound.
    Unbound,
    /// knot-resolver.
    Knot,
}

/// A running server.
pub struct Candidate {
    /// Which.
    pub kind: Kind,
    /// Where clients are.
    pub client: Scratch,
    /// Whom it asks.
    pub upstream: Upstream,
    /// Its files, and the list of questions.
    pub folder: Folder,
    process: Child,
    _server: Scratch,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Weft => "weft",
            Self::Unbound => "unbound",
            Self::Knot => "knot-resolver",
        })
    }
}

// === impl Candidate ===

impl Candidate {
    /// Starts the server, and waits until it answers.
    pub fn start(kind: Kind) -> anyhow::Result<Candidate> {
        let (client, server) = (Scratch::new()?, Scratch::new()?);
        join(&client, &server, [CLIENT, SERVER.ip()])?;
        let upstream = Upstream::start(&server)?;
        let folder = weft_scratch::folder();
        let questions: String = names::shuffled().map(|name| format!("{name} A\n")).collect();
        fs::write(folder.path().join("questions"), questions)?;
        let mut command = Command::new("taskset");
        command.args(["-c", &SERVER_CORE.to_string()]);
        kind.program(folder.path(), &mut command)?;
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(File::create(folder.path().join("log"))?);
        let process = server.0.enter_child(&mut command)?.spawn().with_context(|| kind.to_string())?;
        let mut candidate = Candidate { kind, client, upstream, folder, process, _server: server };
        candidate.wait()?;
        Ok(candidate)
    }

    /// What its threads have run, in seconds.
    pub fn processor(&self) -> anyhow::Result<f64> {
        let mut nanos = 0.0;
        for task in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let path = task?.path().join("schedstat");
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let ran: f64 = text.split_whitespace().next().context("no time in schedstat")?.parse()?;
            nanos += ran;
        }
        Ok(nanos / 1e9)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let socket = self.client.0.run(|| UdpSocket::bind((CLIENT, 0)))??;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (name, address) = names::record(names::SERVICES - 1);
        let begun = Instant::now();
        loop {
            let mut answer = [0; 512];
            socket.send_to(&super::walk::query(1, &name, 1), SERVER)?;
            if let Ok(length) = socket.recv(&mut answer)
                && answer.get(..length).is_some_and(|answer| answer.ends_with(&address.octets()))
            {
                return Ok(());
            }
            let ended = self.process.try_wait()?;
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                bail!(
                    "{} does not answer: {}",
                    self.kind,
                    log.lines().rev().take(5).collect::<Vec<_>>().join("; ")
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// === impl Kind ===

impl Kind {
    fn program(self, folder: &Path, command: &mut Command) -> anyhow::Result<()> {
        let config = folder.join("config");
        match self {
            Self::Weft => {
                command.arg(std::env::current_exe()?).arg(super::serve::FLAG);
            }
            Self::Unbound => {
                fs::write(&config, unbound(folder)?)?;
                command.args(["unbound", "-d", "-c"]).arg(&config);
            }
            Self::Knot => {
                fs::write(folder.join("zone"), rpz()?)?;
                fs::write(&config, knot(folder))?;
                command.args(["kresd", "-n", "-c"]).arg(&config).arg(folder);
            }
        }
        Ok(())
    }
}

fn unbound(folder: &Path) -> anyhow::Result<String> {
    let folder = folder.display();
    let mut text = format!(
        "server:
  interface: {}
  access-control: 0.0.0.0/0 allow
  num-threads: 1
  so-rcvbuf: 4m
  username: \"\"
  chroot: \"\"
  directory: \"{folder}\"
  pidfile: \"\"
  use-syslog: no
  verbosity: 0
  do-daemonize: no
  do-ip6: no
  module-config: \"iterator\"
  minimal-responses: yes
  local-zone: \"{}.\" static
",
        SERVER.ip(),
        names::DOMAIN,
    );
    for (name, address) in (0..names::SERVICES).map(names::record) {
        writeln!(text, "  local-data: \"{name}. 5 IN A {address}\"")?;
    }
    writeln!(
        text,
        "remote-control:\n  control-enable: no\nforward-zone:\n  name: \".\"\n  forward-addr: {}@{}",
        UPSTREAM.ip(),
        UPSTREAM.port()
    )?;
    Ok(text)
}

fn rpz() -> anyhow::Result<String> {
    let mut text = "$TTL 5\n@ SOA localhost. localhost. 1 1 1 1 1\n".to_owned();
    for (name, address) in (0..names::SERVICES).map(names::record) {
        writeln!(text, "{name} A {address}")?;
    }
    Ok(text)
}

fn knot(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "net.listen('{}', {}, {{ kind = 'dns' }})
trust_anchors.remove('.')
cache.open(100 * MB, 'lmdb://{folder}')
modules = {{ 'policy' }}
policy.add(policy.rpz(policy.DENY, '{folder}/zone'))
policy.add(policy.suffix(policy.DENY, {{ todname('{}.') }}))
policy.add(policy.all(policy.FORWARD({{ '{}@{}' }})))
",
        SERVER.ip(),
        SERVER.port(),
        names::DOMAIN,
        UPSTREAM.ip(),
        UPSTREAM.port(),
    )
}
