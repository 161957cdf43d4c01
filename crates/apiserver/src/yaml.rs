//! YAML as kubectl reads it: by YAML 1.1's rules for plain words, into JSON.
//!
//! kubectl turns YAML into JSON with go-yaml 2, which knows `yes`, `off` and `0644`, and whose keys become strings. A reader with
//! other rules would take manifests that a cluster refuses, and the other way.

use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use granit_parser::{Event, Options, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Number, Value};

/// More values than these are no manifest: aliases of aliases multiply.
const MOST_VALUES: usize = 1_000_000;
const DEEPEST: usize = 128;

/// A document as JSON, and where its values stand.
#[derive(Debug, Default)]
pub struct Document {
    /// The document; null if it is empty.
    pub value: Value,
    lines: BTreeMap<String, u64>,
    /// What is lost without a word: the line, and what it is.
    pub lost: Vec<(u64, String)>,
}

/// What is no YAML, or has no place in JSON.
#[derive(Debug)]
pub struct Problem {
    /// Line, from 1.
    pub line: u64,
    /// What is wrong.
    pub what: String,
}

impl Document {
    /// Reads one document; `first` is the number of its first line.
    ///
    /// # Errors
    /// The first thing that is no YAML, or has no place in JSON.
    pub fn read(text: &str, first: u64) -> Result<Document, Problem> {
        let mut options = Options::default();
        options.emit_comments = false;
        let mut reader = Reader {
            events: Parser::new_from_str_with_options(text, options),
            before: first.saturating_sub(1),
            anchors: HashMap::new(),
            document: Document::default(),
            values: 0,
        };
        reader.document()?;
        Ok(reader.document)
    }

    /// The line of a value, by its path as the API server names it: `spec.ports[0].name`. Where there is none, that of the
    /// nearest value around it.
    pub fn line_of(&self, path: &str) -> Option<u64> {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return Some(*line);
            }
            path = path.get(..path.rfind(['.', '['])?)?;
        }
    }
}

struct Reader<'t> {
    events: Parser<'t, granit_parser::StrInput<'t>>,
    /// Lines of the file before the text.
    before: u64,
    anchors: HashMap<usize, Value>,
    document: Document,
    values: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, u64), Problem> {
        match self.events.next() {
            Some(Ok((event, span))) => Ok((event, self.line(&span))),
            Some(Err(error)) => Err(Problem {
                line: self.before + u64::try_from(error.marker().line()).unwrap_or(1).max(1),
                what: error.info().lines().next().unwrap_or_default().to_owned(),
            }),
            None => Ok((Event::StreamEnd, self.before + 1)),
        }
    }

    fn line(&self, span: &Span) -> u64 {
        self.before + u64::try_from(span.start.line()).unwrap_or(1).max(1)
    }

    fn document(&mut self) -> Result<(), Problem> {
        loop {
            let (event, line) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(..) => {}
                Event::StreamEnd => return Ok(()),
                Event::DocumentEnd => break,
                event => self.document.value = self.node(event, line, "", 0)?,
            }
        }
        // Only the first is read: the caller has parted documents already.
        match self.next()? {
            (Event::StreamEnd, _) => Ok(()),
            (_, line) => {
                let what = "what follows is lost: kubectl reads no document after '...'".to_owned();
                self.document.lost.push((line, what));
                Ok(())
            }
        }
    }

    fn node(&mut self, event: Event<'t>, line: u64, path: &str, depth: usize) -> Result<Value, Problem> {
        self.values += 1;
        let problem = |what: &str| Err(Problem { line, what: what.to_owned() });
        if self.values > MOST_VALUES || depth > DEEPEST {
            return problem("too many values, or too deep: this is no manifest");
        }
        self.document.lines.entry(path.to_owned()).or_insert(line);
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                (scalar(&text, style, tag.as_deref()).map_err(|what| Problem { line, what })?.json(), anchor)
            }
            Event::SequenceStart(_, anchor, _) => (self.sequence(path, depth)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.mapping(path, depth)?, anchor),
            Event::Alias(anchor) => {
                let Some(value) = self.anchors.get(&anchor).cloned() else {
                    return problem("an alias of something that contains it");
                };
                self.values += count(&value);
                if self.values > MOST_VALUES {
                    return problem("too many values: this is no manifest");
                }
                (value, 0)
            }
            _ => return problem("unexpected YAML"),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn sequence(&mut self, path: &str, depth: usize) -> Result<Value, Problem> {
        let mut items = Vec::new();
        loop {
            let (event, line) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::Array(items));
            }
            let at = format!("{path}[{}]", items.len());
            items.push(self.node(event, line, &at, depth + 1)?);
        }
    }

    fn mapping(&mut self, path: &str, depth: usize) -> Result<Value, Problem> {
        let mut map = Map::new();
        let mut said: HashMap<String, u64> = HashMap::new();
        loop {
            let (event, line) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Value::Object(map)),
                Event::Scalar(text, style, _, tag) => {
                    scalar(&text, style, tag.as_deref()).map_err(|what| Problem { line, what })?
                }
                Event::Alias(anchor) => match self.anchors.get(&anchor) {
                    Some(Value::String(text)) => Scalar::Text(text.clone()),
                    _ => return Err(Problem { line, what: "this alias cannot be a key".to_owned() }),
                },
                _ => {
                    return Err(Problem {
                        line,
                        what: "a key must be one word, not a list or a map".to_owned(),
                    });
                }
            };
            let (event, at) = self.next()?;
            if key == Scalar::Merge {
                let value = self.node(event, at, path, depth + 1)?;
                merge(&mut map, value).map_err(|what| Problem { line, what })?;
                continue;
            }
            let Some(name) = key.key() else {
                return Err(Problem { line, what: "null cannot be a key".to_owned() });
            };
            if let Some(before) = said.insert(name.clone(), line) {
                let what = format!("{name:?} stands here a second time: the one of line {before} is lost");
                self.document.lost.push((line, what));
            }
            let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            // A field's line is its name's: what it holds may begin below.
            self.document.lines.insert(inner.clone(), line);
            self.document.lines.insert(format!("{path}[{name}]"), line);
            let value = self.node(event, at, &inner, depth + 1)?;
            map.insert(name, value);
        }
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

