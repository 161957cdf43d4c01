//! A rule of a role, and whether it allows what is asked.

use serde_json::Value;

use super::{Ask, What};

/// Whether this rule allows it.
pub(super) fn allows(rule: &Value, ask: &Ask<'_>) -> bool {
    if !has(&rule["verbs"], ask.verb) {
        return false;
    }
    match &ask.what {
        What::Path(path) => words(&rule["nonResourceURLs"]).any(|url| match url.strip_suffix('*') {
            Some(begin) => path.starts_with(begin),
            None => url == *path,
        }),
        What::Resource { group, resource, name, .. } => {
            let of_any = resource.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
            let of_resource = has(&rule["resources"], resource)
                || of_any.is_some_and(|of_any| has(&rule["resources"], &of_any));
            let mut names = words(&rule["resourceNames"]).peekable();
            of_resource
                && has(&rule["apiGroups"], group)
                && (names.peek().is_none() || names.any(|one| one == name))
        }
    }
}

fn words(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn has(list: &Value, word: &str) -> bool {
    words(list).any(|one| one == "*" || one == word)
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::http::path::Path;
    use crate::http::query::Query;

    fn asked(rule: &Value, method: &Method, url: &str) -> bool {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        match Path::parse(path) {
            Path::Resource { group, target, .. } => {
                allows(rule, &Ask::objects(method, &group, &target, &Query::parse(query)))
            }
            _ => allows(rule, &Ask::path(method, path)),
        }
    }

    #[test]
    fn a_rule_allows_what_it_names() {
        let rule = json!({
            "apiGroups": ["", "apps"], "resources": ["pods", "pods/log", "deployments", "*/scale"], "verbs": ["get", "watch"],
        });
        for (url, allowed) in [
            ("/api/v1/namespaces/a/pods/x", true),
            ("/api/v1/pods?watch=1", true),
            ("/api/v1/namespaces/a/pods", false),
            ("/api/v1/namespaces/a/pods/x/log", true),
            ("/api/v1/namespaces/a/pods/x/exec", false),
            ("/api/v1/namespaces/a/pods/x/status", false),
            ("/apis/apps/v1/namespaces/a/deployments/x/scale", true),
            ("/apis/apps/v1/namespaces/a/statefulsets/x/scale", true),
            ("/apis/apps/v1/namespaces/a/statefulsets/x", false),
            ("/apis/batch/v1/namespaces/a/pods/x", false),
            ("/version", false),
        ] {
            assert_eq!(asked(&rule, &Method::GET, url), allowed, "{url}");
        }
        assert!(!asked(&rule, &Method::DELETE, "/api/v1/namespaces/a/pods/x"));
    }

    #[test]
    fn names_narrow_a_rule() {
        let rule = json!({
            "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"],
            "verbs": ["get", "list", "watch", "create", "deletecollection"],
        });
        for (method, url, allowed) in [
            (Method::GET, "/api/v1/namespaces/a/configmaps/mine", true),
            (Method::GET, "/api/v1/namespaces/a/configmaps/other", false),
            (Method::GET, "/api/v1/namespaces/a/configmaps", false),
            (
                Method::GET,
                "/api/v1/namespaces/a/configmaps?watch=true&fieldSelector=metadata.name%3Dmine",
                true,
            ),
            (Method::GET, "/api/v1/namespaces/a/configmaps?fieldSelector=metadata.name=other", false),
            // An object that is about to be created has no name yet.
            (Method::POST, "/api/v1/namespaces/a/configmaps", false),
            (Method::DELETE, "/api/v1/namespaces/a/configmaps", false),
        ] {
            assert_eq!(asked(&rule, &method, url), allowed, "{method} {url}");
        }
    }

    #[test]
    fn paths_are_allowed_by_their_beginning() {
        let rule = json!({"nonResourceURLs": ["/version", "/openapi/*"], "verbs": ["get"]});
        for (url, allowed) in [
            ("/version", true),
            ("/version/x", false),
            ("/openapi/v3", true),
            ("/openapi", false),
            ("/apis", false),
        ] {
            assert_eq!(asked(&rule, &Method::GET, url), allowed, "{url}");
        }
        assert!(!asked(&rule, &Method::GET, "/api/v1/pods"));
    }
}
