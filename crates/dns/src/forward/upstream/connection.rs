//! The TCP connection that questions to one server share (RFC 7766): opened for the first of them, closed when there were none for a
//! while. Answers come in any order.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex as AsyncMutex, mpsc, oneshot},
    time::timeout,
};

use super::random_id;

/// A server's connection, while there is one.
pub(in crate::forward) struct Shared {
    address: SocketAddr,
    /// It is closed when nothing was asked for so long.
    idle: Duration,
    open: AsyncMutex<Weak<Connection>>,
}

/// Somebody has asked on a connection.
pub(in crate::forward) struct Asked {
    /// The number of the question.
    pub(in crate::forward) id: u16,
    /// What comes is the whole message; nothing does when the connection ends before.
    pub(in crate::forward) answer: oneshot::Receiver<Vec<u8>>,
    connection: Weak<Connection>,
    /// What had come on the connection before.
    answers: u64,
}

struct Connection {
    /// Messages with their lengths; taken by a task, so that who gives up leaves none half written.
    queries: mpsc::UnboundedSender<Vec<u8>>,
    /// `None` when it has ended.
    waiting: Mutex<Option<Waiting>>,
    /// How many answers have come.
    answers: AtomicU64,
}

/// Who waits for an answer, by the question's number.
type Waiting = HashMap<u16, oneshot::Sender<Vec<u8>>>;

// === impl Shared ===

impl Shared {
    pub(in crate::forward) fn new(address: SocketAddr, idle: Duration) -> Self {
        Self { address, idle, open: AsyncMutex::new(Weak::new()) }
    }

    /// Sends a message, with a number that no other question on the connection has.
    ///
    /// # Errors
    /// When the server cannot be connected to.
    pub(in crate::forward) async fn ask(&self, query: &[u8]) -> io::Result<Asked> {
        // Whoever comes while it is opened waits for it.
        let mut open = self.open.lock().await;
        if let Some(asked) = open.upgrade().and_then(|connection| connection.ask(query)) {
            return Ok(asked);
        }
        let connection = Connection::open(self.address, self.idle).await?;
        *open = Arc::downgrade(&connection);
        connection.ask(query).ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }

    /// This should have been answered. If nothing has come since it was asked, questions to come are asked on another connection.
    pub(in crate::forward) async fn retire(&self, asked: &Asked) {
        let Some(connection) = asked.connection.upgrade() else { return };
        if connection.answers.load(Ordering::Relaxed) != asked.answers {
            return;
        }
        let mut open = self.open.lock().await;
        if open.as_ptr() == Arc::as_ptr(&connection) {
            *open = Weak::new();
        }
    }
}

// === impl Connection ===

impl Connection {
    async fn open(address: SocketAddr, idle: Duration) -> io::Result<Arc<Self>> {
        let stream = TcpStream::connect(address).await?;
        // Each question is a packet of its own: nobody is to wait for the next.
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let (queries, to_send) = mpsc::unbounded_channel();
        let connection =
            Arc::new(Self { queries, waiting: Mutex::new(Some(HashMap::new())), answers: AtomicU64::new(0) });
        tokio::spawn(send(writer, to_send));
        tokio::spawn(Arc::clone(&connection).receive(reader, idle));
        Ok(connection)
    }

    /// `None` when it has ended.
    fn ask(self: &Arc<Self>, query: &[u8]) -> Option<Asked> {
        let length = u16::try_from(query.len()).ok()?;
        let (sender, answer) = oneshot::channel();
        let mut guard = self.waiting();
        let waiting = guard.as_mut()?;
        let mut id = random_id();
        // Never more than a few hundred of all numbers are taken.
        while waiting.contains_key(&id) {
            id = random_id();
        }
        let mut framed = Vec::with_capacity(2 + query.len());
        framed.extend(length.to_be_bytes());
        framed.extend(id.to_be_bytes());
        framed.extend(query.get(2..)?);
        self.queries.send(framed).ok()?;
        waiting.insert(id, sender);
        let answers = self.answers.load(Ordering::Relaxed);
        Some(Asked { id, answer, connection: Arc::downgrade(self), answers })
    }

    /// Hands out answers until the server closes the connection, or nobody has asked for a while.
    async fn receive(self: Arc<Self>, reader: OwnedReadHalf, idle: Duration) {
        let mut reader = BufReader::new(reader);
        loop {
            // Nothing is lost when this is given up.
            match timeout(idle, reader.fill_buf()).await {
                Ok(Ok(octets)) if !octets.is_empty() => {}
                Ok(_) => break,
                Err(_) if self.is_idle() => break,
                Err(_) => continue,
            }
            let Ok(Ok(message)) = timeout(idle, message(&mut reader)).await else { break };
            self.answers.fetch_add(1, Ordering::Relaxed);
            let id = message.first_chunk().map(|id| u16::from_be_bytes(*id));
            let waits = id.and_then(|id| self.waiting().as_mut().and_then(|waiting| waiting.remove(&id)));
            if let Some(waits) = waits {
                // It may have given up.
                let _ = waits.send(message);
            }
        }
        // Who waits hears that there is no answer.
        self.waiting().take();
    }

    /// Nobody waits any more; then nobody can ask from here on.
    fn is_idle(&self) -> bool {
        let mut guard = self.waiting();
        if let Some(waiting) = guard.as_mut() {
            waiting.retain(|_, one| !one.is_closed());
            if !waiting.is_empty() {
                return false;
            }
        }
        guard.take();
        true
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send(mut writer: OwnedWriteHalf, mut queries: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(query) = queries.recv().await {
        if writer.write_all(&query).await.is_err() {
            // The other half hears of it as well.
            return;
        }
    }
}

async fn message(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Vec<u8>> {
    let mut message = vec![0; reader.read_u16().await?.into()];
    reader.read_exact(&mut message).await?;
    Ok(message)
}
