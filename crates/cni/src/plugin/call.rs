//! What a runtime asks for: the environment and the configuration.

use std::{ffi::OsString, fmt::Write as _};

use super::{Failure, failure::code};

/// A file's name has 255 bytes, and an interface's name goes with it.
const MAX_IDENTIFIER: usize = 200;

/// The operations of CNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Attach a container.
    Add,
    /// Detach it.
    Del,
    /// Verify an attachment.
    Check,
    /// Remove what belongs to no valid attachment.
    Gc,
    /// Can ADD be served?
    Status,
    /// Which versions are spoken?
    Version,
}

/// One call, as a runtime made it. Variables that are not set are empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `CNI_COMMAND`
    pub verb: Verb,
    /// `CNI_CONTAINERID`
    pub container_id: String,
    /// `CNI_NETNS`: a path
    pub netns: String,
    /// `CNI_IFNAME`: the interface in the container
    pub ifname: String,
    /// `CNI_ARGS`: `KEY=VALUE;KEY=VALUE`
    pub args: String,
    /// The network configuration as it stood on stdin, JSON.
    pub config: String,
}

// === impl Verb ===

impl Verb {
    const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    /// As `CNI_COMMAND` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The verb that `CNI_COMMAND` names.
    pub fn parse(command: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == command)
    }
}

// === impl Call ===

impl Call {
    /// The call that the environment describes, without a configuration yet.
    ///
    /// # Errors
    /// Code 4 when `CNI_COMMAND` is missing or unknown, or a variable is not UTF-8.
    pub fn from_environment(environment: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let read = |name: &str| {
            environment(name)
                .unwrap_or_default()
                .into_string()
                .map_err(|_| invalid(format!("{name} is not UTF-8")))
        };
        let command = read("CNI_COMMAND")?;
        let verb = Verb::parse(&command).ok_or_else(|| {
            invalid(match command.as_str() {
                "" => {
                    "CNI_COMMAND is not set: a container runtime calls this program, not a person".to_owned()
                }
                _ => format!("CNI_COMMAND {command:?} is none of ADD, DEL, CHECK, GC, STATUS, VERSION"),
            })
        })?;
        Ok(Self {
            verb,
            container_id: read("CNI_CONTAINERID")?,
            netns: read("CNI_NETNS")?,
            ifname: read("CNI_IFNAME")?,
            args: read("CNI_ARGS")?,
            config: String::new(),
        })
    }

    /// # Errors
    /// Code 4 naming every variable that the verb needs and that is missing, or the one that is malformed.
    pub fn validate(&self) -> Result<(), Failure> {
        let (container, netns) = match self.verb {
            Verb::Add | Verb::Check => (true, true),
            Verb::Del => (true, false),
            Verb::Gc | Verb::Status | Verb::Version => return Ok(()),
        };
        let needed = [
            ("CNI_CONTAINERID", container, &self.container_id),
            ("CNI_NETNS", netns, &self.netns),
            ("CNI_IFNAME", container, &self.ifname),
        ];
        let missing: Vec<&str> = needed
            .iter()
            .filter(|(_, needed, value)| *needed && value.is_empty())
            .map(|(name, ..)| *name)
            .collect();
        if !missing.is_empty() {
            return Err(invalid(format!("{} needs {}: not set", self.verb.as_str(), missing.join(", "))));
        }
        if !is_identifier(&self.container_id) {
            return Err(invalid(format!(
                "CNI_CONTAINERID {:?} must begin with a letter or digit, hold only those, '_', '.' and '-', and have at \
                 most {MAX_IDENTIFIER} bytes",
                self.container_id
            )));
        }
        if !is_interface_name(&self.ifname) {
            return Err(invalid(format!(
                "CNI_IFNAME {:?} is no interface name: 1 to 15 bytes without '/', ':' and blanks",
                self.ifname
            )));
        }
        Ok(())
    }

    /// The request to the agent.
    pub fn to_json(&self) -> String {
        format!(
            "{{\"kind\":\"cni\",\"command\":{},\"containerId\":{},\"netns\":{},\"ifname\":{},\"args\":{},\"config\":{}}}",
            quote(self.verb.as_str()),
            quote(&self.container_id),
            quote(&self.netns),
            quote(&self.ifname),
            quote(&self.args),
            quote(&self.config),
        )
    }
}

fn invalid(details: String) -> Failure {
    Failure::new(code::ENVIRONMENT, "invalid environment", details)
}

/// What the reference libraries take as a container's or a network's name, as long as it fits in a file's name.
pub fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    text.len() <= MAX_IDENTIFIER
        && chars.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// What the kernel takes as an interface's name.
pub fn is_interface_name(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text.len() <= 15
        && !text.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

/// `text` as a JSON string.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            c if c < ' ' => {
                // Writing to a String does not fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
