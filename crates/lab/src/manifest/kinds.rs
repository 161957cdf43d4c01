//! Built-in kinds in a group or version that is not theirs (docs/lab.md, "Manifests").

use std::sync::OnceLock;

use weft_apiserver::Refusal;

/// A kind and its `apiVersion`.
type Kind = (String, String);

/// Why a kind is refused that no built-in API has and nobody can have defined: its group has no dot, as no group of custom
/// resources can; or it has the name of a built-in kind, in a built-in group or but one letter away from one.
pub(super) fn misplaced(api_version: &str, kind: &str) -> Option<Refusal> {
    let known = builtin();
    let group = group_of(api_version);
    let is_builtin = known.iter().any(|(name, version)| name == kind && version == api_version);
    let is_name = known.iter().any(|(name, _)| name == kind);
    let is_near = known.iter().any(|(_, version)| strsim::damerau_levenshtein(group_of(version), group) <= 1);
    if is_builtin || (group.contains('.') && !(is_name && is_near)) {
        return None;
    }
    let field = if is_name { "apiVersion" } else { "kind" };
    let known = known.iter().map(|(name, version)| (name.as_str(), version.as_str()));
    Some(Refusal { field: field.to_owned(), message: unknown(api_version, kind, known) })
}

/// That there is no such kind, and which of `known` (a kind and its `apiVersion`) is meant.
pub(crate) fn unknown<'k>(
    api_version: &str,
    kind: &str,
    known: impl Iterator<Item = (&'k str, &'k str)>,
) -> String {
    let near = known
        .map(|(name, version)| (strsim::jaro_winkler(name, kind), name, version))
        .filter(|(close, ..)| *close >= 0.85)
        // The kind itself is meant first, in the group that is nearest and its first version; then one of the same group.
        .min_by(|(one, a, a_version), (other, b, b_version)| {
            let rank = |name: &str, version: &str| {
                let far = strsim::damerau_levenshtein(group_of(version), group_of(api_version));
                (name != kind, if name == kind { far } else { usize::from(version != api_version) })
            };
            rank(a, a_version).cmp(&rank(b, b_version)).then(other.total_cmp(one))
        });
    let near =
        near.map_or(String::new(), |(_, name, version)| format!(" (did you mean {name} of {version}?)"));
    format!("no matches for kind {kind} in version {api_version}{near}")
}

fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// The built-in kinds, each group's versions in order of preference.
fn builtin() -> &'static [Kind] {
    static KINDS: OnceLock<Vec<Kind>> = OnceLock::new();
    KINDS.get_or_init(weft_apiserver::builtin_kinds)
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    fn read(api_version: &str, kind: &str) -> Result<(), String> {
        let text = format!("# a\napiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: a}}\n");
        parse("app.yaml", &text).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn former_and_misspelt_versions_of_built_in_kinds_are_refused() {
        for (version, kind, meant) in [
            ("extensions/v1beta1", "Deployment", "apps/v1"),
            ("extensions/v1beta1", "Ingress", "networking.k8s.io/v1"),
            ("app/v1", "Deployment", "apps/v1"),
            ("v1", "Deployment", "apps/v1"),
            ("apps/v1", "Service", "v1"),
            ("v1beta1", "Pod", "v1"),
            ("apps/v1beta2", "Deployment", "apps/v1"),
            ("batch/v1beta1", "CronJob", "batch/v1"),
            ("autoscaling/v2beta2", "HorizontalPodAutoscaler", "autoscaling/v2"),
            ("networking.k8s.io/v1beta1", "Ingress", "networking.k8s.io/v1"),
            ("networking.k8.io/v1", "NetworkPolicy", "networking.k8s.io/v1"),
            ("policy/v1beta1", "PodDisruptionBudget", "policy/v1"),
            ("events.k8s.io/v1beta1", "Event", "events.k8s.io/v1"),
            ("authorization.k8s.io/v1", "Role", "rbac.authorization.k8s.io/v1"),
        ] {
            assert_eq!(
                read(version, kind).unwrap_err(),
                format!(
                    "app.yaml:2: {kind} a: no matches for kind {kind} in version {version} (did you mean {kind} of {meant}?)"
                )
            );
        }
        assert_eq!(
            read("apps/v1", "Deploymet").unwrap_err(),
            "app.yaml:3: Deploymet a: no matches for kind Deploymet in version apps/v1 (did you mean Deployment of apps/v1?)"
        );
        assert_eq!(
            read("policy/v1beta1", "PodSecurityPolicy").unwrap_err(),
            "app.yaml:3: PodSecurityPolicy a: no matches for kind PodSecurityPolicy in version policy/v1beta1"
        );
    }

    #[test]
    fn kinds_of_others_are_taken_though_their_names_are_built_in_ones() {
        for (version, kind) in [
            ("serving.knative.dev/v1", "Service"),
            ("networking.istio.io/v1", "Gateway"),
            ("networking.istio.io/v1", "Ingress"),
            ("traefik.io/v1alpha1", "IngressRoute"),
            ("traefik.containo.us/v1alpha1", "IngressRoute"),
            ("batch.volcano.sh/v1alpha1", "Job"),
            ("apps.kruise.io/v1alpha1", "StatefulSet"),
            ("projectcalico.org/v3", "NetworkPolicy"),
            ("crd.projectcalico.org/v1", "NetworkPolicy"),
            ("networking.x-k8s.io/v1", "NetworkPolicy"),
            ("cluster.x-k8s.io/v1beta1", "ClusterClass"),
            ("snapshot.storage.k8s.io/v1", "VolumeSnapshot"),
            ("gateway.networking.k8s.io/v1", "Gateway"),
            ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
            ("autoscaling.k8s.io/v1", "VerticalPodAutoscaler"),
        ] {
            assert_eq!(read(version, kind), Ok(()), "{kind} of {version}");
        }
    }
}
