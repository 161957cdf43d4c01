//! The form of `answers.txt`: a name, and below it types with what was answered to them.
//!
//! ```text
//! web.shop.svc.cluster.local
//!   A: NOERROR aa | A 10.96.1.1
//!   CNAME MX TXT: NOERROR aa soa
//!   ANY: NOERROR aa | A 10.96.1.1
//!   => one short record: NOERROR aa | HINFO "RFC8482" ""
//! ```

use std::fmt::{self, Display, Formatter};

pub struct Table {
    /// Lines before the first name.
    pub head: Vec<String>,
    pub entries: Vec<Entry>,
}

/// A name, and the types to which the answer is the same.
pub struct Entry {
    pub name: String,
    pub kinds: Vec<String>,
    /// What CoreDNS answered.
    pub real: String,
    pub weft: Option<Weft>,
}

/// What Weft answers on purpose.
#[derive(Clone, PartialEq)]
pub struct Weft {
    pub reason: String,
    pub answer: String,
}

impl Table {
    pub fn read(text: &str) -> Table {
        let head = text.lines().take_while(|line| line.starts_with('#')).map(str::to_owned).collect();
        let mut entries: Vec<Entry> = Vec::new();
        let mut name = String::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let Some(rest) = line.strip_prefix("  ") else {
                name = line.to_owned();
                continue;
            };
            let split = || rest.split_once(": ").unwrap_or_else(|| panic!("{name}: {line}"));
            if rest.starts_with("=> ") {
                let (reason, answer) = split();
                let weft = Weft { reason: reason[3..].to_owned(), answer: answer.to_owned() };
                entries.last_mut().unwrap().weft = Some(weft);
                continue;
            }
            let (kinds, real) = split();
            let kinds = kinds.split(' ').map(str::to_owned).collect();
            entries.push(Entry { name: name.clone(), kinds, real: real.to_owned(), weft: None });
        }
        Table { head, entries }
    }

    pub fn weft(&self, name: &str, kind: &str) -> Option<Weft> {
        let entry =
            self.entries.iter().find(|entry| entry.name == name && entry.kinds.iter().any(|one| one == kind));
        entry?.weft.clone()
    }

    /// Adds an answer, to the types of this name that have the same if there are any.
    pub fn add(&mut self, name: &str, kind: &str, real: String, weft: Option<Weft>) {
        let same = |entry: &&mut Entry| entry.name == name && entry.real == real && entry.weft == weft;
        match self.entries.iter_mut().find(same) {
            Some(entry) => entry.kinds.push(kind.to_owned()),
            None => {
                let kinds = vec![kind.to_owned()];
                self.entries.push(Entry { name: name.to_owned(), kinds, real, weft });
            }
        }
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for line in &self.head {
            writeln!(f, "{line}")?;
        }
        let mut last = "";
        for entry in &self.entries {
            if entry.name != last {
                writeln!(f, "{}", entry.name)?;
                last = &entry.name;
            }
            writeln!(f, "  {}: {}", entry.kinds.join(" "), entry.real)?;
            if let Some(weft) = &entry.weft {
                writeln!(f, "  => {}: {}", weft.reason, weft.answer)?;
            }
        }
        Ok(())
    }
}
