//! Whether the machine has what a container wants to run.
//!
//! Images are not pulled, so only a container that names its command can run for real, and only if the machine has
//! everything that the command line names: a script that waits with `nslookup` or starts `redis-server` on a machine
//! without them would not behave as its author meant. Everything else is stood in for by the responder.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::Container;

use super::process::Mount;

/// Where containers look for programs.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const SHELLS: [&str; 4] = ["sh", "bash", "ash", "dash"];
const INTERPRETERS: [&str; 10] =
    ["sh", "bash", "ash", "dash", "python", "python3", "node", "ruby", "perl", "java"];
/// Folders that are a container's own, and empty when it starts.
const EMPTY: [&str; 3] = ["/tmp", "/run", "/var/run"];
/// Words after which another command begins.
const KEYWORDS: [&str; 14] = [
    "if", "then", "else", "elif", "while", "until", "do", "!", "time", "{", "exec", "command", "nohup",
    "sudo",
];
/// Words that begin nothing, or whose piece holds no command.
const SILENT: [&str; 9] = ["fi", "done", "esac", "}", "for", "case", "in", "select", "function"];
/// Clients of servers that the responder cannot stand in for: they would never get the answer they wait for.
const CLIENTS: [&str; 14] = [
    "pg_isready",
    "psql",
    "pg_dump",
    "mysql",
    "mysqladmin",
    "mariadb",
    "mariadb-admin",
    "redis-cli",
    "mongo",
    "mongosh",
    "cqlsh",
    "rabbitmqctl",
    "rabbitmq-diagnostics",
    "kafka-topics.sh",
];
/// Clients by which a container that ends fetches something: mostly from servers that the lab has not.
const FETCHERS: [&str; 2] = ["curl", "wget"];
const BUILTINS: [&str; 29] = [
    ":", ".", "[", "[[", "alias", "break", "cd", "continue", "echo", "eval", "exit", "export", "false",
    "getopts", "kill", "local", "printf", "pwd", "read", "return", "set", "shift", "source", "test", "trap",
    "true", "type", "umask", "unset",
];

/// What a container would see, so far as it can be told.
pub(super) struct View<'a> {
    folder: &'a str,
    mounts: Vec<(&'a Path, Contents<'a>)>,
    /// It is there to come to an end.
    ends: bool,
}

/// What a mount shows.
enum Contents<'a> {
    /// Nobody has looked yet: it may hold anything.
    Unknown,
    /// A folder or file of the machine.
    Of(&'a Mount),
}

impl<'a> View<'a> {
    /// Before the volumes are prepared.
    pub(super) fn before(container: &'a Container, ends: bool) -> View<'a> {
        let mounts = container.volume_mounts.iter().flatten();
        let mounts = mounts.map(|mount| (Path::new(mount.mount_path.as_str()), Contents::Unknown)).collect();
        View { folder: container.working_dir.as_deref().unwrap_or("/"), mounts, ends }
    }

    /// With the volumes as they are now.
    pub(super) fn with(container: &'a Container, mounts: &'a [Mount], ends: bool) -> View<'a> {
        let mounts = mounts.iter().map(|mount| (mount.target.as_path(), Contents::Of(mount))).collect();
        View { folder: container.working_dir.as_deref().unwrap_or("/"), mounts, ends }
    }

    /// Whether a command line can run: its program, a script that it names, what an inline script calls, and the files that
    /// either reads.
    pub(super) fn can_run(&self, words: &[String]) -> bool {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.exists(self.folder) && self.words_are_here(&words, &mut Vec::new())
    }

    fn words_are_here(&self, words: &[&str], written: &mut Vec<PathBuf>) -> bool {
        let Some((program, arguments)) = words.split_first() else { return false };
        if !self.program_is_here(program, written) {
            return false;
        }
        let name = program.rsplit('/').next().unwrap_or(program);
        if SHELLS.contains(&name)
            && let Some(flag) = arguments.iter().position(is_script_flag)
        {
            return arguments.get(flag + 1).is_some_and(|script| self.script_is_here(script, written));
        }
        let script = if INTERPRETERS.contains(&name) { script_of(name, arguments) } else { None };
        script.into_iter().chain(read_by(name, arguments)).all(|file| self.is_readable(file, written)) && {
            written.extend(written_by(name, arguments).into_iter().map(|file| self.whole(file)));
            true
        }
    }

