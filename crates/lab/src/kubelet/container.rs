//! One container: starts it, probes it, restarts it, stops it.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::Child,
    sync::watch,
};

use super::{
    Kubelets,
    board::{Board, Ended, Phase, Slot},
    command,
    env::{Environment, SourceError, Sources},
    log::ContainerLog,
    node::Node,
    pod::Ports,
    probe::{Inside, Rhythm, Target},
    process::{ContainerPlace, ContainerSpec},
    sandbox::Sandbox,
    volumes,
};
use crate::{
    controllers::now,
    place::{enter, make_dir, write_file},
};

/// How long a stand-in for a program that ends takes.
const A_MOMENT: Duration = Duration::from_millis(300);
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

/// What runs in place of the container.
enum Running {
    Process {
        child: Box<Child>,
        inside: Inside,
    },
    /// The responder; a program that would end does so after a moment.
    StandIn {
        ends: bool,
    },
}

/// How a run ended.
struct End {
    code: i32,
    reason: &'static str,
    message: String,
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
        why = probe(context, &target, slot, role) => {
            context.kubelets.events.normal(&context.pod, "Killing", &format!("Container {} {why}, will be restarted", container.name));
            running.stop(context.grace()).await
        }
        grace = stopped(stop) => {
            context.board.container(slot, |state| state.ready = false);
            let begun = tokio::time::Instant::now();
            before_stop(&target, &running, grace).await;
            running.stop(grace.saturating_sub(begun.elapsed())).await
        }
    };
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

