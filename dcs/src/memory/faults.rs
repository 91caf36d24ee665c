//! The faults that a test can order for one process's calls.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// The calls of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// [`crate::Store::get`].
    Get,
    /// [`crate::Store::range`].
    Range,
    /// [`crate::Store::txn`].
    Txn,
    /// [`crate::Store::grant`].
    Grant,
    /// [`crate::Store::renew`].
    Renew,
    /// [`crate::Store::revoke`].
    Revoke,
    /// [`crate::Store::watch`].
    Watch,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The store says no.
    Refused,
    /// Nobody is reached.
    NotDone,
    /// The request is lost on its way, and the caller can't know. A read is not done.
    UnknownNotApplied,
    /// The answer is lost: the request took effect. A read is not done.
    UnknownApplied,
    /// The caller's time is up and the request takes effect this much later, after whatever the
    /// caller does meanwhile. Of transactions; other calls are lost.
    UnknownAppliedLater(Duration),
    /// The call takes this long on the store's clock, or its timeout when that is shorter; then it
    /// counts as lost on its way.
    Delayed(Duration),
}

/// The script of one process's calls. Clones are the same script.
#[derive(Clone)]
pub struct Faults {
    script: Arc<Mutex<Script>>,
    /// Counts the orders to cut watches.
    cuts: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
struct Script {
    ordered: VecDeque<(Option<Call>, Fault)>,
    otherwise: Option<Box<dyn FnMut(Call) -> Option<Fault> + Send>>,
}

impl Faults {
    pub(super) fn none() -> Self {
        Self { script: Arc::default(), cuts: Arc::new(watch::Sender::new(0)) }
    }

    /// Orders a fault for the next call of this kind, or of any kind. Orders for one kind are
    /// served in the order given.
    pub fn order(&self, call: Option<Call>, fault: Fault) {
        self.lock().ordered.push_back((call, fault));
    }

    /// Asks `script` about each call for which nothing is ordered. `|_| Some(Fault::NotDone)` cuts
    /// the process off; `|_| None` brings it back.
    pub fn otherwise(&self, script: impl FnMut(Call) -> Option<Fault> + Send + 'static) {
        self.lock().otherwise = Some(Box::new(script));
    }

    /// Ends all watches that this process has open.
    pub fn cut_watches(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// What happens to a call that is made now.
    pub(super) fn strike(&self, call: Call) -> Option<Fault> {
        let mut script = self.lock();
        let fits = |(kind, _): &(Option<Call>, Fault)| kind.is_none_or(|kind| kind == call);
        if let Some(index) = script.ordered.iter().position(fits) {
            return script.ordered.remove(index).map(|(_, fault)| fault);
        }
        script.otherwise.as_mut().and_then(|script| script(call))
    }

    pub(super) fn cuts(&self) -> watch::Receiver<u64> {
        self.cuts.subscribe()
    }

    /// A test that panicked with the lock held has failed already.
    fn lock(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("ordered", &self.lock().ordered).finish_non_exhaustive()
    }
}
