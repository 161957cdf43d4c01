//! Where a lab lives on the machine: its name, its folder, its lock and its record.

mod cgroup;
mod fabric;
mod inside;
mod leftovers;
mod names;
mod spawn;
mod tree;

use std::{
    fmt, fs,
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

pub use cgroup::Cgroup;
pub(crate) use fabric::{Fabric, start_namespace};
pub(crate) use inside::{Inside, one_part, path_of};
pub use leftovers::clean;
pub(crate) use leftovers::remove;
pub(crate) use names::Names;
pub(crate) use spawn::{Spawner, enter};
pub(crate) use tree::Tree;

use crate::{IpFamily, Usage};

/// Where every lab has a folder.
const LABS: &str = "/run/weft/labs";

/// Name of a lab: a lower-case letter, then letters and digits, at most 20. No dashes: they separate the parts of the
/// names of a lab's namespaces, and no lab's may begin like another's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

/// What may not be the name of a lab.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' cannot be the name of a lab: a lower-case letter, then letters and digits, at most 20 in all")]
pub struct BadName(String);

/// A lab, as its folder describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabRecord {
    /// Its name.
    pub name: LabName,
    /// The lab process.
    pub pid: i32,
    /// When the lab began, RFC 3339.
    pub started: String,
    /// Everything that was asked for is up.
    pub ready: bool,
    /// The nodes, in order.
    pub nodes: Vec<NodeRecord>,
    /// The host outside the cluster.
    pub outside: OutsideRecord,
    /// Where the API server listens for kubectl.
    pub api: SocketAddr,
    /// IP families.
    pub ip_family: IpFamily,
    /// `auto`, `overlay` or `native`.
    pub routing: String,
}

impl LabRecord {
    /// When the lab began, in seconds since 1970.
    pub fn started_seconds(&self) -> Option<u64> {
        let time: k8s_openapi::jiff::Timestamp = self.started.parse().ok()?;
        u64::try_from(time.as_second()).ok()
    }
}

/// A node of a lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Name of the Node object.
    pub name: String,
    /// Name of its network namespace.
    pub netns: String,
    /// Its addresses on the fabric.
    pub addresses: Vec<IpAddr>,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Socket of its agent.
    pub socket: PathBuf,
}

/// The host `outside`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutsideRecord {
    /// Name of its network namespace.
    pub netns: String,
    /// Its addresses on the fabric.
    pub addresses: Vec<IpAddr>,
    /// Its cgroup.
    pub cgroup: PathBuf,
}

/// Where a Pod runs, so that commands can enter it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodRecord {
    /// UID of the Pod object.
    pub uid: String,
    /// Its node.
    pub node: String,
    /// Name of its network namespace; the node's for a Pod on the host network.
    pub netns: String,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// The folder of one lab, `/run/weft/labs/NAME`.
#[derive(Clone, Debug)]
pub struct LabDir {
    name: LabName,
    path: PathBuf,
}

/// Held by the lab process as long as it lives; the kernel lets go of it when the process ends, however it ends.
pub(crate) struct LabLock {
    _file: Flock<File>,
}

impl LabDir {
    /// The folder that a lab of this name has or would have.
    pub fn of(name: &LabName) -> LabDir {
        LabDir { name: name.clone(), path: Path::new(LABS).join(&name.0) }
    }

