//! Kubernetes manifests from files, folders and standard input, with the file and line of everything.

mod doubles;
mod kinds;
mod left_out;

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde_json::Value;
use weft_apiserver::{Refusal, yaml};

pub(crate) use kinds::unknown;

/// One object of a manifest and where it stands.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Where the object begins.
    pub place: Place,
    /// The object as it was written; kinds that the lab does not know are kept as they are.
    pub object: Value,
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, or `<stdin>`.
    pub file: String,
    /// Line, from 1.
    pub line: u64,
}

/// What is wrong with a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Texts that are no YAML, and objects that are not what their kinds want: everything, by file and line.
    #[error("{}", told(.0))]
    Refused(Vec<Fault>),
    /// A URL instead of a file.
    #[error(
        "{0}: URLs are not read: fetch it first, for example with 'curl -sSfL {0} | weft lab apply -f -'"
    )]
    Url(String),
    /// A file or folder cannot be read.
    #[error("{path} cannot be read")]
    Unreadable {
        /// The file or folder.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A folder without a manifest in it.
    #[error("{0}: no manifest in this folder (files that end in .yaml, .yml or .json)")]
    Empty(String),
    /// Files without an object in them.
    #[error("{0}: no object in it")]
    NoObjects(String),
}

/// Something that is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What.
    pub problem: String,
}

/// Something that is not wrong, and not what its author may think.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub place: Place,
    /// What.
    pub what: String,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Every object, in the order of the files. Of one that stands twice, the last.
    pub manifests: Vec<Manifest>,
    /// What to tell whoever wrote them.
    pub warnings: Vec<Warning>,
    faults: Vec<Fault>,
}

/// Reads every object of the files and, recursively, of the folders; `-` is standard input.
///
/// # Errors
/// Everything that is malformed, with its file and line; that there is no object. Nothing is returned then.
pub fn load(paths: &[PathBuf]) -> Result<Loaded, ManifestError> {
    let mut loaded = Loaded::default();
    for path in paths {
        if path == Path::new("-") {
            let mut bytes = Vec::new();
            io::stdin().read_to_end(&mut bytes).map_err(unreadable("<stdin>"))?;
            loaded.read("<stdin>", &bytes);
            continue;
        }
        let shown = path.display().to_string();
        if shown.starts_with("http://") || shown.starts_with("https://") {
            return Err(ManifestError::Url(shown));
        }
        let files = if path.is_dir() {
            let files = files_below(path, &mut loaded.warnings)?;
            if files.is_empty() {
                return Err(ManifestError::Empty(shown));
            }
            files
        } else {
            vec![path.clone()]
        };
        for file in files {
            let shown = file.display().to_string();
            let bytes = fs::read(&file).map_err(unreadable(&shown))?;
            loaded.read(&shown, &bytes);
        }
    }
    let loaded = loaded.end()?;
    if loaded.manifests.is_empty() && !paths.is_empty() {
        let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(ManifestError::NoObjects(paths.join(", ")));
    }
    Ok(loaded)
}

/// Reads the objects of one text: YAML documents, or JSON objects one after the other. `file` is what errors call it.
pub fn parse(file: &str, text: &str) -> Result<Loaded, ManifestError> {
    let mut loaded = Loaded::default();
    loaded.read(file, text.as_bytes());
    loaded.end()
}

impl Loaded {
    /// What was read, if nothing is wrong with it.
    fn end(mut self) -> Result<Loaded, ManifestError> {
        if !self.faults.is_empty() {
            self.faults.sort_by(|one, other| one.place.cmp(&other.place));
            return Err(ManifestError::Refused(self.faults));
        }
        self.warnings.extend(doubles::drop_earlier(&mut self.manifests));
        self.warnings.extend(left_out::warnings(&self.manifests));
        Ok(self)
    }

    fn read(&mut self, file: &str, bytes: &[u8]) {
        let text = match text_of(bytes) {
            Ok(text) => text,
            Err((line, problem)) => return self.refuse(file, line, problem.to_owned()),
        };
        for part in json_objects(&text).unwrap_or_else(|| documents(&text)) {
            match yaml::Document::read(part.text, part.start + 1) {
                Ok(document) => self.take(file, &part, &document),
                Err(problem) => self.refuse(file, problem.line, problem.what),
            }
        }
    }

    fn refuse(&mut self, file: &str, line: u64, problem: String) {
        self.faults.push(Fault { place: Place { file: file.to_owned(), line }, problem });
    }

