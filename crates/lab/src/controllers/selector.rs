//! Label selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

type Labels = BTreeMap<String, String>;

/// Whether a selector selects an object with these labels. An empty selector selects everything.
pub(super) fn selects(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let value_of = |key: &str| labels.and_then(|labels| labels.get(key));
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| value_of(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|wanted| {
            let listed = |value: &String| wanted.values.iter().flatten().any(|other| other == value);
            match (wanted.operator.as_str(), value_of(&wanted.key)) {
                ("In", value) => value.is_some_and(listed),
                ("NotIn", value) => !value.is_some_and(listed),
                ("Exists", value) => value.is_some(),
                ("DoesNotExist", value) => value.is_none(),
                _ => false,
            }
        })
}

/// Whether every label of `wanted` is there. Nothing wanted selects nothing: a Service without a selector has no
/// Pods.
pub(crate) fn selects_labels(wanted: Option<&Labels>, labels: Option<&Labels>) -> bool {
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { return false };
    wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    #[test]
    fn not_in_matches_objects_without_the_key() {
        let requirement = LabelSelectorRequirement {
            key: "tier".into(),
            operator: "NotIn".into(),
            values: Some(vec!["db".into()]),
        };
        let selector =
            LabelSelector { match_expressions: Some(vec![requirement]), ..LabelSelector::default() };
        let labels = |value: &str| Labels::from([("tier".into(), value.into())]);
        assert!(selects(&selector, None));
        assert!(selects(&selector, Some(&labels("web"))));
        assert!(!selects(&selector, Some(&labels("db"))));
    }

    #[test]
    fn a_service_without_a_selector_selects_nothing() {
        assert!(!selects_labels(None, Some(&Labels::new())));
        assert!(!selects_labels(Some(&Labels::new()), Some(&Labels::new())));
    }
}
