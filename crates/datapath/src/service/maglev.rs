//! Maglev tables (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4): the
//! same backends give the same table on every node, and a backend that comes or goes moves few others.

use weft_model::services::BackendKey;

use crate::fingerprint;

/// Lengths of tables: primes just below powers of two.
const SIZES: [u32; 10] = [251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071];

/// Entries a backend at least, so that shares differ by 1 % at most.
const ENTRIES_A_BACKEND: u32 = 100;

/// Length of the table of so many backends: of one, 1.
pub(super) fn size(backends: usize) -> u32 {
    let wanted = u32::try_from(backends).unwrap_or(u32::MAX).saturating_mul(ENTRIES_A_BACKEND);
    match backends {
        0 | 1 => backends as u32,
        _ => SIZES.into_iter().find(|size| *size >= wanted).unwrap_or(SIZES[SIZES.len() - 1]),
    }
}

/// The table: places in `backends`, which must be sorted.
pub(super) fn table(backends: &[BackendKey]) -> Vec<u32> {
    let size = size(backends.len());
    if size <= 1 {
        return vec![0; size as usize];
    }
    let mut walks: Vec<(u32, u32)> = backends.iter().map(|backend| walk(backend, size)).collect();
    let mut table = vec![u32::MAX; size as usize];
    let mut filled = 0;
    loop {
        for (place, (next, step)) in walks.iter_mut().enumerate() {
            // Each backend takes the next entry of its walk that is free.
            while table[*next as usize] != u32::MAX {
                *next = (*next + *step) % size;
            }
            table[*next as usize] = place as u32;
            filled += 1;
            if filled == size {
                return table;
            }
        }
    }
}

/// Where a backend's walk through the table starts, and its step.
fn walk(backend: &BackendKey, size: u32) -> (u32, u32) {
    let hash = |seed: u8| {
        let address: [u8; 16] = match backend.address {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            std::net::IpAddr::V6(v6) => v6.octets(),
        };
        let hash = fingerprint(address.into_iter().chain(backend.port.to_be_bytes()).chain([seed]));
        // The low bits of the fingerprint see the last byte alone.
        hash ^ (hash >> 32)
    };
    ((hash(1) % u64::from(size)) as u32, (hash(2) % u64::from(size - 1)) as u32 + 1)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn backends(count: u32) -> Vec<BackendKey> {
        (0..count)
            .map(|number| BackendKey { address: Ipv4Addr::from(0x0af4_0000 + number * 7).into(), port: 8080 })
            .collect()
    }

    #[test]
    fn every_backend_has_its_share() {
        for count in [1, 2, 3, 10, 100] {
            let table = table(&backends(count));
            let mut shares = vec![0_u32; count as usize];
            table.iter().for_each(|place| shares[*place as usize] += 1);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{count} backends: {least} to {most}");
        }
    }

    #[test]
    fn a_backend_that_goes_moves_few_others() {
        let before = backends(10);
        let mut after = before.clone();
        let gone = after.remove(4);
        let (old, new) = (table(&before), table(&after));
        assert_eq!(old.len(), 1021);
        assert_eq!(new.len(), 1021);
        let moved = (old.iter().zip(&new))
            .filter(|(old, new)| {
                let (old, new) = (before[**old as usize], after[**new as usize]);
                old != gone && old != new
            })
            .count();
        assert!(moved < 1021 / 8, "{moved} of 1021 moved that did not have to");
    }

    #[test]
    fn no_backend_no_entry() {
        assert!(table(&[]).is_empty());
        assert_eq!(size(5000), 131_071);
    }
}
