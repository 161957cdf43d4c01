//! What runs for a container: its own command, or the responder in its place.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use k8s_openapi::api::core::v1::Container;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Child,
};
use weft_apiserver::Output;

use super::{Role, Surroundings, lock};
use crate::{
    kubelet::{
        Kubelets, account,
        board::{Phase, Slot},
        command::{self, View},
        env::{Environment, SourceError, Sources},
        log::ContainerLog,
        probe::Inside,
        process::{ContainerPlace, ContainerSpec, Mount},
        session::Input,
        terminal::Terminal,
        volumes,
    },
    place::{enter, make_dir, one_part, write_file},
    references,
};

/// How long a stand-in goes on taking connections after it was asked to end, as a server that drains does: until
/// then every node has heard that it is ending.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a stand-in for a program that ends takes.
const A_MOMENT: Duration = Duration::from_millis(300);
/// How long a container may take to be made.
const A_WHILE: Duration = Duration::from_secs(10);
/// What runs in place of the container.
pub(super) enum Running {
    Process {
        child: Box<Child>,
        inside: Inside,
        /// Until somebody takes it.
        input: Option<Input>,
    },
    /// The responder; a program that would end does so after a moment.
    StandIn { ends: bool },
}

/// What a container's processes find.
struct Setting {
    environment: Environment,
    mounts: Vec<Mount>,
}

