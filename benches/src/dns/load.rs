//! dnsperf, and what a server does meanwhile.

use std::{process::Command, time::Instant};

use anyhow::{Context as _, bail};

use super::{
    neighbour::{Neighbour, SHARE},
    peers::{Candidate, SERVER},
};
use crate::report::percentile;

/// The client's core.
const CORE: usize = 0;
/// How long one measurement takes, in seconds.
const SECONDS: u64 = 2;

/// What came of as many questions as the client could ask.
pub struct Load {
    /// Answers a second.
    pub rate: f64,
    /// Which share of a core the server took.
    pub busy: f64,
}

/// A server that took less of its share than this was waiting for the client.
const LEAST_OF_SHARE: f64 = 0.9;

/// How long answers took, in microseconds.
pub struct Timed {
    /// The half of them.
    pub p50: f64,
    /// All but one of a hundred.
    pub p99: f64,
}

impl Load {
    /// As many questions as the server can answer, of whose core other work leaves but a share. The client could ask more.
    pub fn limit(of: &Candidate) -> anyhow::Result<Load> {
        let neighbour = Neighbour::start()?;
        let load = Self::most(of)?;
        neighbour.end()?;
        if load.busy < SHARE * LEAST_OF_SHARE {
            bail!("the client was the limit: {:.2} of a core was left, and {:.2} taken", SHARE, load.busy);
        }
        Ok(load)
    }

    /// As many questions as the client can ask.
    pub fn most(of: &Candidate) -> anyhow::Result<Load> {
        let (begun, before) = (Instant::now(), of.processor()?);
        let output = dnsperf(of, &["-q", "250"])?;
        let (took, ran) = (begun.elapsed().as_secs_f64(), of.processor()? - before);
        let completed = completed(&output)?;
        Ok(Load { rate: completed / took, busy: ran / took })
    }

    /// So many a second, timed.
    pub fn times(of: &Candidate, rate: f64) -> anyhow::Result<Timed> {
        let output = dnsperf(of, &["-q", "250", "-v", "-Q", &format!("{rate:.0}")])?;
        completed(&output)?;
        // > NOERROR service-00000.team-00.svc.cluster.local A 0.000042
        let time = |line: &str| line.strip_prefix("> NOERROR ")?.rsplit(' ').next()?.parse::<f64>().ok();
        let micros: Vec<f64> = output.lines().filter_map(time).map(|seconds| seconds * 1e6).collect();
        if micros.is_empty() {
            bail!("dnsperf says no times: {}", output.lines().next().unwrap_or_default());
        }
        Ok(Timed { p50: percentile(&micros, 0.5), p99: percentile(&micros, 0.99) })
    }
}

fn dnsperf(of: &Candidate, more: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("taskset");
    command.args([
        "-c",
        &CORE.to_string(),
        "dnsperf",
        "-c",
        "16",
        "-T",
        "1",
        "-t",
        "1",
        "-l",
        &SECONDS.to_string(),
    ]);
    command.args(["-s", &SERVER.ip().to_string(), "-d"]).arg(of.folder.path().join("questions")).args(more);
    let output = of.client.0.enter_child(&mut command)?.output().context("dnsperf")?;
    if !output.status.success() {
        bail!("dnsperf: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How many questions were answered. Answers that are none do not count as such.
fn completed(output: &str) -> anyhow::Result<f64> {
    let value = |key: &str| -> anyhow::Result<&str> {
        let line = output.lines().find_map(|line| line.trim_start().strip_prefix(key));
        Ok(line.with_context(|| format!("dnsperf does not say {key}"))?.trim())
    };
    let first = |text: &str| -> anyhow::Result<f64> {
        Ok(text.split_whitespace().next().context("dnsperf says nothing")?.parse()?)
    };
    let codes = value("Response codes:")?;
    if !codes.starts_with("NOERROR") || !codes.contains("(100.00%)") {
        bail!("not every name is answered: {codes}");
    }
    let (completed, lost) = (first(value("Queries completed:")?)?, first(value("Queries lost:")?)?);
    // Sockets of peers hold less by default; what is lost is not counted.
    if lost > completed / 50.0 {
        bail!("{lost} of {completed} queries are lost");
    }
    Ok(completed)
}
