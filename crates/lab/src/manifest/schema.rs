//! Whether an object of a kind that the lab acts on has the types that its kind wants.

use k8s_openapi::{
    DeepMerge, Metadata, Resource,
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount},
        networking::v1::{Ingress, NetworkPolicy},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Checks `value`, whose YAML is `text`.
///
/// # Errors
/// The line within `text` (from 1) where it can be told, and what is wrong.
pub(super) fn check(value: &Value, text: &str) -> Result<(), (Option<u64>, String)> {
    let of = |pointer| super::text_at(value, pointer);
    let checked = match (of("/apiVersion"), of("/kind")) {
        ("v1", "Pod") => typed::<Pod>(value, text),
        ("v1", "Service") => typed::<Service>(value, text),
        ("v1", "ConfigMap") => typed::<ConfigMap>(value, text),
        ("v1", "Secret") => typed::<Secret>(value, text),
        ("v1", "Namespace") => typed::<Namespace>(value, text),
        ("v1", "ServiceAccount") => typed::<ServiceAccount>(value, text),
        ("apps/v1", "Deployment") => typed::<Deployment>(value, text),
        ("apps/v1", "ReplicaSet") => typed::<ReplicaSet>(value, text),
        ("apps/v1", "StatefulSet") => typed::<StatefulSet>(value, text),
        ("apps/v1", "DaemonSet") => typed::<DaemonSet>(value, text),
        ("batch/v1", "Job") => typed::<Job>(value, text),
        ("batch/v1", "CronJob") => typed::<CronJob>(value, text),
        ("networking.k8s.io/v1", "Ingress") => typed::<Ingress>(value, text),
        ("networking.k8s.io/v1", "NetworkPolicy") => typed::<NetworkPolicy>(value, text),
        _ => Ok(()),
    };
    checked.map_err(|(line, problem)| (line, format!("{} {}: {problem}", of("/kind"), of("/metadata/name"))))
}

fn typed<K>(value: &Value, text: &str) -> Result<(), (Option<u64>, String)>
where
    K: DeserializeOwned + Resource + Metadata<Ty = ObjectMeta> + DeepMerge,
{
    let Err(error) = serde_json::from_value::<K>(value.clone()) else { return Ok(()) };
    // The JSON value has lost its lines; the same mistake is found again in the YAML. `no_schema` refuses an
    // unquoted number where a string belongs, as JSON does.
    let again = |no_schema| {
        let options = serde_saphyr::options! { no_schema: no_schema, with_snippet: false };
        serde_saphyr::from_str_with_options::<K>(text, options).err()
    };
    match again(false).or_else(|| again(true)) {
        Some(found) => Err((found.location().map(|location| location.line()), super::problem_of(&found))),
        None => Err((None, error.to_string())),
    }
}
