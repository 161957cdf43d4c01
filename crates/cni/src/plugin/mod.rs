//! The plugin: forwards a runtime's call to the agent, and answers by itself what must work without one.
//!
//! | the agent is away | |
//! | --- | --- |
//! | ADD, CHECK, GC | fail with code 11, "try again later" |
//! | STATUS | fails with code 50, "not available" |
//! | DEL | succeeds; the call is left in a [queue] that the agent takes up |
//! | VERSION | needs no agent |
//!
//! The agent is not asked either where the configuration's `type` is `loopback`: see [loopback].
//!
//! Only std is used in this folder: it is compiled into a binary that starts for every container.

pub mod call;
mod failure;
pub mod frame;
pub mod loopback;
pub mod queue;
pub mod scan;
mod version;

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::ExitCode,
    time::Duration,
};

pub use call::{Call, Verb};
pub use failure::{Failure, code};
pub use version::SpecVersion;

/// The agent's socket when the configuration does not say.
pub const DEFAULT_SOCKET: &str = "/run/weft/agent.sock";
/// Where DEL calls wait for the agent when the configuration does not say.
pub const DEFAULT_QUEUE_DIR: &str = "/run/weft/cni-queue";
/// The largest network configuration that is read, in bytes.
pub const MAX_CONFIG: u64 = 8 << 20;

/// The agent answers within less; a runtime that waits longer than this has given up.
const AGENT_DEADLINE: Duration = Duration::from_secs(60);

/// One call of the plugin: environment and configuration in, result or error on `stdout`.
pub fn run(
    environment: impl Fn(&str) -> Option<OsString>,
    stdin: &mut dyn Read,
    stdout: &mut dyn Write,
) -> ExitCode {
    let mut version = SpecVersion::NEWEST;
    let (output, exit) = match serve(&environment, stdin, &mut version) {
        Ok(output) => {
            // The agent answers with what is to be printed: an error is told by its code.
            let failed =
                scan::top_level(&output, &["code"]).is_ok_and(|found| found.iter().any(Option::is_some));
            (output, if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Err(failure) => (failure.to_json(version), ExitCode::FAILURE),
    };
    if let Err(error) = stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush()) {
        eprintln!("weft-cni: cannot write the result to stdout: {error}");
        return ExitCode::FAILURE;
    }
    exit
}

fn serve(
    environment: &dyn Fn(&str) -> Option<OsString>,
    stdin: &mut dyn Read,
    version: &mut SpecVersion,
) -> Result<String, Failure> {
    let mut call = Call::from_environment(environment)?;
    call.config = read_config(stdin)?;
    let keys = ["cniVersion", "type", "socket", "queueDir"];
    let [asked, kind, socket, queue_dir] = scan::top_level(&call.config, &keys)
        .map_err(|error| {
            Failure::new(code::DECODE, "the network configuration is not JSON", error.to_string())
        })?
        .try_into()
        .unwrap_or([None, None, None, None]);
    let asked = asked.map(scan::Value::into_text).transpose().map_err(|kind| {
        Failure::new(
            code::CONFIG,
            "the network configuration is wrong",
            format!("cniVersion is {kind}, not a string"),
        )
    })?;
    if call.verb == Verb::Version {
        return Ok(version::answer(asked.as_deref()));
    }
    *version = SpecVersion::parse(asked.as_deref())?;
    version.allows(call.verb)?;
    call.validate()?;
    if kind == Some(scan::Value::Text(loopback::TYPE.to_owned())) {
        return loopback::answer(&call, *version);
    }
    let path = |value: Option<scan::Value>, key: &str, default: &str| match value.map(scan::Value::into_text)
    {
        None => Ok(default.to_owned()),
        Some(Ok(path)) if path.starts_with('/') => Ok(path),
        Some(_) => Err(Failure::new(
            code::CONFIG,
            "the network configuration is wrong",
            format!("{key} is not an absolute path"),
        )),
    };
    let socket = path(socket, "socket", DEFAULT_SOCKET)?;
    let queue_dir = path(queue_dir, "queueDir", DEFAULT_QUEUE_DIR)?;
    match ask(Path::new(&socket), &call) {
        Ok(answer) => Ok(answer),
        Err(error) => without_agent(&call, &socket, Path::new(&queue_dir), &error),
    }
}

fn read_config(stdin: &mut dyn Read) -> Result<String, Failure> {
    let mut config = Vec::new();
    stdin.take(MAX_CONFIG + 1).read_to_end(&mut config).map_err(|error| {
        Failure::new(code::IO, "cannot read the network configuration from stdin", error.to_string())
    })?;
    if config.len() as u64 > MAX_CONFIG {
        let details = format!("more than {MAX_CONFIG} bytes");
        return Err(Failure::new(code::CONFIG, "the network configuration is too large", details));
    }
    String::from_utf8(config).map_err(|error| {
        Failure::new(code::DECODE, "the network configuration is not UTF-8", error.to_string())
    })
}

/// The agent's answer: what to print.
fn ask(socket: &Path, call: &Call) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(AGENT_DEADLINE))?;
    stream.set_write_timeout(Some(AGENT_DEADLINE))?;
    frame::write(&mut stream, call.to_json().as_bytes())?;
    let answer = frame::read(&mut stream)?;
    String::from_utf8(answer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn without_agent(call: &Call, socket: &str, queue_dir: &Path, error: &io::Error) -> Result<String, Failure> {
    let details = format!("no answer on {socket}: {error}; is `weft agent` running on this node?");
    match call.verb {
        Verb::Del => queue::push(queue_dir, call).map(|()| String::new()).map_err(|error| {
            let details = format!("{details} The call could not be kept in {}: {error}", queue_dir.display());
            Failure::new(code::IO, "the agent is away and DEL could not be queued", details)
        }),
        Verb::Status => Err(Failure::new(code::NOT_AVAILABLE, "the agent is away", details)),
        _ => Err(Failure::new(code::TRY_AGAIN, "the agent is away: try again later", details)),
    }
}
