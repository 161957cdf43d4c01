//! Kubernetes manifests from files, folders and standard input, with the file and line of everything.

mod schema;

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde_json::Value;

/// One object of a manifest and where it stands.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Where the object begins.
    pub place: Place,
    /// The object as it was written; kinds that the lab does not know are kept as they are.
    pub object: Value,
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, or `<stdin>`.
    pub file: String,
    /// Line, from 1.
    pub line: u64,
}

/// What is wrong with a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The text is no YAML, or not what its kind wants.
    #[error("{place}: {problem}")]
    Malformed {
        /// Where.
        place: Place,
        /// What.
        problem: String,
    },
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
}

/// Reads every object of the files and, recursively, of the folders; `-` is standard input.
///
/// # Errors
/// The first malformed object, with its file and line. Nothing is returned then.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Manifest>, ManifestError> {
    let mut manifests = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map_err(unreadable("<stdin>"))?;
            manifests.extend(parse("<stdin>", &text)?);
            continue;
        }
        let shown = path.display().to_string();
        let files = if path.is_dir() {
            let files = files_below(path)?;
            if files.is_empty() {
                return Err(ManifestError::Empty(shown));
            }
            files
        } else {
            vec![path.clone()]
        };
        for file in files {
            let shown = file.display().to_string();
            let text = fs::read_to_string(&file).map_err(unreadable(&shown))?;
            manifests.extend(parse(&shown, &text)?);
        }
    }
    Ok(manifests)
}

/// Reads the objects of one multi-document text. `file` is what errors call it.
pub fn parse(file: &str, text: &str) -> Result<Vec<Manifest>, ManifestError> {
    let mut manifests = Vec::new();
    for document in documents(text) {
        let malformed = |line: u64, problem: String| ManifestError::Malformed {
            place: Place { file: file.to_owned(), line },
            problem,
        };
        let value: Value = serde_saphyr::from_str_with_options(document.text, yaml_options())
            .map_err(|error| malformed(document.line_of(&error), problem_of(&error)))?;
        if value.is_null() {
            continue;
        }
        let place = Place { file: file.to_owned(), line: document.first_line() };
        let items = match list_items(&value) {
            Some(items) => items.clone(),
            None => {
                schema::check(&value, document.text).map_err(|(line, problem)| {
                    malformed(document.start + line.unwrap_or(document.lead()), problem)
                })?;
                vec![value]
            }
        };
        for object in items {
            identify(&object).map_err(|problem| malformed(place.line, problem))?;
            manifests.push(Manifest { place: place.clone(), object });
        }
    }
    Ok(manifests)
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
    fn line_of(&self, error: &serde_saphyr::Error) -> u64 {
        self.start + error.location().map_or(self.lead(), |location| location.line().max(1))
    }

    /// The first line that is neither blank nor a comment, counted within the document from 1.
    fn lead(&self) -> u64 {
        let counts = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        1 + self.text.lines().position(counts).unwrap_or(0) as u64
    }

    fn first_line(&self) -> u64 {
        self.start + self.lead()
    }
}

