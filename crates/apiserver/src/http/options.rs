//! Options of requests, as queries have them.

use serde_json::json;

use super::query::Query;
use crate::error::{ApiError, FieldError, Result};

/// The longest name of who manages fields.
const MANAGER: usize = 128;

/// What is wrong with the options of a request, as the server says it.
pub(crate) fn refused(kind: &str, errors: &[FieldError]) -> Result<()> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid("meta.k8s.io", kind, "", errors)) }
}

/// Checks the options of a write; `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`.
pub(crate) fn write(kind: &str, query: &Query, applies: bool) -> Result<()> {
    let mut errors = Vec::new();
    let manager = query.get("fieldManager");
    if kind == "PatchOptions" && applies && manager.is_empty() {
        errors.push(FieldError::required("fieldManager", "is required for apply patch"));
    }
    if kind == "PatchOptions" && !applies && query.find("force").is_some() {
        errors.push(FieldError::forbidden("force", "may not be specified for non-apply patch"));
    }
    if manager.len() > MANAGER {
        errors.push(FieldError {
            reason: "FieldValueTooLong",
            field: "fieldManager".to_owned(),
            message: format!("Too long: may not be more than {MANAGER} bytes"),
        });
    }
    dry_run(&query.all("dryRun").collect::<Vec<&str>>(), &mut errors);
    let validation = query.get("fieldValidation");
    let known = ["", "Ignore", "Strict", "Warn"];
    if !known.contains(&validation) {
        errors.push(FieldError::not_supported("fieldValidation", &validation.into(), &known));
    }
    refused(kind, &errors)
}

/// Only all of a write can be tried out.
pub(crate) fn dry_run(given: &[&str], errors: &mut Vec<FieldError>) {
    let given: Vec<&&str> = given.iter().filter(|text| !text.is_empty()).collect();
    if given.iter().any(|text| **text != "All") {
        errors.push(FieldError::not_supported("dryRun", &json!(given), &["All"]));
    }
}

/// Checks the options of a list or watch.
pub(crate) fn list(query: &Query, watches: bool) -> Result<()> {
    for name in ["limit", "timeoutSeconds"] {
        query.number(name)?;
    }
    const MATCH: &str = "resourceVersionMatch";
    let (version, matching) = (query.get("resourceVersion"), query.get(MATCH));
    let mut errors = Vec::new();
    let forbidden = |why: &str| FieldError::forbidden(MATCH, why);
    let initial = query.find("sendInitialEvents");
    match (watches, initial) {
        (false, Some(_)) => {
            errors
                .push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
        }
        (true, Some(_)) if matching != "NotOlderThan" => {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(forbidden(why));
        }
        (true, None) if !matching.is_empty() => {
            errors.push(forbidden(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        _ => {}
    }
    if !watches && !matching.is_empty() {
        if version.is_empty() {
            errors.push(forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        if !query.get("continue").is_empty() {
            errors.push(forbidden("resourceVersionMatch is forbidden when continue is provided"));
        }
        let known = ["Exact", "NotOlderThan", ""];
        if !known.contains(&matching) {
            errors.push(FieldError::not_supported(MATCH, &matching.into(), &known));
        }
        if matching == "Exact" && version == "0" {
            errors.push(forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""));
        }
    }
    refused("ListOptions", &errors)
}
