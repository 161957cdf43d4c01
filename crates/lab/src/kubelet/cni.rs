//! A container runtime's side of CNI 1.1.0: reads the node's network configuration and runs its plugins.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::node::Node;
use crate::place::{Spawner, enter};

/// A plugin that takes longer is killed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The node's network, as the first file of its configuration folder describes it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Network {
    pub(super) name: String,
    version: String,
    disable_gc: bool,
    plugins: Vec<Value>,
}

/// One Pod's attachment to the network: what DEL must be called with.
#[derive(Clone, Debug)]
pub(super) struct Attachment {
    pub(super) container_id: String,
    pub(super) netns: PathBuf,
    pub(super) arguments: String,
    /// `portMappings`, `bandwidth`: given to the plugins that declare them.
    pub(super) capabilities: Value,
    network: Network,
    result: Option<Value>,
}

/// What a plugin answered instead of a result.
#[derive(Debug, thiserror::Error)]
#[error("CNI {command}: {msg} (code {code}){}", .details.as_ref().map(|details| format!(": {details}")).unwrap_or_default())]
pub(super) struct CniError {
    command: String,
    /// Error code of the specification; 11 asks to try again later.
    pub(super) code: u32,
    msg: String,
    details: Option<String>,
}

#[derive(Deserialize)]
struct ErrorJson {
    code: u32,
    msg: String,
    details: Option<String>,
}

/// Attachments of a node that must be kept by GC.
#[derive(Default)]
pub(super) struct Attachments {
    valid: Mutex<Vec<(String, String)>>,
}

const INTERFACE: &str = "eth0";

impl Network {
    /// Reads the folder; none if there is no configuration yet.
    pub(super) fn load(folder: &Path) -> Result<Option<Network>> {
        let mut files: Vec<PathBuf> = fs::read_dir(folder)
            .with_context(|| folder.display().to_string())?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "conf" || e == "conflist" || e == "json"))
            .collect();
        files.sort();
        let Some(file) = files.first() else { return Ok(None) };
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let config: Value = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
        let text_of = |key: &str| config[key].as_str().unwrap_or_default().to_owned();
        let plugins = match config["plugins"].as_array() {
            Some(plugins) => plugins.clone(),
            None => vec![config.clone()],
        };
        Ok(Some(Network {
            name: text_of("name"),
            version: newest(&config).unwrap_or_else(|| text_of("cniVersion")),
            disable_gc: config["disableGC"] == json!(true),
            plugins,
        }))
    }

    /// Asks every plugin whether it could ADD now.
    pub(super) async fn status(&self, spawner: &Spawner, node: &Node) -> Result<()> {
        if !self.speaks_1_1() {
            return Ok(());
        }
        for plugin in &self.plugins {
            let config = self.config_for(plugin, &Value::Null, None);
            run(spawner, node, plugin, "STATUS", &config, &[]).await?;
        }
        Ok(())
    }

    /// Tells every plugin which attachments are still there.
    pub(super) async fn collect(
        &self,
        spawner: &Spawner,
        node: &Node,
        attachments: &Attachments,
    ) -> Result<()> {
        if !self.speaks_1_1() || self.disable_gc {
            return Ok(());
        }
        let valid: Vec<Value> = lock(&attachments.valid)
            .iter()
            .map(|(id, interface)| json!({ "containerID": id, "ifname": interface }))
            .collect();
        for plugin in &self.plugins {
            let mut config = self.config_for(plugin, &Value::Null, None);
            config["cni.dev/valid-attachments"] = json!(valid);
            run(spawner, node, plugin, "GC", &config, &[]).await?;
        }
        Ok(())
    }

    fn speaks_1_1(&self) -> bool {
        numbers(&self.version) >= (1, 1, 0)
    }

    fn config_for(&self, plugin: &Value, capabilities: &Value, result: Option<&Value>) -> Value {
        let mut config = plugin.clone();
        config["name"] = json!(self.name);
        config["cniVersion"] = json!(self.version);
        if let (Some(declared), Some(given)) = (plugin["capabilities"].as_object(), capabilities.as_object())
        {
            for (name, value) in given.iter().filter(|(name, _)| declared.get(*name) == Some(&json!(true))) {
                config["runtimeConfig"][name] = value.clone();
            }
        }
        if let Some(result) = result {
            config["prevResult"] = result.clone();
        }
        config
    }
}

/// The newest version of `cniVersions` that this caller speaks.
fn newest(config: &Value) -> Option<String> {
    let offered = config["cniVersions"].as_array()?.iter().filter_map(Value::as_str);
    offered
        .filter(|version| numbers(version) <= (1, 1, 0))
        .max_by_key(|version| numbers(version))
        .map(str::to_owned)
}

