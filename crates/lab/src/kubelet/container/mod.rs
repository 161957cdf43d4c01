//! One container: starts it, restarts it, stops it.

mod health;
mod running;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::watch;

use super::{
    Kubelets,
    board::{Board, Ended, Phase, Slot},
    node::Node,
    pod::Ports,
    probe::Target,
    sandbox::Sandbox,
    session::LiveContainer,
};
use crate::controllers::now;

use running::Running;
pub(super) use running::{shim, start_inside};

/// Shorter than a kubelet's ten seconds: a lab is there to be watched.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// A container that ran so long is not in a crash loop.
const STEADY: Duration = Duration::from_secs(600);

/// What the containers of a Pod share.
pub(super) struct Surroundings {
    pub(super) kubelets: Arc<Kubelets>,
    pub(super) node: Arc<Node>,
    /// As it was when it started, with its addresses.
    pub(super) pod: Arc<Pod>,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) board: Arc<Board>,
    pub(super) ports: Arc<Mutex<Ports>>,
}

/// What a container is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that goes on beside the others.
    Sidecar,
    App,
}

/// Runs a container until it is to run no more. `stop` carries the grace period once it is to end.
pub(super) async fn supervise(
    context: Arc<Surroundings>,
    container: Container,
    role: Role,
    slot: Slot,
    mut stop: watch::Receiver<Option<Duration>>,
) -> i32 {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let begun = tokio::time::Instant::now();
        let code = match run_once(&context, &container, role, slot, &mut stop).await {
            Ok(code) => Some(code),
            Err(error) => {
                context.could_not_start(&container, slot, &error);
                None
            }
        };
        if stop.borrow().is_some() {
            return code.unwrap_or(0);
        }
        if let Some(code) = code
            && !restarts(&context.pod, role, code)
        {
            return code;
        }
        if begun.elapsed() > STEADY {
            backoff = FIRST_BACKOFF;
        }
        if code.is_some() {
            let why = format!("back-off {} s restarting container {}", backoff.as_secs(), container.name);
            if backoff > FIRST_BACKOFF {
                context.kubelets.events.warning(&context.pod, "BackOff", &why);
            }
            context.board.container(slot, |state| {
                if let Phase::Ended(ended) = &state.phase {
                    state.last = Some(ended.clone());
                }
                state.phase = Phase::Waiting { reason: "CrashLoopBackOff", message: why.clone() };
                state.restarts += 1;
            });
        }
        tokio::select! {
            _ = stop.wait_for(Option::is_some) => return code.unwrap_or(0),
            () = tokio::time::sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
}

fn restarts(pod: &Pod, role: Role, code: i32) -> bool {
    let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
    match (role, policy) {
        (Role::Sidecar, _) => true,
        (Role::Init, "Never") => false,
        (Role::Init, _) => code != 0,
        (Role::App, "Always") => true,
        (Role::App, "OnFailure") => code != 0,
        (Role::App, _) => false,
    }
}

/// One run, from start to end.
async fn run_once(
    context: &Arc<Surroundings>,
    container: &Container,
    role: Role,
    slot: Slot,
    stop: &mut watch::Receiver<Option<Duration>>,
) -> Result<i32> {
    let uid = context.pod.metadata.uid.as_deref().unwrap_or_default();
    let log = context.kubelets.logs.begin(uid, &container.name);
    let mut running = context.start(container, role, &log).await?;
    context.kubelets.live.add(
        uid,
        LiveContainer {
            context: context.clone(),
            container: container.clone(),
            log: log.clone(),
            inside: running.inside(),
            input: tokio::sync::Mutex::new(running.take_input()),
            shell: tokio::sync::OnceCell::new(),
        },
    );
    let since = now();
    context.board.container(slot, |state| {
        state.id = format!("weft-lab://{uid}/{}", container.name);
        state.phase = Phase::Running { since: since.clone() };
        state.started = container.startup_probe.is_none();
        state.ready =
            role != Role::Init && container.startup_probe.is_none() && container.readiness_probe.is_none();
    });
    let target = Target {
        kubelets: context.kubelets.clone(),
        node: context.node.clone(),
        address: context.sandbox.addresses.first().copied().context("the Pod has no address")?,
        container: container.clone(),
        inside: running.inside(),
    };
    let end = tokio::select! {
        end = running.wait() => end,
        why = health::probe(context, &target, slot, role) => {
            context.kubelets.events.normal(&context.pod, "Killing", &format!("Container {} {why}, will be restarted", container.name));
            running.stop(context.grace()).await
        }
        grace = stopped(stop) => {
            let begun = tokio::time::Instant::now();
            let ending = async {
                before_stop(&target, &running, grace).await;
                context.stop(&container.name, &mut running, grace.saturating_sub(begun.elapsed())).await
            };
            // Until it has ended it may answer, and says whether it does: that is what draining is made of.
            tokio::select! {
                end = ending => end,
                never = health::while_ending(context, &target, slot, role) => match never {},
            }
        }
    };
    context.kubelets.live.remove(uid, &container.name);
    lock(&context.ports).remove(&container.name);
    log.end();
    let ended =
        Ended { code: end.code, reason: end.reason, message: end.message, started: since, finished: now() };
    context.board.container(slot, |state| {
        state.ready = role == Role::Init && ended.code == 0;
        state.started = false;
        state.phase = Phase::Ended(ended.clone());
    });
    Ok(ended.code)
}

async fn stopped(stop: &mut watch::Receiver<Option<Duration>>) -> Duration {
    match stop.wait_for(Option::is_some).await {
        Ok(grace) => grace.unwrap_or_default(),
        // Nobody is left who could stop it gently.
        Err(_) => Duration::ZERO,
    }
}

/// A `preStop` hook that waits or runs a command, within the grace period.
async fn before_stop(target: &Target, running: &Running, grace: Duration) {
    let hook = target.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    let Some(hook) = hook else { return };
    let work = async {
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
        }
        let command = hook.exec.as_ref().and_then(|exec| exec.command.as_deref()).unwrap_or_default();
        match (running, sleeps(command)) {
            (Running::Process { inside, .. }, _) if !command.is_empty() => {
                if let Err(error) = target.execute(command, inside).await {
                    tracing::debug!(%error, "preStop hook failed");
                }
            }
            // The stand-in drains as long as the program it stands for would.
            (Running::StandIn { .. }, Some(pause)) => tokio::time::sleep(pause).await,
            _ => {}
        }
    };
    let _ = tokio::time::timeout(grace, work).await;
}

