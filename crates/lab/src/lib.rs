//! A Kubernetes network on one machine, from plain manifests: nodes as network namespaces on a fabric, an embedded
//! API server, the workload controllers, and a stand-in for the kubelets. Each node runs the unchanged agent.
//!
//! Invariants: the machine's own network namespace gets no address, route, link or rule; everything of a lab lies
//! below one folder, one cgroup and one prefix of namespace names, so that it can be removed whole, also when its
//! process was killed; the data plane is never spoken to, only the API and CNI.

mod apply;
mod controllers;
mod enter;
mod forward;
mod kubelet;
mod lab;
pub mod manifest;
mod name_server;
mod overview;
mod place;
mod ranges;
mod references;
mod responder;
mod usage;
mod workload;
mod world;

pub use apply::{Applied, Outcome, Refused, apply};
pub use enter::{exec, exec_in, pod_of_service};
pub use forward::Forward;
pub use kube::Client;
pub use kubelet::{ContainerPlace, ContainerSpec, Mount, NotStarted, run_container};
pub use lab::{NotRoot, Options, Progress, client_of, run};
pub use overview::{NodeOverview, Overview, PodOverview};
pub use place::{
    BadName, Cgroup, LabDir, LabName, LabRecord, NameTaken, NodeRecord, OutsideRecord, PodRecord, clean,
};
pub use ranges::{IpFamily, Ranges};
pub use references::dangling;
pub use usage::Usage;
pub use workload::{NoPod, is_of_workload};
