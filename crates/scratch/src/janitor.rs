//! Who cleans up after a process that cannot any more.

use std::{
    fs::File,
    io::{self, PipeWriter, Write as _, pipe},
    os::{
        fd::{IntoRawFd as _, OwnedFd},
        unix::{fs::MetadataExt as _, process::CommandExt as _},
    },
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
};

/// Removes a thing of this kind when this process is gone. It is told before the thing is made: no signal comes between.
///
/// The janitor is a child in a process group of its own, which outlives this process, its group and Ctrl-C. It notices the
/// end by a pipe that the kernel closes. First it ends whatever this process has started since, and what that started: they
/// have inherited the pipe's other end. Values that were dropped properly leave it nothing to do.
///
/// # Panics
/// When it cannot be started or told.
pub(crate) fn remove(kind: &str, words: &[&str]) {
    static JANITOR: OnceLock<Option<PipeWriter>> = OnceLock::new();
    let start = || start().unwrap_or_else(|error| panic!("start the janitor of this process: {error}"));
    // What is to be kept for a look is kept.
    let keep = std::env::var_os("WEFT_KEEP").is_some();
    let Some(mut janitor) = JANITOR.get_or_init(|| (!keep).then(start)).as_ref() else { return };
    let words = words.iter().map(|word| format!(" '{}'", word.replace('\'', r"'\''")));
    let line = format!("{kind}{}\n", words.collect::<String>());
    janitor.write_all(line.as_bytes()).unwrap_or_else(|error| panic!("tell the janitor '{line}': {error}"));
}

fn start() -> io::Result<PipeWriter> {
    let (reader, writer) = pipe()?;
    let number = File::from(OwnedFd::from(reader.try_clone()?)).metadata()?.ino();
    Command::new("sh")
        .args(["-c", include_str!("janitor.sh"), "janitor", &number.to_string()])
        .stdin(reader.try_clone()?)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir(Path::new("/"))
        .process_group(0)
        .spawn()?;
    // Open as long as this process lives, and, unlike all others, not closed in the programs that it starts.
    let _ = nix::unistd::dup(&reader)?.into_raw_fd();
    Ok(writer)
}
