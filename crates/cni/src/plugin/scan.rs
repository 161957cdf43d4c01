//! Reads a few keys at the top level of a JSON object, in one pass and without recursion.
//!
//! The plugin needs three strings of a configuration that is the agent's to understand. What is skipped is checked for
//! structure (nesting, commas, colons, strings), not for the spelling of numbers.

use std::fmt;

/// A value at the top level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string, its escapes resolved.
    Text(String),
    /// `null`
    Null,
    /// Anything else.
    Other,
}

/// The text is not a JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What was expected.
    expected: &'static str,
    /// Where, in bytes from the start.
    offset: usize,
}

/// The deepest nesting that is followed; the agent's parser follows no deeper.
const MAX_DEPTH: usize = 127;

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// The values of `keys` in the object that `json` is, `None` for those that are missing or `null`. The last counts
/// when a key stands twice.
///
/// # Errors
/// When `json` is not one object.
pub fn top_level(json: &str, keys: &[&str]) -> Result<Vec<Option<Value>>, Malformed> {
    let mut found = vec![None; keys.len()];
    let mut scanner = Scanner { text: json, at: 0 };
    scanner.expect(b'{', "an object")?;
    if !scanner.take(b'}') {
        loop {
            let key = scanner.string()?;
            scanner.expect(b':', "':' after a key")?;
            let value = scanner.value()?;
            for (slot, wanted) in found.iter_mut().zip(keys) {
                if key == *wanted {
                    *slot = Some(value.clone()).filter(|value| *value != Value::Null);
                }
            }
            if !scanner.take(b',') {
                break;
            }
        }
        scanner.expect(b'}', "',' or '}'")?;
    }
    scanner.blanks();
    if scanner.at == json.len() { Ok(found) } else { Err(scanner.malformed("the end")) }
}

// === impl Value ===

impl Value {
    /// The text of a string.
    ///
    /// # Errors
    /// Says what it is instead.
    pub fn into_text(self) -> Result<String, &'static str> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Null => Err("null"),
            Self::Other => Err("a number, a list, an object, true or false"),
        }
    }
}

// === impl Malformed ===

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {} at byte {}", self.expected, self.offset)
    }
}

impl std::error::Error for Malformed {}

// === impl Scanner ===

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        self.blanks();
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), Malformed> {
        if self.take(byte) { Ok(()) } else { Err(self.malformed(expected)) }
    }

    fn malformed(&self, expected: &'static str) -> Malformed {
        Malformed { expected, offset: self.at }
    }

    fn value(&mut self) -> Result<Value, Malformed> {
        self.blanks();
        match self.peek() {
            Some(b'"') => self.string().map(Value::Text),
            Some(b'{' | b'[') => self.skip_nested().map(|()| Value::Other),
            _ => Ok(if self.word()? == "null" { Value::Null } else { Value::Other }),
        }
    }

    /// A number, `true`, `false` or `null`.
    fn word(&mut self) -> Result<&str, Malformed> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')) {
            self.at += 1;
        }
        let word = self.text.get(start..self.at).unwrap_or_default();
        let number = word.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        if number || matches!(word, "true" | "false" | "null") {
            return Ok(word);
        }
        Err(Malformed { expected: "a value", offset: start })
    }

    /// Past an object or a list, whatever is in it.
    fn skip_nested(&mut self) -> Result<(), Malformed> {
        // Of each open bracket, whether it is an object's.
        let mut open: Vec<bool> = Vec::new();
        loop {
            self.blanks();
            match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    if open.len() == MAX_DEPTH {
                        return Err(self.malformed("less nesting"));
                    }
                    self.at += 1;
                    open.push(bracket == b'{');
                    if !self.close(&mut open) {
                        self.member(&open)?;
                        continue;
                    }
                }
                Some(b'"') => drop(self.string()?),
                _ => drop(self.word()?.len()),
            }
            // A value has ended, and with it perhaps what it stands in.
            while !open.is_empty() {
                if self.take(b',') {
                    self.member(&open)?;
                    break;
                }
                if !self.close(&mut open) {
                    return Err(self.malformed("',' or a closing bracket"));
                }
            }
            if open.is_empty() {
                return Ok(());
            }
        }
    }

    /// Past the key, when what is open is an object.
    fn member(&mut self, open: &[bool]) -> Result<(), Malformed> {
        if open.last() == Some(&true) {
            self.string()?;
            self.expect(b':', "':' after a key")?;
        }
        Ok(())
    }

    /// Past the bracket that closes what was opened last, if it stands here.
    fn close(&mut self, open: &mut Vec<bool>) -> bool {
        let closed = open.last().is_some_and(|object| self.take(if *object { b'}' } else { b']' }));
        if closed {
            open.pop();
        }
        closed
    }

    fn string(&mut self) -> Result<String, Malformed> {
        self.expect(b'"', "a string")?;
        let mut text = String::new();
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let plain = rest.find(|c: char| c == '"' || c == '\\' || c < ' ').unwrap_or(rest.len());
            text.push_str(rest.get(..plain).unwrap_or_default());
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    self.at += 1;
                    text.push(self.escape()?);
                }
                _ => return Err(self.malformed("the end of a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Malformed> {
        let escaped = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.malformed("an escape")),
        };
        self.at += 1;
        Ok(escaped)
    }

    /// Four hexadecimal digits, or twice four that make one character.
    fn unicode(&mut self) -> Result<char, Malformed> {
        let start = self.at;
        let mut units = vec![self.hex()?];
        if matches!(units[..], [0xd800..=0xdbff]) && self.text.get(self.at..self.at + 2) == Some("\\u") {
            self.at += 2;
            units.push(self.hex()?);
        }
        match char::decode_utf16(units).next() {
            Some(Ok(c)) => Ok(c),
            _ => Err(Malformed { expected: "a character", offset: start }),
        }
    }

    fn hex(&mut self) -> Result<u16, Malformed> {
        let digits = self.text.get(self.at..self.at + 4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let unit = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let unit = unit.ok_or_else(|| self.malformed("four hexadecimal digits"))?;
        self.at += 4;
        Ok(unit)
    }
}
