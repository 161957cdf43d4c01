//! A process with sockets, in a cgroup and a namespace of the test's choice, that does what it is told line by line. It is this
//! very test program, started once more.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use weft_netns::Netns;

use crate::{
    service::Services,
    support::{DEADLINE, Pod},
};

/// Marks the lines of its answers among what the test harness prints.
const MARK: &str = "=> ";

pub struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    pub fn in_pod(services: &Services, pod: &Pod) -> Process {
        Process::start(services, &pod.netns.0)
    }

    pub fn on_node(services: &Services) -> Process {
        Process::start(services, &services.node.netns.0)
    }

    fn start(services: &Services, netns: &Netns) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "client", "--ignored", "--nocapture", "--quiet"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let procs = services.cgroup.path().join("cgroup.procs");
        let file = fs::OpenOptions::new().write(true).open(&procs).unwrap();
        // SAFETY: write(2) alone, on a descriptor that was opened before.
        unsafe {
            command.pre_exec(move || (&file).write_all(b"0"));
        }
        let mut child = netns.enter_child(&mut command).unwrap().spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Process { child, input, output: BufReader::new(output) }
    }

    fn tell(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        loop {
            let mut answer = String::new();
            assert!(self.output.read_line(&mut answer).unwrap() > 0, "the process ended at {line:?}");
            if let Some((_, answer)) = answer.split_once(MARK) {
                return answer.trim_end().to_owned();
            }
        }
    }

    /// Connects; says what it is connected to.
    pub fn tcp(&mut self, to: SocketAddr) -> Result<SocketAddr, ErrorKind> {
        result(&self.tell(&format!("tcp {to}"))).map(|peer| peer.parse().unwrap())
    }

    /// Connects as the agent does to an API server.
    pub fn agent_tcp(&mut self, to: SocketAddr) -> Result<(), ErrorKind> {
        result(&self.tell(&format!("agent {to}"))).map(drop)
    }

    /// Sends a line and says what comes back.
    pub fn ask(&mut self) -> String {
        result(&self.tell("ask")).unwrap()
    }

    /// Reads until the connection ends; says how.
    pub fn wait_for_end(&mut self) -> String {
        self.tell("end")
    }

    /// Opens a UDP socket; says its port.
    pub fn udp(&mut self) -> u16 {
        self.tell("udp 0.0.0.0").parse().unwrap()
    }

    /// The same over IPv6.
    pub fn udp6(&mut self) -> u16 {
        self.tell("udp [::]").parse().unwrap()
    }

    /// The same, bound to this address.
    pub fn udp_at(&mut self, address: IpAddr) -> u16 {
        let any_port = SocketAddr::new(address, 0).to_string();
        self.tell(&format!("udp {}", any_port.strip_suffix(":0").unwrap())).parse().unwrap()
    }

    /// Connects the UDP socket.
    pub fn connect(&mut self, to: SocketAddr) -> Result<(), ErrorKind> {
        result(&self.tell(&format!("connect {to}"))).map(drop)
    }

    /// Sends to whom the UDP socket is connected to.
    pub fn send_connected(&mut self) -> Result<(), ErrorKind> {
        result(&self.tell("send-connected")).map(drop)
    }

    /// Disconnects the TCP socket and connects it again, elsewhere; says what it is connected to.
    pub fn tcp_again(&mut self, to: SocketAddr) -> Result<SocketAddr, ErrorKind> {
        result(&self.tell(&format!("tcp-again {to}"))).map(|peer| peer.parse().unwrap())
    }

    /// Closes the TCP socket.
    pub fn close(&mut self) {
        self.tell("close");
    }

    pub fn send(&mut self, to: SocketAddr) -> Result<(), ErrorKind> {
        result(&self.tell(&format!("send {to}"))).map(drop)
    }

    /// Where a datagram is from, and what it says.
    pub fn receive(&mut self) -> (SocketAddr, String) {
        let answer = result(&self.tell("receive")).unwrap();
        let (from, text) = answer.split_once(' ').unwrap();
        (from.parse().unwrap(), text.to_owned())
    }
}

fn result(answer: &str) -> Result<String, ErrorKind> {
    match answer.strip_prefix("error ") {
        None => Ok(answer.to_owned()),
        Some("ConnectionRefused") => Err(ErrorKind::ConnectionRefused),
        Some("PermissionDenied") => Err(ErrorKind::PermissionDenied),
        Some("TimedOut" | "WouldBlock") => Err(ErrorKind::TimedOut),
        Some(other) => panic!("{other}"),
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the process does.
pub fn serve() {
    let (mut stream, mut socket) = (None::<TcpStream>, None::<UdpSocket>);
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match verb {
            "tcp" => TcpStream::connect_timeout(&argument.parse().unwrap(), DEADLINE).and_then(|connected| {
                connected.set_read_timeout(Some(DEADLINE))?;
                let peer = connected.peer_addr()?;
                stream = Some(connected);
                Ok(peer.to_string())
            }),
            "agent" => agent_connect(argument.parse().unwrap()).map(|connected| {
                stream = Some(connected);
                "connected".to_owned()
            }),
            "tcp-again" => again(stream.as_ref().unwrap(), argument.parse().unwrap()),
            "close" => {
                stream = None;
                Ok("closed".to_owned())
            }
            "connect" => socket.as_ref().unwrap().connect(argument).map(|()| "connected".to_owned()),
            "send-connected" => socket.as_ref().unwrap().send(b"?").map(|_| "sent".to_owned()),
            "ask" => ask(stream.as_mut().unwrap()),
            "end" => Ok(match stream.as_mut().unwrap().read(&mut [0; 64]) {
                Ok(count) => format!("{count} bytes"),
                Err(error) => format!("{:?}", error.kind()),
            }),
            "udp" => UdpSocket::bind(format!("{argument}:0")).and_then(|bound| {
                bound.set_read_timeout(Some(DEADLINE))?;
                let port = bound.local_addr()?.port();
                socket = Some(bound);
                Ok(port.to_string())
            }),
            "send" => {
                let to: SocketAddr = argument.parse().unwrap();
                socket.as_ref().unwrap().send_to(b"?", to).map(|_| "sent".to_owned())
            }
            "receive" => {
                let mut buffer = [0; 256];
                socket
                    .as_ref()
                    .unwrap()
                    .recv_from(&mut buffer)
                    .map(|(length, from)| format!("{from} {}", String::from_utf8_lossy(&buffer[..length])))
            }
            other => panic!("{other}"),
        };
        println!("{MARK}{}", answer.unwrap_or_else(|error| format!("error {:?}", error.kind())));
    }
}

fn agent_connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
    };
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::Priority, &(weft_datapath::AGENT_PRIORITY as i32))?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(to))?;
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// connect(2) with AF_UNSPEC, and then to another address.
fn again(stream: &TcpStream, to: SocketAddr) -> std::io::Result<String> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: plain numbers, for which zero is a value.
    let mut nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    nowhere.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
    // SAFETY: the address is as long as said.
    let result = unsafe {
        libc::connect(stream.as_raw_fd(), &raw const nowhere, size_of::<libc::sockaddr>() as libc::socklen_t)
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error());
    }
    let socket = socket2::SockRef::from(stream);
    socket.connect(&to.into())?;
    stream.peer_addr().map(|peer| peer.to_string())
}

fn ask(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"?\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}
