//! The plugin that a container runtime executes: it hands the call to the node's agent.

use std::process::ExitCode;

#[path = "../plugin/mod.rs"]
#[expect(dead_code, reason = "the agent's side of the protocol lives in the same files")]
mod plugin;

fn main() -> ExitCode {
    plugin::run(|name| std::env::var_os(name), &mut std::io::stdin().lock(), &mut std::io::stdout().lock())
}
