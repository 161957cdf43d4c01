//! Random names that fit an interface name.

use std::{fs::File, io::Read, time::SystemTime};

/// Longest name of a network interface, without the terminating NUL (`IFNAMSIZ - 1`).
pub const MAX_INTERFACE_NAME: usize = 15;

/// `prefix` followed by eight random lower-case letters or digits, the whole no longer than an interface name may be
/// (the prefix is cut, never the random part).
pub fn random_name(prefix: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    const RANDOM: usize = 8;
    let mut name: String = prefix.chars().filter(char::is_ascii).take(MAX_INTERFACE_NAME - RANDOM).collect();
    name.extend(random_bytes::<RANDOM>().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])));
    name
}

fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).is_err() {
        // Uniqueness, not secrecy, is what names need: the clock and the process id will do.
        let nanos =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let seed = nanos ^ (u128::from(std::process::id()) << 64);
        bytes.iter_mut().zip(seed.to_ne_bytes().iter().cycle()).for_each(|(byte, seed)| *byte = *seed);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_an_interface_name_and_differs() {
        let (one, two) = (random_name("a-very-long-prefix"), random_name("a-very-long-prefix"));
        assert_eq!(one.len(), MAX_INTERFACE_NAME);
        assert!(one.starts_with("a-very-"));
        assert_ne!(one, two);
    }
}
