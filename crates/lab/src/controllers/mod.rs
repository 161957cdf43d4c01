//! The workload controllers. Each is a function of what the API says now: it looks at everything of its kind, writes
//! what is missing, and is called again when something changed. Nothing depends on the order of events.

mod cron;
mod cron_job;
mod daemon_set;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod job;
mod namespace;
mod node_ranges;
mod orphaned_pods;
mod owned;
mod persistent_volume_claim;
mod replica_set;
mod scheduler;
mod selector;
mod stateful_set;
mod status;
mod volume_choice;

use std::{future::Future, time::Duration};

use futures::future::select_all;
use tokio::{sync::watch, task::JoinSet};

pub(crate) use job::end_of;
pub(crate) use owned::{controller_uid, is_finished, is_ready, is_terminating, owned};
pub(crate) use selector::selects_labels;
pub(crate) use status::now;

use crate::{place::LabDir, ranges::Ranges, world::World};

/// When a controller must look again although nothing changed.
pub(crate) type Again = Option<Duration>;

/// One look at every object of a kind. What cannot be done for one of them keeps no other from its due.
#[derive(Default)]
struct Pass {
    again: Again,
    failure: Option<kube::Error>,
}

impl Pass {
    /// Notes what became of one object.
    fn take(&mut self, result: kube::Result<Again>) {
        match result {
            Ok(again) => self.again = [self.again, again].into_iter().flatten().min(),
            Err(error) => {
                self.failure.get_or_insert(error);
            }
        }
    }

    /// The first failure, or when to look again.
    fn end(self) -> kube::Result<Again> {
        self.failure.map_or(Ok(self.again), Err)
    }
}

/// Starts every controller in `tasks`. `authority` is the API server's, PEM.
pub(crate) fn start(world: &World, lab: &LabDir, ranges: &Ranges, authority: &str, tasks: &mut JoinSet<()>) {
    macro_rules! controller {
        ($module:ident, [$($input:ident),*] $(, $more:expr)*) => {{
            let world = world.clone();
            $(let _: &_ = &$more;)*
            let inputs = vec![$(world.$input.subscribe()),*];
            tasks.spawn(async move {
                drive(stringify!($module), inputs, async || $module::reconcile(&world $(, &$more)*).await).await;
            });
        }};
    }
    controller!(deployment, [deployments, replica_sets, pods]);
    controller!(replica_set, [replica_sets, pods]);
    controller!(stateful_set, [stateful_sets, pods, persistent_volume_claims]);
    controller!(daemon_set, [daemon_sets, pods, nodes]);
    controller!(job, [jobs, pods]);
    controller!(cron_job, [cron_jobs, jobs]);
    controller!(scheduler, [pods, nodes]);
    controller!(orphaned_pods, [pods, nodes]);
    controller!(endpoint_slice, [services, pods, endpoint_slices, nodes]);
    controller!(endpoints, [services, endpoint_slices, endpoints]);
    let lab = lab.clone();
    controller!(
        persistent_volume_claim,
        [persistent_volume_claims, persistent_volumes, storage_classes, pods],
        lab
    );
    let authority = authority.to_owned();
    controller!(namespace, [namespaces, service_accounts], authority);
    let ranges = ranges.clone();
    controller!(node_ranges, [nodes], ranges);
}

/// Calls `reconcile` whenever an input changed, and after a failure again with growing pauses.
async fn drive<F>(name: &'static str, mut inputs: Vec<watch::Receiver<u64>>, reconcile: impl Fn() -> F)
where
    F: Future<Output = kube::Result<Again>>,
{
    const SHORTEST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(5);
    let mut pause = SHORTEST;
    loop {
        for input in &mut inputs {
            input.mark_unchanged();
        }
        let again = match reconcile().await {
            Ok(again) => {
                pause = SHORTEST;
                again
            }
            Err(error) => {
                tracing::warn!(controller = name, %error, "could not write what is missing, trying again");
                pause = (pause * 2).min(LONGEST);
                Some(pause)
            }
        };
        // A store never goes before its controllers: there is always a sender to wait for.
        let changed = select_all(inputs.iter_mut().map(|input| Box::pin(input.changed())));
        match again {
            Some(again) => tokio::select! {
                _ = changed => {}
                () = tokio::time::sleep(again) => {}
            },
            None => {
                let _ = changed.await;
            }
        }
    }
}
