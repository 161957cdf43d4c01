//! How this node voted about announcers, kept over restarts of the agent.

use std::{collections::BTreeMap, fs, io, path::PathBuf, time::Duration};

use nix::time::{ClockId, clock_gettime};
use weft_announce::{AMNESIA, Votes};

use crate::store::write_atomically;

/// State file: by node, the version of its Lease that was voted out.
const FILE: &str = "votes";

/// Votes in the state directory, which a reboot empties.
pub(super) struct KeptVotes {
    file: PathBuf,
}

impl KeptVotes {
    pub(super) fn in_dir(state_dir: &std::path::Path) -> Self {
        Self { file: state_dir.join(FILE) }
    }
}

impl Votes for KeptVotes {
    fn load(&mut self) -> Option<BTreeMap<String, u64>> {
        match fs::read(&self.file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .inspect_err(|error| {
                    tracing::warn!(
                        "state file {} is of no use: {error}; this node promises other announcers nothing for {AMNESIA:?}",
                        self.file.display()
                    );
                })
                .ok(),
            // A reboot has taken it along if it was a moment ago; else there has never been one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let up = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
                (up >= AMNESIA).then(BTreeMap::new)
            }
            Err(error) => {
                tracing::warn!(
                    "state file {}: {error}; this node promises other announcers nothing for {AMNESIA:?}",
                    self.file.display()
                );
                None
            }
        }
    }

    fn save(&mut self, voted: &BTreeMap<String, u64>) -> io::Result<()> {
        let bytes = serde_json::to_vec(voted).map_err(io::Error::other)?;
        write_atomically(&self.file, &bytes, 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn votes_outlive_the_agent_and_what_cannot_be_read_is_not_taken_for_none() {
        let folder = weft_scratch::folder();
        let mut votes = KeptVotes::in_dir(folder.path());
        let voted = BTreeMap::from([("node-1".to_owned(), 7)]);
        votes.save(&voted).unwrap();
        assert_eq!(KeptVotes::in_dir(folder.path()).load(), Some(voted));
        fs::write(folder.path().join(FILE), "{").unwrap();
        assert_eq!(votes.load(), None);
    }
}