    /// Looks at every simple command. What cannot be told (a variable, a function) is taken as missing where it could be a
    /// program, so that a script runs only if it surely can.
    fn script_is_here(&self, script: &str, written: &mut Vec<PathBuf>) -> bool {
        let plain = without_quotes(script);
        plain.split(['\n', ';', '|', '&', '(', ')', '`']).all(|piece| {
            let mut words = Vec::new();
            let mut pieces = piece.split_whitespace();
            while let Some(word) = pieces.next() {
                if word.starts_with('#') || (words.is_empty() && SILENT.contains(&word)) {
                    break;
                }
                let redirection = word.trim_start_matches(|c: char| c.is_ascii_digit());
                if let Some(rest) = redirection.strip_prefix(['<', '>']) {
                    // Its file may be the next word.
                    let file = rest.trim_start_matches('>');
                    let file = if file.is_empty() { pieces.next().unwrap_or_default() } else { file };
                    if redirection.starts_with('>') {
                        written.push(self.whole(file));
                    }
                } else if !words.is_empty() || !(KEYWORDS.contains(&word) || is_assignment(word)) {
                    words.push(word);
                }
            }
            match words.first() {
                None => true,
                Some(word)
                    if word.ends_with('$')
                        || *word == "\"\""
                        || word.starts_with(|c: char| c.is_ascii_digit()) =>
                {
                    true
                }
                Some(word) if matches!(*word, "." | "source") => {
                    words.get(1).is_none_or(|file| self.is_readable(file, written))
                }
                Some(word) if BUILTINS.contains(word) => true,
                Some(_) => self.words_are_here(&words, written),
            }
        })
    }

    fn program_is_here(&self, program: &str, written: &[PathBuf]) -> bool {
        let name = program.rsplit('/').next().unwrap_or(program);
        if CLIENTS.contains(&name) || (self.ends && FETCHERS.contains(&name)) {
            return false;
        }
        if program.contains('/') {
            return self.is_readable(program, written);
        }
        PATH.split(':').any(|folder| match self.find(&Path::new(folder).join(program)) {
            Found::Maybe => false,
            Found::At(path) => {
                fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
            }
            Found::Nowhere => false,
        })
    }

    /// Whether a file is there, or was made by what runs before. Words that are not spelled out may be anything.
    fn is_readable(&self, file: &str, written: &[PathBuf]) -> bool {
        if file.is_empty() || file.contains(['$', '*', '?', '"', '[', '{']) {
            return true;
        }
        let whole = self.whole(file);
        written.iter().any(|made| whole.starts_with(made)) || self.exists(file)
    }

    fn exists(&self, path: &str) -> bool {
        !matches!(self.find(&self.whole(path)), Found::Nowhere)
    }

    /// From the root folder, without `.` and `..`.
    fn whole(&self, path: &str) -> PathBuf {
        let mut whole = PathBuf::from("/");
        for part in Path::new(self.folder).join(path).components() {
            match part {
                Component::Normal(part) => whole.push(part),
                Component::ParentDir => drop(whole.pop()),
                _ => {}
            }
        }
        whole
    }

    fn find(&self, whole: &Path) -> Found {
        let mounts = self.mounts.iter().filter(|(target, _)| whole.starts_with(target));
        match mounts.max_by_key(|(target, _)| target.components().count()) {
            Some((_, Contents::Unknown)) => Found::Maybe,
            Some((target, Contents::Of(mount))) => {
                let rest = whole.strip_prefix(target).unwrap_or(Path::new(""));
                let mut place = mount.source.clone();
                // An empty part would make a file's path a folder's.
                for part in mount.part.iter().map(PathBuf::as_path).chain([rest]) {
                    if !part.as_os_str().is_empty() {
                        place.push(part);
                    }
                }
                if place.exists() { Found::At(place) } else { Found::Nowhere }
            }
            // A container finds these empty.
            None if EMPTY.iter().any(|empty| whole.starts_with(empty) && whole != Path::new(empty)) => {
                Found::Nowhere
            }
            None if whole.exists() => Found::At(whole.to_owned()),
            None => Found::Nowhere,
        }
    }
}

/// Where a path of a container leads.
enum Found {
    At(PathBuf),
    Maybe,
    Nowhere,
}

/// `-c`, also among others as in `-ec`.
fn is_script_flag(word: &&str) -> bool {
    word.starts_with('-') && !word.starts_with("--") && word.ends_with('c')
}

/// The file that an interpreter is given to run.
fn script_of<'w>(interpreter: &str, arguments: &[&'w str]) -> Option<&'w str> {
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match *word {
            "-c" | "-m" | "-e" | "-p" | "--eval" | "--print" | "-" => return None,
            "-jar" => return words.next().copied(),
            "-W" | "-X" | "-r" | "-cp" | "-classpath" => drop(words.next()),
            flag if flag.starts_with('-') => {}
            // A class is no file.
            _ if interpreter == "java" => return None,
            file => return Some(file),
        }
    }
    None
}

/// The files without which a command fails at once.
fn read_by<'w>(program: &str, arguments: &[&'w str]) -> Vec<&'w str> {
    let mut operands: Vec<&str> = arguments.iter().copied().filter(|word| !word.starts_with('-')).collect();
    match program {
        "cp" | "mv" | "install" if operands.len() > 1 => {
            operands.pop();
            operands
        }
        "cat" | "source" => operands,
        "chmod" | "chown" if operands.len() > 1 => operands.split_off(1),
        _ => Vec::new(),
    }
}

/// The files and folders that a command makes.
fn written_by<'w>(program: &str, arguments: &[&'w str]) -> Vec<&'w str> {
    let operands: Vec<&str> = arguments.iter().copied().filter(|word| !word.starts_with('-')).collect();
    match program {
        "touch" | "mkdir" | "tee" | "mktemp" => operands,
        "cp" | "mv" | "install" | "ln" => operands.last().copied().into_iter().collect(),
        _ => Vec::new(),
    }
}

