//! What this node has promised to holders of addresses, and which of them it has voted out.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use super::{DURATION, MARGIN};

/// How long a node that has lost its memory of its votes promises nothing. A write that such a vote was for has reached the API
/// server by then, or never will.
pub const AMNESIA: Duration = Duration::from_secs(90);

/// One voter: a holder that has its promise may go on without the API server, and whoever has its vote may write the holder's Lease
/// in place of the version that was voted out. It never gives both at the same time, and after a vote it promises nothing until
/// the holder has written its Lease again: whoever has the vote is refused by the API server from then on.
#[derive(Debug)]
pub struct Ballot {
    /// Until when each holder was promised that it is not voted out.
    promised: HashMap<String, Instant>,
    /// The latest version of each holder's Lease that was voted out. Kept over restarts.
    voted: BTreeMap<String, u64>,
    promises_from: Instant,
    votes_from: Instant,
}

impl Ballot {
    /// The voter of a process that starts now. `voted` is what the one before had voted; absent: nobody knows.
    pub fn new(voted: Option<BTreeMap<String, u64>>, now: Instant) -> Self {
        let promises_from = if voted.is_some() { now } else { now + AMNESIA };
        // What the process before has promised is not known, but is over by then.
        Self {
            promised: HashMap::new(),
            voted: voted.unwrap_or_default(),
            promises_from,
            votes_from: now + DURATION + MARGIN,
        }
    }

    /// Promises the holder, whose Lease has this version, that this node does not vote it out for [`DURATION`] from now. Whether
    /// it does.
    pub fn promise(&mut self, holder: &str, version: u64, now: Instant) -> bool {
        let is_out = self.voted.get(holder).is_some_and(|out| *out >= version);
        let may = !is_out && now >= self.promises_from;
        if may {
            self.promised.insert(holder.to_owned(), now + DURATION + MARGIN);
        }
        may
    }

    /// Votes this version of the holder's Lease out, for ever, unless the holder has a promise. Whether it does. The vote is to be
    /// kept before anybody hears of it.
    pub fn vote(&mut self, holder: &str, version: u64, now: Instant) -> bool {
        if now < self.quiet_from(holder) {
            return false;
        }
        let out = self.voted.entry(holder.to_owned()).or_insert(version);
        *out = (*out).max(version);
        true
    }

    /// When the holder's last promise is over.
    pub fn quiet_from(&self, holder: &str) -> Instant {
        self.promised.get(holder).map_or(self.votes_from, |until| (*until).max(self.votes_from))
    }

    /// What has been voted, to be kept.
    pub fn voted(&self) -> &BTreeMap<String, u64> {
        &self.voted
    }
}
