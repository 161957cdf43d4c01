//! Whether the machine has what a container wants to run.
//!
//! Images are not pulled, so only a container that names its command can run for real, and only if the machine has
//! everything that the command line names: a script that waits with `nslookup` or starts `redis-server` on a machine
//! without them would not behave as its author meant. Everything else is stood in for by the responder.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use k8s_openapi::api::core::v1::Container;

/// Where containers look for programs.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const SHELLS: [&str; 4] = ["sh", "bash", "ash", "dash"];
const INTERPRETERS: [&str; 10] =
    ["sh", "bash", "ash", "dash", "python", "python3", "node", "ruby", "perl", "java"];
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

/// Whether the container's own command can run on this machine. `ends` if it is there to come to an end.
pub(super) fn is_here(container: &Container, ends: bool) -> bool {
    let words: Vec<&str> = container
        .command
        .iter()
        .flatten()
        .chain(container.args.iter().flatten())
        .map(String::as_str)
        .collect();
    if container.command.as_ref().is_none_or(Vec::is_empty) {
        return false;
    }
    let mounted: Vec<&str> =
        container.volume_mounts.iter().flatten().map(|mount| mount.mount_path.as_str()).collect();
    let folder = container.working_dir.as_deref().unwrap_or("/");
    let has = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        let waits = CLIENTS.contains(&name) || (ends && FETCHERS.contains(&name));
        !waits && exists(path, folder, &mounted)
    };
    has(folder) && words_are_here(&words, &has)
}

/// Whether a command line can run: its program, a script that it names, and what an inline script calls.
pub(super) fn words_are_here(words: &[&str], has: &dyn Fn(&str) -> bool) -> bool {
    let Some((program, arguments)) = words.split_first() else { return false };
    if !program_is_here(program, has) {
        return false;
    }
    let name = program.rsplit('/').next().unwrap_or(program);
    if SHELLS.contains(&name)
        && let Some(flag) = arguments.iter().position(is_script_flag)
    {
        return arguments.get(flag + 1).is_some_and(|script| script_is_here(script, has));
    }
    if INTERPRETERS.contains(&name) {
        let first = arguments.first().filter(|word| !word.starts_with('-'));
        return first.is_none_or(|file| has(file));
    }
    true
}

/// `-c`, also among others as in `-ec`.
fn is_script_flag(word: &&str) -> bool {
    word.starts_with('-') && !word.starts_with("--") && word.ends_with('c')
}

/// Looks at the first word of every simple command. What cannot be told (a variable, a function) is taken as missing
/// where it could be a program, so that a script runs only if it surely can.
fn script_is_here(script: &str, has: &dyn Fn(&str) -> bool) -> bool {
    let plain = without_quotes(script);
    plain.split(['\n', ';', '|', '&', '(', ')', '`']).all(|piece| {
        let mut words = piece.split_whitespace().peekable();
        while let Some(word) = words.next() {
            if word.starts_with('#') || SILENT.contains(&word) {
                return true;
            }
            if KEYWORDS.contains(&word) || is_assignment(word) {
                continue;
            }
            if word.starts_with(['<', '>']) || word.chars().next().is_some_and(|c| c.is_ascii_digit()) {
                // A redirection; its file may be the next word.
                if matches!(word, "<" | ">" | ">>" | "2>") {
                    words.next();
                }
                continue;
            }
            return word.ends_with('$')
                || word == "\"\""
                || BUILTINS.contains(&word)
                || program_is_here(word, has);
        }
        true
    })
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

fn program_is_here(program: &str, has: &dyn Fn(&str) -> bool) -> bool {
    if program.contains('/') {
        return has(program);
    }
    let runs =
        |path: &Path| fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let mut paths = PATH.split(':').map(|folder| Path::new(folder).join(program));
    paths.any(|path| runs(&path) && path.to_str().is_some_and(has))
}

/// A path that the container will see: of the machine, or below one of its mounts.
fn exists(path: &str, folder: &str, mounted: &[&str]) -> bool {
    let whole = Path::new(folder).join(path);
    mounted.iter().any(|mount| whole.starts_with(mount)) || whole.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(words: &[&str]) -> bool {
        words_are_here(words, &|path| exists(path, "/", &["/scripts"]))
    }

    #[test]
    fn programs_of_the_machine_run() {
        assert!(here(&["sleep", "3600"]));
        assert!(here(&["/bin/sh", "-c", "while true; do echo \"hello; nothing\" >> /tmp/x; sleep 1; done"]));
        assert!(here(&["sh", "-c", "touch /tmp/healthy; sleep 30; rm -f /tmp/healthy; sleep 600"]));
        assert!(here(&["sh", "/scripts/start.sh"]));
        assert!(here(&["bash", "-ec", "A=1 env && for i in 1 2 3; do date; done"]));
        assert!(here(&["sh", "-c", "echo $(date) > /tmp/now 2>&1"]));
    }

    #[test]
    fn what_could_only_wait_for_ever_is_stood_in_for() {
        let container = |words: &[&str]| Container {
            command: Some(words.iter().map(|word| (*word).to_owned()).collect()),
            ..Container::default()
        };
        let fetches = container(&["sh", "-c", "until curl -f http://db/; do sleep 2; done"]);
        assert!(!is_here(&fetches, true));
        assert_eq!(is_here(&fetches, false), program_is_here("curl", &|_| true));
        assert!(is_here(&container(&["sh", "-c", "until getent hosts db; do sleep 2; done"]), true));
        assert!(!is_here(&container(&["sh", "-c", "until pg_isready -h db; do sleep 2; done"]), false));
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
}