    /// Every lab that has a folder, running or not.
    pub(crate) fn all() -> Result<Vec<LabDir>> {
        let entries = match fs::read_dir(LABS) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).context(LABS),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse().ok());
        let mut labs: Vec<LabDir> = names.map(|name| LabDir::of(&name)).collect();
        labs.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(labs)
    }

    /// Every lab whose process lives.
    pub fn running() -> Result<Vec<LabDir>> {
        Ok(LabDir::all()?.into_iter().filter(LabDir::is_running).collect())
    }

    /// Makes the folder and takes the lab's lock, unless a lab of that name runs.
    pub(crate) fn claim(name: &LabName) -> Result<(LabDir, LabLock)> {
        let _all = lock_all()?;
        let lab = LabDir::of(name);
        if lab.is_running() {
            bail!(NameTaken(name.clone()));
        }
        leftovers::clean_locked()?;
        make_dir(&lab.path)?;
        let file = open_lock(&lab.lock_path(), true)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok((lab, LabLock { _file: file })),
            Err((_, error)) => Err(error).context(format!("lock {}", lab.lock_path().display())),
        }
    }

    /// Whether the lab's process lives.
    pub fn is_running(&self) -> bool {
        let Ok(file) = open_lock(&self.lock_path(), false) else { return false };
        Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
    }

    /// Name of the lab.
    pub fn name(&self) -> &LabName {
        &self.name
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What kubectl is pointed to.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path.join("kubeconfig")
    }

    /// What the lab process says.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Folder of a node.
    pub fn node(&self, node: &str) -> PathBuf {
        self.path.join("nodes").join(node)
    }

    /// Folder of a Pod's containers.
    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.path.join("pods").join(uid)
    }

    /// Folder of what a PersistentVolumeClaim holds.
    pub(crate) fn volume(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        Ok(self.path.join("claims").join(one_part(namespace)?).join(one_part(name)?))
    }

    /// Folder of the host outside.
    pub(crate) fn outside(&self) -> PathBuf {
        self.path.join("outside")
    }

    /// By what a node, a Pod or the host outside, whose folder this is, knows names.
    pub(crate) fn names(&self, folder: &Path) -> Names {
        Names::at(folder.join("etc"))
    }

    fn pod_record_path(&self, namespace: &str, name: &str) -> PathBuf {
        self.path.join("by-name").join(namespace).join(format!("{name}.json"))
    }

    fn lock_path(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Name of a network namespace of this lab.
    pub fn netns(&self, part: &str) -> String {
        format!("weft-{}-{part}", self.name)
    }

    /// Reads `lab.json`.
    pub fn record(&self) -> Result<LabRecord> {
        read_json(&self.path.join("lab.json"))
    }

    pub(crate) fn write_record(&self, record: &LabRecord) -> Result<()> {
        write_json(&self.path.join("lab.json"), record)
    }

    /// Reads where a Pod runs.
    pub fn pod_record(&self, namespace: &str, name: &str) -> Result<PodRecord> {
        let path = self.pod_record_path(namespace, name);
        if !path.exists() {
            bail!(Usage(format!(
                "no Pod {namespace}/{name} runs in lab {} (kubectl get pods -A lists them)",
                self.name
            )));
        }
        read_json(&path)
    }

    /// Names of the Pods that run in a namespace, sorted.
    pub(crate) fn pods_in(&self, namespace: &str) -> Result<Vec<String>> {
        let folder = self.path.join("by-name").join(namespace);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).context(folder.display().to_string()),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> =
            names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    /// What a Pod is told to ask: its resolv.conf. None when it does not run (any more).
    pub fn pod_resolv_conf(&self, namespace: &str, name: &str) -> Result<Option<String>> {
        if !self.pod_record_path(namespace, name).exists() {
            return Ok(None);
        }
        self.names(&self.pod(&self.pod_record(namespace, name)?.uid)).resolv_conf().map(Some)
    }

    pub(crate) fn write_pod_record(&self, namespace: &str, name: &str, record: &PodRecord) -> Result<()> {
        write_json(&self.pod_record_path(namespace, name), record)
    }

    pub(crate) fn forget_pod_record(&self, namespace: &str, name: &str, uid: &str) {
        let path = self.pod_record_path(namespace, name);
        // The name may belong to another Pod by now.
        if read_json::<PodRecord>(&path).is_ok_and(|record| record.uid == uid) {
            let _ = fs::remove_file(path);
        }
    }
}

/// A running lab has the name already.
#[derive(Debug, thiserror::Error)]
#[error(
    "a lab named {0} is running already: choose another name with --name, or end it with 'weft lab down --name {0}'"
)]
pub struct NameTaken(LabName);

/// Only one command at a time makes or removes labs.
fn lock_all() -> Result<Flock<File>> {
    make_dir(Path::new(LABS))?;
    let path = Path::new(LABS).join(".lock");
    let file = open_lock(&path, true)?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .context(format!("lock {}", path.display()))
}

fn open_lock(path: &Path, create: bool) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(create).truncate(false).mode(0o600);
    options.open(path).with_context(|| path.display().to_string())
}

/// Makes a folder that only root can enter.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| path.display().to_string())
}

/// Replaces a file as a whole: a reader sees the old or the new one.
pub(crate) fn write_file(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        make_dir(folder)?;
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let fresh = path.with_file_name(format!(".{name}.new"));
    let write = || {
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        io::Write::write_all(&mut file, content)?;
        fs::rename(&fresh, path)
    };
    write().with_context(|| path.display().to_string())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    write_file(path, &serde_json::to_vec_pretty(value)?)
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

impl FromStr for LabName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<LabName, BadName> {
        let starts = text.starts_with(|first: char| first.is_ascii_lowercase());
        let fits = text.len() <= 20 && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if starts && fits { Ok(LabName(text.to_owned())) } else { Err(BadName(text.to_owned())) }
    }
}

impl TryFrom<String> for LabName {
    type Error = BadName;

    fn try_from(text: String) -> Result<LabName, BadName> {
        text.parse()
    }
}

impl From<LabName> for String {
    fn from(name: LabName) -> String {
        name.0
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_run_into_others_are_refused() {
        for name in ["", "a-b", "A", "1a", "a/b", "..", "abcdefghijklmnopqrstu"] {
            assert!(name.parse::<LabName>().is_err(), "{name}");
        }
        assert!("lab2".parse::<LabName>().is_ok());
    }
}
