//! Deleted Pods of nodes that do not exist: no kubelet ends them, so they go at once.

use std::collections::BTreeSet;

use super::{Again, Pass, owned::is_terminating};
use crate::world::World;

pub(super) async fn reconcile(world: &World) -> kube::Result<Again> {
    let nodes: BTreeSet<String> =
        world.nodes.list().iter().filter_map(|node| node.metadata.name.clone()).collect();
    let mut pass = Pass::default();
    for pod in world.pods.list().iter().filter(|pod| is_terminating(pod)) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        // Of one whose time is over already, only finalizers are left.
        let is_over = pod.metadata.deletion_grace_period_seconds == Some(0);
        if !is_over && node.is_some_and(|node| !nodes.contains(node)) {
            pass.take(world.pods.delete(&world.client, &pod.metadata, Some(0)).await.map(|()| None));
        }
    }
    pass.end()
}
