//! Autoscalers and disruption budgets.

use serde_json::Value;

use super::workload::selector;
use super::{Errors, list, one_of, required, share};
use crate::error::FieldError;

const METRICS: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

pub(super) fn autoscaler(spec: &Value, errors: &mut Errors) {
    let (least, most) =
        (spec["minReplicas"].as_i64().unwrap_or(1), spec["maxReplicas"].as_i64().unwrap_or(0));
    if least < 1 {
        let why = "must be greater than or equal to 1";
        errors.push(FieldError::invalid("spec.minReplicas", &least.into(), why));
    }
    if most < 1 {
        errors.push(FieldError::required("spec.maxReplicas", "must be set and greater than 0"));
    }
    if most < least {
        let why = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid("spec.maxReplicas", &most.into(), why));
    }
    let target = &spec["scaleTargetRef"];
    required(target, "spec.scaleTargetRef", &["kind", "name"], errors);
    if target["apiVersion"].as_str().is_none_or(str::is_empty) {
        let why = "apiVersion must specify API group";
        errors.push(FieldError::invalid("spec.scaleTargetRef.apiVersion", &"".into(), why));
    }
    let metrics = list(&spec["metrics"], "spec.metrics", errors);
    for (at, metric) in metrics.iter().enumerate() {
        one_of(&metric["type"], &format!("spec.metrics[{at}].type"), &METRICS, errors);
    }
    if least == 0
        && !metrics.iter().any(|metric| matches!(metric["type"].as_str(), Some("Object" | "External")))
    {
        let why = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(FieldError::forbidden("spec.metrics", why));
    }
}

pub(super) fn budget(spec: &Value, errors: &mut Errors) {
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        errors.push(FieldError::invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set"));
    }
    share(&spec["minAvailable"], "spec.minAvailable", errors);
    share(&spec["maxUnavailable"], "spec.maxUnavailable", errors);
    let policies = ["AlwaysAllow", "IfHealthyBudget"];
    one_of(&spec["unhealthyPodEvictionPolicy"], "spec.unhealthyPodEvictionPolicy", &policies, errors);
    selector(&spec["selector"], "spec.selector", errors);
}
