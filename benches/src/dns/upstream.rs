//! Another server: it has an address for every name, and counts.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::peers::UPSTREAM;
use crate::topology::Scratch;

/// The server, as long as the value lives.
pub struct Upstream {
    asked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Starts it in a namespace.
    pub fn start(within: &Scratch) -> anyhow::Result<Upstream> {
        let socket = within.0.run(|| UdpSocket::bind(UPSTREAM))??;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (asked, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, ended) = (Arc::clone(&asked), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !ended.load(Ordering::Relaxed) {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
                if let Some(answer) = buffer.get(..length).and_then(answer) {
                    count.fetch_add(1, Ordering::Relaxed);
                    // A client that is gone asks no more.
                    let _ = socket.send_to(&answer, peer);
                }
            }
        });
        Ok(Upstream { asked, stop, thread: Some(thread) })
    }

    /// How often it was asked for addresses.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("warning: the upstream panicked");
        }
    }
}

/// The answer to a question for an address; for other types there is none.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let name = question.get(12..)?.iter().position(|octet| *octet == 0)?;
    let end = 12 + name + 5;
    let kind = question.get(end - 4..end - 2)?;
    let data: &[u8] = match kind {
        [0, 1] => &[192, 0, 2, 1],
        [0, 28] => &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        _ => &[],
    };
    let mut answer = question.get(..end)?.to_vec();
    let records = u8::from(!data.is_empty());
    // An answer, recursion available; one question, as many records.
    answer.get_mut(2..12)?.copy_from_slice(&[0x85, 0x80, 0, 1, 0, records, 0, 0, 0, 0]);
    if records > 0 {
        answer.extend_from_slice(&[0xc0, 12]);
        answer.extend_from_slice(kind);
        // Class IN, an hour.
        answer.extend_from_slice(&[0, 1, 0, 0, 0x0e, 0x10, 0, data.len() as u8]);
        answer.extend_from_slice(data);
    }
    Some(answer)
}
