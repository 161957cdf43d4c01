//! `weft`: the Kubernetes network in one binary.

mod command;
mod output;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = command::Cli::parse();
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weft: {}", output::printable(&format!("{error:#}")));
            command::exit_code(&error)
        }
    }
}
