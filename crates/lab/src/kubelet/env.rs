//! The environment of a container that runs for real.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service, ServiceAccount},
};
use kube::{Api, Client, api::PostParams};

/// Variables in order, and how `$(NAME)` is expanded with them.
pub(super) struct Environment {
    pub(super) variables: Vec<(String, String)>,
}

/// ConfigMaps and Secrets of one namespace, each fetched once.
pub(super) struct Sources {
    client: Client,
    namespace: String,
    config_maps: HashMap<String, Option<ConfigMap>>,
    secrets: HashMap<String, Option<Secret>>,
}

/// What a container needs is not there (yet).
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("{kind} \"{name}\" not found")]
    Missing { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {name}")]
    NoKey { kind: &'static str, name: String, key: String },
    #[error(transparent)]
    Api(#[from] kube::Error),
}

impl Sources {
    pub(super) fn new(client: Client, namespace: &str) -> Sources {
        Sources {
            client,
            namespace: namespace.to_owned(),
            config_maps: HashMap::new(),
            secrets: HashMap::new(),
        }
    }

    /// The entries of a ConfigMap; none if it is not there and may be missing.
    pub(super) async fn config_map(
        &mut self,
        name: &str,
        optional: bool,
    ) -> Result<BTreeMap<String, Vec<u8>>, SourceError> {
        if !self.config_maps.contains_key(name) {
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
            self.config_maps.insert(name.to_owned(), api.get_opt(name).await?);
        }
        let Some(Some(found)) = self.config_maps.get(name) else {
            return missing("configmap", name, optional);
        };
        let text = found.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
        let binary = found.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
        Ok(text.chain(binary).collect())
    }

    /// The entries of a Secret; none if it is not there and may be missing.
    pub(super) async fn secret(
        &mut self,
        name: &str,
        optional: bool,
    ) -> Result<BTreeMap<String, Vec<u8>>, SourceError> {
        if !self.secrets.contains_key(name) {
            let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
            self.secrets.insert(name.to_owned(), api.get_opt(name).await?);
        }
        let Some(Some(found)) = self.secrets.get(name) else {
            return missing("secret", name, optional);
        };
        let plain =
            found.string_data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
        let data = found.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
        Ok(data.chain(plain).collect())
    }
}

impl Sources {
    /// A token of a ServiceAccount. It is not renewed, so that it is good for as long as a lab may run.
    pub(super) async fn token(&self, account: &str, audience: Option<&str>) -> Result<String, SourceError> {
        const A_YEAR: i64 = 365 * 86_400;
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: audience.map(str::to_owned).into_iter().collect(),
                expiration_seconds: Some(A_YEAR),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        match api.create_token_request(account, &PostParams::default(), &request).await {
            Ok(made) => Ok(made.status.map(|status| status.token).unwrap_or_default()),
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                Err(SourceError::Missing { kind: "serviceaccount", name: account.to_owned() })
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn missing(kind: &'static str, name: &str, optional: bool) -> Result<BTreeMap<String, Vec<u8>>, SourceError> {
    if optional { Ok(BTreeMap::new()) } else { Err(SourceError::Missing { kind, name: name.to_owned() }) }
}

impl Environment {
    /// Everything that `env` and `envFrom` say, with references resolved and `$(NAME)` expanded, after the variables by
    /// which Pods find Services.
    pub(super) async fn of(
        pod: &Pod,
        container: &Container,
        hostname: &str,
        services: &[Arc<Service>],
        sources: &mut Sources,
    ) -> Result<Environment, SourceError> {
        let mut environment = Environment {
            variables: vec![
                ("PATH".into(), super::command::PATH.into()),
                ("HOSTNAME".into(), hostname.to_owned()),
                ("HOME".into(), "/root".into()),
            ],
        };
        environment.variables.extend(service_variables(pod, services));
        for from in container.env_from.iter().flatten() {
            let entries = match (&from.config_map_ref, &from.secret_ref) {
                (Some(map), _) => sources.config_map(&map.name, map.optional == Some(true)).await?,
                (None, Some(secret)) => sources.secret(&secret.name, secret.optional == Some(true)).await?,
                (None, None) => BTreeMap::new(),
            };
            let prefix = from.prefix.as_deref().unwrap_or_default();
            for (key, value) in entries {
                environment.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value).into_owned());
            }
        }
        for variable in container.env.iter().flatten() {
            let value = match (&variable.value, &variable.value_from) {
                (Some(value), _) => Some(environment.expand(value)),
                (None, Some(source)) => resolve(pod, container, source, sources).await?,
                (None, None) => Some(String::new()),
            };
            if let Some(value) = value {
                environment.set(variable.name.clone(), value);
            }
        }
        Ok(environment)
    }

    fn set(&mut self, name: String, value: String) {
        self.variables.retain(|(held, _)| *held != name);
        self.variables.push((name, value));
    }

    /// Replaces `$(NAME)` where NAME is set; `$$` is a dollar.
    pub(super) fn expand(&self, text: &str) -> String {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            let (before, from) = rest.split_at(at);
            expanded.push_str(before);
            let inner = from.strip_prefix("$(").and_then(|inner| inner.split_once(')'));
            let value = inner.and_then(|(name, after)| {
                let (_, value) = self.variables.iter().find(|(held, _)| held == name)?;
                Some((value.as_str(), after))
            });
            (rest, _) = match (value, from.strip_prefix("$$")) {
                (Some((value, after)), _) => (after, expanded.push_str(value)),
                (None, Some(after)) => (after, expanded.push('$')),
                (None, None) => (from.get(1..).unwrap_or_default(), expanded.push('$')),
            };
        }
        expanded.push_str(rest);
        expanded
    }
}

/// Where the API server is, and, unless the Pod wants none, the Services of its namespace: each as `NAME_SERVICE_HOST` and
/// `NAME_SERVICE_PORT`, and as Docker's links name it.
fn service_variables(pod: &Pod, services: &[Arc<Service>]) -> Vec<(String, String)> {
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let mut variables = Vec::new();
    for service in services {
        let (namespace, name) = crate::world::key_of(&service.metadata);
        let server = namespace == "default" && name == "kubernetes";
        let near = links && Some(&namespace) == pod.metadata.namespace.as_ref();
        let Some(spec) = service.spec.as_ref().filter(|_| server || near) else { continue };
        // Neither a headless Service nor a name has an address.
        let Some(address) = spec.cluster_ip.as_ref().and_then(|ip| ip.parse::<IpAddr>().ok()) else {
            continue;
        };
        let prefix = name.to_ascii_uppercase().replace('-', "_");
        let mut add = |suffix: String, value: String| variables.push((format!("{prefix}_{suffix}"), value));
        add("SERVICE_HOST".into(), address.to_string());
        for (number, port) in spec.ports.iter().flatten().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let Ok(at) = u16::try_from(port.port).map(|port| SocketAddr::new(address, port)) else {
                continue;
            };
            let url = format!("{}://{at}", protocol.to_ascii_lowercase());
            if number == 0 {
                add("SERVICE_PORT".into(), port.port.to_string());
                add("PORT".into(), url.clone());
            }
            if let Some(name) = port.name.as_ref().filter(|name| !name.is_empty()) {
                let name = name.to_ascii_uppercase().replace('-', "_");
                add(format!("SERVICE_PORT_{name}"), port.port.to_string());
            }
            let link = format!("PORT_{}_{protocol}", port.port);
            add(link.clone(), url);
            add(format!("{link}_PROTO"), protocol.to_ascii_lowercase());
            add(format!("{link}_PORT"), port.port.to_string());
            add(format!("{link}_ADDR"), address.to_string());
        }
    }
    variables
}

async fn resolve(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    sources: &mut Sources,
) -> Result<Option<String>, SourceError> {
    let text = |value: &Vec<u8>| String::from_utf8_lossy(value).into_owned();
    if let Some(field) = &source.field_ref {
        return Ok(Some(field_of(pod, &field.field_path)));
    }
    if let Some(resource) = &source.resource_field_ref {
        let (group, name) = resource.resource.split_once('.').unwrap_or(("limits", &resource.resource));
        let resources = container.resources.as_ref();
        let amounts =
            resources.and_then(|r| if group == "requests" { r.requests.as_ref() } else { r.limits.as_ref() });
        return Ok(Some(
            amounts
                .and_then(|amounts| amounts.get(name))
                .map_or_else(|| "0".into(), |amount| amount.0.clone()),
        ));
    }
    let (kind, name, key, optional, entries) = match (&source.config_map_key_ref, &source.secret_key_ref) {
        (Some(map), _) => {
            let optional = map.optional == Some(true);
            ("ConfigMap", &map.name, &map.key, optional, sources.config_map(&map.name, optional).await?)
        }
        (None, Some(secret)) => {
            let optional = secret.optional == Some(true);
            ("Secret", &secret.name, &secret.key, optional, sources.secret(&secret.name, optional).await?)
        }
        (None, None) => return Ok(None),
    };
    match entries.get(key) {
        Some(value) => Ok(Some(text(value))),
        None if optional => Ok(None),
        None => Err(SourceError::NoKey { kind, name: name.clone(), key: key.clone() }),
    }
}

/// A field of the Pod, as the Downward API names it.
pub(super) fn field_of(pod: &Pod, path: &str) -> String {
    let (metadata, spec, status) = (&pod.metadata, pod.spec.as_ref(), pod.status.as_ref());
    let plain = |value: Option<String>| value.unwrap_or_default();
    let keyed = |values: Option<&BTreeMap<String, String>>, key: &str| {
        plain(values.and_then(|all| all.get(key)).cloned())
    };
    let lines = |values: Option<&BTreeMap<String, String>>| {
        let line = |(key, value): (&String, &String)| format!("{key}={value:?}");
        values.map(|all| all.iter().map(line).collect::<Vec<_>>().join("\n")).unwrap_or_default()
    };
    let subscript = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    match path {
        "metadata.name" => plain(metadata.name.clone()),
        "metadata.namespace" => plain(metadata.namespace.clone()),
        "metadata.uid" => plain(metadata.uid.clone()),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(metadata.annotations.as_ref()),
        "spec.nodeName" => plain(spec.and_then(|spec| spec.node_name.clone())),
        "spec.serviceAccountName" => {
            plain(spec.and_then(|spec| spec.service_account_name.clone()).or_else(|| Some("default".into())))
        }
        "status.podIP" => plain(status.and_then(|status| status.pod_ip.clone())),
        "status.podIPs" => {
            let ips = status
                .and_then(|status| status.pod_ips.as_ref())
                .into_iter()
                .flatten()
                .map(|ip| ip.ip.clone());
            ips.collect::<Vec<_>>().join(",")
        }
        "status.hostIP" => plain(status.and_then(|status| status.host_ip.clone())),
        _ => match (subscript("metadata.labels"), subscript("metadata.annotations")) {
            (Some(key), _) => keyed(metadata.labels.as_ref(), key),
            (_, Some(key)) => keyed(metadata.annotations.as_ref(), key),
            _ => String::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_expanded_once() {
        let variables = vec![("HOST".into(), "db".into()), ("ODD".into(), "$(HOST)".into())];
        let environment = Environment { variables };
        assert_eq!(environment.expand("postgres://$(HOST):5432/$$(HOST)"), "postgres://db:5432/$(HOST)");
        assert_eq!(environment.expand("$(ODD) $(NONE) $"), "$(HOST) $(NONE) $");
    }

    /// D7: the variables that a kubelet gives.
    #[test]
    fn services_are_found_by_variables() {
        let service = |namespace: &str, name: &str, ip: &str| -> Arc<Service> {
            let ports = serde_json::json!([{ "name": "http-web", "port": 80 }, { "name": "dns", "port": 53, "protocol": "UDP" }]);
            let object = serde_json::json!({
                "metadata": { "name": name, "namespace": namespace }, "spec": { "clusterIP": ip, "ports": ports },
            });
            Arc::new(serde_json::from_value(object).unwrap())
        };
        let services = [
            service("default", "kubernetes", "10.96.0.1"),
            service("shop", "my-db", "fd00::7"),
            service("shop", "peers", "None"),
            service("other", "web", "10.96.0.3"),
        ];
        let mut pod = Pod::default();
        pod.metadata.namespace = Some("shop".into());
        let told: BTreeMap<String, String> = service_variables(&pod, &services).into_iter().collect();
        for (name, value) in [
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
            ("KUBERNETES_SERVICE_PORT", "80"),
            ("KUBERNETES_PORT_80_TCP_ADDR", "10.96.0.1"),
            ("MY_DB_SERVICE_HOST", "fd00::7"),
            ("MY_DB_SERVICE_PORT_HTTP_WEB", "80"),
            ("MY_DB_PORT", "tcp://[fd00::7]:80"),
            ("MY_DB_PORT_53_UDP", "udp://[fd00::7]:53"),
            ("MY_DB_PORT_53_UDP_PROTO", "udp"),
        ] {
            assert_eq!(told.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!told.keys().any(|name| name.starts_with("WEB") || name.starts_with("PEERS")));
        pod.spec.get_or_insert_default().enable_service_links = Some(false);
        let told = service_variables(&pod, &services);
        assert!(told.iter().all(|(name, _)| name.starts_with("KUBERNETES_")) && !told.is_empty());
    }

    #[test]
    fn the_downward_api_names_fields() {
        let mut pod = Pod::default();
        pod.metadata.labels = Some(BTreeMap::from([("app.kubernetes.io/name".into(), "web".into())]));
        assert_eq!(field_of(&pod, "metadata.labels['app.kubernetes.io/name']"), "web");
    }
}
