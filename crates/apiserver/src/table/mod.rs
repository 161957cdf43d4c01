//! Tables: objects as rows for people, with the columns that kubectl's users know.

mod cluster;
mod jsonpath;
mod network;
pub(crate) mod pods;
mod text;
mod workloads;

use serde_json::{Value, json};

use crate::meta;
use crate::resources::ResourceType;
use text::age_of;

/// Name, type, and 0 for what is always shown, 1 for `-o wide`.
type Column = (&'static str, &'static str, u8);

/// What a type is printed as.
struct Printer {
    /// After the name.
    columns: &'static [Column],
    cells: fn(&Value) -> Vec<Value>,
    /// The name is not the first column.
    nameless: bool,
}

const NAME: &str = "string";
const AGE: Column = ("Age", "string", 0);

const fn printer(columns: &'static [Column], cells: fn(&Value) -> Vec<Value>) -> Printer {
    Printer { columns, cells, nameless: false }
}

fn printer_of(resource: &ResourceType) -> Printer {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => printer(pods::COLUMNS, pods::cells),
        ("", "nodes") => printer(cluster::NODE, cluster::node),
        ("", "services") => printer(network::SERVICE, network::service),
        ("", "endpoints") => printer(network::ENDPOINTS, network::endpoints),
        ("", "namespaces") => printer(cluster::NAMESPACE, cluster::namespace),
        ("", "configmaps") => printer(cluster::CONFIG_MAP, cluster::config_map),
        ("", "secrets") => printer(cluster::SECRET, cluster::secret),
        ("", "serviceaccounts") => printer(cluster::SERVICE_ACCOUNT, cluster::service_account),
        ("", "persistentvolumes") => printer(cluster::VOLUME, cluster::volume),
        ("", "persistentvolumeclaims") => printer(cluster::CLAIM, cluster::claim),
        ("", "events") | ("events.k8s.io", "events") => {
            Printer { columns: cluster::EVENT, cells: cluster::event, nameless: true }
        }
        ("", "replicationcontrollers") | ("apps", "replicasets") => {
            printer(workloads::REPLICA_SET, workloads::replica_set)
        }
        ("apps", "deployments") => printer(workloads::DEPLOYMENT, workloads::deployment),
        ("apps", "statefulsets") => printer(workloads::STATEFUL_SET, workloads::stateful_set),
        ("apps", "daemonsets") => printer(workloads::DAEMON_SET, workloads::daemon_set),
        ("apps", "controllerrevisions") => printer(workloads::REVISION, workloads::revision),
        ("batch", "jobs") => printer(workloads::JOB, workloads::job),
        ("batch", "cronjobs") => printer(workloads::CRON_JOB, workloads::cron_job),
        ("autoscaling", _) => printer(workloads::AUTOSCALER, workloads::autoscaler),
        ("policy", "poddisruptionbudgets") => printer(workloads::BUDGET, workloads::budget),
        ("networking.k8s.io", "ingresses") => printer(network::INGRESS, network::ingress),
        ("networking.k8s.io", "ingressclasses") => printer(network::INGRESS_CLASS, network::ingress_class),
        ("networking.k8s.io", "networkpolicies") => printer(network::POLICY, network::policy),
        ("networking.k8s.io", "servicecidrs") => printer(network::SERVICE_RANGE, network::service_range),
        ("discovery.k8s.io", "endpointslices") => printer(network::SLICE, network::slice),
        ("coordination.k8s.io", "leases") => printer(cluster::LEASE, cluster::lease),
        ("storage.k8s.io", "storageclasses") => printer(cluster::STORAGE_CLASS, cluster::storage_class),
        ("scheduling.k8s.io", _) => printer(cluster::PRIORITY_CLASS, cluster::priority_class),
        ("node.k8s.io", _) => printer(cluster::RUNTIME_CLASS, cluster::runtime_class),
        ("rbac.authorization.k8s.io", "roles" | "clusterroles")
        | ("apiextensions.k8s.io", "customresourcedefinitions") => {
            printer(cluster::CREATED, cluster::created)
        }
        ("rbac.authorization.k8s.io", _) => printer(cluster::BINDING, cluster::binding),
        _ => printer(&[AGE], |object| vec![age_of(object)]),
    }
}

/// The columns of a type.
pub(crate) fn columns(resource: &ResourceType) -> Value {
    let column = |name: &str, kind: &str, format: &str, priority: u8| json!({"name": name, "type": kind, "format": format, "description": "", "priority": priority});
    let mut columns = Vec::new();
    match &resource.custom {
        Some(custom) if !custom.columns.is_empty() => {
            columns.push(column("Name", NAME, "name", 0));
            for own in &custom.columns {
                columns.push(json!({
                    "name": own["name"], "type": own["type"], "format": own["format"].as_str().unwrap_or_default(),
                    "description": own["description"].as_str().unwrap_or_default(),
                    "priority": own["priority"].as_i64().unwrap_or(0),
                }));
            }
        }
        _ => {
            let printer = printer_of(resource);
            if !printer.nameless {
                columns.push(column("Name", NAME, "name", 0));
            }
            columns.extend(printer.columns.iter().map(|(name, kind, priority)| {
                let format = if *name == "Name" { "name" } else { "" };
                column(name, kind, format, *priority)
            }));
        }
    }
    columns.into()
}

/// The cells of an object's row.
pub(crate) fn cells(resource: &ResourceType, object: &Value) -> Vec<Value> {
    let name = Value::from(meta::name(object));
    match &resource.custom {
        Some(custom) if !custom.columns.is_empty() => {
            let own = custom.columns.iter().map(|column| custom_cell(column, object));
            std::iter::once(name).chain(own).collect()
        }
        _ => {
            let printer = printer_of(resource);
            let rest = (printer.cells)(object);
            if printer.nameless { rest } else { std::iter::once(name).chain(rest).collect() }
        }
    }
}

fn custom_cell(column: &Value, object: &Value) -> Value {
    let found = jsonpath::find(object, column["jsonPath"].as_str().unwrap_or_default());
    let Some(first) = found.first() else { return Value::Null };
    match column["type"].as_str() {
        Some("date") => first.as_str().map_or(Value::Null, |time| text::since(time).into()),
        Some("integer" | "number" | "boolean") => (*first).clone(),
        _ => match first {
            Value::String(text) => text.as_str().into(),
            Value::Null => Value::Null,
            other => other.to_string().into(),
        },
    }
}
