//! When a container is started, ready and alive, by its probes.

use std::{convert::Infallible, time::Duration};

use k8s_openapi::api::core::v1::Probe;

use super::{Role, Surroundings};
use crate::kubelet::{
    board::Slot,
    probe::{Rhythm, Target},
};

/// Probes until the container has to be restarted, and says why.
pub(super) async fn probe(context: &Surroundings, target: &Target, slot: Slot, role: Role) -> String {
    if role == Role::Init {
        return std::future::pending().await;
    }
    let container = &target.container;
    if let Some(startup) = &container.startup_probe {
        if !until(context, target, startup, "Startup", |_| true).await {
            return "failed startup probe".into();
        }
        context.board.container(slot, |state| {
            state.started = true;
            state.ready = container.readiness_probe.is_none();
        });
    }
    let ready = async {
        match &container.readiness_probe {
            Some(probe) => keep_ready(context, target, probe, slot, false).await,
            None => std::future::pending().await,
        }
    };
    let live = async {
        match &container.liveness_probe {
            Some(probe) => until(context, target, probe, "Liveness", |_| false).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = ready => std::future::pending().await,
        _ = live => "failed liveness probe".into(),
    }
}

/// Probes until it failed too often (false) or `enough` of the successes (true).
async fn until(
    context: &Surroundings,
    target: &Target,
    probe: &Probe,
    kind: &str,
    enough: impl Fn(i32) -> bool,
) -> bool {
    let rhythm = Rhythm::of(probe);
    if target.inside.is_some() {
        // A stand-in needs no time to start.
        tokio::time::sleep(rhythm.delay).await;
    }
    let (mut failures, mut successes) = (0, 0);
    loop {
        match target.check(probe).await {
            Ok(()) => {
                (failures, successes) = (0, successes + 1);
                if enough(successes) {
                    return true;
                }
            }
            Err(error) => {
                (failures, successes) = (failures + 1, 0);
                context.kubelets.events.warning(
                    &context.pod,
                    "Unhealthy",
                    &format!("{kind} probe failed: {error:#}"),
                );
                if failures >= rhythm.failures {
                    return false;
                }
            }
        }
        tokio::time::sleep(rhythm.period).await;
    }
}

/// Goes on probing readiness, and nothing else, while a container ends.
pub(super) async fn while_ending(
    context: &Surroundings,
    target: &Target,
    slot: Slot,
    role: Role,
) -> Infallible {
    let state = context.board.read();
    let ready = match slot {
        Slot::Init(index) => state.init.get(index),
        Slot::App(index) => state.app.get(index),
    };
    let ready = ready.is_some_and(|state| state.ready);
    if let (Some(probe), true) = (&target.container.readiness_probe, role != Role::Init) {
        keep_ready(context, target, probe, slot, ready).await;
    }
    std::future::pending().await
}

/// `ready` is what was said last.
async fn keep_ready(context: &Surroundings, target: &Target, probe: &Probe, slot: Slot, mut ready: bool) {
    let rhythm = Rhythm::of(probe);
    if target.inside.is_some() && !ready {
        // A stand-in needs no time to start.
        tokio::time::sleep(rhythm.delay).await;
    }
    let (mut failures, mut successes) = (0, 0);
    loop {
        match target.check(probe).await {
            Ok(()) => (failures, successes) = (0, successes + 1),
            Err(error) => {
                (failures, successes) = (failures + 1, 0);
                context.kubelets.events.warning(
                    &context.pod,
                    "Unhealthy",
                    &format!("Readiness probe failed: {error:#}"),
                );
            }
        }
        let next = if ready { failures < rhythm.failures } else { successes >= rhythm.successes };
        if next != ready {
            ready = next;
            context.board.container(slot, |state| state.ready = ready);
        }
        // What is not ready yet is looked at more often: a kubelet does so too while a container starts.
        let pause = if ready { rhythm.period } else { rhythm.period.min(Duration::from_secs(1)) };
        tokio::time::sleep(pause).await;
    }
}
