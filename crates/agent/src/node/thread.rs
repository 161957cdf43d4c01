//! The thread that owns a node: calls come in by a channel and are served one after the other.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time::timeout,
};
use weft_cni::Call;
use weft_datapath::probe;
use weft_model::{NodeName, services::Event};

use super::{Config, HealthCheckChanges, InSync, Node, Readiness};
use crate::{
    admin::{ServiceStatus, Status},
    announce::Balancers,
    memory,
    metrics::Metrics,
    store::{Store, StoreError},
};

/// How often what the kernel programs remember is looked through for what has ended: a part of it each time.
const SWEEP: Duration = Duration::from_secs(1);
/// Between two looks at the queue of DEL calls and at what did not work.
const TICK: Duration = Duration::from_millis(200);
/// Between two looks for what somebody else removed.
const REPAIR: Duration = Duration::from_secs(5);
/// The same while something does not work.
const RETRY: Duration = Duration::from_secs(1);
/// The look takes at most one part in so many of the thread's time: among thousands of nodes there is much to look at.
const REPAIR_SHARE: u32 = 100;

/// So many commands are taken before what they come to is written.
const AT_ONCE: usize = 64;
/// So many batches of events wait for the thread; then their watches do.
const BATCHES: usize = 4;
/// A thread that is busy for longer is as good as none.
const ANSWER: Duration = Duration::from_secs(5);

/// Something for the node to do.
enum Command {
    Services(Vec<(Instant, Event)>, OwnedSemaphorePermit),
    InSync(oneshot::Sender<InSync>),
    ServiceStatus(oneshot::Sender<Result<Vec<ServiceStatus>, String>>),
    Announce(Vec<(IpAddr, Instant)>, oneshot::Sender<Result<(), String>>),
    Uplink(oneshot::Sender<Option<(u32, [u8; 6])>>),
    LimitDns(u32),
    Nodes(Vec<weft_model::Node>, oneshot::Sender<()>),
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
    balancers: watch::Receiver<Option<Balancers>>,
    batches: Arc<Semaphore>,
}

/// The thread has ended: the agent is about to.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the agent is ending")]
pub struct Ended;

/// Starts the thread. The receiver resolves when it has ended: with an error when it ended by itself.
///
/// # Errors
/// When the state directory cannot be used, or no thread can be made.
pub(crate) fn start(
    config: Config,
    store: Store,
    health_checks: HealthCheckChanges,
    metrics: Arc<Metrics>,
) -> Result<(Handle, oneshot::Receiver<()>), StoreError> {
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
        let node = Node::open(config, store, Arc::new(report), health_checks);
        let node = match node {
            Ok(node) => node,
            Err(error) => return drop(opened.send(Err(error))),
        };
        drop(opened.send(Ok(node.balancers())));
        serve(node, &inbox, &readiness, &metrics);
        // The receiver is gone when the agent no longer waits.
        let _ = ended.send(());
    });
    // A thread that panicked is told by the other receiver.
    let balancers = opening.recv().unwrap_or_else(|_| Ok(watch::channel(None).1))?;
    let batches = Arc::new(Semaphore::new(BATCHES));
    Ok((Handle { commands, readiness: seen, balancers, batches }, end))
}

fn serve(
    mut node: Node,
    inbox: &mpsc::Receiver<Command>,
    readiness: &watch::Sender<Readiness>,
    metrics: &Metrics,
) {
    let (mut next_tick, mut repaired, mut swept) = (Instant::now(), Instant::now(), Instant::now());
    let mut repair_took = Duration::ZERO;
    loop {
        let now = Instant::now();
        if now >= next_tick {
            node.take_queue();
            next_tick = now + TICK;
        }
        let rest = if node.is_whole() { REPAIR.max(repair_took * REPAIR_SHARE) } else { RETRY };
        if repaired.elapsed() >= rest {
            let begun = Instant::now();
            node.repair();
            // What was read for it is free again, and what the arrival of many nodes took.
            memory::give_back();
            repaired = Instant::now();
            repair_took = repaired - begun;
        }
        if swept.elapsed() >= SWEEP {
            node.sweep();
            swept = Instant::now();
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
            Ok(Command::End) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(command) => obey(&mut node, command),
            Err(RecvTimeoutError::Timeout) => {}
        }
        // What has come meanwhile comes to one write.
        for _ in 0..AT_ONCE {
            match inbox.try_recv() {
                Ok(Command::End) => return,
                Ok(command) => obey(&mut node, command),
                Err(_) => break,
            }
        }
        if let Some(programmed) = node.write_services() {
            metrics.programmed(programmed.took, &programmed.latencies);
        }
    }
}

