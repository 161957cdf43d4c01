//! Leases: who holds something for the whole cluster.

use std::time::Duration;

/// What of a Lease is used. Its times are not: every reader measures by its own clock since when it has not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub name: String,
    /// Who holds it (`spec.holderIdentity`); `None` when it was given up.
    pub holder: Option<String>,
    /// For how long since its last change it is held (`spec.leaseDurationSeconds`).
    pub duration: Duration,
    /// How often it has changed hands.
    pub transitions: u32,
    /// `metadata.resourceVersion`: whoever changes it must have seen this one.
    pub version: String,
    /// What the holder was when it wrote it (the annotation `weft.network/epoch`): a node that was voted out holds under a later
    /// epoch what it takes afterwards.
    pub epoch: Option<u64>,
    /// Names of the nodes that vote about the holder (the annotation `weft.network/voters`).
    pub voters: Vec<String>,
}

/// What is written into a Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseWrite {
    /// [`Lease::holder`].
    pub holder: Option<String>,
    /// [`Lease::duration`].
    pub duration: Duration,
    /// [`Lease::epoch`].
    pub epoch: Option<u64>,
    /// [`Lease::voters`].
    pub voters: Vec<String>,
}
