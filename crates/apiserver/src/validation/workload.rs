//! What makes Pods from templates.

use serde_json::{Map, Value, json};

use super::metadata::labels;
use super::{Errors, config, count, is_given, list, named, names, one_of, pod, share};
use crate::error::FieldError;
use crate::meta;
use crate::selector::selects;

const NO_MATCH: &str = "`selector` does not match template `labels`";
const STRATEGIES: [&str; 2] = ["RollingUpdate", "OnDelete"];

pub(super) fn check(plural: &str, object: &Value, new: bool, errors: &mut Errors) {
    let spec = &object["spec"];
    match plural {
        "deployments" => deployment(spec, errors),
        "replicasets" | "replicationcontrollers" => replicas(plural, spec, errors),
        "daemonsets" => daemon(spec, errors),
        "statefulsets" => stateful(spec, errors),
        "jobs" => job(spec, "spec", errors),
        "cronjobs" => cron(object, new, errors),
        _ => {}
    }
}

fn deployment(spec: &Value, errors: &mut Errors) {
    count(&spec["replicas"], "spec.replicas", errors);
    selected(spec, "deployment", "invalid label selector", errors);
    let strategy = &spec["strategy"];
    let at = "spec.strategy.rollingUpdate";
    match strategy["type"].as_str() {
        Some("Recreate") if !strategy["rollingUpdate"].is_null() => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden(at, why));
        }
        Some("Recreate") | None => {}
        Some("RollingUpdate") => {
            let rolling = &strategy["rollingUpdate"];
            share(&rolling["maxUnavailable"], &format!("{at}.maxUnavailable"), errors);
            share_or_more(&rolling["maxSurge"], &format!("{at}.maxSurge"), errors);
            if is_none(&rolling["maxUnavailable"]) && is_none(&rolling["maxSurge"]) {
                let why = "may not be 0 when `maxSurge` is 0";
                let field = format!("{at}.maxUnavailable");
                errors.push(FieldError::invalid(field, &rolling["maxUnavailable"], why));
            }
        }
        Some(_) => {
            errors.push(FieldError::not_supported("spec.strategy", strategy, &["Recreate", "RollingUpdate"]));
        }
    }
    for name in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        count(&spec[name], &format!("spec.{name}"), errors);
    }
    let deadline = &spec["progressDeadlineSeconds"];
    let ready = spec["minReadySeconds"].as_i64().unwrap_or(0);
    if deadline.as_i64().is_some_and(|deadline| deadline <= ready) {
        let why = "must be greater than minReadySeconds";
        errors.push(FieldError::invalid("spec.progressDeadlineSeconds", deadline, why));
    }
}

fn replicas(plural: &str, spec: &Value, errors: &mut Errors) {
    count(&spec["replicas"], "spec.replicas", errors);
    count(&spec["minReadySeconds"], "spec.minReadySeconds", errors);
    if plural == "replicasets" {
        return selected(spec, "replicaset", "invalid label selector", errors);
    }
    let wanted = spec["selector"].as_object();
    let labels = &spec["template"]["metadata"]["labels"];
    if wanted.is_none_or(Map::is_empty) {
        errors.push(FieldError::required("spec.selector", ""));
    } else if wanted.into_iter().flatten().any(|(key, value)| labels.get(key) != Some(value)) {
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels, NO_MATCH));
    }
    always(&spec["template"], errors);
}

