//! The lab process itself: `weft lab up` starts it in the background and reads from it how far it is.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    process::ExitCode,
    sync::Mutex,
};

use anyhow::{Context, Result};
use clap::Args;
use futures::future::{BoxFuture, FutureExt, join_all};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use weft_agent::admin::{Client, Status};
use weft_lab::{
    LabDir, LabRecord, Options, Progress,
    manifest::{Manifest, Place},
};

use super::up::say_next;
use crate::command::{exit_code, runtime};

/// The lab process; started by `weft lab up`
#[derive(Args, Debug)]
pub struct Process {}

/// What a lab process is told on its standard input.
#[derive(Serialize, Deserialize)]
pub struct Order {
    pub options: Options,
    pub manifests: Vec<Placed>,
}

/// A manifest on its way to the lab process.
#[derive(Serialize, Deserialize)]
pub struct Placed {
    file: String,
    line: u64,
    object: Value,
}

/// What a lab process tells on its standard output, a line each.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    Progress(Progress),
    Failed { problem: String, code: u8 },
}

impl From<Manifest> for Placed {
    fn from(manifest: Manifest) -> Placed {
        Placed { file: manifest.place.file, line: manifest.place.line, object: manifest.object }
    }
}

impl From<Placed> for Manifest {
    fn from(placed: Placed) -> Manifest {
        Manifest { place: Place { file: placed.file, line: placed.line }, object: placed.object }
    }
}

impl Process {
    pub fn run(self) -> Result<ExitCode> {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("read what to make")?;
        let order: Order =
            serde_json::from_str(&text).context("read what to make: 'weft lab up' starts this")?;
        let tell = |message: &Message| {
            if let Ok(line) = serde_json::to_string(message) {
                // Whoever started this may be gone; the lab goes on.
                let _ = writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
            }
        };
        let log_to = |dir: &LabDir| {
            let log = open_log(dir)?;
            // The lab's log takes panics and whatever else is printed, instead of the caller's terminal.
            nix::unistd::dup2_stderr(&log)?;
            trace_to(log);
            Ok(())
        };
        let progress = |progress: Progress| {
            let last = matches!(progress, Progress::Ready(_) | Progress::NotReady(_));
            tell(&Message::Progress(progress));
            if last {
                let _ = let_go_of_stdout();
            }
        };
        match keep(order, log_to, progress) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => {
                let code = exit_code(&error);
                let number = (0..=3u8).find(|number| ExitCode::from(*number) == code).unwrap_or(1);
                tell(&Message::Failed { problem: format!("{error:#}"), code: number });
                Ok(code)
            }
        }
    }
}

/// Runs the lab in this process until Ctrl-C.
pub fn foreground(order: Order, mut show: impl FnMut(Progress) + Send) -> Result<ExitCode> {
    let failed = Mutex::new(false);
    let show = Mutex::new(&mut show);
    let log_to = |dir: &LabDir| {
        trace_to(open_log(dir)?);
        Ok(())
    };
    let progress = |progress: Progress| {
        let ready = match &progress {
            Progress::Ready(record) => Some(record.clone()),
            _ => None,
        };
        if matches!(progress, Progress::NotReady(_))
            && let Ok(mut failed) = failed.lock()
        {
            *failed = true;
        }
        if let Ok(mut show) = show.lock() {
            show(progress);
        }
        if let Some(record) = ready {
            say_next(&record, true);
        }
    };
    keep(order, log_to, progress)?;
    let failed = failed.into_inner().unwrap_or(true);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Keeps the lab until a signal ends it.
fn keep(order: Order, log_to: impl FnOnce(&LabDir) -> Result<()>, progress: impl Fn(Progress)) -> Result<()> {
    let runtime = runtime()?;
    let stop = {
        let _inside = runtime.enter();
        stop_on_signals()?
    };
    let manifests = order.manifests.into_iter().map(Into::into).collect();
    weft_lab::run(runtime, order.options, manifests, log_to, progress, unproved, stop)
}

/// Which paths between the nodes of a lab are not proved, as their agents say.
fn unproved(record: LabRecord) -> BoxFuture<'static, Vec<String>> {
    async move {
        let others = record.nodes.len().saturating_sub(1);
        let asked = record.nodes.into_iter().map(|node| {
            let socket = node.socket;
            let ask = move || Client::connect(&socket).and_then(|mut client| client.status());
            async move {
                match tokio::task::spawn_blocking(ask).await {
                    Ok(Ok(status)) => problems(&status, others),
                    Ok(Err(error)) => vec![format!("{}: its agent does not answer: {error:#}", node.name)],
                    Err(error) => vec![format!("{}: {error}", node.name)],
                }
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
    .boxed()
}

/// What a node's agent has not proved.
fn problems(status: &Status, others: usize) -> Vec<String> {
    let node = &status.node;
    let mut problems = Vec::new();
    if status.peers.len() < others {
        problems.push(format!("{node} knows {} of {others} other nodes", status.peers.len()));
    }
    for peer in &status.peers {
        let to = format!("the path from {node} to {} ({}, {})", peer.name, peer.path, peer.why);
        if peer.reachable != Some(true) {
            problems.push(format!("{to} is not proved: no probe has come back"));
        } else if let Some(bytes) = peer.mtu_mismatch {
            problems.push(format!("{to} does not take packets of {bytes} bytes"));
        } else if peer.proved_mtu.is_none() {
            problems.push(format!("{to} is not proved for packets of full size"));
        }
    }
    problems
}

/// Becomes true on SIGTERM, SIGINT or SIGHUP.
fn stop_on_signals() -> Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
        sender.send_replace(true);
        sender.closed().await;
    });
    Ok(receiver)
}

fn open_log(dir: &LabDir) -> Result<File> {
    let path = dir.log();
    let mut options = File::options();
    options.create(true).append(true).mode(0o600).open(&path).with_context(|| path.display().to_string())
}

fn trace_to(log: File) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("WEFT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,kube_runtime=off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Mutex::new(log)).init();
}

/// The reader of our output sees its end and may go.
fn let_go_of_stdout() -> Result<()> {
    let null = File::options().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(null.as_fd())?;
    Ok(())
}
