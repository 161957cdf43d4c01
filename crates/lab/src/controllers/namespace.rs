//! What every namespace has: the ServiceAccount `default`, and the API server's authority.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{ConfigMap, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, api::PostParams};

use super::{Again, Pass};
use crate::world::World;

pub(super) async fn reconcile(world: &World, authority: &str) -> kube::Result<Again> {
    let mut pass = Pass::default();
    for namespace in world.namespaces.list() {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let ending = namespace.metadata.deletion_timestamp.is_some();
        if ending || world.service_accounts.get(&name, "default").is_some() {
            continue;
        }
        pass.take(furnish(world, &name, authority).await.map(|()| None));
    }
    pass.end()
}

async fn furnish(world: &World, namespace: &str, authority: &str) -> kube::Result<()> {
    let named = |name: &str| ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    };
    let account = ServiceAccount { metadata: named("default"), ..ServiceAccount::default() };
    world.service_accounts.create(&world.client, &account).await?;
    let config = ConfigMap {
        metadata: named("kube-root-ca.crt"),
        data: Some(BTreeMap::from([("ca.crt".to_owned(), authority.to_owned())])),
        ..ConfigMap::default()
    };
    let api: Api<ConfigMap> = Api::namespaced(world.client.clone(), namespace);
    match api.create(&PostParams::default(), &config).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(error),
    }
}
