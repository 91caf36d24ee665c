//! Giving the leader key back, by a process that goes on.
//!
//! From the moment at which the key may be gone another node may open, and this process must have no
//! right left. So, in this order: the deadline is withdrawn, in the page too, and nothing raises it
//! again by a key of that revision; the fence ends what it guards, at once, since its deadline is
//! gone; and only when the page says that nothing writable is guarded is the key deleted, comparing
//! its revision (protocol.md rules 2 and 8, I12). Arming comes before anything can open, so a page
//! whose guard is off means: nothing writes, and nothing is about to. Where that takes a while, or
//! the outcome is not known, the renewal thread tries again until the key is seen to be gone.

use std::time::Duration;

use regent_dcs::{Change, Compare, Entry, Revision, Txn, TxnOutcome};
use regent_guardian::page::Guard;

use super::site_lease::SiteLoop;

/// How soon the page is looked at again for the end of what the fence guards: it wakes nobody.
pub(super) const FENCE_AGAIN: Duration = Duration::from_millis(50);

/// What came of giving the key back. The right by it is gone whatever came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// The key is gone, from this revision on.
    Gone(Revision),
    /// Not yet, for this reason; the thread goes on trying as long as the key stands.
    Kept(String),
}

impl SiteLoop {
    /// Commands are taken between requests, so none is in flight here that could raise; rounds of
    /// questions to the members are dropped.
    pub(super) async fn release(&mut self, revision: Revision) -> Release {
        self.given_back = Some(revision);
        self.lose();
        self.deadlines.end_carried();
        self.let_go().await
    }

    /// Whether this is the key that was given back. Another one, or none, ends the matter: what was
    /// asked for compares a revision that is past.
    pub(super) fn is_given_back(&mut self, found: Option<&Entry>) -> bool {
        let stands = found.map(|entry| entry.modified);
        self.given_back.take_if(|given| stands != Some(*given));
        self.given_back.is_some()
    }

    /// Deletes it, once nothing writable is guarded.
    pub(super) async fn let_go(&mut self) -> Release {
        let Some(revision) = self.given_back else {
            return Release::Kept("the leader key is another one by now".to_owned());
        };
        let guard = self.deadlines.page().guard();
        if guard != Guard::Off {
            return Release::Kept(format!(
                "giving the leader key back: the fence ends what it guards first ({guard:?})"
            ));
        }
        let key = self.side.leader_key.clone();
        let txn = Txn::new()
            .when(Compare::Modified { key: key.clone(), revision })
            .then(Change::delete(key));
        match self.side.store.txn(txn, self.side.timing.call_timeout).await {
            Ok(TxnOutcome::Applied { revision }) => {
                self.given_back = None;
                Release::Gone(revision)
            }
            Ok(TxnOutcome::Conflict { .. }) => {
                Release::Kept("giving the leader key back: it is another one by now".to_owned())
            }
            Err(error) => Release::Kept(format!("giving the leader key back: {error}")),
        }
    }
}
