//! The objects that every cluster starts with.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::admission::Write;
use crate::api::Api;
use crate::authorize::roles;
use crate::error::{ApiError, Result};
use crate::meta;

pub(crate) fn bootstrap(api: &Arc<Api>, advertise: Option<SocketAddr>) -> Result<()> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        make(api, "v1", "Namespace", "", json!({"metadata": {"name": name}}))?;
    }
    for (name, value) in [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)]
    {
        make(
            api,
            "scheduling.k8s.io/v1",
            "PriorityClass",
            "",
            json!({"metadata": {"name": name}, "value": value}),
        )?;
    }
    for (kind, namespace, object) in roles::all() {
        make(api, "rbac.authorization.k8s.io/v1", kind, namespace, object)?;
    }
    if api.services.is_configured() {
        ranges(api)?;
        service(api, advertise)?;
    }
    Ok(())
}

/// The ranges of Services, as an object.
fn ranges(api: &Arc<Api>) -> Result<()> {
    let ranges: Vec<String> = api.services.ranges().iter().map(ToString::to_string).collect();
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": meta::now(),
    });
    let types = api.registry.types();
    let resource =
        types.find_kind("networking.k8s.io/v1", "ServiceCIDR").ok_or_else(ApiError::no_such_resource)?;
    let object =
        json!({"kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ranges}});
    let write = Write::internal(api, resource.clone());
    let made = write.create("", object)?;
    let mut object = made.value.clone();
    object["status"] = json!({"conditions": [ready]});
    write.of_status().update(&made, object).map(|_| ())
}

/// The Service by which Pods find this server, and where it is.
fn service(api: &Arc<Api>, advertise: Option<SocketAddr>) -> Result<()> {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let target = advertise.map_or(6443, |address| address.port());
    make(
        api,
        "v1",
        "Service",
        "default",
        json!({
            "metadata": {"name": "kubernetes", "labels": labels},
            "spec": {
                "clusterIP": api.services.first().map(|address| address.to_string()),
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": target}],
            },
        }),
    )?;
    let Some(advertise) = advertise else { return Ok(()) };
    make(
        api,
        "v1",
        "Endpoints",
        "default",
        json!({
            "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{
                "addresses": [{"ip": advertise.ip().to_string()}],
                "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}],
            }],
        }),
    )?;
    let family = if advertise.is_ipv4() { "IPv4" } else { "IPv6" };
    make(
        api,
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "default",
        json!({
            "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": family,
            "endpoints": [{"addresses": [advertise.ip().to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}],
        }),
    )
}

fn make(api: &Arc<Api>, api_version: &str, kind: &str, namespace: &str, mut object: Value) -> Result<()> {
    let types = api.registry.types();
    let resource = types.find_kind(api_version, kind).ok_or_else(ApiError::no_such_resource)?;
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
    Write::internal(api, resource.clone()).create(namespace, object)?;
    Ok(())
}
