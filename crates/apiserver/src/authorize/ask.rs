//! What a request asks to do, as rules name it.

use http::Method;

use crate::http::Call;
use crate::http::path::Target;
use crate::http::query::Query;

/// A verb, and on what.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ask<'a> {
    pub(crate) verb: &'a str,
    pub(crate) what: What<'a>,
}

/// What something is to be done to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum What<'a> {
    /// A path outside of the API's resources.
    Path(&'a str),
    /// Objects.
    Resource {
        group: &'a str,
        /// `pods`, `pods/log`.
        resource: String,
        namespace: &'a str,
        /// Empty: all of them.
        name: String,
    },
}

impl<'a> Ask<'a> {
    pub(crate) fn path(method: &'a Method, path: &'a str) -> Ask<'a> {
        // As rules write it.
        let verb = match method.as_str() {
            "GET" => "get",
            "HEAD" => "head",
            "POST" => "post",
            "PUT" => "put",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "options",
        };
        Ask { verb, what: What::Path(path) }
    }

    pub(crate) fn objects(method: &Method, group: &'a str, target: &'a Target, query: &Query) -> Ask<'a> {
        let mut name = target.name.clone();
        let verb = match (method.as_str(), name.is_empty()) {
            ("GET" | "HEAD", _) if query.flag("watch") => "watch",
            ("GET" | "HEAD", true) => "list",
            ("GET" | "HEAD", false) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", true) => "deletecollection",
            ("DELETE", false) => "delete",
            _ => "",
        };
        // Whoever may see one object may list and watch that one.
        if name.is_empty() {
            let selected =
                query.get("fieldSelector").split(',').find_map(|part| part.strip_prefix("metadata.name="));
            name = selected.map(|name| name.trim_start_matches('=').to_owned()).unwrap_or_default();
        }
        let resource = match target.subresource.as_str() {
            "" => target.plural.clone(),
            subresource => format!("{}/{subresource}", target.plural),
        };
        let namespace = namespace_of(group, &target.plural, &target.namespace, &target.name);
        Ask { verb, what: What::Resource { group, resource, namespace, name } }
    }

    /// To make the object that a call would change, if it is not there.
    pub(crate) fn creation(call: &'a Call) -> Ask<'a> {
        let (group, plural) = (call.resource.group.as_str(), &call.resource.plural);
        let namespace = namespace_of(group, plural, &call.namespace, &call.name);
        let resource = plural.clone();
        Ask { verb: "create", what: What::Resource { group, resource, namespace, name: call.name.clone() } }
    }

    pub(crate) fn namespace(&self) -> &str {
        match self.what {
            What::Path(_) => "",
            What::Resource { namespace, .. } => namespace,
        }
    }
}

/// A Namespace is in itself.
fn namespace_of<'a>(group: &str, plural: &str, namespace: &'a str, name: &'a str) -> &'a str {
    if group.is_empty() && plural == "namespaces" { name } else { namespace }
}
