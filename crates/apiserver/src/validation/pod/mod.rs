//! Pod specs.

mod container;
mod placement;
mod probe;
mod update;

use serde_json::Value;

use super::{Errors, address, count, is_given, list, metadata, named, names, one_of, volume};
use crate::error::FieldError;

pub(super) use update::{ephemeral, resize, update};

/// How many name servers, search domains and characters of those a Pod may have.
const NAME_SERVERS: usize = 3;
const SEARCHES: usize = 32;
const SEARCH_TEXT: usize = 2048;

pub(super) fn spec(spec: &Value, at: &str, errors: &mut Errors) {
    let field = |name: &str| format!("{at}.{name}");
    let volumes = volume::check(&spec["volumes"], &field("volumes"), errors);
    container::check(spec, at, &volumes, errors);
    one_of(&spec["restartPolicy"], &field("restartPolicy"), &["Always", "OnFailure", "Never"], errors);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(&spec["dnsPolicy"], &field("dnsPolicy"), &policies, errors);
    metadata::labels(&spec["nodeSelector"], &field("nodeSelector"), errors);
    security(spec, &field("securityContext.sysctls"), errors);
    placement::affinity(&spec["affinity"], &field("affinity"), errors);
    dns(spec, &field("dnsConfig"), errors);
    for (place, gate) in list(&spec["schedulingGates"], &field("schedulingGates"), errors).iter().enumerate()
    {
        named(&gate["name"], &format!("{at}.schedulingGates[{place}]"), names::label_key, errors);
    }
    placement::spread(&spec["topologySpreadConstraints"], &field("topologySpreadConstraints"), errors);
    for name in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        if is_given(&spec[name]) {
            named(&spec[name], &field(name), names::dns_subdomain, errors);
        }
    }
    let deadline = &spec["activeDeadlineSeconds"];
    if deadline.as_i64().is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds)) {
        let why = format!("must be between 1 and {}, inclusive", i32::MAX);
        errors.push(FieldError::invalid(field("activeDeadlineSeconds"), deadline, why));
    }
    for name in ["hostname", "subdomain"] {
        if is_given(&spec[name]) {
            named(&spec[name], &field(name), names::dns_label, errors);
        }
    }
    placement::tolerations(&spec["tolerations"], &field("tolerations"), errors);
    for (place, alias) in list(&spec["hostAliases"], &field("hostAliases"), errors).iter().enumerate() {
        let at = format!("{at}.hostAliases[{place}]");
        address::ip(&alias["ip"], &format!("{at}.ip"), errors);
        for (place, name) in list(&alias["hostnames"], &format!("{at}.hostnames"), errors).iter().enumerate()
        {
            named(name, &format!("{at}.hostnames[{place}]"), names::dns_subdomain, errors);
        }
    }
    let preemption = ["PreemptLowerPriority", "Never"];
    one_of(&spec["preemptionPolicy"], &field("preemptionPolicy"), &preemption, errors);
    if let Some(os) = spec["os"]["name"].as_str()
        && !matches!(os, "linux" | "windows")
    {
        errors.push(FieldError::not_supported(field("os"), &os.into(), &["linux", "windows"]));
    }
}

/// What only a new Pod must not have.
pub(super) fn create(spec: &Value, errors: &mut Errors) {
    if spec["ephemeralContainers"].as_array().is_some_and(|list| !list.is_empty()) {
        errors.push(FieldError::forbidden("spec.ephemeralContainers", "cannot be set on create"));
    }
}

fn security(spec: &Value, at: &str, errors: &mut Errors) {
    let sysctls = list(&spec["securityContext"]["sysctls"], at, errors);
    for (place, sysctl) in sysctls.iter().enumerate() {
        let (name, field) = (&sysctl["name"], format!("{at}[{place}].name"));
        let text = name.as_str().unwrap_or_default();
        if text.is_empty() {
            errors.push(FieldError::required(field, ""));
        } else if sysctls.iter().take(place).any(|other| other["name"] == *name) {
            errors.push(FieldError::duplicate(field, name));
        } else if spec["hostNetwork"] == true && text.replace('/', ".").starts_with("net.") {
            errors.push(FieldError::invalid(field, name, "may not be specified when 'hostNetwork' is true"));
        }
    }
}

fn dns(spec: &Value, at: &str, errors: &mut Errors) {
    let config = &spec["dnsConfig"];
    let servers = list(&config["nameservers"], &format!("{at}.nameservers"), errors);
    if spec["dnsPolicy"] == "None" {
        if config.is_null() {
            return errors
                .push(FieldError::required(at, "must provide `dnsConfig` when `dnsPolicy` is None"));
        }
        if servers.is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return errors.push(FieldError::required(format!("{at}.nameservers"), why));
        }
    }
    if servers.len() > NAME_SERVERS {
        let why = format!("must not have more than {NAME_SERVERS} nameservers");
        errors.push(FieldError::invalid(format!("{at}.nameservers"), &config["nameservers"], why));
    }
    for (place, server) in servers.iter().enumerate() {
        address::ip(server, &format!("{at}.nameservers[{place}]"), errors);
    }
    let field = format!("{at}.searches");
    let searches = list(&config["searches"], &field, errors);
    let text: usize = searches.iter().map(|search| search.as_str().map_or(0, str::len) + 1).sum();
    if searches.len() > SEARCHES {
        let why = format!("must not have more than {SEARCHES} search paths");
        errors.push(FieldError::invalid(&field, &config["searches"], why));
    }
    if text.saturating_sub(1) > SEARCH_TEXT {
        let why =
            format!("must not have more than {SEARCH_TEXT} characters (including spaces) in the search list");
        errors.push(FieldError::invalid(&field, &config["searches"], why));
    }
    for (place, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let text = search.as_str().unwrap_or_default();
        let bare = text.strip_suffix('.').unwrap_or(text);
        named(&bare.into(), &format!("{field}[{place}]"), names::search_domain, errors);
    }
    for (place, option) in list(&config["options"], &format!("{at}.options"), errors).iter().enumerate() {
        if !is_given(&option["name"]) {
            errors.push(FieldError::required(format!("{at}.options[{place}]"), "must not be empty"));
        }
    }
}

/// Checks the addresses in a Pod's status.
pub(super) fn status(pod: &Value, errors: &mut Errors) {
    const FIELD: &str = "status.podIPs";
    let found = list(&pod["status"]["podIPs"], FIELD, errors);
    let parsed = found
        .iter()
        .enumerate()
        .filter_map(|(at, one)| address::ip(&one["ip"], &format!("{FIELD}[{at}]"), errors));
    let parsed: Vec<_> = parsed.collect();
    let same = |six: bool| parsed.iter().filter(|address| address.is_ipv6() == six).count() > 1;
    if same(true) || same(false) {
        let why = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(FIELD, &pod["status"]["podIPs"], why));
    }
    count(&pod["status"]["observedGeneration"], "status.observedGeneration", errors);
}

/// What is taken of a Pod's spec, and should not be relied on.
pub(crate) fn warnings(spec: &Value, at: &str) -> Vec<String> {
    container::warnings(spec, at)
}