fn merge(map: &mut Map<String, Value>, value: Value) -> Result<(), String> {
    match value {
        Value::Object(other) => map.extend(other),
        // The first of several wins.
        Value::Array(others) => others.into_iter().rev().try_for_each(|other| merge(map, other))?,
        _ => return Err("'<<' takes a map, or a list of maps".to_owned()),
    }
    Ok(())
}

/// One word.
#[derive(Clone, Debug, PartialEq)]
enum Scalar {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    /// `<<`
    Merge,
}

impl Scalar {
    fn json(self) -> Value {
        match self {
            Scalar::Null => Value::Null,
            Scalar::Bool(bool) => bool.into(),
            Scalar::Integer(number) => integer(number),
            // JSON does not tell 80.0 from 80.
            Scalar::Float(number) if number.fract() == 0.0 && number.abs() < 1e18 => integer(number as i128),
            Scalar::Float(number) => Number::from_f64(number).map_or(Value::Null, Value::Number),
            Scalar::Text(text) => text.into(),
            Scalar::Merge => "<<".into(),
        }
    }

    fn key(self) -> Option<String> {
        Some(match self {
            Scalar::Null => return None,
            Scalar::Bool(bool) => bool.to_string(),
            Scalar::Integer(number) => number.to_string(),
            // As Go writes a 32-bit number.
            Scalar::Float(number) => (number as f32).to_string(),
            Scalar::Text(text) => text,
            Scalar::Merge => "<<".to_owned(),
        })
    }
}

