//! Workloads by the words that kubectl has for them (`deploy/web`), and their Pods.

use std::ops::RangeInclusive;

use anyhow::Result;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
};

use crate::Usage;

/// A kind of object that has Pods, or Pods themselves.
struct Kind {
    words: &'static [&'static str],
    kind: &'static str,
    group: &'static str,
    /// The number of parts that a Pod's name has after that of its workload.
    parts: RangeInclusive<usize>,
}

/// Workloads name their Pods after themselves.
const KINDS: [Kind; 7] = [
    Kind { words: &["pod", "pods", "po"], kind: "Pod", group: "", parts: 0..=0 },
    // These two have another object between them and their Pods.
    Kind { words: &["deploy", "deployment", "deployments"], kind: "Deployment", group: "apps", parts: 2..=2 },
    Kind { words: &["cj", "cronjob", "cronjobs"], kind: "CronJob", group: "batch", parts: 2..=2 },
    // Those of an indexed Job have their index as well.
    Kind { words: &["job", "jobs"], kind: "Job", group: "batch", parts: 1..=2 },
    Kind { words: &["rs", "replicaset", "replicasets"], kind: "ReplicaSet", group: "apps", parts: 1..=1 },
    Kind { words: &["sts", "statefulset", "statefulsets"], kind: "StatefulSet", group: "apps", parts: 1..=1 },
    Kind { words: &["ds", "daemonset", "daemonsets"], kind: "DaemonSet", group: "apps", parts: 1..=1 },
];

/// No Pod of a workload runs; whether there is such a workload is not known yet.
#[derive(Debug, thiserror::Error)]
#[error("no Pod of {namespace}/{kind}/{name} runs")]
pub struct NoPod {
    /// Its namespace.
    pub namespace: String,
    /// Its kind, as kubectl takes it.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Whether a Pod is one of `deploy/NAME`, or of another kind of workload, by its name. `pod/NAME` is that Pod alone.
pub fn is_of_workload(pod: &str, kind: &str, workload: &str) -> bool {
    let Some(rest) = pod.strip_prefix(workload) else { return false };
    // What follows begins with a dash, or there is nothing.
    let parts = rest.split('-').count() - 1;
    (rest.is_empty() || rest.starts_with('-')) && find(kind).is_some_and(|kind| kind.parts.contains(&parts))
}

/// Whether `word` is what kubectl calls Pods or a kind of workload.
pub(crate) fn has_pods(word: &str) -> bool {
    find(word).is_some()
}

fn find(word: &str) -> Option<&'static Kind> {
    let word = word.split_once('.').map_or(word, |(word, _)| word);
    KINDS.iter().find(|kind| kind.words.contains(&word))
}

impl NoPod {
    /// Why none runs, as the API server tells it: [`Usage`] if there is no such workload.
    ///
    /// # Errors
    /// The API server cannot be asked.
    pub async fn why(&self, client: Client) -> Result<anyhow::Error> {
        let NoPod { namespace, kind: word, name } = self;
        let Some(kind) = find(word) else { return Ok(anyhow::anyhow!("{self}")) };
        let version = if kind.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", kind.group) };
        let resource = ApiResource {
            group: kind.group.to_owned(),
            version: "v1".to_owned(),
            api_version: version,
            kind: kind.kind.to_owned(),
            plural: format!("{}s", kind.kind.to_ascii_lowercase()),
        };
        let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &resource);
        let kind = kind.kind;
        let Some(found) = api.get_opt(name).await? else {
            return Ok(Usage(format!("namespace {namespace} has no {kind} {name}")).into());
        };
        let spec = &found.data["spec"];
        Ok(if spec["replicas"] == 0 {
            anyhow::anyhow!("{kind} {namespace}/{name} has no Pods: it is scaled to 0 replicas")
        } else if spec["suspend"] == true {
            anyhow::anyhow!("no Pod of {kind} {namespace}/{name} runs: it is suspended")
        } else {
            anyhow::anyhow!(
                "no Pod of {kind} {namespace}/{name} runs: 'kubectl get pods -n {namespace}' and 'kubectl describe {word} {name} \
                 -n {namespace}' tell why"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{has_pods, is_of_workload};

    #[test]
    fn what_is_no_workload_is_known() {
        for kind in ["deploy", "deployment.apps", "sts", "ds", "job", "cj", "replicasets"] {
            assert!(has_pods(kind), "{kind}");
        }
        for kind in ["dep", "svc", "", "configmap"] {
            assert!(!has_pods(kind), "{kind}");
        }
    }

    #[test]
    fn pods_of_a_workload_are_not_those_of_another_whose_name_begins_alike() {
        assert!(is_of_workload("web-5d9c7b8f6-x2x4k", "deploy", "web"));
        assert!(!is_of_workload("web-admin-5d9c7b8f6-x2x4k", "deploy", "web"));
        assert!(!is_of_workload("web-0", "deploy", "web"));
        assert!(is_of_workload("db-0", "sts", "db"));
        assert!(!is_of_workload("db-backup-0", "sts", "db"));
        assert!(is_of_workload("nightly-29600000-abcde", "cronjob", "nightly"));
        assert!(!is_of_workload("web", "deploy", "web"));
        assert!(is_of_workload("web-5d9c7b8f6-x2x4k", "deployment.apps", "web"));
        assert!(is_of_workload("load-0-x2x4k", "job", "load"), "of an indexed Job");
        assert!(is_of_workload("web", "pod", "web"));
        assert!(!is_of_workload("web-0", "pod", "web"));
        assert!(!is_of_workload("webs-0", "sts", "web"));
        assert!(!is_of_workload("web-0", "dep", "web"));
    }
}
