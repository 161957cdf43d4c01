//! `weft lab up`

use std::{
    io::{BufRead, BufReader, IsTerminal, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use weft_agent::requirements;
use weft_lab::{IpFamily, LabDir, LabName, LabRecord, Options, Progress};

use super::process::{Message, Order};
use crate::{
    command::Unfit,
    output::{print_table, printable},
};

/// Bring a lab up
#[derive(Args, Debug)]
pub struct Up {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=200))]
    nodes: u8,
    /// Over how many zones the nodes are spread (topology.kubernetes.io/zone)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=200))]
    zones: u8,
    /// Manifests to apply: files, folders, or - for standard input
    #[arg(short, long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Name of the lab
    #[arg(long, env = "WEFT_LAB", default_value = "lab")]
    name: LabName,
    /// IP families of nodes, Pods and Services
    #[arg(long, value_enum, default_value_t)]
    ip_family: Families,
    /// How Pods reach other nodes
    #[arg(long, value_enum, default_value_t)]
    routing: Routing,
    /// Who answers DNS
    #[arg(long, value_enum, default_value_t)]
    dns: Dns,
    /// MTU of the network between the nodes, in bytes
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// How long everything may take to become ready, in seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
    /// Stay in the foreground; Ctrl-C takes the lab down
    #[arg(long)]
    foreground: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Families {
    #[default]
    Ipv4,
    Ipv6,
    Dual,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Routing {
    /// Native where a probe proves it, else the overlay
    #[default]
    Auto,
    /// VXLAN always
    Overlay,
    /// Routes always
    Native,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Dns {
    /// The agent of each node
    #[default]
    Weft,
    /// Pods with the label k8s-app=kube-dns, as CoreDNS has it
    Pods,
}

impl Up {
    pub fn run(self) -> Result<ExitCode> {
        // What is wrong with the manifests is said before anything is made.
        let manifests = super::load(&self.files)?;
        super::need_root()?;
        // So is what no agent could do without: none would become ready.
        if let Some((name, what)) = requirements::missing() {
            bail!(Unfit { name, what });
        }
        let order =
            Order { options: self.options()?, manifests: manifests.into_iter().map(Into::into).collect() };
        let mut screen = Screen::new();
        if self.foreground {
            return super::process::foreground(order, move |progress| screen.show(&progress));
        }
        let mut child = start(&order)?;
        let interrupted = pass_interrupts(&child)?;
        let outcome = follow(&mut child, &mut screen, &order);
        interrupted.close();
        outcome
    }

    fn options(&self) -> Result<Options> {
        Ok(Options {
            name: self.name.clone(),
            nodes: self.nodes,
            zones: self.zones,
            ip_family: match self.ip_family {
                Families::Ipv4 => IpFamily::Ipv4,
                Families::Ipv6 => IpFamily::Ipv6,
                Families::Dual => IpFamily::Dual,
            },
            routing: match self.routing {
                Routing::Auto => "auto",
                Routing::Overlay => "overlay",
                Routing::Native => "native",
            }
            .into(),
            dns: self.dns == Dns::Weft,
            mtu: self.mtu,
            timeout: Duration::from_secs(self.timeout),
            executable: std::env::current_exe().context("find this program's own file")?,
        })
    }
}

/// Starts the lab process, in a session of its own, and tells it what to make.
fn start(order: &Order) -> Result<Child> {
    let mut command = Command::new(&order.options.executable);
    command.args(["lab", "process"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
    let mut child = command.spawn().context("start the lab process")?;
    if let Some(mut stdin) = child.stdin.take() {
        serde_json::to_writer(&mut stdin, order).context("tell the lab process what to make")?;
    }
    Ok(child)
}

/// Passes Ctrl-C and SIGTERM on to the lab process, which is in a session of its own.
fn pass_interrupts(child: &Child) -> Result<signal_hook::iterator::Handle> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    let mut signals = signal_hook::iterator::Signals::new([libc::SIGINT, libc::SIGTERM])?;
    let handle = signals.handle();
    std::thread::spawn(move || {
        for _ in &mut signals {
            // It may have ended in this moment.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
    });
    Ok(handle)
}

/// Shows what the lab process tells until it is up, or has failed.
fn follow(child: &mut Child, screen: &mut Screen, order: &Order) -> Result<ExitCode> {
    let stdout = child.stdout.take().context("the lab process has no output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read what the lab process tells")?;
        match serde_json::from_str(&line).with_context(|| format!("the lab process said: {line}"))? {
            Message::Failed { problem, code } => {
                screen.end();
                child.wait()?;
                eprintln!("weft: {}", printable(&problem));
                if screen.shown {
                    eprintln!("weft: the lab is taken down");
                }
                return Ok(ExitCode::from(code));
            }
            Message::Progress(progress) => {
                screen.show(&progress);
                match progress {
                    Progress::Ready(record) => {
                        say_next(&record, false);
                        return Ok(ExitCode::SUCCESS);
                    }
                    Progress::NotReady(_) => {
                        if let Ok(record) = LabDir::of(&order.options.name).record() {
                            say_next(&record, false);
                        }
                        return Ok(ExitCode::FAILURE);
                    }
                    _ => {}
                }
            }
        }
    }
    screen.end();
    let status = child.wait()?;
    if status.success() {
        bail!("interrupted: the lab is taken down");
    }
    bail!("the lab process ended before the lab was up ({status})")
}

/// How long nothing is written of what is waited for, where lines cannot be replaced.
const PATIENCE: Duration = Duration::from_secs(10);

/// Progress on the terminal.
pub struct Screen {
    live: bool,
    /// Something was shown.
    shown: bool,
    /// When a line was written last.
    last: Instant,
    /// A line is shown that the next one replaces.
    open: bool,
}

impl Screen {
    pub fn new() -> Screen {
        let live = std::io::stderr().is_terminal();
        Screen { live, shown: false, last: Instant::now(), open: false }
    }

    pub fn show(&mut self, progress: &Progress) {
        self.shown = true;
        if !matches!(progress, Progress::Waiting(_)) {
            self.last = Instant::now();
        }
        match progress {
            Progress::Step(text) => {
                self.end();
                eprintln!("  {}", printable(text));
            }
            Progress::Warning(text) => {
                self.end();
                eprintln!("weft: warning: {}", printable(text));
            }
            Progress::Waiting(text) if self.live => {
                eprint!("\r\x1b[K  {}", printable(text));
                // A terminal that is gone is no reason to stop.
                let _ = std::io::stderr().flush();
                self.open = true;
            }
            Progress::Waiting(text) => {
                if self.last.elapsed() >= PATIENCE {
                    eprintln!("  {}", printable(text));
                    self.last = Instant::now();
                }
            }
            Progress::Ready(record) => {
                self.end();
                let started = record.nodes.len();
                eprintln!("  {started} {} and every Pod ready", if started == 1 { "node" } else { "nodes" });
            }
            Progress::NotReady(missing) => {
                self.end();
                eprintln!("weft: the lab is up, but not everything is ready:");
                for one in missing {
                    eprintln!("  {}", printable(one));
                }
            }
        }
    }

    fn end(&mut self) {
        if self.open {
            eprint!("\r\x1b[K");
            self.open = false;
        }
    }
}

/// The nodes, and what can be done now.
pub fn say_next(record: &LabRecord, foreground: bool) {
    let rows: Vec<[String; 3]> = record
        .nodes
        .iter()
        .map(|node| {
            let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
            [node.name.clone(), addresses.join(", "), node.netns.clone()]
        })
        .collect();
    let addresses: Vec<String> = record.outside.addresses.iter().map(ToString::to_string).collect();
    let outside = ["(outside)".to_owned(), addresses.join(", "), record.outside.netns.clone()];
    let rows: Vec<[String; 3]> = rows.into_iter().chain([outside]).collect();
    println!();
    print_table(["NODE", "ADDRESS", "NAMESPACE"], &rows);
    // As it was called: it need not be on the path.
    let weft = std::env::args().next().unwrap_or_else(|| "weft".into());
    println!("\nLab {} is up. What to do next:", record.name);
    println!("  export KUBECONFIG={}", LabDir::of(&record.name).kubeconfig().display());
    if is_not_alone(record) {
        println!("  export WEFT_LAB={}", record.name);
    }
    println!("  kubectl get pods -A -o wide");
    println!("  {weft} verify");
    println!("  {weft} lab exec node/node-1 -- ip route");
    println!("  {weft} lab exec outside -- curl -s http://NODE:NODEPORT/");
    if foreground {
        println!("Ctrl-C takes it down.");
    } else {
        println!("  {weft} lab down");
    }
}

/// Whether commands must be told which lab is meant, because other labs run or may be started beside this one.
fn is_not_alone(record: &LabRecord) -> bool {
    record.name.to_string() != "lab" || LabDir::running().is_ok_and(|running| running.len() > 1)
}
