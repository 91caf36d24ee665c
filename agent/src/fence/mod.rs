//! Leases and the fence: what holds the right to write, and what ends it in time.
//!
//! Two threads of their own. [`renewal`] (`site_lease`, `primary_lease`) renews the site's
//! leader key and the primary lease; no PostgreSQL call, file or log can hold it up (I10). [`guard`]
//! stops PostgreSQL before the earlier of the two deadlines and kills what is left of it, without
//! asking anybody (rung 1, I7). The deadlines themselves stand in the page that the guardian reads
//! (rung 2): an acknowledged renewal is one store instruction away from it.

pub mod guard;
pub mod measured;
mod primary_lease;
pub mod processes;
mod promises;
pub mod release;
pub mod renewal;
pub mod rounds;
mod sessions;
mod silence;
mod site_lease;
pub mod successor;
mod ttl;
pub mod watchdog;

use std::sync::atomic::{AtomicU64, Ordering};

use regent_guardian::page::Page;
use regent_proto::time::{BootTime, Deadline};
use tokio::sync::Notify;

/// The deadlines, shared between the threads, with the guardian and with the health endpoints.
#[derive(Debug)]
pub struct Deadlines {
    page: Page,
    federated: bool,
    /// When the request was sent whose acknowledgement last raised each deadline.
    site_sent: AtomicU64,
    primary_sent: AtomicU64,
    /// When the main loop last came round; zero where no loop is watched.
    round: AtomicU64,
    site_hurry: Notify,
    primary_hurry: Notify,
    measured: measured::Measured,
}

impl Deadlines {
    /// The deadlines of this life of the agent, in this page. A page of a former life is taken over
    /// first ([`successor`]).
    #[must_use]
    pub fn new(page: Page, federated: bool) -> Self {
        page.set_federated(federated);
        Self {
            page,
            federated,
            site_sent: AtomicU64::new(0),
            primary_sent: AtomicU64::new(0),
            round: AtomicU64::new(0),
            site_hurry: Notify::new(),
            primary_hurry: Notify::new(),
            measured: measured::Measured::default(),
        }
    }

    /// The page.
    #[must_use]
    pub fn page(&self) -> &Page {
        &self.page
    }

    /// What renewals took.
    #[must_use]
    pub fn measured(&self) -> &measured::Measured {
        &self.measured
    }

    /// The site key's.
    #[must_use]
    pub fn site(&self) -> Deadline {
        self.page.site_deadline()
    }

    /// The primary lease's.
    #[must_use]
    pub fn primary(&self) -> Deadline {
        self.page.primary_deadline()
    }

    /// Until when PostgreSQL may write: the earlier of the two (protocol.md rule 1), or what a
    /// former life of this agent left. What the fence goes by.
    #[must_use]
    pub fn writing(&self) -> Deadline {
        self.page.writing()
    }

    /// Until when this life of the agent knows that it holds: what health checks go by (I17).
    #[must_use]
    pub fn held(&self) -> Deadline {
        if self.federated { self.site().earlier(self.primary()) } else { self.site() }
    }

    /// When the request was sent whose acknowledgement last raised the deadline; the earlier of two.
    #[must_use]
    pub fn renewed(&self) -> BootTime {
        let site = self.site_sent.load(Ordering::SeqCst);
        let primary = self.primary_sent.load(Ordering::SeqCst);
        BootTime::from_nanos(if self.federated { site.min(primary) } else { site })
    }

    /// The main loop comes round: it sees and decides, so the leader key is in good hands.
    pub fn comes_round(&self, now: BootTime) {
        self.round.store(now.nanos(), Ordering::SeqCst);
    }

    /// When it last did; `None` where nobody says.
    #[must_use]
    pub fn came_round(&self) -> Option<BootTime> {
        let nanos = self.round.load(Ordering::SeqCst);
        (nanos > 0).then(|| BootTime::from_nanos(nanos))
    }

    /// Both leases are to be renewed at once.
    pub fn hurry(&self) {
        self.site_hurry.notify_one();
        self.primary_hurry.notify_one();
    }

    fn set_site(&self, deadline: Deadline) {
        self.page.set_site_deadline(deadline);
    }

    fn set_primary(&self, deadline: Deadline) {
        self.page.set_primary_deadline(deadline);
    }

    fn site_acknowledged(&self, sent: BootTime) {
        self.site_sent.fetch_max(sent.nanos(), Ordering::SeqCst);
    }

    fn primary_acknowledged(&self, sent: BootTime) {
        self.primary_sent.fetch_max(sent.nanos(), Ordering::SeqCst);
    }

    /// A right that has ended has ended for the former life too.
    fn end_carried(&self) {
        self.page.set_carried(Deadline::NEVER);
    }

    /// What a former life left is never more than what the key rests on now: its lease may have been
    /// a longer one. A frozen server acknowledges nothing, and needs its time until it is judged; what
    /// it carries ends with the freeze.
    pub(crate) fn lower_carried(&self, to: Deadline) {
        if !self.page.frozen() {
            self.page.lower_carried(to);
        }
    }

    /// This life's own acknowledged rights, written before, are what counts from here on (I7).
    fn replace_carried(&self, now: BootTime) {
        if self.held().lies_ahead(now) {
            self.end_carried();
        }
    }
}
