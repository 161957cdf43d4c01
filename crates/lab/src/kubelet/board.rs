//! How a Pod stands at this moment: written by its containers, read by who reports it.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use tokio::sync::watch;

/// The state of one Pod.
pub(super) struct Board {
    state: Mutex<PodState>,
    version: watch::Sender<u64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct PodState {
    pub(super) addresses: Vec<IpAddr>,
    /// The Pod has its network.
    pub(super) networked: bool,
    /// Why it does not have it yet.
    pub(super) problem: Option<String>,
    /// Every init container has done its part.
    pub(super) initialized: bool,
    pub(super) started: Option<Time>,
    pub(super) init: Vec<ContainerState>,
    pub(super) app: Vec<ContainerState>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct ContainerState {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) id: String,
    pub(super) phase: Phase,
    pub(super) last: Option<Ended>,
    pub(super) restarts: i32,
    /// The startup probe has succeeded, or there is none.
    pub(super) started: bool,
    pub(super) ready: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Phase {
    Waiting { reason: &'static str, message: String },
    Running { since: Time },
    Ended(Ended),
}

#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) started: Time,
    pub(super) finished: Time,
}

/// A container's place on the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Init(usize),
    App(usize),
}

impl Board {
    pub(super) fn new(pod: &Pod) -> Board {
        let spec = pod.spec.clone().unwrap_or_default();
        let waiting =
            |containers: Vec<k8s_openapi::api::core::v1::Container>, reason| -> Vec<ContainerState> {
                let state = |container: k8s_openapi::api::core::v1::Container| ContainerState {
                    name: container.name,
                    image: container.image.unwrap_or_default(),
                    phase: Phase::Waiting { reason, message: String::new() },
                    ..ContainerState::default()
                };
                containers.into_iter().map(state).collect()
            };
        let init = spec.init_containers.unwrap_or_default();
        let first = if init.is_empty() { "ContainerCreating" } else { "PodInitializing" };
        let state = PodState {
            app: waiting(spec.containers, first),
            init: waiting(init, "PodInitializing"),
            started: Some(crate::controllers::now()),
            ..PodState::default()
        };
        Board { state: Mutex::new(state), version: watch::Sender::new(0) }
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut PodState) -> T) -> T {
        let done = change(&mut self.lock());
        self.version.send_modify(|version| *version += 1);
        done
    }

    pub(super) fn container(&self, slot: Slot, change: impl FnOnce(&mut ContainerState)) {
        self.change(|state| {
            let (containers, index) = match slot {
                Slot::Init(index) => (&mut state.init, index),
                Slot::App(index) => (&mut state.app, index),
            };
            if let Some(container) = containers.get_mut(index) {
                change(container);
            }
        });
    }

    pub(super) fn read(&self) -> PodState {
        self.lock().clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, PodState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Phase {
    fn default() -> Phase {
        Phase::Waiting { reason: "ContainerCreating", message: String::new() }
    }
}
