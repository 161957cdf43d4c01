//! One TCP connection for many questions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hickory_proto::{op::Message, rr::RecordType};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::forward::upstream::Shared;

use super::{
    Forwarder, a,
    fake::{Query, address},
    is_fine, until,
};

/// What a server does when it is asked on a connection: what it answers, of all that it has not answered yet, and whether the
/// connection goes on.
type Manner = dyn Fn(&mut Vec<Query>) -> (Vec<Message>, bool) + Send + Sync;

/// A server that speaks TCP alone; it ends when dropped.
struct Server {
    address: std::net::SocketAddr,
    connections: Arc<AtomicUsize>,
    /// Those that were closed, by either side.
    closed: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn new(manner: impl Fn(&mut Vec<Query>) -> (Vec<Message>, bool) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, closed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (count, count_closed) = (Arc::clone(&connections), Arc::clone(&closed));
        let manner: Arc<Manner> = Arc::new(manner);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Relaxed);
                let (manner, closed) = (Arc::clone(&manner), Arc::clone(&count_closed));
                serving.spawn(async move {
                    serve(stream, &*manner).await;
                    closed.fetch_add(1, Relaxed);
                });
            }
        });
        Self { address, connections, closed, _tasks: tasks }
    }

    fn forwarder(&self) -> Arc<Forwarder> {
        let yaml = format!("upstreams: ['tcp://{}']", self.address);
        let own = vec!["cluster.local".parse().unwrap()];
        Arc::new(Forwarder::new(&yaml.parse().unwrap(), std::path::Path::new("/nonexistent"), own))
    }

    fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }
}

async fn serve(mut stream: TcpStream, manner: &Manner) {
    let mut asked = Vec::new();
    while let Ok(length) = stream.read_u16().await {
        let mut query = vec![0; length.into()];
        stream.read_exact(&mut query).await.unwrap();
        asked.push(Query { message: Message::from_vec(&query).unwrap(), tcp: true });
        let (answers, goes_on) = manner(&mut asked);
        for answer in answers {
            let answer = answer.to_vec().unwrap();
            let framed = [&u16::try_from(answer.len()).unwrap().to_be_bytes()[..], &answer].concat();
            if stream.write_all(&framed).await.is_err() {
                return;
            }
        }
        if !goes_on {
            return;
        }
    }
}

fn fine(query: &Query) -> Message {
    query.with(vec![address(&query.question().name.to_string(), 60, 1)])
}

/// The question that looks for loops is asked beside those of clients, when it likes.
fn is_of_client(query: &Query) -> bool {
    query.question().name.to_string().ends_with("example.com.")
}

/// Answers at once.
fn at_once(asked: &mut Vec<Query>) -> (Vec<Message>, bool) {
    (asked.drain(..).map(|query| fine(&query)).collect(), true)
}

/// A message that asks for a name.
fn asks_for(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(hickory_proto::op::Query::query(name.parse().unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

/// Asks for so many names at once; all are answered.
async fn ask_many(forwarder: &Arc<Forwarder>, first: usize, count: usize) {
    let mut asking = JoinSet::new();
    for number in first..first + count {
        let forwarder = Arc::clone(forwarder);
        asking.spawn(async move { forwarder.ask(&a(&format!("n{number}.example.com."))).await });
    }
    while let Some(reply) = asking.join_next().await {
        let reply = reply.unwrap();
        assert!(is_fine(&reply), "{reply:?}");
    }
}

#[tokio::test]
async fn many_questions_share_a_connection_and_are_answered_in_any_order() {
    // In rows of eight, the last first.
    let in_rows = |asked: &mut Vec<Query>| {
        let row = if asked.len() < 8 { Vec::new() } else { asked.drain(..).rev().collect() };
        (row.iter().map(fine).collect(), true)
    };
    let server = Server::new(in_rows).await;
    let shared = Arc::new(Shared::new(server.address, Duration::from_secs(60)));
    let mut asking = JoinSet::new();
    for number in 0..64 {
        let shared = Arc::clone(&shared);
        asking.spawn(async move {
            let name = format!("n{number}.example.com.");
            let asked = shared.ask(&asks_for(&name)).await.unwrap();
            let answer = Message::from_vec(&asked.answer.await.unwrap()).unwrap();
            assert_eq!((answer.metadata.id, answer.answers[0].name.to_string()), (asked.id, name));
        });
    }
    asking.join_all().await;
    assert_eq!(server.connections(), 1);
    // The same by way of all that is around it.
    ask_many(&Server::new(at_once).await.forwarder(), 0, 64).await;
}

#[tokio::test]
async fn a_server_that_closes_each_connection_after_an_answer_answers_all() {
    let one = Server::new(|asked| (asked.drain(..1).map(|query| fine(&query)).collect(), false)).await;
    let forwarder = one.forwarder();
    for round in 0..10 {
        ask_many(&forwarder, 10 * round, 10).await;
    }
    ask_many(&forwarder, 1000, 1).await;
}

#[tokio::test]
async fn a_name_that_takes_long_holds_up_nobody() {
    // It works off one question after the other, and never comes to an end with one.
    let server = Server::new(|asked| {
        let stuck = |query: &Query| query.question().name.to_string().starts_with("stuck");
        if asked.iter().any(stuck) { (Vec::new(), true) } else { at_once(asked) }
    })
    .await;
    let forwarder = server.forwarder();
    ask_many(&forwarder, 0, 1).await;
    let stuck = {
        let forwarder = Arc::clone(&forwarder);
        tokio::spawn(async move { forwarder.ask(&a("stuck.example.com.")).await })
    };
    ask_many(&forwarder, 1, 30).await;
    assert!(!is_fine(&stuck.await.unwrap()));
    ask_many(&forwarder, 31, 5).await;
}

#[tokio::test]
async fn what_answers_something_else_is_not_believed() {
    let server = Server::new(|asked| {
        let answers = asked.drain(..).map(|query| {
            let mut answer = fine(&query);
            if is_of_client(&query) {
                answer.queries[0].name = "other.example.com.".parse().unwrap();
            }
            answer
        });
        (answers.collect(), true)
    })
    .await;
    let reply = server.forwarder().ask(&a("a.example.com.")).await;
    assert!(!is_fine(&reply), "{reply:?}");
}

#[tokio::test]
async fn a_connection_that_nobody_needs_is_closed_and_opened_again_when_somebody_does() {
    let server = Server::new(at_once).await;
    let shared = Shared::new(server.address, Duration::from_millis(50));
    let query = asks_for("a.example.com.");
    for round in 1..=2 {
        let asked = shared.ask(&query).await.unwrap();
        let (id, answer) = (asked.id, asked.answer.await.unwrap());
        assert_eq!(answer[..2], id.to_be_bytes());
        until("the connection to be closed", || match server.closed.load(Relaxed) {
            closed if closed == round => Ok(()),
            closed => Err(closed.to_string()),
        })
        .await;
    }
    assert_eq!(server.connections(), 2);
}
