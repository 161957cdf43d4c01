//! What container runtimes look for: the plugin, and last the network configuration that names it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;
use tokio::{sync::watch, time::timeout};
use weft_cni::SpecVersion;

use crate::{Options, drain::Drain, node::Readiness, store::write_atomically};

/// The plugin's file name, beside the agent's own and in the runtime's folder.
const PLUGIN: &str = "weft-cni";
/// What runtimes call beside it for every container; the plugin answers under this name too.
const LOOPBACK: &str = "loopback";
/// Runtimes take the first file by name.
const CONFIGURATION: &str = "05-weft.conflist";
/// Somebody may remove the files: look this often.
const AGAIN: Duration = Duration::from_secs(10);

/// Writes plugin and configuration when the node is ready for the first time, and again when they are gone. They stay
/// when the agent ends: DEL works without it, and a runtime without a configuration forgets its network.
pub(crate) async fn run(
    options: Options,
    mut readiness: watch::Receiver<Readiness>,
    mut drain: Drain,
) -> anyhow::Result<()> {
    let ready = readiness.wait_for(|node| node.blocked.is_none());
    tokio::select! {
        () = drain.begun() => return Ok(()),
        ready = ready => if ready.is_err() { return Ok(()) },
    }
    let mut last_error = None;
    loop {
        let error = install(&options).err().map(|error| error.to_string());
        if let Some(error) = error.as_ref().filter(|error| last_error.as_ref() != Some(*error)) {
            tracing::error!("container runtimes do not find the network: {error}; trying again");
        }
        last_error = error;
        if timeout(AGAIN, drain.begun()).await.is_ok() {
            return Ok(());
        }
    }
}

/// Plugin first, configuration last: a runtime that sees the one finds the other.
fn install(options: &Options) -> io::Result<()> {
    install_plugin(&options.cni_bin_dir)?;
    install_loopback(&options.cni_bin_dir)?;
    let path = options.cni_conf_dir.join(CONFIGURATION);
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let wanted = configuration(options);
    if fs::read_to_string(&path).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    fs::create_dir_all(&options.cni_conf_dir).map_err(named)?;
    write_atomically(&path, wanted.as_bytes(), 0o644).map_err(named)?;
    tracing::info!("network configuration written: {}", path.display());
    Ok(())
}

fn install_plugin(folder: &Path) -> io::Result<()> {
    let named = |path: PathBuf| {
        move |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    // An executable that was replaced while it runs is "… (deleted)"; the new one stands where it stood.
    let own = std::env::current_exe()?;
    let own = own.to_str().and_then(|own| own.strip_suffix(" (deleted)")).map_or(own.clone(), PathBuf::from);
    let (source, target) = (own.with_file_name(PLUGIN), folder.join(PLUGIN));
    let wanted = match fs::read(&source) {
        Ok(wanted) => wanted,
        // Somebody installed it another way.
        Err(_) if target.exists() => return Ok(()),
        Err(error) => return Err(named(source)(error)),
    };
    if fs::read(&target).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(named(folder.to_owned()))?;
    write_atomically(&target, &wanted, 0o755).map_err(named(target.clone()))?;
    tracing::info!("plugin written: {}", target.display());
    Ok(())
}

/// Links `loopback` to the plugin beside it if the folder has none: containerd needs one before any network.
fn install_loopback(folder: &Path) -> io::Result<()> {
    let target = folder.join(LOOPBACK);
    match std::os::unix::fs::symlink(PLUGIN, &target) {
        Ok(()) => tracing::info!("plugin written: {}", target.display()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", target.display()))),
    }
    Ok(())
}

/// The network configuration list. `cniVersion` is for runtimes that do not know `cniVersions`, which came with 1.1.0.
fn configuration(options: &Options) -> String {
    let versions: Vec<&str> = SpecVersion::ALL.iter().map(|version| version.as_str()).collect();
    let list = json!({
        "cniVersion": SpecVersion::V1_0_0.as_str(),
        "cniVersions": versions,
        "name": "weft",
        "plugins": [{
            "type": PLUGIN,
            "socket": options.socket,
            "queueDir": options.queue_dir(),
            "capabilities": { "portMappings": true, "bandwidth": true },
        }],
    });
    format!("{list:#}\n")
}
