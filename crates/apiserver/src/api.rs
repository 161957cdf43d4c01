//! What every request handler shares.

use std::sync::{Arc, PoisonError, RwLock};

use crate::allocate::Services;
use crate::auth::Tokens;
use crate::faults::Faults;
use crate::logs::PodLogs;
use crate::resources::Registry;
use crate::store::Store;

/// The server behind its listeners.
pub(crate) struct Api {
    pub(crate) store: Arc<Store>,
    pub(crate) registry: Registry,
    pub(crate) faults: Faults,
    pub(crate) tokens: Tokens,
    pub(crate) services: Services,
    pub(crate) ca_pem: String,
    pub(crate) logs: RwLock<Option<Arc<dyn PodLogs>>>,
}

impl Api {
    pub(crate) fn logs(&self) -> Option<Arc<dyn PodLogs>> {
        self.logs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