fn obey(node: &mut Node, command: Command) {
    match command {
        Command::Nodes(nodes, taken) => {
            node.set_nodes(nodes);
            // Whoever asked may have gone.
            let _ = taken.send(());
        }
        Command::Health(health) => node.set_health(health),
        Command::Services(events, permit) => {
            node.hear(events);
            drop(permit);
        }
        Command::Cni(call, reply) => serve_call(node, &call, reply),
        // Whoever asked may have gone.
        Command::Announce(held, reply) => drop(reply.send(node.announce(&held))),
        Command::Uplink(reply) => drop(reply.send(node.uplink())),
        Command::Status(reply) => drop(reply.send(Box::new(node.status()))),
        Command::LimitDns(questions_of_pod) => node.limit_dns(questions_of_pod),
        Command::InSync(reply) => drop(reply.send(node.in_sync())),
        Command::ServiceStatus(reply) => drop(reply.send(node.service_status())),
        Command::End => {}
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
    /// These are the cluster's nodes now. Waits until the thread has taken them in: while thousands of nodes join, unread lists would
    /// pile up, each with all nodes.
    ///
    /// # Errors
    /// When the thread has ended.
    pub async fn set_nodes(&self, nodes: Vec<weft_model::Node>) -> Result<(), Ended> {
        let (taken, done) = oneshot::channel();
        self.commands.send(Command::Nodes(nodes, taken)).map_err(|_| Ended)?;
        done.await.map_err(|_| Ended)
    }

    /// From now on one Pod may ask the cluster's DNS so many questions a second.
    pub fn limit_dns(&self, questions_of_pod: u32) -> Result<(), Ended> {
        self.commands.send(Command::LimitDns(questions_of_pod)).map_err(|_| Ended)
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

    /// This was heard of Services. Waits while the thread has much to do.
    ///
    /// # Errors
    /// When the thread has ended.
    pub async fn hear(&self, events: Vec<(Instant, Event)>) -> Result<(), Ended> {
        let permit = Arc::clone(&self.batches).acquire_owned().await.map_err(|_| Ended)?;
        self.commands.send(Command::Services(events, permit)).map_err(|_| Ended)
    }

    /// Whether the data plane serves what the API says; it does not when the thread does not answer.
    pub async fn in_sync(&self) -> InSync {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::InSync(reply)).is_err() {
            return InSync::default();
        }
        timeout(ANSWER, answer).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// What the kernel holds of Services.
    ///
    /// # Errors
    /// When it cannot be read, or the thread has ended.
    pub async fn service_status(&self) -> Result<Vec<ServiceStatus>, String> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::ServiceStatus(reply)).map_err(|_| Ended.to_string())?;
        answer.await.map_err(|_| Ended.to_string())?
    }

    /// Answers for these addresses, each until its time, and for no others.
    ///
    /// # Errors
    /// When the kernel could not be told, or the thread has ended.
    pub(crate) async fn announce(&self, held: Vec<(IpAddr, Instant)>) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Announce(held, reply)).map_err(|_| Ended.to_string())?;
        answer.await.map_err(|_| Ended.to_string())?
    }

    /// Index and hardware address of the interface that addresses are announced on.
    pub(crate) async fn uplink(&self) -> Option<(u32, [u8; 6])> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Uplink(reply)).ok()?;
        answer.await.ok()?
    }

    /// Services with addresses from outside; `None` before all are known.
    pub(crate) fn balancers(&self) -> watch::Receiver<Option<Balancers>> {
        self.balancers.clone()
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
