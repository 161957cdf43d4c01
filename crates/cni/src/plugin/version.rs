//! Versions of the specification.

use super::{Failure, Verb, call::quote, failure::code};

/// A version of the specification that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpecVersion {
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0, which brought CHECK
    V0_4_0,
    /// 1.0.0
    V1_0_0,
    /// 1.1.0, which brought GC, STATUS and `mtu`
    V1_1_0,
}

// === impl SpecVersion ===

impl SpecVersion {
    /// All that are spoken, oldest first.
    pub const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest that is spoken.
    pub const NEWEST: Self = Self::V1_1_0;

    /// The version that a configuration asks for. One that does not say means 0.1.0, as the specification has it.
    ///
    /// # Errors
    /// Code 1, with what is spoken, for any other.
    pub fn parse(asked: Option<&str>) -> Result<Self, Failure> {
        let asked = asked.unwrap_or("0.1.0");
        Self::ALL.into_iter().find(|version| version.as_str() == asked).ok_or_else(|| {
            let spoken: Vec<&str> = Self::ALL.iter().map(|version| version.as_str()).collect();
            Failure::new(
                code::VERSION,
                "incompatible CNI version",
                format!("the configuration asks for cniVersion {asked:?}; supported: {}", spoken.join(", ")),
            )
        })
    }

    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// # Errors
    /// Code 1 when this version does not have `verb`.
    pub fn allows(self, verb: Verb) -> Result<(), Failure> {
        let since = match verb {
            Verb::Check => Self::V0_4_0,
            Verb::Gc | Verb::Status => Self::V1_1_0,
            Verb::Add | Verb::Del | Verb::Version => Self::V0_3_0,
        };
        if self >= since {
            return Ok(());
        }
        Err(Failure::new(
            code::VERSION,
            format!("the configuration's version does not have {}", verb.as_str()),
            format!("cniVersion is {}; {} came with {}", self.as_str(), verb.as_str(), since.as_str()),
        ))
    }
}

/// What VERSION prints.
pub(super) fn answer(asked: Option<&str>) -> String {
    let spoken: Vec<String> = SpecVersion::ALL.iter().map(|version| quote(version.as_str())).collect();
    let asked = quote(asked.unwrap_or(SpecVersion::NEWEST.as_str()));
    format!("{{\"cniVersion\":{asked},\"supportedVersions\":[{}]}}\n", spoken.join(","))
}
