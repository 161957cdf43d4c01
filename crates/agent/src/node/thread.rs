//! The thread that owns a node: calls come in by a channel and are served one after the other.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};
use weft_cni::Call;
use weft_datapath::probe;
use weft_model::NodeName;

use super::{Config, Node, Readiness};
use crate::{
    admin::Status,
    store::{Store, StoreError},
};

/// Between two looks at the queue of DEL calls and at what did not work.
const TICK: Duration = Duration::from_millis(200);
/// Between two looks for what somebody else removed.
const REPAIR: Duration = Duration::from_secs(5);
/// The same while something does not work.
const RETRY: Duration = Duration::from_secs(1);

/// Something for the node to do.
enum Command {
    Nodes(Vec<weft_model::Node>),
    Health(BTreeMap<NodeName, probe::Health>),
    Cni(Box<Call>, oneshot::Sender<String>),
    Status(oneshot::Sender<Box<Status>>),
    End,
}

/// Speaks to the node's thread. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    readiness: watch::Receiver<Readiness>,
}

/// The thread has ended: the agent is about to.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the agent is ending")]
pub struct Ended;

/// Starts the thread. The receiver resolves when it has ended: with an error when it ended by itself.
///
/// # Errors
/// When the state directory cannot be used, or no thread can be made.
pub fn start(config: Config, store: Store) -> Result<(Handle, oneshot::Receiver<()>), StoreError> {
    let (commands, inbox) = mpsc::channel();
    let starting = Readiness { blocked: Some("the agent is starting".to_owned()), ..Readiness::default() };
    let (readiness, seen) = watch::channel(starting);
    let (ended, end) = oneshot::channel();
    let (opened, opening) = mpsc::channel();
    let reports = commands.clone();
    thread::spawn(move || {
        let report = move |health| {
            // Nobody listens any more when the agent ends.
            let _ = reports.send(Command::Health(health));
        };
        // Opened here: a data plane belongs to the thread that opened it.
        let node = Node::open(config, store, Arc::new(report));
        let node = match node {
            Ok(node) => node,
            Err(error) => return drop(opened.send(Err(error))),
        };
        drop(opened.send(Ok(())));
        serve(node, &inbox, &readiness);
        // The receiver is gone when the agent no longer waits.
        let _ = ended.send(());
    });
    match opening.recv() {
        Ok(Err(error)) => Err(error),
        // A thread that panicked is told by the other receiver.
        Ok(Ok(())) | Err(_) => Ok((Handle { commands, readiness: seen }, end)),
    }
}

fn serve(mut node: Node, inbox: &mpsc::Receiver<Command>, readiness: &watch::Sender<Readiness>) {
    let (mut next_tick, mut repaired) = (Instant::now(), Instant::now());
    loop {
        let now = Instant::now();
        if now >= next_tick {
            node.take_queue();
            next_tick = now + TICK;
        }
        if repaired.elapsed() >= if node.is_whole() { REPAIR } else { RETRY } {
            node.repair();
            repaired = Instant::now();
        }
        let report = node.report();
        readiness.send_if_modified(|last| {
            let news = *last != report;
            if news && last.blocked != report.blocked {
                match &report.blocked {
                    None => tracing::info!("ready: Pods are attached"),
                    Some(why) => tracing::info!("not ready: {why}"),
                }
            }
            *last = report;
            news
        });
        match inbox.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
            Ok(Command::Nodes(nodes)) => node.set_nodes(nodes),
            Ok(Command::Health(health)) => node.set_health(health),
            Ok(Command::Cni(call, reply)) => serve_call(&mut node, &call, reply),
            Ok(Command::Status(reply)) => drop(reply.send(Box::new(node.status()))),
            Ok(Command::End) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// A runtime that does not hear of an ADD takes it for failed: what nobody was told is undone.
fn serve_call(node: &mut Node, call: &Call, reply: oneshot::Sender<String>) {
    if reply.is_closed() {
        return;
    }
    let answer = node.cni(call);
    if reply.send(answer.output).is_err()
        && let Some(made) = answer.made
    {
        tracing::info!(attachment = %made, "undone: nobody waits for it any more");
        node.undo(&made);
    }
}

// === impl Handle ===

impl Handle {
    /// These are the cluster's nodes now.
    pub fn set_nodes(&self, nodes: Vec<weft_model::Node>) -> Result<(), Ended> {
        self.commands.send(Command::Nodes(nodes)).map_err(|_| Ended)
    }

    /// Serves a runtime's call.
    ///
    /// # Errors
    /// When the thread has ended; the call may have been served.
    pub async fn cni(&self, call: Call) -> Result<String, Ended> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Cni(Box::new(call), reply)).map_err(|_| Ended)?;
        answer.await.map_err(|_| Ended)
    }

    /// Everything that the node says of itself.
    ///
    /// # Errors
    /// When the thread has ended.
    pub async fn status(&self) -> Result<Box<Status>, Ended> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Status(reply)).map_err(|_| Ended)?;
        answer.await.map_err(|_| Ended)
    }

    /// Follows the node's readiness.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.clone()
    }

    /// Ends the thread after the calls that it has already. The data plane stays in place.
    pub fn end(&self) {
        // It has ended when nobody takes this.
        let _ = self.commands.send(Command::End);
    }
}
