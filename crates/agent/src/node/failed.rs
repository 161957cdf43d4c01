//! ADDs that failed: which Pods of this node do not come up because of the network, and why.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weft_cni::{Call, Failure, config::Args, plugin::code};
use weft_kube::{ObjectRef, WarningEvent};
use weft_model::{NodeName, PodKey};

use crate::admin::FailedAdd;

/// A runtime tries again within less; whoever it does not try again for is gone.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Failures that are remembered, maximum; the log has the rest.
const MOST: usize = 100;

/// Pods whose last ADD failed.
#[derive(Debug, Default)]
pub(super) struct FailedAdds(BTreeMap<PodKey, Failed>);

#[derive(Debug)]
struct Failed {
    uid: String,
    why: String,
    times: u64,
    last: Instant,
}

impl FailedAdds {
    /// An ADD of the call's Pod failed.
    pub(super) fn failed(&mut self, call: &Call, failure: &Failure) {
        // While the node is not ready nobody's ADD is served; that is told of the node.
        let Some((pod, uid)) = pod_of(call).filter(|_| failure.code != code::TRY_AGAIN) else { return };
        self.forget();
        if self.0.len() >= MOST && !self.0.contains_key(&pod) {
            return;
        }
        let times = self.0.get(&pod).map_or(0, |known| known.times) + 1;
        self.0.insert(pod, Failed { uid, why: failure.to_string(), times, last: Instant::now() });
    }

    /// An ADD of the call's Pod succeeded.
    pub(super) fn succeeded(&mut self, call: &Call) {
        if let Some((pod, _)) = pod_of(call) {
            self.0.remove(&pod);
        }
    }

    fn forget(&mut self) {
        self.0.retain(|_, failed| failed.last.elapsed() < FORGOTTEN);
    }

    fn current(&self) -> impl Iterator<Item = (&PodKey, &Failed)> {
        self.0.iter().filter(|(_, failed)| failed.last.elapsed() < FORGOTTEN)
    }

    /// For `weft status`.
    pub(super) fn status(&self) -> Vec<FailedAdd> {
        let status = |(pod, failed): (&PodKey, &Failed)| FailedAdd {
            pod: pod.clone(),
            why: failed.why.clone(),
            times: failed.times,
        };
        self.current().map(status).collect()
    }

    /// As Events on the Pods.
    pub(super) fn warnings(&self, reporter: &NodeName) -> Vec<WarningEvent> {
        self.current()
            .map(|(pod, failed)| WarningEvent {
                about: ObjectRef::pod(pod, &failed.uid),
                reporter: reporter.clone(),
                reason: "PodNotAttached",
                message: format!("the network of node {reporter} does not take this Pod: {}", failed.why),
                key: reporter.to_string(),
            })
            .collect()
    }
}

fn pod_of(call: &Call) -> Option<(PodKey, String)> {
    let args = Args::parse(&call.args).ok()?;
    let pod = args.pod_namespace.zip(args.pod_name)?;
    Some((PodKey { namespace: pod.0, name: pod.1 }, args.pod_uid.unwrap_or_default()))
}