    /// Takes the objects of a document.
    fn take(&mut self, file: &str, part: &Document<'_>, document: &yaml::Document) {
        let lost = document.lost.iter();
        self.warnings.extend(lost.map(|(line, what)| Warning {
            place: Place { file: file.to_owned(), line: *line },
            what: what.clone(),
        }));
        if document.value.is_null() {
            return;
        }
        let mut objects = Vec::new();
        open(&document.value, "", &mut objects);
        for (object, at) in objects {
            let line = |path: &str| {
                let found =
                    document.line_of(&format!("{at}{path}")).filter(|_| !path.is_empty() || !at.is_empty());
                found.unwrap_or(part.first_line())
            };
            if let Err(Refusal { field, message }) = identify(&object) {
                self.refuse(file, line(&join(&at, &field)), message);
                continue;
            }
            let whose = shown(&object);
            for Refusal { field, message } in refusals(&object) {
                self.refuse(file, line(&join(&at, &field)), format!("{whose}: {message}"));
            }
            if let Err(Refusal { field, message }) = name_of(&object) {
                self.refuse(file, line(&join(&at, &field)), message);
                continue;
            }
            let place = Place { file: file.to_owned(), line: line("") };
            self.manifests.push(Manifest { place, object });
        }
    }
}

/// Everything for which an object would be refused.
fn refusals(object: &Value) -> Vec<Refusal> {
    match kinds::misplaced(text_at(object, "/apiVersion"), text_at(object, "/kind")) {
        Some(refusal) => vec![refusal],
        None if name_of(object).is_ok() => weft_apiserver::check(object),
        // What is wrong with its name does not hide what else is wrong.
        None => {
            let mut named = object.clone();
            if let Some(metadata) =
                named.as_object_mut().map(|map| map.entry("metadata").or_insert(Value::Null))
            {
                if metadata.is_null() {
                    *metadata = Value::Object(serde_json::Map::new());
                }
                if let Some(metadata) = metadata.as_object_mut() {
                    metadata.insert("name".to_owned(), "a".into());
                }
            }
            weft_apiserver::check(&named)
        }
    }
}

fn told(faults: &[Fault]) -> String {
    let lines: Vec<String> =
        faults.iter().map(|fault| format!("{}: {}", fault.place, fault.problem)).collect();
    match lines.as_slice() {
        [one] => one.clone(),
        several => format!("{} faults:\n  {}", several.len(), several.join("\n  ")),
    }
}

/// A field's path below where its object stands.
fn join(at: &str, field: &str) -> String {
    if at.is_empty() { field.to_owned() } else { format!(".{field}") }
}

/// The text of a file: UTF-8, or UTF-16 with its mark.
fn text_of(bytes: &[u8]) -> Result<String, (u64, &'static str)> {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks(2).map(|pair| unit([pair[0], pair.get(1).copied().unwrap_or(0)]));
        char::decode_utf16(units)
            .collect::<Result<String, _>>()
            .map_err(|_| (1, "not UTF-16, though it begins so"))
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] | rest => String::from_utf8(rest.to_vec()).map_err(|error| {
            let before = rest.get(..error.utf8_error().valid_up_to()).unwrap_or_default();
            (1 + before.iter().filter(|byte| **byte == b'\n').count() as u64, "not UTF-8")
        }),
    }
}

/// The objects of lists, and of lists in them; with each, where it stands in the document. An item that does not say what it is
/// is of its list's kind.
fn open(value: &Value, at: &str, objects: &mut Vec<(Value, String)>) {
    let Some(items) = value.get("items").and_then(Value::as_array) else {
        objects.push((value.clone(), at.to_owned()));
        return;
    };
    for (place, item) in items.iter().enumerate() {
        let mut item = item.clone();
        if let Value::Object(map) = &mut item
            && !map.contains_key("kind")
            && !map.contains_key("apiVersion")
            && let Some(kind) = text_at(value, "/kind").strip_suffix("List").filter(|kind| !kind.is_empty())
        {
            map.insert("kind".to_owned(), kind.into());
            map.insert("apiVersion".to_owned(), text_at(value, "/apiVersion").into());
        }
        open(
            &item,
            &if at.is_empty() { format!("items[{place}]") } else { format!("{at}.items[{place}]") },
            objects,
        );
    }
}

impl Manifest {
    /// `apiVersion` of the object.
    pub fn api_version(&self) -> &str {
        text_at(&self.object, "/apiVersion")
    }

    /// `kind` of the object.
    pub fn kind(&self) -> &str {
        text_at(&self.object, "/kind")
    }

    /// `metadata.name` of the object.
    pub fn name(&self) -> &str {
        text_at(&self.object, "/metadata/name")
    }

    /// What its Pods are made from: of a Pod, or a workload that makes some.
    pub fn pod_spec(&self) -> Option<&Value> {
        match self.kind() {
            "Pod" => self.object.pointer("/spec"),
            "CronJob" => self.object.pointer("/spec/jobTemplate/spec/template/spec"),
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" => {
                self.object.pointer("/spec/template/spec")
            }
            _ => None,
        }
    }

    /// `metadata.namespace` of the object, if it says one.
    pub fn namespace(&self) -> Option<&str> {
        self.object.pointer("/metadata/namespace").and_then(Value::as_str)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One document of a YAML stream.
struct Document<'a> {
    /// Lines of the file before this document's text.
    start: u64,
    text: &'a str,
}

