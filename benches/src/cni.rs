//! CNI ADD and DEL as a runtime sees them: the whole process, from its start to its end.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use weft_netns::random_name;

use crate::{
    binaries::Lab,
    report::{Goal, Row, percentile},
    topology::Scratch,
};

const ITERATIONS: usize = 200;
/// Where Debian puts the reference plugins.
const PEERS: &str = "/usr/lib/cni";

/// A plugin and how to call it.
struct Plugin {
    program: PathBuf,
    folder: PathBuf,
    config: String,
    /// The namespace that stands for the node.
    node: Option<Scratch>,
    add: Vec<f64>,
    delete: Vec<f64>,
}

/// The benchmark.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let lab = Lab::up(&["--nodes", "1"])?;
    let mut ours = weft(&lab)?;
    let state = weft_scratch::folder();
    let mut theirs = bridge(state.path())?;
    for round in 0..ITERATIONS {
        let mut order = [&mut ours, &mut theirs];
        if round % 2 == 1 {
            order.reverse();
        }
        for plugin in order {
            plugin.attach_and_detach()?;
        }
    }
    let against = "bridge + host-local";
    let row = |name: &str, ours: &[f64], theirs: &[f64], share: f64| {
        Row::compare(
            name,
            against,
            "ms",
            &[percentile(ours, share)],
            &[percentile(theirs, share)],
            Goal::AtMost(0.5),
        )
    };
    Ok(vec![
        row("ADD p50", &ours.add, &theirs.add, 0.5),
        row("ADD p99", &ours.add, &theirs.add, 0.99),
        row("DEL p50", &ours.delete, &theirs.delete, 0.5),
        row("DEL p99", &ours.delete, &theirs.delete, 0.99),
    ])
}

/// Weft's plugin, with the configuration that the node's agent wrote.
fn weft(lab: &Lab) -> anyhow::Result<Plugin> {
    let folder = PathBuf::from("/run/weft/labs").join(&lab.name).join("nodes/node-1/cni");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder.join("net.d"))?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let list: Value = serde_json::from_slice(&fs::read(files.first().context("no CNI configuration")?)?)?;
    let mut config = list.pointer("/plugins/0").context("no plugin in the CNI configuration")?.clone();
    let fields = config.as_object_mut().context("the plugin's configuration is no object")?;
    for key in ["cniVersion", "name"] {
        fields.insert(key.to_owned(), list.get(key).context("cniVersion and name")?.clone());
    }
    let folder = folder.join("bin");
    Ok(Plugin {
        program: folder.join("weft-cni"),
        folder,
        config: config.to_string(),
        node: None,
        add: Vec::new(),
        delete: Vec::new(),
    })
}

/// The reference plugins: a bridge, and addresses kept in files.
fn bridge(state: &Path) -> anyhow::Result<Plugin> {
    let config = json!({
        "cniVersion": "1.0.0", "name": "peer", "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
        "ipam": { "type": "host-local", "dataDir": state, "ranges": [[{ "subnet": "10.245.0.0/24" }]],
                  "routes": [{ "dst": "0.0.0.0/0" }] }
    });
    let program = Path::new(PEERS).join("bridge");
    if !program.exists() {
        bail!("{} is missing: cargo xtask setup", program.display());
    }
    Ok(Plugin {
        program,
        folder: PEERS.into(),
        config: config.to_string(),
        node: Some(Scratch::new()?),
        add: Vec::new(),
        delete: Vec::new(),
    })
}

impl Plugin {
    fn attach_and_detach(&mut self) -> anyhow::Result<()> {
        let (pod, container) = (Scratch::new()?, random_name("c"));
        let add = self.call("ADD", &container, &pod)?;
        let delete = self.call("DEL", &container, &pod)?;
        self.add.push(add);
        self.delete.push(delete);
        Ok(())
    }

    /// Milliseconds.
    fn call(&self, verb: &str, container: &str, pod: &Scratch) -> anyhow::Result<f64> {
        let mut command = Command::new(&self.program);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", pod.0.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.folder)
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME={container}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(node) = &self.node {
            node.0.enter_child(&mut command)?;
        }
        let start = Instant::now();
        let mut child = command.spawn().with_context(|| self.program.display().to_string())?;
        child.stdin.take().context("stdin")?.write_all(self.config.as_bytes())?;
        let output = child.wait_with_output()?;
        let time = start.elapsed().as_secs_f64() * 1e3;
        if !output.status.success() {
            bail!("{} {verb}: {}", self.program.display(), String::from_utf8_lossy(&output.stdout).trim());
        }
        Ok(time)
    }
}
