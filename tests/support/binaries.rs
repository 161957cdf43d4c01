//! The built binaries, run as a user runs them.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::OnceLock,
};

/// What a program did.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command, as it would be typed.
    pub command: String,
    /// Exit code, if it was not ended by a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Where `weft` is; `weft-cni` lies beside it. Both are built first, unless WEFT_BIN names a built one.
pub fn weft_path() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        assert!(
            nix::unistd::geteuid().is_root(),
            "end-to-end tests need root: run 'sudo -E cargo xtask test'"
        );
        if let Some(path) = std::env::var_os("WEFT_BIN") {
            return path.into();
        }
        let own = std::env::current_exe().expect("this test's own file");
        // target/PROFILE/deps/e2e-HASH
        let profile = own.ancestors().nth(2).expect("the profile's folder").to_owned();
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--quiet", "--package", "weft", "--package", "weft-cni"]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        // What cargo tells this test about its own package would make build scripts of dependencies run again.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_package(name)) {
            build.env_remove(name);
        }
        let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).status();
        assert!(status.expect("cargo").success(), "weft and weft-cni could not be built");
        profile.join("weft")
    })
}

fn is_of_package(variable: &std::ffi::OsStr) -> bool {
    let prefixes = ["CARGO_MANIFEST", "CARGO_PKG", "CARGO_CRATE", "CARGO_BIN"];
    variable.to_str().is_some_and(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
}

/// Runs `weft` to its end.
pub fn weft(arguments: &[&str]) -> Output {
    run(Command::new(weft_path()).args(arguments).env_remove("WEFT_LAB"))
}

/// Runs any other program to its end.
pub fn run(command: &mut Command) -> Output {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{shown}: {error}"));
    Output {
        command: shown,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Output {
    /// It ended with 0; gives what it printed.
    #[track_caller]
    pub fn succeeds(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}{}", self.command, self.stdout, self.stderr);
        self.stdout
    }

    /// It ended with this code; gives what it said.
    #[track_caller]
    pub fn fails_with(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}\n{}{}", self.command, self.stdout, self.stderr);
        self.stderr
    }
}
