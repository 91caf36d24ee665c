//! What must never be false (hazards.md section 6). One file each, named after its number; evaluated
//! at the events at which it could become false.

mod i01_single_acknowledger;
mod i02_epochs;
mod i03_no_acknowledged_loss;
mod i04_overlap;
mod i07_deadline;
pub(crate) mod i08_watchdog;
mod i12_after_the_stop;
mod i14_history;
mod i18_pause;
mod i19_failsafe;
mod i20_progress;
mod i21_config;
mod i27_opens_as_holder;
mod i29_by_the_elected;
mod i30_accepted_loss;

use std::collections::BTreeMap;

use regent_agent::decide::Action;
use regent_agent::decide::view::Stage;
use regent_dcs::Txn;
use regent_proto::record::Primary;

use crate::network::HostId;
use crate::world::World;

/// A broken one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When, in virtual nanoseconds.
    pub at: u64,
    /// Which.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

/// What they remember.
#[derive(Debug, Default)]
pub struct Checks {
    /// The server that acknowledged last, and its life.
    pub acknowledger: Option<(usize, u64)>,
    /// Those that had before, with when they last did.
    pub former: BTreeMap<(usize, u64), u64>,
    /// `primary` as last seen in the quorum, with its revision.
    pub primary: Option<(u64, Primary)>,
    /// Nodes whose leader key went with its lease, and when.
    pub lapsed: BTreeMap<usize, u64>,
    /// Which node held the leader key of each site.
    pub leaders: BTreeMap<usize, usize>,
    /// The revision of the record `sync` that was held against whoever acknowledged last.
    pub sync: Option<u64>,
    /// When something was last acknowledged.
    pub last_acknowledgement: u64,
    /// A server that must not be demoted, with its life, and until when.
    pub steady: Option<(usize, u64, u64)>,
    /// When the last fault began or ended.
    pub disturbed: u64,
    /// Before it nothing had been wrong for a while.
    pub calm: bool,
}

impl World {
    pub(crate) fn broken(&mut self, invariant: &'static str, what: String) {
        if self.violation.is_none() {
            self.explain(usize::MAX, invariant, || what.clone());
            self.violation = Some(Violation { at: self.now, invariant, what });
        }
    }

    /// A server lets an acknowledgement go.
    pub(crate) fn on_acknowledgement(&mut self, n: usize, write: u64) {
        self.trace.note(self.now, 2000 + n as u64, write);
        self.history.acknowledge(write, self.now);
        self.checks.last_acknowledgement = self.now;
        i18_pause::check(self, n);
        i01_single_acknowledger::check(self, n);
        i04_overlap::check(self, n);
        i07_deadline::check(self, n);
        i08_watchdog::check(self, n, "acknowledges");
        i19_failsafe::check(self, n);
    }

    /// An agent is about to do something; `asked`: how far it is with what a person asked of it.
    pub(crate) fn on_action(
        &mut self,
        n: usize,
        (paused, asked): (bool, Option<Stage>),
        action: &Action,
    ) {
        if paused {
            i18_pause::check_action(self, n, asked, action);
        }
    }

    /// A server ends, or is told to.
    pub(crate) fn on_demotion(&mut self, n: usize) {
        i21_config::check(self, n);
    }

    /// A server has become writable.
    pub(crate) fn opened(&mut self, n: usize) {
        self.trace.note(self.now, 3000 + n as u64, self.nodes[n].server.wal.end());
        self.counters.count("opened");
        i14_history::check(self, n);
        if self.known.is_some() {
            return;
        }
        i08_watchdog::check(self, n, "opens");
        i27_opens_as_holder::check(self, n);
        i03_no_acknowledged_loss::check(self, n);
        i04_overlap::check(self, n);
    }

    /// The run is over.
    pub(crate) fn check_healed(&mut self) {
        if self.violation.is_none() {
            i20_progress::check(self);
        }
    }

    /// A transaction from this machine was applied.
    pub(crate) fn on_write(&mut self, store: usize, host: HostId, txn: &Txn) {
        i29_by_the_elected::check(self, store, host, txn);
    }

    /// A store has changed.
    pub(crate) fn check_store(&mut self, store: usize) {
        i02_epochs::check(self, store);
        i04_overlap::check_store(self, store);
        i12_after_the_stop::check(self, store);
        i07_deadline::note_leases(self, store);
    }
}