fn daemon(spec: &Value, errors: &mut Errors) {
    selector(&spec["selector"], "spec.selector", errors);
    let labels = &spec["template"]["metadata"]["labels"];
    if is_sound(&spec["selector"]) && (spec["selector"].is_null() || !selects(&spec["selector"], labels)) {
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels, NO_MATCH));
    }
    if !spec["selector"].is_null() && is_empty(&spec["selector"]) {
        let why = "empty selector is invalid for daemonset";
        errors.push(FieldError::invalid("spec.selector", &spec["selector"], why));
    }
    always(&spec["template"], errors);
    count(&spec["minReadySeconds"], "spec.minReadySeconds", errors);
    let strategy = &spec["updateStrategy"];
    let (rolling, at) = (&strategy["rollingUpdate"], "spec.updateStrategy.rollingUpdate");
    match strategy["type"].as_str() {
        Some("OnDelete") | None => {}
        Some("RollingUpdate") => {
            share(&rolling["maxUnavailable"], &format!("{at}.maxUnavailable"), errors);
            share(&rolling["maxSurge"], &format!("{at}.maxSurge"), errors);
            match (is_none(&rolling["maxUnavailable"]), is_none(&rolling["maxSurge"])) {
                (false, false) => {
                    let why = "may not be set when maxUnavailable is non-zero";
                    errors.push(FieldError::invalid(format!("{at}.maxSurge"), &rolling["maxSurge"], why));
                }
                (true, true) => {
                    let why = "cannot be 0 when maxSurge is 0";
                    errors.push(FieldError::required(format!("{at}.maxUnavailable"), why));
                }
                _ => {}
            }
        }
        Some(_) => errors.push(FieldError::not_supported("spec.updateStrategy", strategy, &STRATEGIES)),
    }
    count(&spec["revisionHistoryLimit"], "spec.revisionHistoryLimit", errors);
}

fn stateful(spec: &Value, errors: &mut Errors) {
    let policy = &spec["podManagementPolicy"];
    if policy.as_str().is_some_and(|policy| !matches!(policy, "OrderedReady" | "Parallel")) {
        let why = "must be 'OrderedReady' or 'Parallel'";
        errors.push(FieldError::invalid("spec.podManagementPolicy", policy, why));
    }
    let strategy = &spec["updateStrategy"];
    let (rolling, at) = (&strategy["rollingUpdate"], "spec.updateStrategy.rollingUpdate");
    match strategy["type"].as_str() {
        Some("OnDelete") if !rolling.is_null() => {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(FieldError::invalid(at, rolling, why));
        }
        Some("OnDelete") | None => {}
        Some("RollingUpdate") => {
            count(&rolling["partition"], &format!("{at}.partition"), errors);
            let most = &rolling["maxUnavailable"];
            if !most.is_null() {
                share(most, &format!("{at}.maxUnavailable"), errors);
                if is_none(most) {
                    errors.push(FieldError::invalid(format!("{at}.maxUnavailable"), most, "cannot be 0"));
                }
            }
        }
        Some(_) => {
            let why = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(FieldError::invalid("spec.updateStrategy", strategy, why));
        }
    }
    for (place, claim) in
        list(&spec["volumeClaimTemplates"], "spec.volumeClaimTemplates", errors).iter().enumerate()
    {
        config::claim_at(&claim["spec"], &format!("spec.volumeClaimTemplates[{place}].spec"), errors);
    }
    count(&spec["replicas"], "spec.replicas", errors);
    count(&spec["minReadySeconds"], "spec.minReadySeconds", errors);
    count(&spec["ordinals"]["start"], "spec.ordinals.start", errors);
    if is_given(&spec["serviceName"]) {
        named(&spec["serviceName"], "spec.serviceName", names::dns_label, errors);
    }
    let mut spec = spec.clone();
    spec["template"] = with_claims(&spec);
    selected(&spec, "statefulset", "", errors);
    count(&spec["revisionHistoryLimit"], "spec.revisionHistoryLimit", errors);
}

/// The Pod template as the controller makes Pods of it: with a volume for each claim template, which mounts may name, and host names
/// of its own.
fn with_claims(spec: &Value) -> Value {
    let mut template = spec["template"].clone();
    let claims = spec["volumeClaimTemplates"].as_array().into_iter().flatten();
    let names: Vec<&Value> = claims.map(|claim| &claim["metadata"]["name"]).collect();
    let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) else { return template };
    pod.remove("hostname");
    pod.remove("subdomain");
    if names.is_empty() {
        return template;
    }
    let volumes = pod.entry("volumes").or_insert_with(|| json!([]));
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.retain(|volume| !names.contains(&&volume["name"]));
        volumes.extend(names.iter().map(|name| json!({"name": name, "emptyDir": {}})));
    }
    template
}

