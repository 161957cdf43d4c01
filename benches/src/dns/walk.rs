//! The search of a resolver by glibc's rules: A and AAAA at once, one domain after the other, then the name itself.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::peers::{CLIENT, Candidate, SERVER};
use crate::report::percentile;

/// What kubelet writes for a Pod of the Namespace team-00.
const SEARCH: [&str; 3] = ["team-00.svc.cluster.local", "svc.cluster.local", "cluster.local"];
/// Searches in one measurement.
const SEARCHES: u64 = 500;
const A: u16 = 1;
const AAAA: u16 = 28;

/// What came of many searches.
pub struct Walks {
    /// The median, in microseconds.
    pub micros: f64,
    /// How often the upstream was asked, for each name and type.
    pub asked: f64,
}

impl Walks {
    /// Of a name that is asked for again and again.
    pub fn known(of: &Candidate) -> anyhow::Result<Walks> {
        Walks::measure(of, |_| "api.example.com".to_owned())
    }

    /// Of names that were never asked for.
    pub fn new_names(of: &Candidate) -> anyhow::Result<Walks> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let first = NEXT.fetch_add(SEARCHES, Ordering::Relaxed);
        Walks::measure(of, |number| format!("host-{}.example.com", first + number))
    }

    fn measure(of: &Candidate, name: impl Fn(u64) -> String + Send) -> anyhow::Result<Walks> {
        let before = of.upstream.asked();
        let times = of.client.0.run(|| searches(name))??;
        let asked = of.upstream.asked() - before;
        Ok(Walks { micros: percentile(&times, 0.5), asked: asked as f64 / (2 * SEARCHES) as f64 })
    }
}

fn searches(name: impl Fn(u64) -> String) -> anyhow::Result<Vec<f64>> {
    let mut cores = CpuSet::new();
    cores.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &cores)?;
    let socket = UdpSocket::bind((CLIENT, 0))?;
    socket.connect(SERVER)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut times = Vec::new();
    for number in 0..SEARCHES {
        let name = name(number);
        let begun = Instant::now();
        search(&socket, &name)?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

fn search(socket: &UdpSocket, name: &str) -> anyhow::Result<()> {
    for domain in SEARCH.iter().copied().map(Some).chain([None]) {
        let full = domain.map_or_else(|| name.to_owned(), |domain| format!("{name}.{domain}"));
        if asks(socket, &full)? {
            return Ok(());
        }
    }
    bail!("{name} is not found")
}

/// Whether both questions have an answer.
fn asks(socket: &UdpSocket, name: &str) -> anyhow::Result<bool> {
    socket.send(&query(A, name, A))?;
    socket.send(&query(AAAA, name, AAAA))?;
    let mut found = 0;
    for _ in 0..2 {
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).with_context(|| name.to_owned())?;
        let header =
            answer.get(..length).and_then(|answer| answer.first_chunk::<8>()).context("no header")?;
        match (header[3] & 0xf, header[7]) {
            (0, records) => found += u32::from(records > 0),
            (3, _) => {}
            (code, _) => bail!("{name}: code {code}"),
        }
    }
    Ok(found == 2)
}

/// A question with this number.
pub fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message
}
