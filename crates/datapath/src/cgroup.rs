//! Where the processes of this machine are: the cgroup2 mount.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

const MOUNTS: &str = "/proc/self/mounts";

/// The root of the cgroup2 hierarchy; `None` where it is not mounted.
///
/// # Errors
/// When the mounts cannot be read.
pub fn mount_point() -> io::Result<Option<PathBuf>> {
    Ok(find(&fs::read_to_string(MOUNTS)?))
}

/// A folder that was named is no cgroup2 folder.
#[derive(Debug, thiserror::Error)]
pub enum NotCgroup2 {
    /// It cannot be looked at.
    #[error("{0}: {1}")]
    Missing(PathBuf, io::Error),
    /// It is something else.
    #[error(
        "{0} is no cgroup2 hierarchy, and has none in {0}/unified: Services are served at the sockets of a cgroup2 folder. Find where \
         it is mounted with `findmnt -t cgroup2`, or mount it: mount -t cgroup2 none /sys/fs/cgroup/unified"
    )]
    Other(PathBuf),
}

/// The cgroup2 folder that is meant by `named`: itself, or, on hosts that have both versions, `unified` in it.
///
/// # Errors
/// When neither is one.
pub fn folder(named: &Path) -> Result<PathBuf, NotCgroup2> {
    let is_one = |path: &Path| statfs(path).map(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC);
    if is_one(named).map_err(|error| NotCgroup2::Missing(named.to_owned(), error.into()))? {
        return Ok(named.to_owned());
    }
    let unified = named.join("unified");
    if is_one(&unified).unwrap_or(false) { Ok(unified) } else { Err(NotCgroup2::Other(named.to_owned())) }
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

    /// B8: what is no cgroup2 folder is said to be none before the kernel refuses it without a word.
    #[test]
    fn a_folder_that_is_none_is_named_and_a_hybrid_host_understood() {
        let none = folder(Path::new("/proc")).unwrap_err().to_string();
        assert!(none.contains("/proc is no cgroup2") && none.contains("findmnt"), "{none}");
        assert!(folder(Path::new("/no/such")).unwrap_err().to_string().contains("/no/such"));
        let mounted = mount_point().unwrap().unwrap();
        assert_eq!(folder(&mounted).unwrap(), mounted);
        if mounted.ends_with("unified") {
            assert_eq!(folder(mounted.parent().unwrap()).unwrap(), mounted);
        }
    }

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
