//! A DNS server that does as it is told.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, NS, SOA},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};

use crate::question::Question;

/// What it answers to a query: any number of datagrams, or the first of them over TCP.
pub(super) type Behaviour = dyn Fn(&Query) -> Vec<Vec<u8>> + Send + Sync;

/// A query as it came.
pub(super) struct Query {
    pub(super) message: Message,
    pub(super) tcp: bool,
}

/// The server; it ends when dropped.
pub(super) struct Fake {
    pub(super) address: SocketAddr,
    behaviour: Arc<Mutex<Arc<Behaviour>>>,
    asked: Arc<Mutex<Vec<(Question, bool)>>>,
    /// How long it takes over UDP.
    takes: Arc<Mutex<Duration>>,
    _tasks: JoinSet<()>,
}

impl Query {
    pub(super) fn question(&self) -> Question {
        let query = &self.message.queries[0];
        Question { name: query.name.clone(), kind: query.query_type, signed: self.signed() }
    }

    /// Whether signatures are wanted.
    fn signed(&self) -> bool {
        self.message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)
    }

    /// An answer to it, still empty.
    pub(super) fn answer(&self, code: ResponseCode) -> Message {
        let mut answer = Message::new(self.message.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata.recursion_available = true;
        answer.metadata.response_code = code;
        answer.queries = self.message.queries.clone();
        if self.message.edns.is_some() {
            answer.set_edns(Edns::new());
        }
        answer
    }

    /// An answer with these records.
    pub(super) fn with(&self, answers: Vec<Record>) -> Message {
        let mut answer = self.answer(ResponseCode::NoError);
        answer.answers = answers;
        answer
    }

    /// There is none, and that for so many seconds.
    pub(super) fn none(&self, code: ResponseCode, soa: &str, ttl: u32) -> Message {
        let mut answer = self.answer(code);
        let name = Name::from_ascii(soa).unwrap();
        let soa = SOA::new(name.clone(), name.clone(), 1, 2, 3, 4, ttl);
        answer.authorities = vec![Record::from_rdata(name, 3600, RData::SOA(soa))];
        answer
    }
}

impl Fake {
    /// One that gives every name the address 192.0.2.1.
    pub(super) async fn start() -> Self {
        Self::doing(|query| one(query.with(vec![address(&query.question().name.to_string(), 60, 1)]))).await
    }

    /// One that does as it is told.
    pub(super) async fn doing(behaviour: impl Fn(&Query) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let (udp, tcp) = sockets().await;
        let address = udp.local_addr().unwrap();
        let behaviour: Arc<Mutex<Arc<Behaviour>>> = Arc::new(Mutex::new(Arc::new(behaviour)));
        let asked = Arc::<Mutex<Vec<(Question, bool)>>>::default();
        let answers = {
            let (behaviour, asked) = (Arc::clone(&behaviour), Arc::clone(&asked));
            move |bytes: &[u8], tcp: bool| {
                let query = Query { message: Message::from_vec(bytes).unwrap(), tcp };
                // Health checks and the search for loops are not what tests count.
                let kind = query.question().kind;
                if kind != RecordType::NS && kind != RecordType::HINFO {
                    asked.lock().unwrap().push((query.question(), tcp));
                }
                let behaviour = Arc::clone(&*behaviour.lock().unwrap());
                behaviour(&query)
            }
        };
        let mut tasks = JoinSet::new();
        let over_tcp = answers.clone();
        let takes = Arc::<Mutex<Duration>>::default();
        let (udp, slowness) = (Arc::new(udp), Arc::clone(&takes));
        tasks.spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
                let (udp, datagrams) = (Arc::clone(&udp), answers(&buffer[..length], false));
                let takes = *slowness.lock().unwrap();
                tokio::spawn(async move {
                    tokio::time::sleep(takes).await;
                    for datagram in datagrams {
                        // Who asked may be gone.
                        let _ = udp.send_to(&datagram, client).await;
                    }
                });
            }
        });
        tasks.spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let Ok(length) = stream.read_u16().await else { continue };
                let mut query = vec![0; length.into()];
                stream.read_exact(&mut query).await.unwrap();
                if let Some(answer) = over_tcp(&query, true).first() {
                    stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                    stream.write_all(answer).await.unwrap();
                }
            }
        });
        Self { address, behaviour, asked, takes, _tasks: tasks }
    }

    /// From now on it does this.
    pub(super) fn now_does(&self, behaviour: impl Fn(&Query) -> Vec<Vec<u8>> + Send + Sync + 'static) {
        *self.behaviour.lock().unwrap() = Arc::new(behaviour);
    }

    /// From now on it answers with 192.0.2.`last`.
    pub(super) fn now_says(&self, last: u8) {
        self.now_does(move |query| {
            one(query.with(vec![address(&query.question().name.to_string(), 60, last)]))
        });
    }

    /// From now on it takes so long.
    pub(super) fn now_takes(&self, time: Duration) {
        *self.takes.lock().unwrap() = time;
    }

    /// From now on it says nothing.
    pub(super) fn falls_silent(&self) {
        self.now_does(|_| Vec::new());
    }

    /// How often it was asked.
    pub(super) fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// What it was asked over TCP.
    pub(super) fn asked_over_tcp(&self) -> usize {
        self.asked.lock().unwrap().iter().filter(|(_, tcp)| *tcp).count()
    }

    /// How often signatures were wanted of it.
    pub(super) fn asked_signed(&self) -> usize {
        self.asked.lock().unwrap().iter().filter(|(asked, _)| asked.signed).count()
    }

    /// How often it was asked this.
    pub(super) fn asked_for(&self, question: &Question) -> usize {
        self.asked.lock().unwrap().iter().filter(|(asked, _)| asked == question).count()
    }
}

/// The same port for both.
async fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

pub(super) fn one(message: Message) -> Vec<Vec<u8>> {
    vec![message.to_vec().unwrap()]
}

/// `name` has 192.0.2.`last`.
pub(super) fn address(name: &str, ttl: u32, last: u8) -> Record {
    let data = RData::A(Ipv4Addr::new(192, 0, 2, last).into());
    Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, data)
}

/// `name` stands for `target`.
pub(super) fn alias(name: &str, ttl: u32, target: &str) -> Record {
    let data = RData::CNAME(CNAME(Name::from_ascii(target).unwrap()));
    Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, data)
}

/// `name` is served by `server`.
pub(super) fn delegation(name: &str, server: &str) -> Record {
    let data = RData::NS(NS(Name::from_ascii(server).unwrap()));
    Record::from_rdata(Name::from_ascii(name).unwrap(), 3600, data)
}
