//! Addresses from outside: one agent of the cluster gives them to Services, and one answers for each.

mod holder;
mod leader;
mod votes;

use weft_announce::{LeaseStore, Refused};
use weft_kube::{Client, LeaseError};
use weft_model::{Lease, LeaseWrite};

pub(crate) use holder::{Balancers, hold};
pub(crate) use leader::{Ranges, lead};

/// Leases, as the API has them. `label` is what they are watched by.
#[derive(Clone)]
struct Leases {
    client: Client,
    label: &'static str,
}

impl LeaseStore for Leases {
    async fn put(&self, name: String, before: Option<Lease>, write: LeaseWrite) -> Result<Lease, Refused> {
        self.client.put_lease(&name, self.label, before.as_ref(), &write).await.map_err(refused)
    }
}

fn refused(error: LeaseError) -> Refused {
    match error {
        LeaseError::Conflict(current) => Refused::Conflict(current),
        LeaseError::Request(error) => Refused::Failed(error.to_string()),
    }
}