/// How a run ended.
pub(super) struct End {
    pub(super) code: i32,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Surroundings {
    pub(super) fn grace(&self) -> Duration {
        let seconds =
            self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        Duration::from_secs(seconds.max(0).unsigned_abs())
    }

    pub(super) async fn start(
        &self,
        container: &Container,
        role: Role,
        log: &Arc<ContainerLog>,
    ) -> Result<Running> {
        let ends = role == Role::Init || self.stand_in_ends(container);
        let words: Vec<String> =
            container.command.iter().flatten().chain(container.args.iter().flatten()).cloned().collect();
        let named = container.command.as_ref().is_some_and(|command| !command.is_empty());
        // What needs no look into volumes is told first: a stand-in may start before what they are made from is there.
        if named && View::before(container, ends).can_run(&words) {
            let setting = self.setting(container).await?;
            let words: Vec<String> = words.iter().map(|word| setting.environment.expand(word)).collect();
            if View::with(container, &setting.mounts, ends).can_run(&words) {
                let running = self.start_process(container, words, setting, log).await?;
                let message = format!("Started container {}", container.name);
                self.kubelets.events.normal(&self.pod, "Started", &message);
                return Ok(running);
            }
        }
        self.tell_what_is_missing(container, log).await?;
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

    /// Tells what a kubelet would wait for. A stand-in does not, because what makes it in a cluster may be a program that this machine
    /// does not have.
    async fn tell_what_is_missing(&self, container: &Container, log: &ContainerLog) -> Result<()> {
        let Some(spec) = &self.pod.spec else { return Ok(()) };
        let mut sources = self.sources();
        for source in references::needed_by(spec, container) {
            let found = match &source {
                references::Source::ConfigMap(name) => sources.config_map(name, false).await,
                references::Source::Secret(name) => sources.secret(name, false).await,
            };
            match found {
                Err(SourceError::Missing { .. }) => {
                    let what =
                        format!("there is no {source}: a kubelet would wait for it, the stand-in does not");
                    log.write(format!("weft lab: {what}"));
                    let message = format!("container {}: {what}", container.name);
                    self.kubelets.events.warning(&self.pod, "Failed", &message);
                }
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// ConfigMaps and Secrets of the Pod's namespace.
    fn sources(&self) -> Sources {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        Sources::new(self.kubelets.world.client.clone(), namespace)
    }

    /// A program of a Pod that is not restarted for ever is one that ends, unless it serves something.
    fn stand_in_ends(&self, container: &Container) -> bool {
        let owners = self.pod.metadata.owner_references.as_deref().unwrap_or_default();
        let restart = self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        let serves = container.ports.as_ref().is_some_and(|ports| !ports.is_empty());
        let of_job = owners.iter().any(|owner| owner.kind == "Job");
        restart.is_some_and(|policy| policy != "Always") && (of_job || !serves)
    }

    /// What a container's processes find: variables and volumes.
    async fn setting(&self, container: &Container) -> Result<Setting> {
        let mut sources = self.sources();
        let services = self.kubelets.world.services.list();
        let hostname = &self.sandbox.hostname;
        let environment = Environment::of(&self.pod, container, hostname, &services, &mut sources).await?;
        let names = self.sandbox.names.files();
        let mut mounts: Vec<Mount> =
            names.map(|(source, target)| Mount { source, part: None, target, read_only: false }).collect();
        mounts.extend(account::mount(&self.kubelets, &self.pod, container, &sources).await?);
        let lab = &self.kubelets.lab;
        mounts.extend(volumes::mounts(lab, &self.pod, container, &environment, &mut sources).await?);
        Ok(Setting { environment, mounts })
    }

    async fn start_process(
        &self,
        container: &Container,
        words: Vec<String>,
        setting: Setting,
        log: &Arc<ContainerLog>,
    ) -> Result<Running> {
        let (mut command, inside) = self.prepare(container, words, setting)?;
        let takes_input = container.stdin == Some(true);
        let terminal = if container.tty == Some(true) {
            Some(Arc::new(Terminal::give(&mut command)?))
        } else {
            let stdin = if takes_input { Stdio::piped() } else { Stdio::null() };
            command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
            None
        };
        enter(&mut command, &self.sandbox.netns, &inside.cgroup)?;
        let mut child = self.kubelets.spawner.spawn(command).await?;
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(copy_lines(stdout, Output::Stdout, log.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(copy_lines(stderr, Output::Stderr, log.clone()));
        }
        let mut input = child.stdin.take().map(Input::Pipe);
        if let Some(terminal) = terminal {
            tokio::spawn(copy_terminal(terminal.clone(), log.clone()));
            input = takes_input.then_some(Input::Terminal(terminal));
        }
        lock(&self.ports).exclude(container);
        Ok(Running::Process { child: Box::new(child), inside, input })
    }

    /// Starts a container beside a stand-in in which nothing runs, for commands to be run in it.
    pub(in crate::kubelet) async fn start_shell(&self, container: &Container) -> Result<(Child, Inside)> {
        // What it is made from may not be there: the stand-in runs without, so this does.
        let setting = match self.setting(container).await {
            Ok(setting) => setting,
            Err(error) if error.downcast_ref::<SourceError>().is_some() => {
                let bare = Container { name: container.name.clone(), ..Container::default() };
                self.setting(&bare).await?
            }
            Err(error) => return Err(error),
        };
        let (mut command, inside) = self.prepare(container, Vec::new(), setting)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        enter(&mut command, &self.sandbox.netns, &inside.cgroup)?;
        let mut child = self.kubelets.spawner.spawn(command).await?;
        let file = inside.folder.join("pid");
        let deadline = tokio::time::Instant::now() + A_WHILE;
        while !file.exists() {
            if let Some(status) = child.try_wait()? {
                let mut said = String::new();
                if let Some(mut stderr) = child.stderr.take() {
                    stderr.read_to_string(&mut said).await?;
                }
                bail!("no container could be made ({status}): {}", said.trim());
            }
            if tokio::time::Instant::now() > deadline {
                bail!("no container was made within {} s", A_WHILE.as_secs());
            }
            // Nobody tells when the file is there; it takes a few milliseconds.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok((child, inside))
    }

    /// What starts a container's first process, and where it will be.
    fn prepare(
        &self,
        container: &Container,
        words: Vec<String>,
        setting: Setting,
    ) -> Result<(Command, Inside)> {
        let Setting { environment, mounts } = setting;
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        let folder = self.kubelets.lab.pod(uid).join("containers").join(one_part(&container.name)?);
        make_dir(&folder)?;
        // What the run before wrote is gone, as it is with a new container.
        let (layer, pid_file) = (folder.join("layer"), folder.join("pid"));
        if layer.exists() {
            std::fs::remove_dir_all(&layer).with_context(|| layer.display().to_string())?;
        }
        if pid_file.exists() {
            std::fs::remove_file(&pid_file).with_context(|| pid_file.display().to_string())?;
        }
        let cwd = PathBuf::from(container.working_dir.as_deref().unwrap_or("/"));
        let hostname = self.sandbox.hostname.clone();
        let place = ContainerPlace::New { hostname, layer, mounts, pid_file };
        let spec = ContainerSpec { argv: words, env: environment.variables.clone(), cwd: cwd.clone(), place };
        let file = folder.join("spec.json");
        write_file(&file, &serde_json::to_vec(&spec)?)?;
        let command = shim(&self.kubelets, &file);
        let cgroup = self.sandbox.cgroup.below(&container.name)?;
        Ok((command, Inside { folder, cgroup, env: environment.variables, cwd }))
    }

    /// Asks what runs to end, and makes it after the grace period.
    pub(super) async fn stop(&self, container: &str, running: &mut Running, grace: Duration) -> End {
        if let Running::StandIn { ends: false } = running {
            let begun = tokio::time::Instant::now();
            tokio::time::sleep(grace.min(DRAIN)).await;
            let connections = lock(&self.ports).close(container);
            for mut task in connections {
                let left = grace.saturating_sub(begun.elapsed());
                if tokio::time::timeout(left, &mut task).await.is_err() {
                    task.abort();
                }
            }
        }
        running.stop(grace).await
    }

    pub(super) fn could_not_start(&self, container: &Container, slot: Slot, error: &anyhow::Error) {
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
    pub(super) fn inside(&self) -> Option<Inside> {
        match self {
            Running::Process { inside, .. } => Some(inside.clone()),
            Running::StandIn { .. } => None,
        }
    }

    pub(super) fn take_input(&mut self) -> Option<Input> {
        match self {
            Running::Process { input, .. } => input.take(),
            Running::StandIn { .. } => None,
        }
    }

    pub(super) async fn wait(&mut self) -> End {
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
    pub(super) async fn stop(&mut self, grace: Duration) -> End {
        let Running::Process { child, inside, .. } = self else {
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
pub(in crate::kubelet) async fn start_inside(
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
pub(in crate::kubelet) fn shim(kubelets: &Kubelets, spec: &std::path::Path) -> Command {
    let mut command = Command::new(&kubelets.executable);
    command.arg("lab").arg("container").arg(spec).env_clear().env("PATH", command::PATH);
    command
}

async fn copy_lines(
    mut from: impl AsyncRead + Unpin,
    as_what: impl Fn(Bytes) -> Output,
    log: Arc<ContainerLog>,
) {
    let mut lines = Lines::default();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer).await {
        let piece = buffer.get(..count).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        log.tell(as_what(Bytes::copy_from_slice(piece)));
        lines.take(piece, &log);
    }
    lines.end(&log);
}

async fn copy_terminal(terminal: Arc<Terminal>, log: Arc<ContainerLog>) {
    let mut lines = Lines::default();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count) = terminal.read(&mut buffer).await {
        let piece = buffer.get(..count).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        log.tell(Output::Stdout(Bytes::copy_from_slice(piece)));
        lines.take(piece, &log);
    }
    lines.end(&log);
}

/// Pieces put together to lines.
#[derive(Default)]
struct Lines {
    begun: BytesMut,
}

/// A longer line is cut.
const LONGEST_LINE: usize = 256 * 1024;

impl Lines {
    fn take(&mut self, mut piece: &[u8], log: &ContainerLog) {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = piece.split_at(end);
            self.begun.extend_from_slice(line);
            log.keep(self.begun.split().freeze());
            piece = rest.get(1..).unwrap_or_default();
        }
        self.begun.extend_from_slice(piece);
        if self.begun.len() > LONGEST_LINE {
            log.keep(self.begun.split().freeze());
        }
    }

    fn end(&mut self, log: &ContainerLog) {
        if !self.begun.is_empty() {
            log.keep(self.begun.split().freeze());
        }
    }
}
