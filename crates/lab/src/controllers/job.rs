//! Jobs: Pods that run to their end.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobSpec},
        core::v1::{EnvVar, Pod},
    },
    jiff::Timestamp,
};
use serde_json::json;

use super::{
    Again, Pass,
    owned::{is_active, is_ready, label, owned, phase, pod_from, with_suffix},
    status::{condition, now},
};
use crate::world::World;

const INDEX: &str = "batch.kubernetes.io/job-completion-index";

pub(super) async fn reconcile(world: &World) -> kube::Result<Again> {
    let pods = world.pods.list();
    let mut pass = Pass::default();
    for job in world.jobs.list() {
        if job.metadata.deletion_timestamp.is_none() {
            pass.take(one(world, &job, owned(&pods, &*job)).await);
        }
    }
    pass.end()
}

/// How a Job has ended, if it has: the condition that says so.
pub(crate) fn end_of(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = |kind: &str| matches!(kind, "Complete" | "Failed");
    conditions.iter().find(|c| ended(&c.type_) && c.status == "True")
}

async fn one(world: &World, job: &Job, pods: Vec<Arc<Pod>>) -> kube::Result<Again> {
    let Some(spec) = &job.spec else { return Ok(None) };
    if end_of(job).is_some() {
        return forget(world, job, spec).await;
    }
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    if spec.selector.is_none() {
        // What `kubectl logs job/NAME` and `kubectl describe` look Pods up by.
        let selector = json!({ "spec": { "selector": { "matchLabels": { "batch.kubernetes.io/controller-uid": uid } } } });
        world.jobs.patch(&world.client, &job.metadata, &selector).await?;
    }
    let tally = Tally::of(spec, &pods);
    let started = job.status.as_ref().and_then(|status| status.start_time.clone()).unwrap_or_else(now);
    let late = spec
        .active_deadline_seconds
        .map(|limit| limit - (Timestamp::now().as_second() - started.0.as_second()));
    let failure = if tally.failed > spec.backoff_limit.unwrap_or(6) {
        Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit"))
    } else if late.is_some_and(|left| left <= 0) {
        Some(("DeadlineExceeded", "Job was active longer than specified deadline"))
    } else {
        None
    };
    let held = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut status = json!({
        "startTime": started, "active": tally.active.len(), "succeeded": tally.succeeded, "failed": tally.failed,
        "ready": tally.active.iter().filter(|pod| is_ready(pod)).count(),
    });
    if is_indexed(spec) {
        status["completedIndexes"] = json!(intervals(&tally.done));
    }
    if let Some((reason, message)) = failure {
        for pod in &tally.active {
            world.pods.delete(&world.client, &pod.metadata, None).await?;
        }
        status["active"] = json!(0);
        status["conditions"] = json!([condition(held, "Failed", true, reason, message)]);
    } else if tally.complete(spec) {
        let message = "Reached expected number of succeeded pods";
        status["conditions"] = json!([condition(held, "Complete", true, "CompletionsReached", message)]);
        status["completionTime"] = json!(now());
    } else {
        make(world, job, spec, &tally).await?;
    }
    world.jobs.patch_status(&world.client, &job.metadata, &status).await?;
    Ok(late.filter(|left| *left > 0).map(|left| Duration::from_secs(left.unsigned_abs())))
}

/// How the Pods of a Job stand.
struct Tally {
    active: Vec<Arc<Pod>>,
    succeeded: i32,
    failed: i32,
    /// Indexes that are done, and those that are done or under way, of an indexed Job.
    done: BTreeSet<i32>,
    taken: BTreeSet<i32>,
}

