//! CronJobs: a Job at each time of a schedule.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::batch::v1::{CronJob, CronJobSpec, Job},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::{Timestamp, tz::TimeZone},
};
use serde_json::json;

use super::{
    Again, Pass,
    cron::Schedule,
    job::end_of,
    owned::{owned, owner_reference},
};
use crate::world::World;

pub(super) async fn reconcile(world: &World) -> kube::Result<Again> {
    let jobs = world.jobs.list();
    let mut pass = Pass::default();
    for cron in world.cron_jobs.list() {
        if cron.metadata.deletion_timestamp.is_none() {
            pass.take(one(world, &cron, owned(&jobs, &*cron)).await);
        }
    }
    pass.end()
}

async fn one(world: &World, cron: &CronJob, jobs: Vec<Arc<Job>>) -> kube::Result<Again> {
    let Some(spec) = &cron.spec else { return Ok(None) };
    forget_history(world, spec, &jobs).await?;
    let running: Vec<&Arc<Job>> = jobs.iter().filter(|job| end_of(job).is_none()).collect();
    let last = cron.status.as_ref().and_then(|status| status.last_schedule_time.clone());
    let mut status = json!({
        "active": running.iter().map(|job| json!({
            "apiVersion": "batch/v1", "kind": "Job", "uid": job.metadata.uid,
            "namespace": job.metadata.namespace, "name": job.metadata.name,
        })).collect::<Vec<_>>(),
    });
    let successes = jobs.iter().filter_map(|job| job.status.as_ref()?.completion_time.clone()).max();
    if let Some(time) = successes {
        status["lastSuccessfulTime"] = json!(time);
    }
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(problem) => {
            tracing::warn!(name = cron.metadata.name, schedule = spec.schedule, problem, "CronJob ignored");
            return Ok(None);
        }
    };
    let zone = match &spec.time_zone {
        Some(name) => TimeZone::get(name).unwrap_or(TimeZone::UTC),
        None => TimeZone::UTC,
    };
    let born = cron.metadata.creation_timestamp.as_ref().map_or_else(Timestamp::now, |time| time.0);
    let since = last.as_ref().map_or(born, |time| time.0);
    let now = Timestamp::now();
    if spec.suspend != Some(true)
        && let Some(due) = schedule.latest(since, now, &zone)
    {
        start(world, cron, spec, &running, due).await?;
        status["lastScheduleTime"] = json!(Time(due));
    }
    world.cron_jobs.patch_status(&world.client, &cron.metadata, &status).await?;
    let next = schedule.next(now, &zone).map(|next| next.as_second() - now.as_second());
    Ok(next.map(|seconds| Duration::from_secs(seconds.max(1).unsigned_abs())))
}

async fn start(
    world: &World,
    cron: &CronJob,
    spec: &CronJobSpec,
    running: &[&Arc<Job>],
    due: Timestamp,
) -> kube::Result<()> {
    let late = Timestamp::now().as_second() - due.as_second();
    if spec.starting_deadline_seconds.is_some_and(|limit| late > limit) {
        return Ok(());
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !running.is_empty() => return Ok(()),
        Some("Replace") => {
            for job in running {
                world.jobs.delete(&world.client, &job.metadata, None).await?;
            }
        }
        _ => {}
    }
    let given = spec.job_template.metadata.clone().unwrap_or_default();
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    let metadata = ObjectMeta {
        // The minute in the name: one Job a time, whatever happens in between.
        name: Some(format!("{name}-{}", due.as_second() / 60)),
        namespace: cron.metadata.namespace.clone(),
        labels: given.labels,
        annotations: given.annotations,
        owner_references: Some(vec![owner_reference(cron)]),
        ..ObjectMeta::default()
    };
    let job = Job { metadata, spec: spec.job_template.spec.clone(), status: None };
    world.jobs.create(&world.client, &job).await
}

async fn forget_history(world: &World, spec: &CronJobSpec, jobs: &[Arc<Job>]) -> kube::Result<()> {
    let limits = [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ];
    for (end, limit) in limits {
        let mut ended: Vec<_> =
            jobs.iter().filter(|job| end_of(job).is_some_and(|found| found.type_ == end)).collect();
        ended.sort_by_key(|job| job.metadata.creation_timestamp.as_ref().map(|time| time.0));
        let surplus = ended.len().saturating_sub(limit.max(0).unsigned_abs() as usize);
        for job in ended.into_iter().take(surplus) {
            world.jobs.delete(&world.client, &job.metadata, None).await?;
        }
    }
    Ok(())
}
