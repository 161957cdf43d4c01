//! Load between two namespaces: the same client and server for every candidate, pinned to the same cores.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::socket::{Backlog, listen},
    unistd::Pid,
};
use socket2::{Domain, SockRef, Socket, Type};
use weft_netns::Netns;

use crate::report::median;

/// How long one measurement of one candidate takes.
const MEASURE: Duration = Duration::from_millis(30);
/// The same of a stream, which takes a while until it is at its fastest.
const STREAM: Duration = Duration::from_millis(100);
const CHUNK: usize = 128 * 1024;

/// A stream is sent and received at the same time, by a core each.
const SENDER: usize = 0;
const RECEIVER: usize = 1;
/// Where one side always waits for the other, both share a core: what is measured is the way, and not how long an idle core takes
/// to wake up, which is several times as much and differs from one moment to the next.
const SHARED: usize = 1;

/// Where traffic goes from and to.
#[derive(Clone, Copy)]
pub struct Way<'n> {
    /// Namespace of the client.
    pub from: &'n Netns,
    /// Namespace of the server.
    pub to: &'n Netns,
    /// Address of the server.
    pub address: IpAddr,
    /// Its port; 0 is any.
    pub port: u16,
    /// What the client connects to instead: the address of a Service.
    pub via: Option<SocketAddr>,
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    if set.set(core).is_ok() {
        // Where there is but one core, both sides share it, for both candidates.
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

impl<'n> Way<'n> {
    /// From one namespace to an address in another, at any port.
    pub fn new(from: &'n Netns, to: &'n Netns, address: IpAddr) -> Way<'n> {
        Way { from, to, address, port: 0, via: None }
    }

    /// TCP stream, in gigabits a second.
    pub fn stream(&self) -> anyhow::Result<f64> {
        let (listener, target) = self.listen()?;
        let server = thread::spawn(move || -> std::io::Result<(u64, Duration)> {
            pin(RECEIVER);
            let (mut stream, _) = listener.accept()?;
            let mut buffer = vec![0; CHUNK];
            let start = Instant::now();
            let mut total = 0;
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok((total, start.elapsed())),
                    length => total += length as u64,
                }
            }
        });
        let client = self.from.run(|| TcpStream::connect(target))?;
        let mut client = client.with_context(|| format!("connect to {target}"))?;
        on_core(SENDER, || -> anyhow::Result<()> {
            let buffer = vec![7; CHUNK];
            let end = Instant::now() + STREAM;
            while Instant::now() < end {
                client.write_all(&buffer)?;
            }
            drop(client);
            Ok(())
        })?;
        let (bytes, time) = server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
        Ok(bytes as f64 * 8.0 / time.as_secs_f64() / 1e9)
    }

    /// The same with one thread that sends and receives: what is measured is all that a byte costs. How two threads happen to wait for
    /// each other makes one run differ from the next by several times what a way may cost that does nothing to packets.
    pub fn stream_of_one_thread(&self) -> anyhow::Result<f64> {
        let (listener, target) = self.listen()?;
        let client = self.from.run(|| TcpStream::connect(target))?;
        let mut client = client.with_context(|| format!("connect to {target}"))?;
        // BBR, where that is the machine's choice, sends less than it could and tries out how much that is at times that chance decides.
        SockRef::from(&client).set_tcp_congestion(b"cubic").context("cubic congestion control")?;
        let (mut server, _) = listener.accept()?;
        client.set_nonblocking(true)?;
        server.set_nonblocking(true)?;
        on_core(SHARED, || {
            let (sent, mut received) = (vec![7; CHUNK], vec![0; CHUNK]);
            let mut exchange = |time: Duration| -> std::io::Result<f64> {
                let (start, mut bytes) = (Instant::now(), 0);
                while start.elapsed() < time {
                    or_would_block(client.write(&sent))?;
                    while let Some(length) = or_would_block(server.read(&mut received))? {
                        bytes += length;
                    }
                }
                Ok(bytes as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9)
            };
            // Windows grow first.
            exchange(MEASURE)?;
            Ok(exchange(MEASURE)?)
        })
    }

    /// TCP round trip of one byte: the median, in microseconds.
    pub fn round_trip(&self) -> anyhow::Result<f64> {
        let (listener, target) = self.listen()?;
        let server = thread::spawn(move || -> std::io::Result<()> {
            pin(SHARED);
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let mut byte = [0];
            while stream.read(&mut byte)? > 0 {
                stream.write_all(&byte)?;
            }
            Ok(())
        });
        let client = self.from.run(|| TcpStream::connect(target))?;
        let mut client = client.with_context(|| format!("connect to {target}"))?;
        let times = on_core(SHARED, || -> anyhow::Result<Vec<f64>> {
            client.set_nodelay(true)?;
            let mut times = Vec::new();
            let end = Instant::now() + MEASURE;
            let mut byte = [0];
            while Instant::now() < end {
                let start = Instant::now();
                client.write_all(&byte)?;
                client.read_exact(&mut byte)?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            drop(client);
            Ok(times)
        })?;
        server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
        Ok(median(&times))
    }

    /// Connect, request, answer, close: how many a second.
    pub fn connect_rate(&self) -> anyhow::Result<f64> {
        let (listener, target) = self.listen()?;
        let server = thread::spawn(move || -> std::io::Result<()> {
            pin(SHARED);
            let mut byte = [0];
            loop {
                let (mut stream, _) = listener.accept()?;
                stream.read_exact(&mut byte)?;
                stream.write_all(&byte)?;
                if byte == *b"q" {
                    return Ok(());
                }
            }
        });
        let exchange = |byte: u8| -> std::io::Result<()> {
            let mut stream = TcpStream::connect(target)?;
            stream.write_all(&[byte])?;
            stream.read_exact(&mut [0])
        };
        let rate = self.from.run(|| -> anyhow::Result<f64> {
            pin(SHARED);
            let (start, mut count) = (Instant::now(), 0_u32);
            while start.elapsed() < MEASURE {
                exchange(b'r')?;
                count += 1;
            }
            let rate = f64::from(count) / start.elapsed().as_secs_f64();
            exchange(b'q')?;
            Ok(rate)
        })??;
        server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
        Ok(rate)
    }

    /// Connect, and give up at once (RST): how many a second of the time that connecting alone takes, without making sockets and
    /// ending connections. The client has a core of its own.
    pub fn open_rate(&self) -> anyhow::Result<f64> {
        let (listener, target) = self.listen()?;
        listen(&listener, Backlog::new(4096)?)?;
        listener.set_nonblocking(true)?;
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let server = thread::spawn(move || -> std::io::Result<()> {
            pin(RECEIVER);
            // Without a pause: to wake it would cost the client more than most of what is measured. A client that has given up
            // already is accepted, or counted as an error; neither matters here.
            while !stop.load(Ordering::Relaxed) {
                let _ = listener.accept();
            }
            Ok(())
        });
        let open = || -> std::io::Result<Duration> {
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
            socket.set_linger(Some(Duration::ZERO))?;
            let start = Instant::now();
            socket.connect(&target.into())?;
            Ok(start.elapsed())
        };
        let rate = self.from.run(|| -> anyhow::Result<f64> {
            pin(SENDER);
            let (start, mut count, mut connecting) = (Instant::now(), 0_u32, Duration::ZERO);
            while start.elapsed() < MEASURE {
                connecting += open()?;
                count += 1;
            }
            Ok(f64::from(count) / connecting.as_secs_f64())
        })?;
        over.store(true, Ordering::Relaxed);
        server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
        rate
    }

    fn listen(&self) -> anyhow::Result<(TcpListener, SocketAddr)> {
        let listener = self.to.run(|| TcpListener::bind((self.address, self.port)))?;
        let listener = listener.with_context(|| format!("listen on {}", self.address))?;
        let target = listener.local_addr()?;
        Ok((listener, self.via.unwrap_or(target)))
    }
}

fn or_would_block(result: std::io::Result<usize>) -> std::io::Result<Option<usize>> {
    match result {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Runs a task in a thread pinned to a core.
fn on_core<T: Send>(core: usize, task: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            pin(core);
            task()
        });
        thread.join().map_err(|_| anyhow::anyhow!("the client panicked"))?
    })
}