/// Splits at `---` lines. A block scalar cannot hold such a line: its text is indented.
fn documents(text: &str) -> Vec<Document<'_>> {
    let mut found = Vec::new();
    let (mut from, mut start, mut offset) = (0, 0, 0);
    for (number, line) in (0..).zip(text.split_inclusive('\n')) {
        let bare = line.trim_end();
        if bare == "---" || bare == "..." || bare.starts_with("--- ") {
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

fn yaml_options() -> serde_saphyr::Options {
    // `yes` stays a string and 0755 is octal, as in every Kubernetes client.
    serde_saphyr::options! {
        strict_booleans: true,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

/// The message of a YAML error without the place: that is said in front.
fn problem_of(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or_default();
    let end = first.find(" at line ").unwrap_or(first.len());
    first.get(..end).unwrap_or(first).trim_start_matches("error: ").to_owned()
}

fn list_items(value: &Value) -> Option<&Vec<Value>> {
    let is_list = text_at(value, "/kind").ends_with("List") && text_at(value, "/apiVersion") == "v1";
    if is_list { value.get("items").and_then(Value::as_array) } else { None }
}

fn identify(object: &Value) -> Result<(), String> {
    if !object.is_object() {
        return Err(
            "not a Kubernetes object: a mapping with apiVersion, kind and metadata was expected".into()
        );
    }
    for (pointer, what) in
        [("/apiVersion", "apiVersion"), ("/kind", "kind"), ("/metadata/name", "metadata.name")]
    {
        match object.pointer(pointer) {
            Some(Value::String(text)) if !text.is_empty() => {}
            Some(Value::String(_)) | None => {
                let kind = text_at(object, "/kind");
                let whose = if kind.is_empty() { "the object" } else { kind };
                return Err(format!("{whose} has no {what}"));
            }
            Some(other) => return Err(format!("{what} must be a string, not {other}")),
        }
    }
    Ok(())
}

fn text_at<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>, ManifestError> {
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
            files.extend(files_below(&path)?);
        } else if matches!(extension, "yaml" | "yml" | "json") && !name.starts_with("kustomization.") {
            // A kustomization lists the files that lie beside it and is no object itself.
            files.push(path);
        }
    }
    Ok(files)
}

fn unreadable(path: &str) -> impl FnOnce(io::Error) -> ManifestError {
    move |source| ManifestError::Unreadable { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse("app.yaml", text).unwrap_err().to_string()
    }

    #[test]
    fn documents_keep_their_lines() {
        let text = "# an application\n---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n---\n\n# web\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: web, namespace: shop}\ndata:\n  script: |\n    ---\n    echo hello\n---\n";
        let manifests = parse("app.yaml", text).unwrap();
        let seen: Vec<_> =
            manifests.iter().map(|m| (m.place.line, m.kind(), m.name(), m.namespace())).collect();
        assert_eq!(seen, [(3, "Namespace", "shop", None), (10, "ConfigMap", "web", Some("shop"))]);
        assert_eq!(manifests[1].object["data"]["script"], "---\necho hello\n");
    }

    #[test]
    fn broken_yaml_names_file_and_line() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: b\n   labels: {}\n";
        let error = error(text);
        assert!(error.starts_with("app.yaml:10: ") || error.starts_with("app.yaml:9: "), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn a_wrong_type_names_the_line_of_the_field() {
        let text = "\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  replicas: three\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec: {containers: [{name: web, image: nginx}]}\n";
        let error = error(text);
        assert!(error.starts_with("app.yaml:8: Deployment web: "), "{error}");
    }

    #[test]
    fn a_number_where_a_string_belongs_is_refused() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: a\n    image: nginx\n    env:\n    - name: PORT\n      value: 8080\n";
        let error = error(text);
        assert!(error.starts_with("app.yaml:10: Pod a: "), "{error}");
    }

    #[test]
    fn quantities_ports_and_modes_may_be_numbers() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: a\n    image: nginx\n    resources: {limits: {cpu: 1, memory: 0.5}}\n    livenessProbe: {httpGet: {port: 80}}\n  volumes:\n  - name: c\n    configMap: {name: c, defaultMode: 0755}\n";
        let manifests = parse("app.yaml", text).unwrap();
        assert_eq!(manifests[0].object.pointer("/spec/volumes/0/configMap/defaultMode").unwrap(), 0o755);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(error("kind: Pod\nmetadata: {name: a}\n"), "app.yaml:1: Pod has no apiVersion");
        assert_eq!(error("# x\napiVersion: v1\nkind: Pod\n"), "app.yaml:2: Pod has no metadata.name");
        assert!(error("- a\n- b\n").starts_with("app.yaml:1: not a Kubernetes object"));
    }

    #[test]
    fn unknown_kinds_are_kept_and_lists_are_opened() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: a}}\n- {apiVersion: example.com/v1, kind: Robot, metadata: {name: r}, spec: {arms: 2}}\n";
        let manifests = parse("list.yaml", text).unwrap();
        assert_eq!(manifests.len(), 2);
        assert_eq!(manifests[1].object["spec"]["arms"], 2);
    }

    #[test]
    fn json_is_read_too() {
        let text =
            "{\n \"apiVersion\": \"v1\",\n \"kind\": \"Namespace\",\n \"metadata\": {\"name\": \"a\"}\n}\n";
        assert_eq!(parse("ns.json", text).unwrap()[0].kind(), "Namespace");
    }
}
