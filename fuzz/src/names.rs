//! The names of the cluster as an agent keeps them over a restart: a file, which anything may have happened to.
#![expect(clippy::unwrap_used, reason = "a fuzzer is told by a panic")]

use weft_model::dns::{Settings, Snapshot, Zone};

/// A file, and what is in it: what can be read is the same when it is written and read again.
pub fn names(data: &[u8]) {
    if let Ok(snapshot) = Snapshot::from_bytes(data) {
        assert_eq!(Snapshot::from_bytes(&snapshot.to_bytes()).unwrap(), snapshot);
    }
    let settings = || Settings {
        domain: "cluster.local".parse().unwrap(),
        pod_records: true,
        name_servers: Vec::new(),
        ranges: Vec::new(),
    };
    let Ok(zone) = Zone::restored(settings(), data) else { return };
    let (mut bytes, mut part) = (Vec::new(), Some(0));
    while let Some(from) = part {
        part = zone.write_part(from, &mut bytes);
    }
    assert_eq!(Zone::restored(settings(), &bytes).unwrap().size(), zone.size());
}
