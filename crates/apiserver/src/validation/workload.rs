//! What makes Pods from templates.

use serde_json::Value;

use super::metadata::labels;
use super::{Errors, count, list, one_of, pod};
use crate::error::FieldError;
use crate::validation::names;

pub(super) fn check(plural: &str, spec: &Value, errors: &mut Errors) {
    match plural {
        "jobs" => return job(spec, "spec", errors),
        "cronjobs" => {
            let schedule = spec["schedule"].as_str().unwrap_or_default();
            if schedule.is_empty() {
                errors.push(FieldError::required("spec.schedule", ""));
            }
            let policies = ["Allow", "Forbid", "Replace"];
            one_of(&spec["concurrencyPolicy"], "spec.concurrencyPolicy", &policies, errors);
            return job(&spec["jobTemplate"]["spec"], "spec.jobTemplate.spec", errors);
        }
        _ => {}
    }
    count(&spec["replicas"], "spec.replicas", errors);
    template(&with_claims(spec), "spec.template", &["Always"], errors);
    let selected = &spec["template"]["metadata"]["labels"];
    if plural == "replicationcontrollers" {
        let selector = spec["selector"].as_object();
        if selector.is_none_or(serde_json::Map::is_empty) {
            errors.push(FieldError::required("spec.selector", ""));
        } else if selector.into_iter().flatten().any(|(key, value)| selected.get(key) != Some(value)) {
            let why = "`selector` does not match template `labels`";
            errors.push(FieldError::invalid("spec.template.metadata.labels", selected, why));
        }
        return;
    }
    selector(&spec["selector"], "spec.selector", errors);
    if spec["selector"].is_null() {
        errors.push(FieldError::required("spec.selector", ""));
    } else if is_empty(&spec["selector"]) {
        let why = "empty selector is invalid for workloads";
        errors.push(FieldError::invalid("spec.selector", &spec["selector"], why));
    } else if !matches(&spec["selector"], selected) {
        let why = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", selected, why));
    }
    let strategy = &spec["strategy"]["type"];
    one_of(strategy, "spec.strategy.type", &["Recreate", "RollingUpdate"], errors);
    if *strategy == "Recreate" && !spec["strategy"]["rollingUpdate"].is_null() {
        let why = "may not be specified when strategy `type` is 'Recreate'";
        errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", why));
    }
    one_of(
        &spec["updateStrategy"]["type"],
        "spec.updateStrategy.type",
        &["OnDelete", "RollingUpdate"],
        errors,
    );
}

/// The Pod template with a volume for each of a StatefulSet's claim templates: mounts may name them.
fn with_claims(spec: &Value) -> Value {
    let mut template = spec["template"].clone();
    let claims = spec["volumeClaimTemplates"].as_array().into_iter().flatten();
    let names: Vec<&Value> = claims.map(|claim| &claim["metadata"]["name"]).collect();
    if names.is_empty() || !template["spec"].is_object() {
        return template;
    }
    let volumes = &mut template["spec"]["volumes"];
    if volumes.is_null() {
        *volumes = Value::Array(Vec::new());
    }
    if let Some(volumes) = volumes.as_array_mut() {
        for name in names {
            if !volumes.iter().any(|volume| volume["name"] == *name) {
                volumes.push(serde_json::json!({ "name": name }));
            }
        }
    }
    template
}

fn template(template: &Value, at: &str, restarts: &[&str], errors: &mut Errors) {
    if !template.is_object() {
        errors.push(FieldError::required(at, ""));
        return;
    }
    labels(&template["metadata"]["labels"], &format!("{at}.metadata.labels"), errors);
    pod::spec(&template["spec"], &format!("{at}.spec"), errors);
    one_of(&template["spec"]["restartPolicy"], &format!("{at}.spec.restartPolicy"), restarts, errors);
}

fn job(spec: &Value, at: &str, errors: &mut Errors) {
    for name in
        ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"]
    {
        count(&spec[name], &format!("{at}.{name}"), errors);
    }
    template(&spec["template"], &format!("{at}.template"), &["OnFailure", "Never"], errors);
}

/// The parts of a label selector.
pub(super) fn selector(selector: &Value, at: &str, errors: &mut Errors) {
    labels(&selector["matchLabels"], &format!("{at}.matchLabels"), errors);
    let field = format!("{at}.matchExpressions");
    for (place, expression) in list(&selector["matchExpressions"], &field, errors).iter().enumerate() {
        let field = format!("{at}.matchExpressions[{place}]");
        if let Err(why) = names::label_key(expression["key"].as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid(format!("{field}.key"), &expression["key"], why));
        }
        let values = expression["values"].as_array().map_or(0, Vec::len);
        match expression["operator"].as_str() {
            Some("In" | "NotIn") if values == 0 => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(format!("{field}.values"), why));
            }
            Some("Exists" | "DoesNotExist") if values > 0 => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(format!("{field}.values"), why));
            }
            Some("In" | "NotIn" | "Exists" | "DoesNotExist") => {}
            _ => {
                let why = "not a valid selector operator";
                errors.push(FieldError::invalid(format!("{field}.operator"), &expression["operator"], why));
            }
        }
    }
}

fn is_empty(selector: &Value) -> bool {
    let none = |value: &Value| {
        value.as_object().is_none_or(serde_json::Map::is_empty) && value.as_array().is_none_or(Vec::is_empty)
    };
    none(&selector["matchLabels"]) && none(&selector["matchExpressions"])
}

fn matches(selector: &Value, labels: &Value) -> bool {
    let all = selector["matchLabels"].as_object().into_iter().flatten();
    if all.into_iter().any(|(key, value)| labels.get(key) != Some(value)) {
        return false;
    }
    selector["matchExpressions"].as_array().into_iter().flatten().all(|expression| {
        let value = expression["key"].as_str().and_then(|key| labels.get(key));
        let listed =
            || value.is_some_and(|value| expression["values"].as_array().is_some_and(|v| v.contains(value)));
        match expression["operator"].as_str() {
            Some("In") => listed(),
            Some("NotIn") => !listed(),
            Some("Exists") => value.is_some(),
            Some("DoesNotExist") => value.is_none(),
            _ => false,
        }
    })
}