/// The selector, and the template whose Pods it selects; `unclear` is the message if the selector cannot be read.
fn selected(spec: &Value, kind: &str, unclear: &str, errors: &mut Errors) {
    const FIELD: &str = "spec.selector";
    let wanted = &spec["selector"];
    if wanted.is_null() {
        errors.push(FieldError::required(FIELD, ""));
    } else {
        selector(wanted, FIELD, errors);
        if is_empty(wanted) {
            let why = format!("empty selector is invalid for {kind}");
            errors.push(FieldError::invalid(FIELD, wanted, why));
        }
    }
    if !is_sound(wanted) {
        errors.push(FieldError::invalid(FIELD, wanted, unclear));
        return;
    }
    let labels = &spec["template"]["metadata"]["labels"];
    // An empty selector selects all; none selects nothing.
    if wanted.is_null() || (!is_empty(wanted) && !selects(wanted, labels)) {
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels, NO_MATCH));
    }
    always(&spec["template"], errors);
}

/// A template whose Pods are always started again.
fn always(template: &Value, errors: &mut Errors) {
    pod_template(template, "spec.template", errors);
    let policy = &template["spec"]["restartPolicy"];
    one_of(policy, "spec.template.spec.restartPolicy", &["Always"], errors);
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        let why = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.push(FieldError::forbidden("spec.template.spec.activeDeadlineSeconds", why));
    }
}

pub(super) fn pod_template(template: &Value, at: &str, errors: &mut Errors) {
    labels(&template["metadata"]["labels"], &format!("{at}.labels"), errors);
    pod::spec(&template["spec"], &format!("{at}.spec"), errors);
    if template["spec"]["ephemeralContainers"].as_array().is_some_and(|list| !list.is_empty()) {
        let why = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(format!("{at}.spec.ephemeralContainers"), why));
    }
}

fn job(spec: &Value, at: &str, errors: &mut Errors) {
    let field = |name: &str| format!("{at}.{name}");
    let counts = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    for name in counts {
        count(&spec[name], &field(name), errors);
    }
    let mode = spec["completionMode"].as_str().unwrap_or("NonIndexed");
    one_of(&spec["completionMode"], &field("completionMode"), &["NonIndexed", "Indexed"], errors);
    if mode == "Indexed" && spec["completions"].is_null() {
        errors.push(FieldError::required(field("completions"), "when completion mode is Indexed"));
    }
    for name in ["backoffLimitPerIndex", "maxFailedIndexes"] {
        if mode == "NonIndexed" && !spec[name].is_null() {
            errors.push(FieldError::invalid(field(name), &spec[name], "requires indexed completion mode"));
        }
    }
    let rules = field("podFailurePolicy.rules");
    for (place, rule) in list(&spec["podFailurePolicy"]["rules"], &rules, errors).iter().enumerate() {
        let actions = ["Count", "FailIndex", "FailJob", "Ignore"];
        one_of(&rule["action"], &format!("{rules}[{place}].action"), &actions, errors);
    }
    let replacement = ["Failed", "TerminatingOrFailed"];
    one_of(&spec["podReplacementPolicy"], &field("podReplacementPolicy"), &replacement, errors);
    pod_template(&spec["template"], &field("template"), errors);
    let restarts = ["OnFailure", "Never"];
    match spec["template"]["spec"]["restartPolicy"].as_str() {
        Some("OnFailure" | "Never") => {}
        None | Some("Always") => {
            let why = "valid values: \"OnFailure\", \"Never\"";
            errors.push(FieldError::required(field("template.spec.restartPolicy"), why));
        }
        Some(other) => {
            let value = other.into();
            errors.push(FieldError::not_supported(field("template.spec.restartPolicy"), &value, &restarts));
        }
    }
}