/// Quoted text becomes `""`: it is an argument almost always. Comments go.
fn without_quotes(script: &str) -> String {
    let mut plain = String::with_capacity(script.len());
    let mut quote = None;
    let mut characters = script.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (_, '\\') => {
                if quote.is_none() && characters.next() == Some('\n') {
                    plain.push(' ');
                }
            }
            (None, '\'' | '"') => {
                quote = Some(character);
                plain.push_str("\"\"");
            }
            (Some(open), close) if open == close => quote = None,
            (Some(_), _) => {}
            (None, other) => plain.push(other),
        }
    }
    plain
}

fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map(|(name, _)| name);
    name.is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::VolumeMount;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn mounting(path: &str) -> Container {
        let mount = VolumeMount { mount_path: path.into(), ..VolumeMount::default() };
        Container { volume_mounts: Some(vec![mount]), ..Container::default() }
    }

    fn here(command: &[&str]) -> bool {
        View::before(&mounting("/scripts"), false).can_run(&words(command))
    }

    #[test]
    fn programs_of_the_machine_run() {
        assert!(here(&["sleep", "3600"]));
        assert!(here(&["/bin/sh", "-c", "while true; do echo \"hello; nothing\" >> /tmp/x; sleep 1; done"]));
        assert!(here(&["sh", "-c", "touch /tmp/healthy; sleep 30; rm -f /tmp/healthy; sleep 600"]));
        assert!(here(&["sh", "/scripts/start.sh"]));
        assert!(here(&["bash", "-ec", "A=1 env && for i in 1 2 3; do date; done"]));
        assert!(here(&["sh", "-c", "echo $(date) > /tmp/now 2>&1"]));
        assert!(here(&["sh", "-c", "echo a >/tmp/x; cat /tmp/x && cp /tmp/x /tmp/y && cat /tmp/y"]));
        assert!(here(&["sh", "-c", "mkdir -p /data/a && cat /data/a/b; cat \"$FILE\" ${OTHER} /etc/*.conf"]));
    }

    #[test]
    fn what_could_only_wait_for_ever_is_stood_in_for() {
        let container = Container::default();
        let runs = |command: &[&str], ends| View::before(&container, ends).can_run(&words(command));
        let fetches = ["sh", "-c", "until curl -f http://db/; do sleep 2; done"];
        assert!(!runs(&fetches, true));
        assert_eq!(runs(&fetches, false), View::before(&container, false).program_is_here("curl", &[]));
        assert!(runs(&["sh", "-c", "until getent hosts db; do sleep 2; done"], true));
        assert!(!runs(&["sh", "-c", "until pg_isready -h db; do sleep 2; done"], false));
    }

    #[test]
    fn what_the_machine_lacks_is_stood_in_for() {
        assert!(!here(&["/app/server"]));
        assert!(!here(&["no-such-program"]));
        assert!(!here(&["sh", "-c", "until no-such-program db; do echo waiting; sleep 2; done"]));
        assert!(!here(&["sh", "-c", "echo a && exec no-such-program --flag"]));
        assert!(!here(&["sh", "/no/such/script.sh"]));
        assert!(!here(&["sh", "-c", "x=$(no-such-program)"]));
        assert!(!here(&[]));
    }

    /// D2: what the image would hold, what a stood-in container would have made, and what the machine keeps where a container
    /// has a folder of its own.
    #[test]
    fn what_is_not_there_for_the_container_is_stood_in_for() {
        assert!(!here(&["cp", "/usr/local/bin/no-such-tool", "/scripts/"]));
        assert!(!here(&["sh", "-c", "cp -n /usr/local/bin/no-such-tool /scripts/tool"]));
        assert!(!here(&["sh", "-ec", "cat /etc/no-such-file > /scripts/x"]));
        assert!(!here(&["python3", "-u", "/app/no-such.py"]));
        let machine = folder_in("/tmp");
        assert!(!here(&["sh", machine.path().join("x.sh").to_str().unwrap()]));
        assert!(!here(&["sh", "-c", &format!(". {}/x.sh", machine.path().display())]));

        // Once the volumes are prepared, only what they hold is there.
        let volume = weft_scratch::folder();
        fs::write(volume.path().join("start.sh"), "").unwrap();
        let mount = Mount {
            source: volume.path().to_owned(),
            part: None,
            target: "/shared".into(),
            read_only: false,
        };
        let (container, mounts) = (mounting("/shared"), [mount]);
        let runs = |command: &[&str]| View::with(&container, &mounts, false).can_run(&words(command));
        assert!(runs(&["sh", "/shared/start.sh"]));
        assert!(!runs(&["sh", "/shared/other.sh"]));
        assert!(!runs(&["/shared/tool", "--flag"]));
    }

    fn folder_in(folder: &str) -> weft_scratch::Folder {
        let made = weft_scratch::folder();
        assert!(made.path().starts_with(folder), "{}", made.path().display());
        fs::write(made.path().join("x.sh"), "").unwrap();
        made
    }
}
