//! A Kubernetes network on one machine, from plain manifests.

mod controllers;
mod kubelet;
pub mod manifest;
mod place;
mod ranges;
mod responder;
mod world;

pub use place::{Cgroup, Fabric, FabricLink, LabDir, LabName, LabRecord, NameTaken, NodeRecord, PodRecord, clean};
pub use ranges::{IpFamily, Ranges};
