//! What is known, kept over a restart: while the API server is away, an agent that starts answers what the one before knew.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use tokio::time::sleep;
use weft_dns::settings::Settings;
use weft_model::dns::{self, Snapshot, Zone};

use super::Dns;
use crate::store::write_atomically;

/// State file.
const FILE: &str = "names";
/// A change is kept after so long, together with those that came meanwhile.
const SETTLE: Duration = Duration::from_secs(5);
/// The largest file, in bytes: more than twenty times what 100,000 endpoints take.
const MOST: u64 = 64 << 20;

/// What is kept beside the names, and what of all that is.
pub(super) struct Kept {
    file: PathBuf,
    /// When what this agent began with was written; `None` when it began with nothing.
    pub(super) restored: Option<SystemTime>,
    known: Mutex<Known>,
    written: Mutex<Written>,
}

/// What belongs to the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The settings in force.
    pub(super) settings: String,
    /// The ranges of all nodes' Pods.
    pub(super) ranges: Vec<IpNet>,
}

#[derive(Debug, Default)]
struct Written {
    /// The zone's serial, and what belonged to it.
    last: Option<(u32, Known)>,
    /// Why it could not be written lately.
    error: Option<String>,
}

/// What an agent kept here, if it can be read.
pub(super) fn read(state_dir: &Path) -> Option<Snapshot> {
    let file = state_dir.join(FILE);
    let bytes = match fs::metadata(&file) {
        Ok(metadata) if metadata.len() > MOST => Err(too_large()),
        Ok(_) => fs::read(&file),
        Err(error) => Err(error),
    };
    let read = match bytes {
        Ok(bytes) => Snapshot::from_bytes(&bytes).map_err(|error| error.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => Err(error.to_string()),
    };
    read.inspect_err(|error| warn_of(&file, error)).ok()
}

/// The names cannot be used.
pub(super) fn warn_of(file: &Path, error: &str) {
    tracing::warn!(
        "state file {} is of no use: {error}; DNS is answered when the API server has been heard of",
        file.display()
    );
}

/// Keeps what changes, some seconds after it did.
pub(super) async fn keep(dns: Dns) {
    loop {
        sleep(SETTLE).await;
        dns.keep_names().await;
    }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {MOST} bytes"))
}

// === impl Kept ===

impl Kept {
    /// `began` is what was kept.
    pub(super) fn new(state_dir: &Path, began: Option<&Snapshot>) -> Self {
        let known = began
            .map(|began| Known { settings: began.settings.clone(), ranges: began.ranges.clone() })
            .unwrap_or_default();
        Self {
            file: state_dir.join(FILE),
            restored: began.map(|began| SystemTime::UNIX_EPOCH + Duration::from_secs(began.written_at)),
            known: Mutex::new(known),
            written: Mutex::default(),
        }
    }

    /// The settings that were in force.
    pub(super) fn settings(&self) -> Settings {
        let text = self.known().settings.clone();
        text.parse().inspect_err(|error| warn_of(&self.file, &format!("{error}"))).unwrap_or_default()
    }

    /// The names that were known, or none.
    pub(super) fn zone(&mut self, bytes: &[u8], settings: dns::Settings) -> Zone {
        if self.restored.is_none() {
            return Zone::new(settings);
        }
        Zone::restored(settings.clone(), bytes).unwrap_or_else(|error| {
            warn_of(&self.file, &error.to_string());
            self.restored = None;
            Zone::new(settings)
        })
    }

    /// What belongs to the names.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() as u64 > MOST {
            return Err(too_large());
        }
        write_atomically(&self.file, bytes, 0o600)
    }
}

// === impl Dns ===

impl Dns {
    /// Keeps what is known, if that is all and news.
    pub(super) async fn keep_names(&self) {
        let dns = self.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || dns.write_names()).await {
            tracing::error!("keeping the names failed: {error}");
        }
    }

    fn write_names(&self) {
        let kept = &self.0.kept;
        let mut written = kept.written.lock().unwrap_or_else(PoisonError::into_inner);
        let zone = || self.0.zone.read().unwrap_or_else(PoisonError::into_inner);
        let (serial, is_synced) = {
            let zone = zone();
            (zone.serial(), zone.is_synced())
        };
        let now = (serial, kept.known().clone());
        if !is_synced || written.last.as_ref() == Some(&now) {
            return;
        }
        let mut snapshot = Snapshot {
            settings: now.1.settings.clone(),
            ranges: now.1.ranges.clone(),
            ..Snapshot::default()
        };
        let written_at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        snapshot.written_at = written_at.unwrap_or_default().as_secs();
        // The lock is let go of after each part, so that a change waits for no more than one.
        let mut part = Some(0);
        while let Some(from) = part {
            part = zone().write_part(from, &mut snapshot.zone);
        }
        match kept.write(&snapshot.to_bytes()) {
            Ok(()) => (written.last, written.error) = (Some(now), None),
            Err(error) => {
                let error = error.to_string();
                if written.error.as_ref() != Some(&error) {
                    tracing::warn!(
                        "state file {}: {error}; a restart without the API server will not know the names",
                        kept.file.display()
                    );
                }
                written.error = Some(error);
            }
        }
    }

    /// How old what is answered is, as long as that is what was kept.
    pub(super) fn age_of_names(&self, synced: bool) -> Option<Duration> {
        let restored = self.0.kept.restored.filter(|_| !synced)?;
        // A clock that was set back makes it new, not wrong.
        Some(restored.elapsed().unwrap_or_default())
    }
}
