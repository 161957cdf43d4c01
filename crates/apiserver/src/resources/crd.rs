//! Types that a CustomResourceDefinition adds.

use std::sync::Arc;

use serde_json::Value;

use super::ResourceType;
use crate::error::qualified;

/// What a definition says about one version beyond its names.
#[derive(Debug, Clone, Default)]
pub(crate) struct CustomSchema {
    /// `openAPIV3Schema`, or null.
    pub(crate) schema: Value,
    /// `additionalPrinterColumns`.
    pub(crate) columns: Vec<Value>,
    /// `subresources.scale`, or null.
    pub(crate) scale: Value,
    /// `selectableFields[].jsonPath`, without the leading dot.
    pub(crate) selectable: Vec<String>,
}

/// One type for each served version, the newest first.
pub(crate) fn types(definition: &Value) -> Vec<ResourceType> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let group = text(&spec["group"]);
    let kind = text(&names["kind"]);
    let plural = text(&names["plural"]);
    let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let stored = versions.iter().find(|version| version["storage"] == true);
    let stored = text(stored.map_or(&Value::Null, |version| &version["name"]));
    let singular = match names["singular"].as_str() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => kind.to_lowercase(),
    };
    let mut types: Vec<ResourceType> = versions
        .iter()
        .filter(|version| version["served"] == true)
        .map(|version| ResourceType {
            group: group.clone(),
            version: text(&version["name"]),
            kind: kind.clone(),
            plural: plural.clone(),
            singular: singular.clone(),
            short_names: texts(&names["shortNames"]),
            categories: texts(&names["categories"]),
            namespaced: spec["scope"] == "Namespaced",
            subresources: version["subresources"]
                .as_object()
                .map(|names| names.keys().cloned().collect())
                .unwrap_or_default(),
            review: false,
            storage: qualified(&group, &plural),
            storage_version: format!("{group}/{stored}"),
            custom: Some(Arc::new(CustomSchema {
                schema: version["schema"]["openAPIV3Schema"].clone(),
                columns: version["additionalPrinterColumns"].as_array().cloned().unwrap_or_default(),
                scale: version["subresources"]["scale"].clone(),
                selectable: version["selectableFields"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|field| field["jsonPath"].as_str())
                    .map(|path| path.trim_start_matches('.').to_owned())
                    .collect(),
            })),
        })
        .collect();
    types.sort_by_key(|resource| std::cmp::Reverse(priority(&resource.version)));
    types
}

/// Kubernetes' order of version names: v2 > v1 > v1beta2 > v1alpha1 > anything else.
fn priority(version: &str) -> (u8, u32, u32) {
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, stage) = rest.split_at(digits);
    let Ok(major) = major.parse() else { return (0, 0, 0) };
    if stage.is_empty() {
        return (3, major, 0);
    }
    for (level, prefix) in [(2, "beta"), (1, "alpha")] {
        if let Some(Ok(minor)) = stage.strip_prefix(prefix).map(str::parse) {
            return (level, major, minor);
        }
    }
    (0, 0, 0)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::priority;

    #[test]
    fn stable_versions_come_before_beta_before_alpha() {
        let mut names = ["v1alpha1", "v1", "foo", "v1beta2", "v2", "v1beta10", "v10"];
        names.sort_by_key(|name| std::cmp::Reverse(priority(name)));
        assert_eq!(names, ["v10", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "foo"]);
    }
}