impl Tally {
    fn of(spec: &JobSpec, pods: &[Arc<Pod>]) -> Tally {
        let with = |wanted: &'static str| pods.iter().filter(move |pod| phase(pod) == wanted);
        let active: Vec<_> = pods.iter().filter(|pod| is_active(pod)).cloned().collect();
        let index =
            |pod: &Arc<Pod>| -> Option<i32> { pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok() };
        let done: BTreeSet<i32> = with("Succeeded").filter_map(index).collect();
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        Tally {
            succeeded: if is_indexed(spec) { count(done.len()) } else { count(with("Succeeded").count()) },
            failed: count(with("Failed").count()),
            taken: done.iter().copied().chain(active.iter().filter_map(index)).collect(),
            done,
            active,
        }
    }

    fn complete(&self, spec: &JobSpec) -> bool {
        match spec.completions {
            Some(completions) => self.succeeded >= completions,
            // A work queue: one success and nobody at work any more.
            None => self.succeeded > 0 && self.active.is_empty(),
        }
    }
}

async fn make(world: &World, job: &Job, spec: &JobSpec, tally: &Tally) -> kube::Result<()> {
    if spec.suspend == Some(true) {
        return Ok(());
    }
    let active = i32::try_from(tally.active.len()).unwrap_or(i32::MAX);
    let parallelism = spec.parallelism.unwrap_or(1);
    let left = match spec.completions {
        Some(completions) => completions - tally.succeeded - active,
        None if tally.succeeded > 0 => 0,
        None => parallelism - active,
    };
    let mut free = (0..).filter(|index| !tally.taken.contains(index));
    for _ in 0..left.min(parallelism - active) {
        let pod = pod_of(job, spec, free.next().filter(|_| is_indexed(spec)));
        world.pods.create(&world.client, &pod).await?;
    }
    Ok(())
}

fn pod_of(job: &Job, spec: &JobSpec, index: Option<i32>) -> Pod {
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let base = index.map_or_else(|| name.to_owned(), |index| format!("{name}-{index}"));
    let mut pod = pod_from(job, &spec.template, with_suffix(&base));
    for (key, value) in [("controller-uid", uid), ("job-name", name)] {
        label(&mut pod.metadata, key, value);
        label(&mut pod.metadata, &format!("batch.kubernetes.io/{key}"), value);
    }
    if let Some(index) = index {
        label(&mut pod.metadata, INDEX, &index.to_string());
        pod.metadata.annotations.get_or_insert_default().insert(INDEX.into(), index.to_string());
        let pod_spec = pod.spec.get_or_insert_default();
        pod_spec.hostname = Some(base);
        for container in &mut pod_spec.containers {
            let variable = EnvVar {
                name: "JOB_COMPLETION_INDEX".into(),
                value: Some(index.to_string()),
                value_from: None,
            };
            container.env.get_or_insert_with(Vec::new).push(variable);
        }
    }
    pod
}

/// Deletes a Job that ended, once its `ttlSecondsAfterFinished` is over.
async fn forget(world: &World, job: &Job, spec: &JobSpec) -> kube::Result<Again> {
    let Some(keep) = spec.ttl_seconds_after_finished else { return Ok(None) };
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ended =
        conditions.iter().flat_map(|all| all.iter()).filter_map(|c| c.last_transition_time.as_ref()).max();
    let Some(ended) = ended else { return Ok(None) };
    let left = i64::from(keep) - (Timestamp::now().as_second() - ended.0.as_second());
    if left > 0 {
        return Ok(Some(Duration::from_secs(left.unsigned_abs())));
    }
    world.jobs.delete(&world.client, &job.metadata, None).await?;
    Ok(None)
}

/// Numbers as a Job's status has them: `0-2,5`.
fn intervals(numbers: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let shown = |(first, last): (i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    runs.into_iter().map(shown).collect::<Vec<_>>().join(",")
}

fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D6: indexes are told as Kubernetes tells them.
    #[test]
    fn completed_indexes_are_intervals() {
        let told = |numbers: &[i32]| intervals(&numbers.iter().copied().collect());
        assert_eq!(told(&[]), "");
        assert_eq!(told(&[3]), "3");
        assert_eq!(told(&[0, 1, 3, 4, 5, 7]), "0,1,3-5,7");
    }
}
