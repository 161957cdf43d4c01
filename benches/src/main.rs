//! Benchmarks, always as a ratio to a floor or a peer measured in the same run: `cargo xtask bench [NAME…]`.

mod binaries;
mod cni;
mod dns;
mod lab;
mod pod;
mod report;
mod services;
mod topology;
mod traffic;

use std::{path::PathBuf, process::ExitCode};

use report::Row;

/// A benchmark: its name and what it measures.
type Bench = (&'static str, fn() -> anyhow::Result<Vec<Row>>);

const BENCHES: [Bench; 8] = [
    ("pod", pod::run),
    ("cni", cni::run),
    ("lab", lab::run),
    ("services-cluster-ip", services::cluster_ip),
    ("services-kube-proxy", services::kube_proxy),
    ("services-node-port", services::node_port),
    ("scale", services::scale::run),
    ("dns", dns::run),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    // Parts that run as processes of their own.
    let part = match arguments.peek().map(String::as_str) {
        Some(dns::serve::FLAG) => Some(dns::serve::run()),
        Some(dns::scale::FLAG) => Some(dns::scale::measure()),
        Some(dns::neighbour::FLAG) => Some(dns::neighbour::run()),
        _ => None,
    };
    if let Some(done) = part {
        return done.map_or_else(
            |error| {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        );
    }
    let Some(folder) = arguments.next().filter(|first| !first.starts_with('-')).map(PathBuf::from) else {
        eprintln!("usage: weft-bench FOLDER [NAME…]; names: {}", BENCHES.map(|(name, _)| name).join(", "));
        return ExitCode::from(2);
    };
    let asked: Vec<String> = arguments.collect();
    // `services` stands for all that begin so.
    let is = |asked: &str, name: &str| {
        name.strip_prefix(asked).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    if let Some(unknown) = asked.iter().find(|asked| BENCHES.iter().all(|(name, _)| !is(asked, name))) {
        eprintln!("error: no benchmark {unknown}; there are {}", BENCHES.map(|(name, _)| name).join(", "));
        return ExitCode::from(2);
    }
    let mut failed = false;
    for (name, run) in
        BENCHES.into_iter().filter(|(name, _)| asked.is_empty() || asked.iter().any(|asked| is(asked, name)))
    {
        eprintln!("==> {name}");
        match run().and_then(|rows| report::write(&folder, name, &rows)) {
            Ok(holds) => failed |= !holds,
            Err(error) => {
                eprintln!("error: {name}: {error:#}");
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
