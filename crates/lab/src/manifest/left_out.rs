//! What a lab leaves out on purpose (docs/lab.md, "What is different from a cluster"), where a manifest uses it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Manifest, Warning, text_at};

/// A warning for each thing that is left out: where it is used first, and how often.
pub(super) fn warnings(manifests: &[Manifest]) -> Vec<Warning> {
    let mut used: BTreeMap<&'static str, Vec<&Manifest>> = BTreeMap::new();
    for manifest in manifests {
        for what in left_out(manifest) {
            let users = used.entry(what).or_default();
            // A manifest may use it in several places.
            if !users.last().is_some_and(|last| std::ptr::eq(*last, manifest)) {
                users.push(manifest);
            }
        }
    }
    let mut warnings: Vec<Warning> = used
        .into_iter()
        .filter_map(|(what, users)| {
            let first = users.first()?;
            let more = match users.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            let what = format!("{} {}{more}: {what}", first.kind(), first.name());
            Some(Warning { place: first.place.clone(), what })
        })
        .collect();
    warnings
        .sort_by(|one, other| (&one.place.file, one.place.line).cmp(&(&other.place.file, other.place.line)));
    warnings
}

fn left_out(manifest: &Manifest) -> Vec<&'static str> {
    let group = manifest.api_version().split_once('/').map_or("", |(group, _)| group);
    let of_kind = match (group, manifest.kind()) {
        ("autoscaling", "HorizontalPodAutoscaler") => {
            Some("nothing scales: the lab stores autoscalers and does not act on them")
        }
        ("policy", "PodDisruptionBudget") => Some("evictions do not look at disruption budgets in the lab"),
        ("", "ReplicationController") => {
            Some("nothing makes the Pods of a ReplicationController in the lab: a Deployment's are made")
        }
        ("", "ResourceQuota" | "LimitRange") => {
            Some("quotas and limits are stored and not enforced in the lab")
        }
        (
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration"
            | "MutatingWebhookConfiguration"
            | "ValidatingAdmissionPolicy"
            | "ValidatingAdmissionPolicyBinding",
        ) => Some("admission is not asked in the lab: objects are neither changed nor refused by it"),
        ("networking.k8s.io", "NetworkPolicy") => {
            Some("NetworkPolicy is stored and not enforced: all Pods reach each other")
        }
        ("networking.k8s.io", "Ingress") => {
            Some("no Ingress is served in the lab, unless a controller of yours runs for real")
        }
        ("gateway.networking.k8s.io", "Gateway") => Some("no Gateway is served in the lab"),
        _ => None,
    };
    let mut found: Vec<&'static str> = of_kind.into_iter().collect();
    found.extend(manifest.pod_spec().into_iter().flat_map(of_pods));
    found
}

fn of_pods(spec: &Value) -> Vec<&'static str> {
    let mut found = Vec::new();
    let affinity = &spec["affinity"];
    let required = |kind: &str| {
        let rules = affinity[kind]["requiredDuringSchedulingIgnoredDuringExecution"].as_array();
        rules.is_some_and(|rules| !rules.is_empty())
    };
    if required("podAffinity") || required("podAntiAffinity") {
        found.push("Pod affinity is not looked at in the lab: Pods are spread by their number");
    }
    let spread = spec["topologySpreadConstraints"].as_array().into_iter().flatten();
    if spread.into_iter().any(|one| one["whenUnsatisfiable"] != "ScheduleAnyway") {
        found.push("topologySpreadConstraints are not looked at in the lab: Pods are spread by their number");
    }
    if spec["hostPID"] == true || spec["hostIPC"] == true || spec["shareProcessNamespace"] == true {
        found.push("each container of the lab has processes and IPC of its own: hostPID, hostIPC and shareProcessNamespace do nothing");
    }
    let scheduler = text_at(spec, "/schedulerName");
    if !matches!(scheduler, "" | "default-scheduler") {
        found.push("the lab has the default scheduler only: no node is chosen for the Pod");
    }
    let containers = ["initContainers", "containers"].map(|list| spec[list].as_array());
    let containers: Vec<&Value> = containers.into_iter().flatten().flatten().collect();
    if containers.iter().any(|container| container["lifecycle"]["postStart"].is_object()) {
        found.push("postStart hooks are not run in the lab");
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let writes = || {
            let mounts =
                containers.iter().flat_map(|one| one["volumeMounts"].as_array().into_iter().flatten());
            mounts.into_iter().any(|mount| mount["name"] == volume["name"] && mount["readOnly"] != true)
        };
        if volume["hostPath"].is_object() && writes() {
            found.push("hostPath is read-only in the lab");
        }
        let known = [
            "name",
            "configMap",
            "secret",
            "downwardAPI",
            "projected",
            "emptyDir",
            "hostPath",
            "persistentVolumeClaim",
            "ephemeral",
        ];
        let fields = volume.as_object().into_iter().flatten();
        if fields.into_iter().any(|(field, value)| !known.contains(&field.as_str()) && !value.is_null()) {
            found.push("the lab has no storage of this kind: its volume is an empty folder");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    /// D21: what is left out is told once, with the place of its first use.
    #[test]
    fn what_is_left_out_is_told_once() {
        let pod = |name: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  affinity: {{podAntiAffinity: \
                 {{requiredDuringSchedulingIgnoredDuringExecution: [{{topologyKey: a}}]}}}}\n  containers: [{{name: a, \
                 image: b, volumeMounts: [{{name: v, mountPath: /v}}]}}]\n  volumes: [{{name: v, nfs: {{server: a, path: /b}}}}]\n"
            )
        };
        let text = format!("{}---\n{}---\n{}", pod("one"), pod("two"), pod("three"));
        let told: Vec<String> = parse("a.yaml", &text)
            .unwrap()
            .warnings
            .iter()
            .map(|warning| format!("{}: {}", warning.place, warning.what))
            .collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|one| one.starts_with("a.yaml:1: Pod one and 2 more: ")), "{told:?}");
        let plain = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";
        assert!(parse("a.yaml", plain).unwrap().warnings.is_empty());
    }
}
