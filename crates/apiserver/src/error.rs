//! Failures as the Kubernetes API reports them: a `Status` object and an HTTP code.

use serde_json::{Value, json};

/// An answer that refuses a request.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    /// HTTP status code.
    pub(crate) code: u16,
    /// Machine-readable reason, as in `metav1.StatusReason`.
    pub(crate) reason: &'static str,
    /// What happened, for people.
    pub(crate) message: String,
    /// `Status.details`, or null.
    pub(crate) details: Value,
}

/// What a handler returns.
pub(crate) type Result<T, E = Box<ApiError>> = std::result::Result<T, E>;

/// One thing wrong with one field of an object.
#[derive(Debug, Clone)]
pub(crate) struct FieldError {
    pub(crate) reason: &'static str,
    pub(crate) field: String,
    pub(crate) message: String,
}

impl FieldError {
    pub(crate) fn required(field: impl Into<String>, detail: &str) -> Self {
        let message =
            if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        FieldError { reason: "FieldValueRequired", field: field.into(), message }
    }

    pub(crate) fn invalid(field: impl Into<String>, value: &Value, detail: impl AsRef<str>) -> Self {
        let detail = detail.as_ref();
        let message = if detail.is_empty() {
            format!("Invalid value: {value}")
        } else {
            format!("Invalid value: {value}: {detail}")
        };
        FieldError { reason: "FieldValueInvalid", field: field.into(), message }
    }

    pub(crate) fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        FieldError {
            reason: "FieldValueDuplicate",
            field: field.into(),
            message: format!("Duplicate value: {value}"),
        }
    }

    pub(crate) fn not_supported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        FieldError {
            reason: "FieldValueNotSupported",
            field: field.into(),
            message: format!("Unsupported value: {value}: supported values: {}", list.join(", ")),
        }
    }

    pub(crate) fn not_found(field: impl Into<String>, value: &Value) -> Self {
        FieldError {
            reason: "FieldValueNotFound",
            field: field.into(),
            message: format!("Not found: {value}"),
        }
    }

    pub(crate) fn too_many(field: impl Into<String>, found: usize, most: usize) -> Self {
        FieldError {
            reason: "FieldValueTooMany",
            field: field.into(),
            message: format!("Too many: {found}: must have at most {most} items"),
        }
    }

    pub(crate) fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        FieldError {
            reason: "FieldValueForbidden",
            field: field.into(),
            message: format!("Forbidden: {detail}"),
        }
    }

    pub(crate) fn type_invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        FieldError {
            reason: "FieldValueTypeInvalid",
            field: field.into(),
            message: format!("Invalid value: {value}: {detail}"),
        }
    }
}

impl ApiError {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Box<Self> {
        Box::new(ApiError { code, reason, message: message.into(), details: Value::Null })
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Box<Self> {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Box<Self> {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// `resource` is the qualified name, `deployments.apps`.
    pub(crate) fn not_found(group: &str, plural: &str, name: &str) -> Box<Self> {
        let mut error =
            Self::new(404, "NotFound", format!("{} {name:?} not found", qualified(group, plural)));
        error.details = details(group, plural, name);
        error
    }

    /// The path names no resource that this server has.
    pub(crate) fn no_such_resource() -> Box<Self> {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub(crate) fn method_not_allowed() -> Box<Self> {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub(crate) fn already_exists(group: &str, plural: &str, name: &str) -> Box<Self> {
        let message = format!("{} {name:?} already exists", qualified(group, plural));
        let mut error = Self::new(409, "AlreadyExists", message);
        error.details = details(group, plural, name);
        error
    }

    pub(crate) fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Box<Self> {
        let message =
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(group, plural));
        let mut error = Self::new(409, "Conflict", message);
        error.details = details(group, plural, name);
        error
    }

    pub(crate) fn modified(group: &str, plural: &str, name: &str) -> Box<Self> {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, plural, name, why)
    }

    pub(crate) fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> Box<Self> {
        let mut what = qualified(group, plural);
        if !name.is_empty() {
            what += &format!(" {name:?}");
        }
        let message = format!("{what} is forbidden: {why}");
        let mut error = Self::new(403, "Forbidden", message);
        error.details = details(group, plural, name);
        error
    }

    /// None of the protocols that a client offers for a session.
    pub(crate) fn forbidden_protocol(offered: &str) -> Box<Self> {
        Self::new(
            403,
            "Forbidden",
            format!("unable to upgrade: unable to negotiate protocol: client supports [{offered}]"),
        )
    }

    /// History no longer reaches back to `wanted`.
    pub(crate) fn too_old(wanted: u64, oldest: u64) -> Box<Self> {
        Self::new(410, "Expired", format!("too old resource version: {wanted} ({oldest})"))
    }

    pub(crate) fn unsupported_media_type(message: impl Into<String>) -> Box<Self> {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 422 with every broken field among the causes.
    pub(crate) fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Box<Self> {
        let mut lines: Vec<String> = Vec::new();
        for error in errors {
            let line = format!("{}: {}", error.field, error.message);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let what = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut error =
            Self::new(422, "Invalid", format!("{} {name:?} is invalid: {what}", qualified(group, kind)));
        let causes: Vec<Value> = errors
            .iter()
            .map(|error| json!({"reason": error.reason, "message": error.message, "field": error.field}))
            .collect();
        error.details = details(group, kind, name);
        error.details["causes"] = causes.into();
        error
    }

    /// The body: `kind: Status`.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

/// `deployments.apps`, or `pods` in the core group.
pub(crate) fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

/// What is empty is left out.
fn details(group: &str, kind: &str, name: &str) -> Value {
    let given = [("name", name), ("group", group), ("kind", kind)];
    given
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key, Value::from(value)))
        .collect()
}
