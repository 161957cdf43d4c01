//! Probes and hooks of containers.

use serde_json::Value;

use super::super::{Errors, count, is_given, one_of, port_or_name};
use crate::error::FieldError;

const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// Checks the hooks and probes of a container.
pub(super) fn all(container: &Value, at: &str, errors: &mut Errors) {
    for hook in ["postStart", "preStop"] {
        let value = &container["lifecycle"][hook];
        if !value.is_null() {
            handler(value, &format!("{at}.lifecycle.{hook}"), errors);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let (probe, at) = (&container[name], format!("{at}.{name}"));
        if probe.is_null() {
            continue;
        }
        handler(probe, &at, errors);
        let times = [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ];
        for field in times {
            count(&probe[field], &format!("{at}.{field}"), errors);
        }
        let grace = &probe["terminationGracePeriodSeconds"];
        let field = format!("{at}.terminationGracePeriodSeconds");
        if name == "readinessProbe" && !grace.is_null() {
            errors.push(FieldError::invalid(field, grace, "must not be set for readinessProbes"));
        } else if grace.as_i64().is_some_and(|seconds| seconds <= 0) {
            errors.push(FieldError::invalid(field, grace, "must be greater than 0"));
        }
        let successes = &probe["successThreshold"];
        if name != "readinessProbe" && successes.as_i64().is_some_and(|number| number != 1) {
            errors.push(FieldError::invalid(format!("{at}.successThreshold"), successes, "must be 1"));
        }
    }
}

/// One thing that is done to ask or tell a container.
fn handler(holder: &Value, at: &str, errors: &mut Errors) {
    let mut given = HANDLERS.into_iter().filter(|name| !holder[*name].is_null());
    let Some(first) = given.next() else {
        errors.push(FieldError::required(at, "must specify a handler type"));
        return;
    };
    let (value, field) = (&holder[first], |name: &str| format!("{at}.{first}.{name}"));
    match first {
        "exec" if value["command"].as_array().is_none_or(Vec::is_empty) => {
            errors.push(FieldError::required(field("command"), ""));
        }
        "httpGet" => {
            if !is_given(&value["path"]) {
                errors.push(FieldError::required(field("path"), ""));
            }
            port_or_name(&value["port"], &field("port"), errors);
            one_of(&value["scheme"], &field("scheme"), &["HTTP", "HTTPS"], errors);
        }
        "tcpSocket" | "grpc" => port_or_name(&value["port"], &field("port"), errors),
        _ => {}
    }
    for name in given {
        errors
            .push(FieldError::forbidden(format!("{at}.{name}"), "may not specify more than 1 handler type"));
    }
}
