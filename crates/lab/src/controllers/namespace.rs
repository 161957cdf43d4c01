//! What every namespace has: the ServiceAccount `default`.

use k8s_openapi::{api::core::v1::ServiceAccount, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use super::{Again, Pass};
use crate::world::World;

pub(super) async fn reconcile(world: &World) -> kube::Result<Again> {
    let mut pass = Pass::default();
    for namespace in world.namespaces.list() {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let ending = namespace.metadata.deletion_timestamp.is_some();
        if ending || world.service_accounts.get(&name, "default").is_some() {
            continue;
        }
        let metadata =
            ObjectMeta { name: Some("default".into()), namespace: Some(name), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        pass.take(world.service_accounts.create(&world.client, &account).await.map(|()| None));
    }
    pass.end()
}
