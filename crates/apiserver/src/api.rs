//! What every request handler shares.

use std::sync::{Arc, PoisonError, RwLock};

use crate::allocate::Services;
use crate::auth::{Tokens, User};
use crate::connections::Connections;
use crate::faults::Faults;
use crate::logs::PodLogs;
use crate::resources::Registry;
use crate::sessions::PodSessions;
use crate::store::Store;

/// The server behind its listeners.
pub(crate) struct Api {
    pub(crate) store: Arc<Store>,
    pub(crate) registry: Registry,
    pub(crate) faults: Faults,
    pub(crate) connections: Arc<Connections>,
    pub(crate) tokens: Tokens,
    pub(crate) services: Services,
    /// Pods may get ephemeral containers.
    pub(crate) ephemeral_containers: bool,
    pub(crate) ca_pem: String,
    pub(crate) logs: RwLock<Option<Arc<dyn PodLogs>>>,
    pub(crate) sessions: RwLock<Option<Arc<dyn PodSessions>>>,
}

impl Api {
    /// The user of a token. A ServiceAccount's tokens end with it.
    pub(crate) fn user(&self, token: &str) -> Option<User> {
        let user = self.tokens.user(token)?;
        let lives = user.uid.is_empty() || self.store.index().by_uid(&user.uid).is_some();
        lives.then_some(user)
    }

    pub(crate) fn sessions(&self) -> Option<Arc<dyn PodSessions>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn logs(&self) -> Option<Arc<dyn PodLogs>> {
        self.logs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