impl Document<'_> {
    /// The first line that is neither blank nor a comment.
    fn first_line(&self) -> u64 {
        let counts = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        self.start + 1 + self.text.lines().position(counts).unwrap_or(0) as u64
    }
}

/// JSON objects, one after the other. None: this is no JSON.
fn json_objects(text: &str) -> Option<Vec<Document<'_>>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let (mut found, mut from) = (Vec::new(), 0);
    while let Some(object) = stream.next() {
        // What only YAML can read may begin with a brace too.
        object.ok()?;
        let before = text.get(..from)?;
        let part = text.get(from..stream.byte_offset())?;
        let blank = part.len() - part.trim_start().len();
        let start = before.matches('\n').count() + part.get(..blank)?.matches('\n').count();
        found.push(Document { start: start as u64, text: part.trim_start() });
        from = stream.byte_offset();
    }
    Some(found)
}

/// Splits at `---` lines. A block scalar cannot hold such a line: its text is indented.
fn documents(text: &str) -> Vec<Document<'_>> {
    let mut found = Vec::new();
    let (mut from, mut start, mut offset) = (0, 0, 0);
    for (number, line) in (0..).zip(text.split_inclusive('\n')) {
        let bare = line.trim_end();
        if bare == "---" || bare.starts_with("--- ") {
            found.push(Document { start, text: &text[from..offset] });
            // What follows the marker on its line belongs to the new document, unless it is a comment.
            let inline = bare.strip_prefix("--- ").is_some_and(|rest| !rest.trim_start().starts_with('#'));
            (from, start) = if inline { (offset + 4, number) } else { (offset + line.len(), number + 1) };
        }
        offset += line.len();
    }
    found.push(Document { start, text: &text[from..] });
    let counts = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    found.retain(|document| document.text.lines().any(counts));
    found
}

/// Whether it can be known what an object is.
fn identify(object: &Value) -> Result<(), Refusal> {
    if !object.is_object() {
        let message = "not a Kubernetes object: a mapping with apiVersion, kind and metadata was expected";
        return Err(Refusal { field: String::new(), message: message.to_owned() });
    }
    text_of_field(object, "apiVersion")?;
    text_of_field(object, "kind")
}

/// Whether an object has a name.
fn name_of(object: &Value) -> Result<(), Refusal> {
    text_of_field(object, "metadata.name")
}

fn text_of_field(object: &Value, field: &str) -> Result<(), Refusal> {
    match object.pointer(&format!("/{}", field.replace('.', "/"))) {
        Some(Value::String(text)) if !text.is_empty() => Ok(()),
        Some(Value::String(_)) | None => {
            let kind = text_at(object, "/kind");
            let whose = if kind.is_empty() { "the object" } else { kind };
            Err(Refusal { field: String::new(), message: format!("{whose} has no {field}") })
        }
        Some(other) => {
            let message = format!("{}: {field} must be a string, not {other}", shown(object));
            Err(Refusal { field: field.to_owned(), message })
        }
    }
}

/// What an object is called: its kind, and its name as it is written.
fn shown(object: &Value) -> String {
    let text = |pointer: &str| match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let (kind, name) = (text("/kind"), text("/metadata/name"));
    format!("{kind} {name}").trim().to_owned()
}

fn text_at<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn files_below(folder: &Path, warnings: &mut Vec<Warning>) -> Result<Vec<PathBuf>, ManifestError> {
    let shown = folder.display().to_string();
    let mut entries = fs::read_dir(folder)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unreadable(&shown))?
        .into_iter()
        .map(|entry| entry.path())
        .collect::<Vec<_>>();
    entries.sort();
    let mut files = Vec::new();
    for path in entries {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') {
            files.extend(files_below(&path, warnings)?);
        } else if matches!(name, "kustomization.yaml" | "kustomization.yml" | "Kustomization") {
            // It lists the files that lie beside it and is no object itself.
            warnings.push(Warning {
                place: Place { file: path.display().to_string(), line: 1 },
                what: "kustomizations are not read: the files beside it are applied as they are; what it makes of them is \
                       applied with 'kubectl kustomize FOLDER | weft lab apply -f -'"
                    .to_owned(),
            });
        } else if matches!(extension, "yaml" | "yml" | "json") {
            files.push(path);
        }
    }
    Ok(files)
}

fn unreadable(path: &str) -> impl FnOnce(io::Error) -> ManifestError {
    move |source| ManifestError::Unreadable { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
