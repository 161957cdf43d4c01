//! Development tasks, run as `cargo xtask TASK`. `demo` and `test` are the README's two commands; both set the machine
//! up first.

mod bench;
mod command;
mod demo;
mod fuzz;
mod setup;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Development tasks of Weft.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing need; say what is done; do nothing twice.
    Setup,
    /// Bring up a three-node cluster with a real application on this machine, and prove its network.
    Demo,
    /// Measure, and compare with floors and peers.
    Bench {
        /// Which benchmarks; all of them if none is named.
        names: Vec<String>,
    },
    /// Search, guided by coverage, for octets that break a promise.
    Fuzz {
        /// What is fuzzed: a file of fuzz/corpus.
        target: String,
        /// For how long, in seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Check the format, the lints and the rules of the repository, and run every test.
    Test,
    /// Check the rules of the repository: allowed imports, file names, licences.
    Tidy,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Setup => setup::run(),
        Task::Demo => demo::run(),
        Task::Bench { names } => bench::run(&names),
        Task::Fuzz { target, seconds } => fuzz::run(&target, seconds),
        Task::Test => test::run(),
        Task::Tidy => tidy::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
