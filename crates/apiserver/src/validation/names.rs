//! Kubernetes' rules for names and labels.

/// RFC 1123 label: at most 63 lower-case letters, digits and dashes.
pub(crate) fn dns_label(name: &str) -> Result<(), &'static str> {
    if name.len() > 63 {
        return Err("must be no more than 63 characters");
    }
    if name.is_empty() || !name.bytes().all(lower_or_dash) || edge_dash(name) {
        return Err(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
                    must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used \
                    for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        );
    }
    Ok(())
}

/// RFC 1035 label: as above, and starts with a letter.
pub(crate) fn dns_1035(name: &str) -> Result<(), &'static str> {
    if dns_label(name).is_err() || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                    alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', \
                    regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
        );
    }
    Ok(())
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 characters.
pub(crate) fn dns_subdomain(name: &str) -> Result<(), &'static str> {
    if name.len() > 253 {
        return Err("must be no more than 253 characters");
    }
    let sound = |label: &str| !label.is_empty() && label.bytes().all(lower_or_dash) && !edge_dash(label);
    if !name.split('.').all(sound) {
        return Err(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                    '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used \
                    for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        );
    }
    Ok(())
}

/// What may stand in a path: for roles and the like.
pub(crate) fn path_segment(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '%']) {
        return Err("may not be '.', '..', or contain '/' or '%'");
    }
    Ok(())
}

/// `[prefix/]name`, the prefix a subdomain.
pub(crate) fn label_key(key: &str) -> Result<(), &'static str> {
    let name = match key.split_once('/') {
        Some((prefix, name)) => {
            dns_subdomain(prefix)?;
            name
        }
        None => key,
    };
    if name.is_empty() {
        return Err("name part must be non-empty");
    }
    qualified(name)
}

/// Empty, or as the name part of a key.
pub(crate) fn label_value(value: &str) -> Result<(), &'static str> {
    if value.is_empty() { Ok(()) } else { qualified(value) }
}

fn qualified(name: &str) -> Result<(), &'static str> {
    if name.len() > 63 {
        return Err("must be no more than 63 characters");
    }
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if !bytes.iter().all(|b| inner(*b)) || !edge(bytes.first()) || !edge(bytes.last()) {
        return Err(
            "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                    alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation \
                    is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        );
    }
    Ok(())
}

fn lower_or_dash(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
}

fn edge_dash(name: &str) -> bool {
    name.starts_with('-') || name.ends_with('-')
}
