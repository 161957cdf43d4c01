//! A Pod or a node, and what can be claimed about its network.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    thread,
    time::Duration,
};

use weft_netns::Netns;

use crate::{
    Output,
    binaries::{run, weft_path},
    client, wait_for,
};

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A network namespace of a lab, with a name for people.
pub struct Place {
    what: String,
    /// As `weft lab exec` names it, the lab's options before.
    exec: Vec<String>,
    netns: String,
    addresses: Vec<IpAddr>,
}

/// A connection to an echoing server.
pub struct Echo {
    stream: TcpStream,
}

impl Echo {
    /// A message comes back.
    #[track_caller]
    pub fn goes_on(&mut self) {
        self.try_exchange().unwrap_or_else(|error| panic!("the connection broke: {error}"));
    }

    fn try_exchange(&mut self) -> std::io::Result<()> {
        self.stream.write_all(b"ping")?;
        let mut buffer = [0; 4];
        self.stream.read_exact(&mut buffer)
    }
}

/// What the responder said.
#[derive(Clone, Debug)]
pub struct Answer {
    fields: HashMap<String, String>,
}

impl Place {
    pub(crate) fn new(what: String, exec: Vec<String>, netns: &str, addresses: Vec<IpAddr>) -> Place {
        Place { what, exec, netns: netns.to_owned(), addresses }
    }

    /// A process inside, in the cgroup that its processes have: what is done at the socket is done to it. It runs the
    /// test `client` of this test binary; see [`crate::client`].
    pub(crate) fn client(&self, job: &str) -> Command {
        let own = std::env::current_exe().expect("this test's own file");
        let own = own.to_str().expect("a path of letters");
        let mut command = self.command(&[own, "--exact", "client::client", "--ignored", "--nocapture"]);
        command.env(client::JOB, job);
        command
    }

    /// Runs a program of this machine inside to its end, among the place's names.
    pub fn runs(&self, words: &[&str]) -> Output {
        run(&mut self.command(words))
    }

    /// A program of this machine that is to run inside, among the place's names.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(weft_path());
        command.args(["lab", "exec"]).args(&self.exec).arg("--").args(words).env_remove("WEFT_LAB");
        command
    }

    /// For messages.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Its address, the first one of a dual-stack lab.
    pub fn address(&self) -> IpAddr {
        *self.addresses.first().unwrap()
    }

    /// Its addresses, one a family.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its address of the same family.
    pub fn address_like(&self, other: IpAddr) -> IpAddr {
        let same = |ip: &&IpAddr| ip.is_ipv4() == other.is_ipv4();
        *self
            .addresses
            .iter()
            .find(same)
            .unwrap_or_else(|| panic!("{} has no address like {other}", self.what))
    }

    /// Its network namespace.
    pub fn netns(&self) -> Netns {
        Netns::open(&self.netns).unwrap()
    }

    /// An HTTP request gets an answer; gives it. New routes may take a moment, so attempts are repeated.
    #[track_caller]
    pub fn connects_to(&self, to: SocketAddr) -> Answer {
        wait_for(&format!("{} to connect to {to}; look inside: {}", self.what, self.hint()), || {
            self.try_http(to).map_err(|error| error.to_string())
        })
    }

    /// A datagram comes back; gives what came.
    #[track_caller]
    pub fn exchanges_datagrams_with(&self, to: SocketAddr) -> Answer {
        wait_for(
            &format!("{} to get a datagram back from {to}; look inside: {}", self.what, self.hint()),
            || self.try_udp(to).map_err(|error| error.to_string()),
        )
    }

    /// No connection is possible, now.
    #[track_caller]
    pub fn does_not_connect_to(&self, to: SocketAddr) {
        if let Ok(answer) = self.try_http(to) {
            panic!(
                "{} must not connect to {to}, and got {answer:?}; look inside: {}",
                self.what,
                self.hint()
            );
        }
    }

    /// Listens on a port and echoes what comes, until the test ends.
    pub fn echoes_on(&self, port: u16) -> SocketAddr {
        let address = SocketAddr::new(self.address(), port);
        let listener = self.netns().run(|| TcpListener::bind(address)).unwrap().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut reader = stream.try_clone().unwrap();
                    // The client ends it.
                    let _ = std::io::copy(&mut reader, &mut &stream);
                });
            }
        });
        address
    }

    /// Opens a connection to an echoing server.
    #[track_caller]
    pub fn opens(&self, to: SocketAddr) -> Echo {
        let connect = || self.netns().run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
        let stream = wait_for(&format!("{} to connect to {to}", self.what), connect);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Echo { stream }
    }

    /// One connection with one exchange, now.
    pub fn exchanges_once(&self, to: SocketAddr) -> std::io::Result<()> {
        let stream = self.netns().run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Echo { stream }.try_exchange()
    }

    fn try_http(&self, to: SocketAddr) -> std::io::Result<Answer> {
        let mut stream = self.netns().run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (_, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        Ok(Answer { fields: body.lines().filter_map(|line| line.split_once(": ")).map(owned).collect() })
    }

    fn try_udp(&self, to: SocketAddr) -> std::io::Result<Answer> {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let socket = self.netns().run(|| UdpSocket::bind((any, 0))).unwrap()?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(to)?;
        socket.send(b"hello")?;
        let mut buffer = [0; 1500];
        let count = socket.recv(&mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        Ok(Answer {
            fields: text.split_whitespace().filter_map(|word| word.split_once('=')).map(owned).collect(),
        })
    }

    fn hint(&self) -> String {
        format!("nsenter --net=/run/netns/{}", self.netns)
    }
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

impl Answer {
    /// From what the responder says, in lines over TCP and in one line over UDP.
    pub(crate) fn parse(text: &str) -> Answer {
        let lines = text.lines().filter_map(|line| line.trim_end().split_once(": "));
        let words = text.split_whitespace().filter_map(|word| word.split_once('='));
        Answer { fields: lines.chain(words).map(owned).collect() }
    }

    /// The Pod that answered.
    #[track_caller]
    pub fn pod(&self) -> String {
        self.fields.get("pod").unwrap_or_else(|| panic!("no Pod in {self:?}")).clone()
    }

    /// The node of the Pod that answered.
    #[track_caller]
    pub fn node(&self) -> String {
        self.fields.get("node").unwrap_or_else(|| panic!("no node in {self:?}")).clone()
    }

    /// The Pod that answered.
    #[track_caller]
    pub fn comes_from(self, pod: &str) -> Answer {
        assert_eq!(self.fields.get("pod").map(String::as_str), Some(pod), "{self:?}");
        self
    }

    /// The source address that the answering Pod saw: nobody translated it.
    #[track_caller]
    pub fn saw_source(self, source: IpAddr) -> Answer {
        assert_eq!(
            self.fields.get("source").map(String::as_str),
            Some(source.to_string().as_str()),
            "{self:?}"
        );
        self
    }
}