/// The Pods of a Job are told apart by labels that the server makes, unless it is said otherwise.
pub(super) fn generated_selector(job: &Value, errors: &mut Errors) {
    let spec = &job["spec"];
    let labels = &spec["template"]["metadata"]["labels"];
    if spec["manualSelector"] != true {
        let uid = &job["metadata"]["uid"];
        let wanted = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
        if spec["selector"] != wanted {
            errors.push(FieldError::invalid(
                "spec.selector",
                &spec["selector"],
                "`selector` not auto-generated",
            ));
        }
    }
    if !selects(&spec["selector"], labels) {
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels, NO_MATCH));
    }
}

pub(super) fn job_update(before: &Value, object: &Value, errors: &mut Errors) {
    let (old, new) = (&before["spec"], &object["spec"]);
    let suspended = old["suspend"] == true && before["status"]["startTime"].is_null();
    let elastic = new["completionMode"] == "Indexed" && new["completions"] == new["parallelism"];
    let fields = [
        "completions",
        "selector",
        "template",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ];
    for name in fields {
        let mut had = old[name].clone();
        if name == "completions" && elastic {
            continue;
        }
        // A Job that waits may still be told better where to run.
        if name == "template" && suspended {
            let (had, now) = (meta::map_of(&mut had), &new["template"]);
            copy(had, now, "metadata");
            let spec = meta::map(had, "spec");
            for field in ["nodeSelector", "tolerations", "affinity", "schedulingGates"] {
                copy(spec, &now["spec"], field);
            }
        }
        if had != new[name] {
            errors.push(FieldError::invalid(format!("spec.{name}"), &new[name], "field is immutable"));
        }
    }
}

fn copy(to: &mut Map<String, Value>, from: &Value, name: &str) {
    match from.get(name) {
        Some(value) => to.insert(name.to_owned(), value.clone()),
        None => to.remove(name),
    };
}

fn cron(object: &Value, new: bool, errors: &mut Errors) {
    let spec = &object["spec"];
    // Its Jobs have eleven letters more.
    if new && object["metadata"]["name"].as_str().is_some_and(|name| name.len() > 52) {
        let why = "must be no more than 52 characters";
        errors.push(FieldError::invalid("metadata.name", &object["metadata"]["name"], why));
    }
    let schedule = &spec["schedule"];
    match schedule.as_str().unwrap_or_default() {
        "" => errors.push(FieldError::required("spec.schedule", "")),
        text if text.contains("TZ") && new => {
            let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.push(FieldError::invalid("spec.schedule", schedule, why));
        }
        text => {
            if let Err(why) = schedule_of(text) {
                errors.push(FieldError::invalid("spec.schedule", schedule, why));
            }
        }
    }
    count(&spec["startingDeadlineSeconds"], "spec.startingDeadlineSeconds", errors);
    let zone = &spec["timeZone"];
    if let Some(text) = zone.as_str() {
        if text.is_empty() {
            errors.push(FieldError::invalid(
                "spec.timeZone",
                zone,
                "timeZone must be nil or non-empty string",
            ));
        } else if text.eq_ignore_ascii_case("local") {
            let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
            errors.push(FieldError::invalid("spec.timeZone", zone, why));
        }
    }
    let policies = ["Allow", "Forbid", "Replace"];
    one_of(&spec["concurrencyPolicy"], "spec.concurrencyPolicy", &policies, errors);
    job(&spec["jobTemplate"]["spec"], "spec.jobTemplate.spec", errors);
    count(&spec["successfulJobsHistoryLimit"], "spec.successfulJobsHistoryLimit", errors);
    count(&spec["failedJobsHistoryLimit"], "spec.failedJobsHistoryLimit", errors);
}

