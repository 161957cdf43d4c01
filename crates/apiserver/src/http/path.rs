//! What a path asks for.

use super::query::decode;

/// A path below `/api` or `/apis`, or something else.
#[derive(Debug, PartialEq)]
pub(crate) enum Path {
    /// `/api`, `/apis`.
    Groups { core: bool },
    /// `/apis/GROUP`.
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`.
    Version { group: String, version: String },
    /// Objects.
    Resource { group: String, version: String, target: Target },
    /// Everything outside of the API proper; decoded segments.
    Other(Vec<String>),
}

/// Which objects: missing parts are empty.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Target {
    pub(crate) namespace: String,
    pub(crate) plural: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// What follows the subresource: something only after `proxy`.
    pub(crate) rest: String,
}

impl Path {
    pub(crate) fn parse(path: &str) -> Path {
        let parts: Vec<String> =
            path.split('/').filter(|part| !part.is_empty()).map(|part| decode(part, false)).collect();
        let words: Vec<&str> = parts.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["api"] => Path::Groups { core: true },
            ["apis"] => Path::Groups { core: false },
            ["apis", group] => Path::Group((*group).to_owned()),
            ["api", version, rest @ ..] => version_path("", version, rest),
            ["apis", group, version, rest @ ..] => version_path(group, version, rest),
            _ => Path::Other(parts),
        }
    }
}

fn version_path(group: &str, version: &str, rest: &[&str]) -> Path {
    let (group, version) = (group.to_owned(), version.to_owned());
    if rest.is_empty() {
        return Path::Version { group, version };
    }
    let (namespace, rest) = match rest {
        // `/namespaces/NAME/status` is of the Namespace itself.
        ["namespaces", _, "status" | "finalize"] => ("", rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        _ => ("", rest),
    };
    let part = |at: usize| rest.get(at).copied().unwrap_or_default().to_owned();
    let target = Target {
        namespace: namespace.to_owned(),
        plural: part(0),
        name: part(1),
        subresource: part(2),
        rest: rest.get(3..).map(|rest| rest.join("/")).unwrap_or_default(),
    };
    Path::Resource { group, version, target }
}

#[cfg(test)]
mod tests {
    use super::{Path, Target};

    fn target(path: &str) -> (String, Target) {
        match Path::parse(path) {
            Path::Resource { group, target, .. } => (group, target),
            other => panic!("{path} is {other:?}"),
        }
    }

    #[test]
    fn objects_are_found_in_their_paths() {
        let (group, found) = target("/apis/apps/v1/namespaces/shop/deployments/web/scale");
        assert_eq!(group, "apps");
        assert_eq!((found.namespace.as_str(), found.plural.as_str()), ("shop", "deployments"));
        assert_eq!((found.name.as_str(), found.subresource.as_str()), ("web", "scale"));
        let (_, found) = target("/api/v1/namespaces/shop");
        assert_eq!((found.namespace.as_str(), found.plural.as_str()), ("", "namespaces"));
        assert_eq!(found.name, "shop");
        let (_, found) = target("/api/v1/namespaces/shop/status");
        assert_eq!((found.name.as_str(), found.subresource.as_str()), ("shop", "status"));
        let (_, found) = target("/api/v1/namespaces/shop/pods");
        assert_eq!((found.namespace.as_str(), found.plural.as_str()), ("shop", "pods"));
        assert_eq!(Path::parse("/api"), Path::Groups { core: true });
        assert_eq!(Path::parse("/version"), Path::Other(vec!["version".into()]));
    }
}
