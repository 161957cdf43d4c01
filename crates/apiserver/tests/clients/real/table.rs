//! The form of the tables: text, an entry after the other.
//!
//! ```text
//! == ports have names when there are several
//! create services
//! {metadata: {name: a}, spec: {ports: [{port: 80}, {port: 81}]}}
//! -> 422 Invalid: Service "a" is invalid: …
//! cause FieldValueRequired spec.ports[0].name
//! => only one fault is told
//! 422 Invalid: …
//! ```
//!
//! After the title comes the request (`play.rs`), then its body in YAML, then what a real server answered (`answer.rs`) and, where Weft
//! answers otherwise on purpose, why, and what Weft answers. Lines that begin with `#` before the title are a remark.

use std::fmt::{self, Display, Formatter, Write as _};

pub struct Table {
    pub head: String,
    pub entries: Vec<Entry>,
}

pub struct Entry {
    remark: Vec<String>,
    pub title: String,
    pub request: String,
    pub body: String,
    /// What a real server answered.
    pub real: Vec<String>,
    pub weft: Option<Weft>,
}

/// What Weft answers on purpose: these lines, or, where there are none, the same in words of its own.
pub struct Weft {
    reason: String,
    answer: Vec<String>,
}

impl Entry {
    /// Both servers make an object of it, all of it.
    pub fn is_taken(&self) -> bool {
        let unknown =
            self.real.iter().any(|line| line.starts_with("warning unknown") || line.starts_with("- "));
        self.real.first().is_some_and(|line| line == "201") && self.weft.is_none() && !unknown
    }

    /// What should have been answered, unless it was.
    pub fn missed(&self, found: &[String]) -> Option<&[String]> {
        match &self.weft {
            Some(weft) if weft.answer.is_empty() => {
                (without_words(&self.real) != without_words(found)).then_some(self.real.as_slice())
            }
            Some(weft) => (weft.answer != found).then_some(weft.answer.as_slice()),
            None => (self.real != found).then_some(self.real.as_slice()),
        }
    }
}

/// An answer without its message.
fn without_words(answer: &[String]) -> Vec<&str> {
    let words = answer.iter().filter(|line| !line.starts_with("details "));
    words
        .enumerate()
        .map(|(at, line)| if at == 0 { line.split(": ").next().unwrap_or(line) } else { line })
        .collect()
}

impl Table {
    pub fn read(text: &str) -> Table {
        let mut lines = text.lines().peekable();
        let head = lines.next_if(|line| line.starts_with("# Answers")).unwrap_or_default().to_owned();
        let mut entries = Vec::new();
        let mut remark = Vec::new();
        while let Some(line) = lines.next() {
            if line.is_empty() {
                continue;
            }
            let Some(title) = line.strip_prefix("== ") else {
                assert!(line.starts_with('#'), "not an entry's title: {line}");
                remark.push(line.to_owned());
                continue;
            };
            let request = lines.next().unwrap_or_else(|| panic!("{title}: no request")).to_owned();
            let mut rest = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with("== ") && !line.starts_with('#')) {
                rest.push(line.to_owned());
            }
            while rest.last().is_some_and(String::is_empty) {
                rest.pop();
            }
            let weft = rest.iter().position(|line| line.starts_with("=> ")).map(|at| {
                let mut answer = rest.split_off(at);
                let reason = answer.remove(0)[3..].to_owned();
                assert!(!reason.is_empty(), "{title}: why?");
                Weft { reason, answer }
            });
            let mut real = rest
                .iter()
                .position(|line| line.starts_with("-> "))
                .map_or_else(Vec::new, |at| rest.split_off(at));
            if let Some(first) = real.first_mut() {
                *first = first[3..].to_owned();
            }
            let remark = std::mem::take(&mut remark);
            entries.push(Entry {
                remark,
                title: title.to_owned(),
                request,
                body: rest.join("\n"),
                real,
                weft,
            });
        }
        Table { head, entries }
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.head)?;
        for entry in &self.entries {
            writeln!(f)?;
            for line in &entry.remark {
                writeln!(f, "{line}")?;
            }
            writeln!(f, "== {}\n{}", entry.title, entry.request)?;
            if !entry.body.is_empty() {
                writeln!(f, "{}", entry.body)?;
            }
            writeln!(f, "-> {}", entry.real.join("\n"))?;
            if let Some(weft) = &entry.weft {
                writeln!(f, "=> {}", weft.reason)?;
                for line in &weft.answer {
                    writeln!(f, "{line}")?;
                }
            }
        }
        Ok(())
    }
}

/// The lines that only one of the two has.
pub fn difference(wanted: &[String], found: &[String], told: &mut String) {
    for (sign, these, those) in [('-', wanted, found), ('+', found, wanted)] {
        for line in these.iter().filter(|line| !those.contains(line)) {
            let _ = writeln!(told, "{sign} {line}");
        }
    }
}
