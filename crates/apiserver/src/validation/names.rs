//! Kubernetes' rules for names and labels. Each says what is wrong with a text: nothing, if it is as it should be.

/// What is wrong with a text.
pub(crate) type Faults = Vec<String>;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
                     with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
                          character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
                          validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an \
     alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const SEARCH: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with \
     an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case \
     alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is \
     '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const KEY: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character \
                   (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                   '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
     alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
     '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
                          'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn too_long(text: &str, most: usize, unit: &str) -> Faults {
    if text.len() > most { vec![format!("must be no more than {most} {unit}")] } else { Faults::new() }
}

fn unless(sound: bool, why: &str, faults: &mut Faults) {
    if !sound {
        faults.push(why.to_owned());
    }
}

/// RFC 1123 label: at most 63 lower-case letters, digits and dashes.
pub(crate) fn dns_label(name: &str) -> Faults {
    let mut faults = too_long(name, 63, "characters");
    // A name that would be good without its dots is told of them.
    let dotted = name.contains('.') && is_subdomain(name, lower_or_dash);
    unless(is_label(name, lower_or_dash), if dotted { "must not contain dots" } else { LABEL }, &mut faults);
    faults
}

/// RFC 1035 label: as a label of RFC 1123, and it starts with a letter.
pub(crate) fn dns_1035(name: &str) -> Faults {
    let mut faults = too_long(name, 63, "characters");
    let sound = is_label(name, lower_or_dash) && name.starts_with(|c: char| c.is_ascii_lowercase());
    unless(sound, LABEL_1035, &mut faults);
    faults
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 characters.
pub(crate) fn dns_subdomain(name: &str) -> Faults {
    let mut faults = too_long(name, 253, "characters");
    unless(is_subdomain(name, lower_or_dash), SUBDOMAIN, &mut faults);
    faults
}

/// A domain to search in: a subdomain that may have underscores.
pub(crate) fn search_domain(name: &str) -> Faults {
    let mut faults = too_long(name, 253, "characters");
    let allowed = |b: u8| lower_or_dash(b) || b == b'_';
    let sound = |label: &str| {
        let label = label.strip_prefix('_').unwrap_or(label);
        is_label(label, allowed) && !label.starts_with('_') && !label.ends_with('_')
    };
    unless(name.split('.').all(sound), SEARCH, &mut faults);
    faults
}

/// A star for the first label of a subdomain.
pub(crate) fn wildcard(name: &str) -> Faults {
    let mut faults = too_long(name, 253, "characters");
    let sound = name.strip_prefix("*.").is_some_and(|rest| is_subdomain(rest, lower_or_dash));
    unless(sound, WILDCARD, &mut faults);
    faults
}

/// What may stand in a path: for roles and the like.
pub(crate) fn path_segment(name: &str) -> Faults {
    if matches!(name, "." | "..") {
        return vec![format!("may not be '{name}'")];
    }
    let found = ['/', '%'].into_iter().filter(|sign| name.contains(*sign));
    found.map(|sign| format!("may not contain '{sign}'")).collect()
}

/// `[prefix/]name`, the prefix a subdomain.
pub(crate) fn label_key(key: &str) -> Faults {
    let mut faults = Faults::new();
    let name = match key.split('/').collect::<Vec<&str>>().as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else {
                faults.extend(dns_subdomain(prefix).into_iter().map(|why| format!("prefix part {why}")));
            }
            *name
        }
        _ => {
            let prefixed = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {KEY} {prefixed}")];
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else {
        faults.extend(too_long(name, 63, "bytes").into_iter().map(|why| format!("name part {why}")));
    }
    unless(is_qualified(name), &format!("name part {KEY}"), &mut faults);
    faults
}

/// Empty, or as the name part of a key.
pub(crate) fn label_value(value: &str) -> Faults {
    let mut faults = too_long(value, 63, "bytes");
    unless(value.is_empty() || is_qualified(value), VALUE, &mut faults);
    faults
}

/// A key of a ConfigMap or Secret: a file's name.
pub(crate) fn config_key(key: &str) -> Faults {
    let mut faults = too_long(key, 253, "characters");
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    unless(!key.is_empty() && key.bytes().all(allowed), CONFIG_KEY, &mut faults);
    match key {
        "." | ".." => faults.push(format!("must not be '{key}'")),
        key => unless(!key.starts_with(".."), "must not start with '..'", &mut faults),
    }
    faults
}

/// IANA service names.
pub(crate) fn port_name(name: &str) -> Faults {
    let mut faults = too_long(name, 15, "characters");
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let plain = !name.is_empty() && name.bytes().all(allowed);
    unless(plain, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)", &mut faults);
    let lettered = name.bytes().any(|b| b.is_ascii_lowercase());
    unless(lettered, "must contain at least one letter (a-z)", &mut faults);
    unless(!name.contains("--"), "must not contain consecutive hyphens", &mut faults);
    unless(name.is_empty() || !edge_dash(name), "must not begin or end with a hyphen", &mut faults);
    faults
}

/// A variable's name.
pub(crate) fn env_name(name: &str) -> Faults {
    let mut faults = Faults::new();
    let sound = !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    let why =
        "a valid environment variable name must consist only of printable ASCII characters other than '='";
    unless(sound, why, &mut faults);
    match name {
        "." | ".." => faults.push(format!("must not be '{name}'")),
        name => unless(!name.starts_with(".."), "must not start with '..'", &mut faults),
    }
    faults
}

fn is_label(name: &str, allowed: impl Fn(u8) -> bool) -> bool {
    !name.is_empty() && name.bytes().all(allowed) && !edge_dash(name)
}

fn is_subdomain(name: &str, allowed: impl Fn(u8) -> bool) -> bool {
    name.split('.').all(|label| is_label(label, &allowed))
}

fn is_qualified(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    bytes.iter().all(|b| inner(*b)) && edge(bytes.first()) && edge(bytes.last())
}

fn lower_or_dash(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
}

fn edge_dash(name: &str) -> bool {
    name.starts_with('-') || name.ends_with('-')
}
