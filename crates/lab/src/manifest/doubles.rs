//! Objects that stand twice in the files: the last one counts, as with kubectl, which applies one after the other.

use std::collections::HashMap;

use super::{Manifest, Place, Warning};

/// Removes what a later manifest says again, with a warning for each.
pub(super) fn drop_earlier(manifests: &mut Vec<Manifest>) -> Vec<Warning> {
    let mut last: HashMap<[String; 4], (usize, Place)> = HashMap::new();
    for (index, manifest) in manifests.iter().enumerate() {
        last.insert(identity(manifest), (index, manifest.place.clone()));
    }
    let mut warnings = Vec::new();
    let mut indexes = 0..;
    manifests.retain(|manifest| {
        let index = indexes.next();
        let Some((_, place)) = last.get(&identity(manifest)).filter(|(last, _)| Some(*last) != index) else {
            return true;
        };
        let (kind, name) = (manifest.kind(), manifest.name());
        let what = format!("{kind} {name} stands twice: the one at {place} counts, not this one");
        warnings.push(Warning { place: manifest.place.clone(), what });
        false
    });
    warnings
}

/// Group, kind, namespace and name: versions are views of one object.
fn identity(manifest: &Manifest) -> [String; 4] {
    let group = manifest.api_version().split_once('/').map_or("", |(group, _)| group);
    [group, manifest.kind(), manifest.namespace().unwrap_or("default"), manifest.name()].map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn the_last_of_an_object_that_stands_twice_counts() {
        let map = |namespace: &str, value: &str| {
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a{namespace}}}\ndata: {{value: '{value}'}}\n---\n"
            )
        };
        let text = [
            map("", "1"),
            map(", namespace: shop", "2"),
            map(", namespace: default", "3"),
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n---\n".to_owned(),
            map("", "4"),
        ];
        let loaded = parse("app.yaml", &text.concat()).unwrap();
        let values: Vec<_> =
            loaded.manifests.iter().map(|one| one.object["data"]["value"].as_str()).collect();
        assert_eq!(values, [Some("2"), None, Some("4")]);
        let told: Vec<String> =
            loaded.warnings.iter().map(|warning| format!("{}: {}", warning.place, warning.what)).collect();
        assert_eq!(
            told,
            [
                "app.yaml:1: ConfigMap a stands twice: the one at app.yaml:20 counts, not this one",
                "app.yaml:11: ConfigMap a stands twice: the one at app.yaml:20 counts, not this one",
            ]
        );
    }

    /// Versions of a group are views of one object; another group's kind of the same name is another.
    #[test]
    fn an_object_is_the_same_in_every_version_and_another_in_another_group() {
        let of = |version: &str| format!("apiVersion: {version}\nkind: Robot\nmetadata: {{name: a}}\n---\n");
        let text = [of("example.com/v1"), of("example.com/v2"), of("example.org/v1")].concat();
        let loaded = parse("app.yaml", &text).unwrap();
        let kept: Vec<&str> = loaded.manifests.iter().map(|one| one.api_version()).collect();
        assert_eq!(kept, ["example.com/v2", "example.org/v1"]);
    }
}