/// How long a command sleeps that does nothing else: `sleep 5`, `sh -c "sleep 5"`.
fn sleeps(command: &[String]) -> Option<Duration> {
    let words: Vec<&str> = command.iter().flat_map(|word| word.split_whitespace()).collect();
    let at = words.iter().position(|word| word.ends_with("sleep"))?;
    let seconds: f64 = words.get(at + 1)?.trim_end_matches(['s', ';']).parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ports of a container's own, and those that its probes ask for.
pub(super) fn ports_of(container: &Container) -> BTreeSet<crate::responder::Port> {
    use crate::responder::Protocol;
    let mut ports = BTreeSet::new();
    for port in container.ports.iter().flatten() {
        let Some(protocol) = Protocol::named(port.protocol.as_deref()) else { continue };
        ports.extend(u16::try_from(port.container_port).ok().map(|port| (protocol, port)));
    }
    for probe in [&container.readiness_probe, &container.liveness_probe, &container.startup_probe]
        .into_iter()
        .flatten()
    {
        let http = probe.http_get.as_ref().map(|http| &http.port);
        let named = http.or(probe.tcp_socket.as_ref().map(|tcp| &tcp.port));
        let number = named.and_then(|port| super::probe::port_number(port, container).ok());
        let grpc = probe.grpc.as_ref().and_then(|grpc| u16::try_from(grpc.port).ok());
        ports.extend(number.into_iter().chain(grpc).map(|port| (Protocol::Tcp, port)));
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_that_only_sleeps_is_known() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(sleeps(&words(&["sleep", "5"])), Some(Duration::from_secs(5)));
        assert_eq!(sleeps(&words(&["/bin/sh", "-c", "sleep 10"])), Some(Duration::from_secs(10)));
        assert_eq!(sleeps(&words(&["nginx", "-s", "quit"])), None);
    }
}
