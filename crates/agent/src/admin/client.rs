//! Asks an agent, synchronously.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use weft_cni::plugin::frame;

use super::{Request, Response, ServiceStatus, Status};

/// An agent answers a probe of many targets within less.
const DEADLINE: Duration = Duration::from_secs(30);

/// A connection to an agent.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    deadline: Duration,
    stream: UnixStream,
}

/// An agent could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there, or not for this user.
    #[error("agent at {socket}: {cause}; is `weft agent` running there, and is this user root?")]
    Connection {
        /// The agent's socket.
        socket: PathBuf,
        /// What went wrong.
        cause: io::Error,
    },
    /// It takes connections, and says nothing.
    #[error("agent at {socket}: no answer within {} s; is its process stopped, or is there no CPU for it?", deadline.as_secs())]
    Silent {
        /// The agent's socket.
        socket: PathBuf,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// It answered what this version does not understand.
    #[error("agent at {socket}: its answer does not read: {cause}; is it of another version?")]
    Answer {
        /// The agent's socket.
        socket: PathBuf,
        /// What is wrong with it.
        cause: serde_json::Error,
    },
    /// It said no.
    #[error("agent at {socket}: {message}")]
    Refused {
        /// The agent's socket.
        socket: PathBuf,
        /// Why.
        message: String,
    },
}

#[derive(Serialize)]
struct Envelope<'a> {
    kind: &'static str,
    #[serde(flatten)]
    request: &'a Request,
}

impl Client {
    /// Connects to the agent at `socket`, to ask for what may take as long as a probe of many targets.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        Self::connect_within(socket, DEADLINE)
    }

    /// The same; each answer is waited for until `deadline` has passed.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect_within(socket: &Path, deadline: Duration) -> Result<Self, ClientError> {
        let at = |cause| ClientError::Connection { socket: socket.to_owned(), cause };
        let stream = UnixStream::connect(socket).map_err(at)?;
        stream.set_read_timeout(Some(deadline)).map_err(at)?;
        stream.set_write_timeout(Some(deadline)).map_err(at)?;
        Ok(Self { socket: socket.to_owned(), deadline, stream })
    }

    /// Asks, and waits for the answer; never [`Response::Error`].
    ///
    /// # Errors
    /// When the connection breaks or the agent says no.
    pub fn ask(&mut self, request: &Request) -> Result<Response, ClientError> {
        let unreadable = |cause| ClientError::Answer { socket: self.socket.clone(), cause };
        let (socket, deadline) = (self.socket.clone(), self.deadline);
        let broken = |cause: io::Error| match cause.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ClientError::Silent { socket: socket.clone(), deadline }
            }
            _ => ClientError::Connection { socket: socket.clone(), cause },
        };
        let body = serde_json::to_vec(&Envelope { kind: "admin", request }).map_err(unreadable)?;
        frame::write(&mut self.stream, &body).map_err(broken)?;
        let answer = frame::read(&mut self.stream).map_err(broken)?;
        match serde_json::from_slice(&answer).map_err(unreadable)? {
            Response::Error { message } => Err(ClientError::Refused { socket: self.socket.clone(), message }),
            response => Ok(response),
        }
    }

    /// The agent's status.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        match self.ask(&Request::Status)? {
            Response::Status(status) => Ok(*status),
            other => Err(ClientError::Refused {
                socket: self.socket.clone(),
                message: format!("not a status: {other:?}"),
            }),
        }
    }

    /// What the agent's kernel holds of Services.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn services(&mut self) -> Result<Vec<ServiceStatus>, ClientError> {
        match self.ask(&Request::Services)? {
            Response::Services { services } => Ok(services),
            other => Err(ClientError::Refused {
                socket: self.socket.clone(),
                message: format!("no Services: {other:?}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn who_takes_the_connection_and_says_nothing_is_silent() {
        let folder = weft_scratch::folder();
        let socket = folder.path().join("agent.sock");
        let _stuck = UnixListener::bind(&socket).unwrap();
        let mut client = Client::connect_within(&socket, Duration::from_millis(20)).unwrap();
        let error = client.status().unwrap_err();
        assert!(matches!(error, ClientError::Silent { .. }), "{error}");
    }
}