fn numbers(version: &str) -> (u32, u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

impl Attachment {
    pub(super) fn new(network: Network, netns: &Path, arguments: String, capabilities: Value) -> Attachment {
        use std::hash::{BuildHasher, RandomState};
        let word = || format!("{:016x}", RandomState::new().hash_one(netns));
        let container_id = format!("{}{}{}{}", word(), word(), word(), word());
        Attachment { container_id, netns: netns.to_owned(), arguments, capabilities, network, result: None }
    }

    /// Runs ADD through the chain and gives the addresses. After a failure DEL has been run, as the specification asks.
    pub(super) async fn add(&mut self, spawner: &Spawner, node: &Node) -> Result<Vec<IpAddr>> {
        lock(&node.attachments.valid).push((self.container_id.clone(), INTERFACE.into()));
        match self.add_each(spawner, node).await {
            Ok(addresses) => Ok(addresses),
            Err(error) => {
                if let Err(cleanup) = self.delete(spawner, node).await {
                    tracing::warn!(node = node.name, %cleanup, "DEL after a failed ADD failed");
                }
                Err(error)
            }
        }
    }

    async fn add_each(&mut self, spawner: &Spawner, node: &Node) -> Result<Vec<IpAddr>> {
        for plugin in self.network.plugins.clone() {
            let config = self.network.config_for(&plugin, &self.capabilities, self.result.as_ref());
            let answer = run(spawner, node, &plugin, "ADD", &config, &self.variables()).await?;
            self.result = Some(serde_json::from_slice(&answer).context("CNI ADD: its result is no JSON")?);
        }
        let ips =
            self.result.as_ref().and_then(|result| result["ips"].as_array()).cloned().unwrap_or_default();
        let address =
            |ip: &Value| -> Option<IpAddr> { ip["address"].as_str()?.split('/').next()?.parse().ok() };
        let addresses: Vec<IpAddr> = ips.iter().filter_map(address).collect();
        anyhow::ensure!(!addresses.is_empty(), "CNI ADD: its result has no address");
        Ok(addresses)
    }

    /// Runs DEL through the chain, the last plugin first.
    pub(super) async fn delete(&self, spawner: &Spawner, node: &Node) -> Result<()> {
        for plugin in self.network.plugins.iter().rev() {
            let config = self.network.config_for(plugin, &self.capabilities, self.result.as_ref());
            run(spawner, node, plugin, "DEL", &config, &self.variables()).await?;
        }
        lock(&node.attachments.valid).retain(|(id, _)| *id != self.container_id);
        Ok(())
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("CNI_CONTAINERID", self.container_id.clone()),
            ("CNI_NETNS", self.netns.display().to_string()),
            ("CNI_IFNAME", INTERFACE.into()),
            ("CNI_ARGS", self.arguments.clone()),
        ]
    }
}

/// Runs one plugin inside the node, as a runtime on that node would.
async fn run(
    spawner: &Spawner,
    node: &Node,
    plugin: &Value,
    verb: &str,
    config: &Value,
    variables: &[(&'static str, String)],
) -> Result<Vec<u8>> {
    let kind = plugin["type"].as_str().unwrap_or_default();
    anyhow::ensure!(
        !kind.is_empty() && !kind.contains('/'),
        "CNI: a plugin of type '{kind}' in the configuration"
    );
    let mut command = Command::new(node.cni_bin().join(kind));
    command
        .env_clear()
        .env("PATH", super::command::PATH)
        .env("CNI_COMMAND", verb)
        .env("CNI_PATH", node.cni_bin())
        .envs(variables.iter().map(|(name, value)| (*name, value.as_str())))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    enter(&mut command, &node.netns, &node.cgroup)?;
    let mut child = spawner.spawn(command).await?;
    let input = serde_json::to_vec(config)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that does not read to the end says why in its answer.
        let _ = stdin.write_all(&input).await;
    }
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.with_context(|| {
        format!("CNI {verb}: plugin {kind} did not answer within {} s", PATIENCE.as_secs())
    })??;
    if output.status.success() {
        return Ok(output.stdout);
    }
    if let Ok(error) = serde_json::from_slice::<ErrorJson>(&output.stdout) {
        let details = error.details.filter(|details| !details.is_empty());
        return Err(CniError { command: verb.into(), code: error.code, msg: error.msg, details }.into());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    anyhow::bail!("CNI {verb}: plugin {kind} failed ({}): {said}", output.status)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
