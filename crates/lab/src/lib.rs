//! A Kubernetes network on one machine, from plain manifests.

pub mod manifest;
