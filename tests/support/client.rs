//! A client as a process of its own inside a Pod, a node or the host outside: one request, or so many a second until it
//! is told to stop. It is the test binary itself, started by `weft lab exec`.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::{Child, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{Answer, Place, binaries::run};

/// Names what the client is to do.
pub(crate) const JOB: &str = "WEFT_TEST_CLIENT";
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections under way at once.
const THREADS: u32 = 16;

/// What became of one request.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was answered.
    Answered(Answer),
    /// It was refused: a reset, or an ICMP error.
    Refused,
    /// Nothing came back.
    Silent,
    /// Something else.
    Failed(String),
}

impl Outcome {
    /// It was answered.
    #[track_caller]
    pub fn answer(self) -> Answer {
        match self {
            Outcome::Answered(answer) => answer,
            other => panic!("no answer: {other:?}"),
        }
    }

    /// It was answered.
    pub fn is_answer(&self) -> bool {
        matches!(self, Outcome::Answered(_))
    }

    /// It was refused.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Outcome::Refused)
    }

    /// Nothing came back.
    pub fn is_silence(&self) -> bool {
        matches!(self, Outcome::Silent)
    }
}

/// Requests that go on until [`Load::end`].
pub struct Load {
    child: Child,
    what: String,
}

/// What became of them.
#[derive(Clone, Debug)]
pub struct Requests {
    /// Answered.
    pub done: u64,
    /// Not answered, and the first reasons.
    pub failed: u64,
    /// The first reasons.
    pub reasons: Vec<String>,
}

impl Place {
    /// One HTTP request by a process inside, now.
    pub fn asks(&self, to: SocketAddr) -> Outcome {
        self.job("http", to)
    }

    /// One datagram by a process inside, over a connected socket, now.
    pub fn sends(&self, to: SocketAddr) -> Outcome {
        self.job("udp", to)
    }

    /// One datagram by a process inside, over a socket that is not connected, now.
    pub fn sends_unconnected(&self, to: SocketAddr) -> Outcome {
        self.job("sendto", to)
    }

    fn job(&self, kind: &str, to: SocketAddr) -> Outcome {
        let output = run(&mut self.client(&format!("{kind} {to} 0")));
        let said = output.stdout.lines().find_map(|line| line.split_once("client: "));
        match said.map(|(_, said)| said.split_once(' ').unwrap_or((said, ""))) {
            Some(("answered", answer)) => Outcome::Answered(Answer::parse(&answer.replace('|', "\n"))),
            Some(("refused", _)) => Outcome::Refused,
            Some(("silent", _)) => Outcome::Silent,
            Some((_, why)) => Outcome::Failed(why.to_owned()),
            None => panic!("{}: no outcome\n{}{}", output.command, output.stdout, output.stderr),
        }
    }

    /// Begins HTTP requests by a process inside, each a connection of its own, so many a second.
    pub fn begins_requests(&self, to: SocketAddr, a_second: u32) -> Load {
        self.begin("http", to, a_second)
    }

    /// Begins datagrams by a process inside over one connected socket, so many a second.
    pub fn begins_datagrams(&self, to: SocketAddr, a_second: u32) -> Load {
        self.begin("udp", to, a_second)
    }

    fn begin(&self, kind: &str, to: SocketAddr, a_second: u32) -> Load {
        let mut command = self.client(&format!("{kind} {to} {a_second}"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // It says so once the first request was answered.
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("client: begun") {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0, "{}: the client did not begin", self.what());
        }
        child.stdout = Some(reader.into_inner());
        Load { child, what: format!("{} to {to}", self.what()) }
    }
}

impl Load {
    /// Ends the requests and says what became of them.
    #[track_caller]
    pub fn end(mut self) -> Requests {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let _ = self.child.wait();
        let said = text.lines().find_map(|line| line.split_once("client: ended ")).map(|(_, said)| said);
        let said = said.unwrap_or_else(|| panic!("{}: no account: {text}", self.what));
        let mut parts = said.split('|');
        let mut number = || parts.next().unwrap_or_default().trim().parse().unwrap();
        let (done, failed) = (number(), number());
        Requests { done, failed, reasons: parts.map(str::to_owned).collect() }
    }

    /// Ends the requests; none has failed.
    #[track_caller]
    pub fn none_failed(self) -> u64 {
        let what = self.what.clone();
        let requests = self.end();
        assert_eq!(
            requests.failed, 0,
            "{what}: of {} requests failed: {:?}",
            requests.done, requests.reasons
        );
        requests.done
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // After `end` it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The client process. Does nothing where no job was given.
pub fn main() {
    let Ok(job) = std::env::var(JOB) else { return };
    let mut words = job.split(' ');
    let (kind, to, rate) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    let (to, rate): (SocketAddr, u32) = (to.parse().unwrap(), rate.parse().unwrap());
    if rate == 0 {
        let text = match once(kind, to) {
            Ok(answer) => format!("answered {}", answer.replace(['\n', '\r'], "|")),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => "refused".into(),
            Err(error) if is_time_out(&error) => "silent".into(),
            Err(error) => format!("failed {error}"),
        };
        println!("client: {text}");
        return;
    }
    go_on(kind, to, rate);
}

fn is_time_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

fn once(kind: &str, to: SocketAddr) -> io::Result<String> {
    match kind {
        "http" => http(to),
        "udp" => {
            let socket = datagrams(to)?;
            socket.connect(to)?;
            socket.send(b"weft")?;
            receive(&socket)
        }
        "sendto" => {
            let socket = datagrams(to)?;
            socket.send_to(b"weft", to)?;
            let mut buffer = [0; 2048];
            let (length, from) = socket.recv_from(&mut buffer)?;
            // The answer comes from where the question went.
            if from != to {
                return Err(io::Error::other(format!("answered by {from}")));
            }
            Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        }
        other => panic!("no job {other}"),
    }
}

fn http(to: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.starts_with("HTTP/1.1 200") {
        Ok(text)
    } else {
        Err(io::Error::other(format!("answered {text:?}")))
    }
}

fn datagrams(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn receive(socket: &UdpSocket) -> io::Result<String> {
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn go_on(kind: &str, to: SocketAddr, rate: u32) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = once(kind, to) {
        assert!(Instant::now() < deadline, "the first request: {error}");
        thread::sleep(Duration::from_millis(20));
    }
    println!("client: begun");
    let (over, done, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let reasons = Mutex::new(Vec::new());
    // One socket is one client; connections are many.
    let threads = if kind == "http" { THREADS.min(rate) } else { 1 };
    let pause = Duration::from_secs(1) * threads / rate;
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let socket = (kind == "udp").then(|| {
                    let socket = datagrams(to).unwrap();
                    socket.connect(to).unwrap();
                    socket
                });
                while !over.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let result = match &socket {
                        Some(socket) => socket.send(b"weft").and_then(|_| receive(socket)).map(drop),
                        None => once(kind, to).map(drop),
                    };
                    match result {
                        Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            let mut reasons = reasons.lock().unwrap();
                            if reasons.len() < 20 {
                                let at = begun.elapsed().as_millis();
                                reasons.push(format!("after {at} ms: {error}").replace('|', "/"));
                            }
                        }
                    }
                    thread::sleep(pause.saturating_sub(start.elapsed()));
                }
            });
        }
        // The parent closes it, or is gone.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        over.store(true, Ordering::Relaxed);
    });
    let reasons = reasons.into_inner().unwrap().join("|");
    println!("client: ended {}|{}|{reasons}", done.into_inner(), failed.into_inner());
}