/// Probes until the container has to be restarted, and says why.
async fn probe(context: &Surroundings, target: &Target, slot: Slot, role: Role) -> String {
    if role == Role::Init {
        return std::future::pending().await;
    }
    let container = &target.container;
    if let Some(startup) = &container.startup_probe {
        if !until(context, target, startup, "Startup", |_| true).await {
            return "failed startup probe".into();
        }
        context.board.container(slot, |state| {
            state.started = true;
            state.ready = container.readiness_probe.is_none();
        });
    }
    let ready = async {
        match &container.readiness_probe {
            Some(probe) => keep_ready(context, target, probe, slot).await,
            None => std::future::pending().await,
        }
    };
    let live = async {
        match &container.liveness_probe {
            Some(probe) => until(context, target, probe, "Liveness", |_| false).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = ready => std::future::pending().await,
        _ = live => "failed liveness probe".into(),
    }
}

/// Probes until it failed too often (false) or `enough` of the successes (true).
async fn until(
    context: &Surroundings,
    target: &Target,
    probe: &Probe,
    kind: &str,
    enough: impl Fn(i32) -> bool,
) -> bool {
    let rhythm = Rhythm::of(probe);
    if target.inside.is_some() {
        // A stand-in needs no time to start.
        tokio::time::sleep(rhythm.delay).await;
    }
    let (mut failures, mut successes) = (0, 0);
    loop {
        match target.check(probe).await {
            Ok(()) => {
                (failures, successes) = (0, successes + 1);
                if enough(successes) {
                    return true;
                }
            }
            Err(error) => {
                (failures, successes) = (failures + 1, 0);
                context.kubelets.events.warning(
                    &context.pod,
                    "Unhealthy",
                    &format!("{kind} probe failed: {error:#}"),
                );
                if failures >= rhythm.failures {
                    return false;
                }
            }
        }
        tokio::time::sleep(rhythm.period).await;
    }
}

async fn keep_ready(context: &Surroundings, target: &Target, probe: &Probe, slot: Slot) {
    let rhythm = Rhythm::of(probe);
    if target.inside.is_some() {
        // A stand-in needs no time to start.
        tokio::time::sleep(rhythm.delay).await;
    }
    let (mut failures, mut successes) = (0, 0);
    let mut ready = false;
    loop {
        match target.check(probe).await {
            Ok(()) => (failures, successes) = (0, successes + 1),
            Err(error) => {
                (failures, successes) = (failures + 1, 0);
                context.kubelets.events.warning(
                    &context.pod,
                    "Unhealthy",
                    &format!("Readiness probe failed: {error:#}"),
                );
            }
        }
        let next = if ready { failures < rhythm.failures } else { successes >= rhythm.successes };
        if next != ready {
            ready = next;
            context.board.container(slot, |state| state.ready = ready);
        }
        // What is not ready yet is looked at more often: a kubelet does so too while a container starts.
        let pause = if ready { rhythm.period } else { rhythm.period.min(Duration::from_secs(1)) };
        tokio::time::sleep(pause).await;
    }
}

impl Surroundings {
    fn grace(&self) -> Duration {
        let seconds =
            self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        Duration::from_secs(seconds.max(0).unsigned_abs())
    }

    async fn start(&self, container: &Container, role: Role, log: &Arc<ContainerLog>) -> Result<Running> {
        let ends = role == Role::Init || self.stand_in_ends(container);
        if command::is_here(container, ends) {
            let running = self.start_process(container, log).await?;
            self.kubelets.events.normal(
                &self.pod,
                "Started",
                &format!("Started container {}", container.name),
            );
            return Ok(running);
        }
        let image = container.image.as_deref().unwrap_or("its image");
        if ends {
            log.write(format!(
                "weft lab: stands in for {image}: this machine does not have its program; ends with success"
            ));
        } else {
            let ports = lock(&self.ports).add(container)?;
            let ports = ports
                .iter()
                .map(|(protocol, port)| format!("{protocol:?}/{port}"))
                .collect::<Vec<_>>()
                .join(", ");
            log.write(format!(
                "weft lab: stands in for {image}: this machine does not have its program; answers on {ports}"
            ));
        }
        let message = format!("Started a stand-in for container {}", container.name);
        self.kubelets.events.normal(&self.pod, "Started", &message);
        Ok(Running::StandIn { ends })
    }

    /// A program of a Pod that is not restarted for ever is one that ends, unless it serves something.
    fn stand_in_ends(&self, container: &Container) -> bool {
        let owners = self.pod.metadata.owner_references.as_deref().unwrap_or_default();
        let restart = self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        let serves = container.ports.as_ref().is_some_and(|ports| !ports.is_empty());
        let of_job = owners.iter().any(|owner| owner.kind == "Job");
        restart.is_some_and(|policy| policy != "Always") && (of_job || !serves)
    }

    async fn start_process(&self, container: &Container, log: &Arc<ContainerLog>) -> Result<Running> {
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        let folder = self.kubelets.lab.pod(uid).join("containers").join(&container.name);
        make_dir(&folder)?;
        // What the run before wrote is gone, as it is with a new container.
        let layer = folder.join("layer");
        if layer.exists() {
            std::fs::remove_dir_all(&layer).with_context(|| layer.display().to_string())?;
        }
        let mut sources = Sources::new(
            self.kubelets.world.client.clone(),
            self.pod.metadata.namespace.as_deref().unwrap_or("default"),
        );
        let environment = Environment::of(&self.pod, container, &mut sources).await?;
        let mounts = volumes::mounts(&self.kubelets.lab, &self.pod, container, &mut sources).await?;
        let words = container.command.iter().flatten().chain(container.args.iter().flatten());
        let cwd = PathBuf::from(container.working_dir.as_deref().unwrap_or("/"));
        let spec = ContainerSpec {
            argv: words.map(|word| environment.expand(word)).collect(),
            env: environment.variables.clone(),
            cwd: cwd.clone(),
            place: ContainerPlace::New {
                hostname: super::env::hostname(&self.pod),
                layer,
                mounts,
                pid_file: folder.join("pid"),
            },
        };
        let cgroup = self.sandbox.cgroup.below(&container.name)?;
        let file = folder.join("spec.json");
        write_file(&file, &serde_json::to_vec(&spec)?)?;
        let mut command = shim(&self.kubelets, &file);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        enter(&mut command, &self.sandbox.netns, &cgroup)?;
        let mut child = self.kubelets.spawner.spawn(command).await?;
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(copy_lines(stdout, log.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(copy_lines(stderr, log.clone()));
        }
        let inside = Inside { folder, cgroup, env: environment.variables, cwd };
        lock(&self.ports).exclude(container);
        Ok(Running::Process { child: Box::new(child), inside })
    }

    fn could_not_start(&self, container: &Container, slot: Slot, error: &anyhow::Error) {
        let config = error.downcast_ref::<SourceError>().is_some();
        let reason = if config { "CreateContainerConfigError" } else { "RunContainerError" };
        let message = format!("{error:#}");
        self.kubelets.events.warning(
            &self.pod,
            "Failed",
            &format!("container {}: {message}", container.name),
        );
        self.board.container(slot, |state| {
            state.ready = false;
            state.phase = Phase::Waiting { reason, message };
        });
    }
}

impl Running {
    fn inside(&self) -> Option<Inside> {
        match self {
            Running::Process { inside, .. } => Some(inside.clone()),
            Running::StandIn { .. } => None,
        }
    }

    async fn wait(&mut self) -> End {
        match self {
            Running::Process { child, .. } => End::of(child.wait().await),
            Running::StandIn { ends: true } => {
                tokio::time::sleep(A_MOMENT).await;
                End { code: 0, reason: "Completed", message: String::new() }
            }
            Running::StandIn { ends: false } => std::future::pending().await,
        }
    }

    /// Asks it to end, and after the grace period makes it.
    async fn stop(&mut self, grace: Duration) -> End {
        let Running::Process { child, inside } = self else {
            return End { code: 0, reason: "Completed", message: String::new() };
        };
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended in this moment.
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let gentle = tokio::time::timeout(grace, child.wait()).await;
        let status = match gentle {
            Ok(status) => status,
            Err(_) => {
                let killed = child.kill().await;
                match killed {
                    Ok(()) => child.wait().await,
                    Err(error) => Err(error),
                }
            }
        };
        // What the command left behind goes with its container.
        let cgroup = inside.cgroup.clone();
        match tokio::task::spawn_blocking(move || cgroup.remove()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = format!("{error:#}"), "a container's processes stay"),
            Err(error) => tracing::warn!(%error, "a container's processes stay"),
        }
        End::of(status)
    }
}

impl End {
    fn of(status: std::io::Result<std::process::ExitStatus>) -> End {
        use std::os::unix::process::ExitStatusExt;
        match status {
            Ok(status) => {
                let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
                let reason = if code == 0 { "Completed" } else { "Error" };
                End { code, reason, message: String::new() }
            }
            Err(error) => End { code: 1, reason: "Error", message: error.to_string() },
        }
    }
}

/// Starts a command inside a container that runs.
pub(super) async fn start_inside(
    kubelets: &Kubelets,
    words: &[String],
    inside: &Inside,
    output: fn() -> Stdio,
) -> Result<Child> {
    let spec = ContainerSpec {
        argv: words.to_vec(),
        env: inside.env.clone(),
        cwd: inside.cwd.clone(),
        place: ContainerPlace::Running { pid_file: inside.folder.join("pid") },
    };
    // Probes run side by side; the same command makes the same file, so they may share it.
    let names: Vec<String> =
        words.iter().map(|word| word.replace(|c: char| !c.is_ascii_alphanumeric(), "")).collect();
    let name: String = names.concat().chars().take(40).collect();
    let file = inside.folder.join(format!("exec-{name}-{}.json", words.concat().len()));
    write_file(&file, &serde_json::to_vec(&spec)?)?;
    let mut command = shim(kubelets, &file);
    command.stdin(Stdio::null()).stdout(output()).stderr(output());
    let here = weft_netns::Netns::current()?;
    enter(&mut command, &here, &inside.cgroup)?;
    kubelets.spawner.spawn(command).await
}

/// `weft lab container SPEC`.
fn shim(kubelets: &Kubelets, spec: &std::path::Path) -> Command {
    let mut command = Command::new(&kubelets.executable);
    command.arg("lab").arg("container").arg(spec).env_clear().env("PATH", command::PATH);
    command
}

async fn copy_lines(from: impl AsyncRead + Unpin, log: Arc<ContainerLog>) {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).await.is_ok_and(|count| count > 0) {
        if line.ends_with(b"\n") {
            line.pop();
        }
        log.write(std::mem::take(&mut line));
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ports of a container's own, and those that its probes ask for.
pub(super) fn ports_of(container: &Container) -> BTreeSet<crate::responder::Port> {
    use crate::responder::Protocol;
    let mut ports = BTreeSet::new();
    for port in container.ports.iter().flatten() {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            _ => continue,
        };
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
