//! Namespaces as they are heard of, and lists that come whole or not at all.

use std::sync::Arc;

/// What is heard of Namespaces. A list is `Begin`, every one, `End`: what was not in it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceEvent {
    /// A list of all Namespaces begins; one that had begun before counts no more.
    Begin,
    /// There is a Namespace of this name.
    Namespace(Arc<str>),
    /// There is no such Namespace.
    Gone(Arc<str>),
    /// That were all.
    End,
}

/// Lists of one kind of object: numbered, so that what was not in the last one can be told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lists {
    /// The last one that began; never 0 once one has.
    pub(super) last: u32,
    /// One has come to its end.
    pub(super) is_whole: bool,
}

// === impl Lists ===

impl Lists {
    pub(super) fn begin(&mut self) {
        self.last = self.last.wrapping_add(1);
    }
}
