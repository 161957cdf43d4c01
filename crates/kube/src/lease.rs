//! Leases of `kube-system`: written only by who has seen what is replaced.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::coordination::v1 as api, apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp,
};
use kube::{
    Api,
    api::{DeleteParams, PostParams, Preconditions},
};
use serde_json::json;
use weft_model::{Lease, LeaseWrite};

use crate::{ApiError, Client};

/// Where they stand.
pub const NAMESPACE: &str = "kube-system";

/// The annotations for what a Lease itself has no field for.
const EPOCH: &str = "weft.network/epoch";
const VOTERS: &str = "weft.network/voters";

/// A Lease was not written.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else wrote it meanwhile; it is like this now.
    #[error("somebody else wrote it meanwhile")]
    Conflict(Option<Lease>),
    /// The request failed.
    #[error(transparent)]
    Request(#[from] ApiError),
}

/// What of a Lease is used.
pub(crate) fn lease(object: &api::Lease) -> Lease {
    let spec = object.spec.clone().unwrap_or_default();
    let annotation =
        |name| object.metadata.annotations.as_ref().and_then(|all| all.get(name)).map(String::as_str);
    let voters = annotation(VOTERS).unwrap_or_default().split(',').filter(|name| !name.is_empty());
    let seconds = spec.lease_duration_seconds.unwrap_or(0).max(0).unsigned_abs();
    Lease {
        name: object.metadata.name.clone().unwrap_or_default(),
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        duration: Duration::from_secs(seconds.into()),
        transitions: spec.lease_transitions.unwrap_or(0).max(0).unsigned_abs(),
        version: object.metadata.resource_version.clone().unwrap_or_default(),
        epoch: annotation(EPOCH).and_then(|epoch| epoch.parse().ok()),
        voters: voters.map(str::to_owned).collect(),
    }
}

impl Client {
    /// Writes the Lease `name` in place of `before`, with a label that watches select it by.
    ///
    /// # Errors
    /// [`LeaseError::Conflict`] when it is not as `before` says any more.
    pub async fn put_lease(
        &self,
        name: &str,
        label: &str,
        before: Option<&Lease>,
        write: &LeaseWrite,
    ) -> Result<Lease, LeaseError> {
        let api: Api<api::Lease> = Api::namespaced(self.kube.clone(), NAMESPACE);
        let now = MicroTime(Timestamp::now());
        let holder = write.holder.as_deref();
        let moves = before.is_some_and(|before| before.holder.as_deref() != holder) && holder.is_some();
        let epoch = write.epoch.map(|epoch| (EPOCH, epoch.to_string()));
        let voters = (!write.voters.is_empty()).then(|| (VOTERS, write.voters.join(",")));
        let annotations: BTreeMap<&str, String> = epoch.into_iter().chain(voters).collect();
        let transitions = before.map_or(0, |before| before.transitions) + u32::from(moves);
        let object: api::Lease = serde_json::from_value(json!({
            "metadata": {
                "name": name, "namespace": NAMESPACE, "labels": { label: "true" },
                "annotations": annotations,
                "resourceVersion": before.map(|before| &before.version),
            },
            "spec": {
                "holderIdentity": holder, "leaseDurationSeconds": write.duration.as_secs().max(1),
                "renewTime": now, "leaseTransitions": transitions,
            },
        }))
        .map_err(|error| ApiError::from(kube::Error::SerdeError(error)))?;
        let written = match before {
            None => api.create(&PostParams::default(), &object).await,
            Some(_) => api.replace(name, &PostParams::default(), &object).await,
        };
        match written {
            Ok(written) => Ok(lease(&written)),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                let current = api.get_opt(name).await.map_err(ApiError::from)?;
                Err(LeaseError::Conflict(current.as_ref().map(lease)))
            }
            Err(error) => Err(ApiError::from(error).into()),
        }
    }

    /// Deletes a Lease, as it was seen and no other. One that is gone is no error.
    ///
    /// # Errors
    /// [`LeaseError::Conflict`] when it is not as `lease` says any more.
    pub async fn delete_lease(&self, lease: &Lease) -> Result<(), LeaseError> {
        let api: Api<api::Lease> = Api::namespaced(self.kube.clone(), NAMESPACE);
        let preconditions = Preconditions { resource_version: Some(lease.version.clone()), uid: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match api.delete(&lease.name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let current = api.get_opt(&lease.name).await.map_err(ApiError::from)?;
                Err(LeaseError::Conflict(current.as_ref().map(self::lease)))
            }
            Err(error) => Err(ApiError::from(error).into()),
        }
    }
}
