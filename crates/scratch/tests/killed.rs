//! A process that is killed leaves nothing, whatever it made and started.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, setsid},
};
use weft_netns::random_name;
use weft_scratch::{Bpffs, Cgroup, Scratch, folder};

/// Marks what was made among what the test harness prints.
const MARK: &str = "made: ";

/// The process that is killed: this test program once more. Makes a thing of each kind, tells where it is, and waits.
#[test]
#[ignore = "a part of the other tests"]
#[expect(clippy::zombie_processes, clippy::disallowed_methods, reason = "it ends without cleaning up")]
fn maker() {
    let tell = |path: &Path| println!("{MARK}{}", path.display());
    let (netns, bpffs, cgroup, folder) = (Scratch::new("t-kill-"), Bpffs::new(), Cgroup::new(), folder());
    fs::write(folder.path().join("it's a file"), "full").unwrap();
    // One like any other, one that has left for a session of its own with a child, and one in the cgroup, far from all of them.
    let plain = Command::new("sleep").arg("1000").spawn().unwrap();
    let mut apart = Command::new("sh");
    apart.args(["-c", "sleep 1000 & echo $!; wait"]).stdout(Stdio::piped());
    // SAFETY: one system call between fork and exec.
    unsafe { apart.pre_exec(|| setsid().map(drop).map_err(Into::into)) };
    let mut apart = apart.spawn().unwrap();
    let mut grandchild = String::new();
    BufReader::new(apart.stdout.take().unwrap()).read_line(&mut grandchild).unwrap();
    let inside = Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(cgroup.path().join("cgroup.procs"), inside.id().to_string()).unwrap();
    fs::create_dir(cgroup.path().join("below")).unwrap();
    for path in [netns.path(), bpffs.path(), cgroup.path(), folder.path()] {
        tell(path);
    }
    for process in [plain.id(), apart.id(), grandchild.trim().parse().unwrap(), inside.id()] {
        tell(Path::new(&format!("/proc/{process}/exe")));
    }
    tell(Path::new(""));
    if std::env::var_os("WEFT_TEST_FORGETS").is_some() {
        // What a test that exits at once leaves.
        std::process::exit(0);
    }
    thread::sleep(Duration::from_secs(1000));
}

/// The process, in a group of its own, and what it has made. Everything is there.
fn made(configure: impl FnOnce(&mut Command)) -> (Child, Vec<String>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "maker", "--ignored", "--nocapture"]).stdout(Stdio::piped()).process_group(0);
    command.env_remove("WEFT_KEEP");
    configure(&mut command);
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let made = lines.filter_map(|line| Some(line.unwrap().split_once(MARK)?.1.to_owned()));
    let made: Vec<String> = made.take_while(|path| !path.is_empty()).collect();
    assert_eq!(made.len(), 8, "{made:?}");
    (child, made)
}

fn nothing_is_left_of(made: &[String]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        // A zombie has no program any more.
        let left: Vec<&String> = made.iter().filter(|path| fs::metadata(path).is_ok()).collect();
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "left: {left:?}");
        thread::sleep(Duration::from_millis(5));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!made.iter().any(|path| mounts.contains(path.as_str())), "{mounts}");
}

#[test]
fn of_a_killed_process_nothing_is_left_and_nothing_of_others_is_touched() {
    let own = (Scratch::new("t-own-"), Bpffs::new(), Cgroup::new(), folder());
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT] {
        let (mut child, made) = made(|_| {});
        assert!(made.iter().all(|path| Path::new(path).exists()), "{made:?}");
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        child.wait().unwrap();
        nothing_is_left_of(&made);
    }
    for path in [own.0.path(), own.1.path(), own.2.path(), own.3.path()] {
        assert!(path.exists(), "{path:?} is gone");
    }
}

#[test]
fn of_a_killed_process_group_nothing_is_left() {
    let (mut child, made) = made(|_| {});
    killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    nothing_is_left_of(&made);
}

#[test]
fn of_a_process_that_exits_without_dropping_nothing_is_left() {
    let (mut child, made) = made(|command| {
        command.env("WEFT_TEST_FORGETS", "1");
    });
    child.wait().unwrap();
    nothing_is_left_of(&made);
}

#[test]
fn a_value_that_is_dropped_takes_its_thing_along() {
    let (netns, bpffs, cgroup, folder) =
        (Scratch::new(&random_name("t-")), Bpffs::new(), Cgroup::new(), folder());
    let paths = [netns.path(), bpffs.path(), cgroup.path(), folder.path()].map(Path::to_owned);
    assert!(paths.iter().all(|path| path.exists()), "{paths:?}");
    drop((netns, bpffs, cgroup, folder));
    assert!(!paths.iter().any(|path| path.exists()), "{paths:?}");
}