/// Five fields of numbers, ranges and steps, or a word.
fn schedule_of(text: &str) -> Result<(), String> {
    if let Some(word) = text.strip_prefix('@') {
        let words = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        let known = words.contains(&word) || word.starts_with("every ");
        return if known { Ok(()) } else { Err(format!("unrecognized descriptor: {text}")) };
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    let bounds = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)];
    if fields.len() != bounds.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (field, (low, high)) in fields.iter().zip(bounds) {
        for part in field.split(',') {
            let (range, step) = part.split_once('/').unwrap_or((part, "1"));
            let number = |text: &str| match text.parse::<u32>() {
                Ok(number) => Ok(number),
                // Names of months and days.
                Err(_) if text.len() == 3 && text.bytes().all(|b| b.is_ascii_alphabetic()) && high < 13 => {
                    Ok(low.max(1))
                }
                Err(_) => Err(format!(
                    "failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"
                )),
            };
            number(step)?;
            if matches!(range, "*" | "?") {
                continue;
            }
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (number(first)?, number(last)?);
            if first < low {
                return Err(format!("beginning of range ({first}) below minimum ({low}): {part}"));
            }
            if last > high {
                return Err(format!("end of range ({last}) above maximum ({high}): {part}"));
            }
            if first > last {
                return Err(format!("beginning of range ({first}) beyond end of range ({last}): {part}"));
            }
        }
    }
    Ok(())
}

/// What may change of a StatefulSet.
pub(super) fn stateful_update(before: &Value, object: &Value, errors: &mut Errors) {
    let free = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let frozen = |object: &Value| {
        let mut spec = object["spec"].clone();
        if let Value::Object(map) = &mut spec {
            map.retain(|name, _| !free.contains(&name.as_str()));
        }
        spec
    };
    if frozen(before) != frozen(object) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                   'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.push(FieldError::forbidden("spec", why));
    }
}

/// The numbers in a status.
pub(super) fn status(plural: &str, status: &Value, errors: &mut Errors) {
    let number = |name: &str| status[name].as_i64().unwrap_or(0);
    let counts: &[&str] = match plural {
        "deployments" => {
            &["replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"]
        }
        "replicasets" => &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
        "statefulsets" => {
            &["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"]
        }
        "daemonsets" => {
            &["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"]
        }
        _ => return,
    };
    for name in counts {
        count(&status[*name], &format!("status.{name}"), errors);
    }
    if plural == "daemonsets" {
        return;
    }
    for name in counts.iter().skip(1).filter(|name| **name != "unavailableReplicas") {
        if number(name) > number("replicas") {
            let why = "cannot be greater than status.replicas";
            errors.push(FieldError::invalid(format!("status.{name}"), &number(name).into(), why));
        }
    }
    let available = number("availableReplicas");
    if available > number("readyReplicas") {
        let words = if plural == "statefulsets" { "status.readyReplicas" } else { "readyReplicas" };
        let why = format!("cannot be greater than {words}");
        errors.push(FieldError::invalid("status.availableReplicas", &available.into(), why));
    }
}

/// Zero, or zero percent.
fn is_none(value: &Value) -> bool {
    value.is_null() || *value == 0 || value == "0%"
}

/// As a share, and it may be more than all.
fn share_or_more(value: &Value, field: &str, errors: &mut Errors) {
    let mut found = Errors::new();
    share(value, field, &mut found);
    errors.extend(found.into_iter().filter(|error| !error.message.contains("100%")));
}

/// The parts of a label selector.
pub(super) fn selector(selector: &Value, at: &str, errors: &mut Errors) {
    labels(&selector["matchLabels"], &format!("{at}.matchLabels"), errors);
    let field = format!("{at}.matchExpressions");
    for (place, expression) in list(&selector["matchExpressions"], &field, errors).iter().enumerate() {
        let field = format!("{at}.matchExpressions[{place}]");
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
        named(&expression["key"], &format!("{field}.key"), names::label_key, errors);
        for (at, value) in expression["values"].as_array().into_iter().flatten().enumerate() {
            named(value, &format!("{field}.values[{at}]"), names::label_value, errors);
        }
    }
}

/// Can objects be selected by it at all?
fn is_sound(wanted: &Value) -> bool {
    let mut errors = Errors::new();
    selector(wanted, "", &mut errors);
    errors.is_empty()
}

fn is_empty(selector: &Value) -> bool {
    let none = |value: &Value| {
        value.as_object().is_none_or(Map::is_empty) && value.as_array().is_none_or(Vec::is_empty)
    };
    none(&selector["matchLabels"]) && none(&selector["matchExpressions"])
}
