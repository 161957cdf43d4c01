//! What fuzzers have found goes well.
#![allow(clippy::unwrap_used, reason = "tests")]

#[test]
fn everything_that_fuzzers_found_goes_well() {
    for (name, target) in weft_fuzz::TARGETS {
        let corpus = weft_fuzz::corpus(name).unwrap();
        assert!(!corpus.is_empty(), "{name} has no corpus");
        corpus.iter().for_each(|octets| target(octets));
    }
}

/// Cut off and with single octets changed, as a fuzzer begins: without coverage, but with every test run.
#[test]
fn so_does_what_is_like_it() {
    for (name, target) in weft_fuzz::TARGETS {
        for octets in weft_fuzz::corpus(name).unwrap().iter().filter(|octets| octets.len() < 100) {
            for end in 0..octets.len() {
                target(&octets[..end]);
                let mut changed = octets.clone();
                changed[end] = changed[end].wrapping_add(0x7f);
                target(&changed);
            }
        }
    }
}
