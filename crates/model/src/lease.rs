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
}