fn integer(number: i128) -> Value {
    match (i64::try_from(number), u64::try_from(number)) {
        (Ok(number), _) => number.into(),
        (_, Ok(number)) => number.into(),
        // What is larger is a float in JSON.
        _ => Number::from_f64(number as f64).map_or(Value::Null, Value::Number),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Scalar, String> {
    let core = tag.filter(|tag| tag.handle() == "tag:yaml.org,2002:").map(Tag::suffix);
    let plain = || resolve(text);
    match core {
        Some("str") => Ok(Scalar::Text(text.to_owned())),
        Some("binary") => {
            let packed: String = text.split_whitespace().collect();
            let bytes = STANDARD.decode(packed).map_err(|_| "!!binary is not base64".to_owned())?;
            String::from_utf8(bytes).map(Scalar::Text).map_err(|_| "!!binary is no text".to_owned())
        }
        Some("null") => Ok(Scalar::Null),
        Some(kind @ ("int" | "float" | "bool")) => match (kind, plain()?) {
            ("float", Scalar::Integer(number)) => Ok(Scalar::Float(number as f64)),
            ("int", found @ Scalar::Integer(_))
            | ("float", found @ Scalar::Float(_))
            | ("bool", found @ Scalar::Bool(_)) => Ok(found),
            _ => Err(format!("{text:?} is no !!{kind}")),
        },
        _ if style == ScalarStyle::Plain => plain(),
        _ => Ok(Scalar::Text(text.to_owned())),
    }
}

/// What a plain word stands for.
fn resolve(text: &str) -> Result<Scalar, String> {
    let found = match text {
        "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Scalar::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Scalar::Bool(false)
        }
        "<<" => Scalar::Merge,
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf"
        | "-.Inf" | "-.INF" => return Err(format!("{text} is no number that JSON has")),
        _ => number(text).unwrap_or_else(|| Scalar::Text(text.to_owned())),
    };
    Ok(found)
}

fn number(text: &str) -> Option<Scalar> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    let plain = text.replace('_', "");
    let digits = plain.trim_start_matches(['+', '-']);
    if plain.len() - digits.len() > 1 {
        return None;
    }
    let negative = plain.starts_with('-');
    let (radix, rest) = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    // `from_str_radix` would take another sign.
    let whole =
        rest.chars().all(|c| c.is_digit(radix)).then(|| i128::from_str_radix(rest, radix).ok()).flatten();
    let fits = |number: &i128| (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(number);
    if let Some(number) = whole.map(|number| if negative { -number } else { number }).filter(fits) {
        return Some(Scalar::Integer(number));
    }
    is_float(&plain).then(|| plain.parse().ok()).flatten().map(Scalar::Float)
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let sound = digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    let power = exponent.is_none_or(|power| {
        let power = power.strip_prefix(['-', '+']).unwrap_or(power);
        !power.is_empty() && digits(power)
    });
    sound && power
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(text: &str) -> Value {
        Document::read(text, 1).unwrap().value
    }

    /// D11: plain words mean what they mean to kubectl.
    #[test]
    fn plain_words_are_those_of_yaml_1_1() {
        for (text, expected) in [
            ("yes", json!(true)),
            ("y", json!(true)),
            ("Off", json!(false)),
            ("n", json!(false)),
            ("'yes'", json!("yes")),
            ("!!str yes", json!("yes")),
            ("~", json!(null)),
            ("", json!(null)),
            ("80.0", json!(80)),
            ("8e1", json!(80)),
            ("08", json!(8)),
            ("0644", json!(420)),
            ("0o644", json!(420)),
            ("0x1F", json!(31)),
            ("0b101", json!(5)),
            ("1_000", json!(1000)),
            ("-12", json!(-12)),
            ("+12", json!(12)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("1.2.3", json!("1.2.3")),
            ("10.0.0.1", json!("10.0.0.1")),
            ("10.0.0.0/8", json!("10.0.0.0/8")),
            ("2024-01-01", json!("2024-01-01")),
            ("1e3x", json!("1e3x")),
            ("-", json!([null])),
            ("--x", json!("--x")),
            ("18446744073709551615", json!(u64::MAX)),
            ("!!binary aGVsbG8=", json!("hello")),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
        assert!(Document::read("a: .nan", 1).is_err());
    }

    /// D11: keys become text as kubectl's do.
    #[test]
    fn keys_become_text() {
        let keys = value("{y: 1, 1.10: 2, 0644: 3, 'y': 4, null1: 5}");
        assert_eq!(keys, json!({ "true": 1, "1.1": 2, "420": 3, "y": 4, "null1": 5 }));
        assert!(Document::read("~: 1", 1).is_err());
        assert!(Document::read("[a]: 1", 1).is_err());
    }

    /// D11: what kubectl loses without a word is told.
    #[test]
    fn duplicates_are_told() {
        let document = Document::read("a: 1\nb: 2\na: 3\ny: 1\n\"true\": 2\n", 10).unwrap();
        assert_eq!(document.value, json!({ "a": 3, "b": 2, "true": 2 }));
        assert_eq!(document.lost.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [12, 14]);
        assert!(document.lost[0].1.contains("the one of line 10 is lost"), "{:?}", document.lost);
    }

    proptest::proptest! {
        /// Whatever stands in a file ends in values or a problem.
        #[test]
        fn garbage_never_panics(text in "([a-z&*!<:,~|>{}\\[\\]'\"#%@`? \n-]|0|1|\\.|\t|é){0,60}") {
            if let Ok(document) = Document::read(&text, 1) {
                let _ = document.line_of("a.b[0]");
            }
        }
    }

    #[test]
    fn lines_are_found_by_paths() {
        let text = "spec:\n  ports:\n  - name: a\n    port: 1\n  - name: b\n    port: 2\ndata:\n  x.y: z\n";
        let document = Document::read(text, 1).unwrap();
        assert_eq!(document.line_of("spec.ports[1].port"), Some(6));
        assert_eq!(document.line_of("spec.ports[1].protocol"), Some(5));
        assert_eq!(document.line_of("data[x.y]"), Some(8));
        assert_eq!(document.line_of("spec.selector"), Some(1));
    }

    #[test]
    fn anchors_and_merges_are_followed_but_not_without_end() {
        let text = "base: &base {a: 1, b: 2}\nmine:\n  <<: *base\n  b: 3\nlist: [*base]\n";
        let found = value(text);
        assert_eq!(found["mine"], json!({ "a": 1, "b": 3 }));
        assert_eq!(found["list"], json!([{ "a": 1, "b": 2 }]));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let before = format!("*a{}, ", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        assert!(Document::read(&bomb, 1).is_err());
        let deep = "[".repeat(5000);
        assert!(Document::read(&deep, 1).is_err());
    }
}
