//! Where the processes of this machine are: the cgroup2 mount.

use std::{fs, io, path::PathBuf};

const MOUNTS: &str = "/proc/self/mounts";

/// The root of the cgroup2 hierarchy; `None` where it is not mounted.
///
/// # Errors
/// When the mounts cannot be read.
pub fn mount_point() -> io::Result<Option<PathBuf>> {
    Ok(find(&fs::read_to_string(MOUNTS)?))
}

/// In a file as `/proc/self/mounts`: device, place, type and more, blanks in them written in octal.
fn find(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, place, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| unescaped(place).into())
    })
}

fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_of_either_layout() {
        let unified = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(find(unified), Some("/sys/fs/cgroup".into()));
        let hybrid =
            "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\nnone /sys/fs/cgroup/a\\040b cgroup2 rw 0 0";
        assert_eq!(find(hybrid), Some("/sys/fs/cgroup/a b".into()));
        assert_eq!(find("tmpfs / tmpfs rw 0 0\n\nx"), None);
    }
}
