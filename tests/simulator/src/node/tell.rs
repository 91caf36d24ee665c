//! What an agent tells: its site and the quorum when something other than a position changed, and now and
//! then; whoever asks it, as of its last round.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use regent_agent::act::fence_report::RoundTrips;
use regent_agent::act::publish::{self, Picture as Told};
use regent_agent::decide::view::{LeaderKey, UnderWay, View};
use regent_agent::decide::{self, Decision, slots};
use regent_agent::observe::postgres::Extra;
use regent_dcs::LeaseId;
use regent_proto::name::{NodeName, OperationId};
use regent_proto::timeline::TimelineId;

use super::agent::Agent;
use crate::time::SEC;

/// What others are told of at once when it changes.
#[derive(PartialEq)]
pub(super) struct Word {
    state: &'static str,
    server: Option<(bool, TimelineId, bool)>,
    slots: Option<usize>,
    leads: Option<LeaderKey>,
    lease: Option<LeaseId>,
    checkpointed_for: Option<OperationId>,
    site: Option<(BTreeSet<NodeName>, usize)>,
    primary: Option<u64>,
    failsafe: Option<u64>,
    withdraws: bool,
    refuses: bool,
}

/// Nobody who asks is answered from what is only published.
fn only<T: Default>(published: bool, make: impl FnOnce() -> T) -> T {
    if published { make() } else { T::default() }
}

impl Agent {
    /// Told when something other than a position changed, and now and then.
    pub(super) fn tell(&mut self, view: &View, decision: &Decision) {
        let status = view.postgres.status.as_ref();
        let leads = view.site.as_ref().and_then(|site| site.leader.as_ref());
        let lease = self.renewal.tenures().borrow().lease;
        let withdraws = leads.is_none_or(|leader| leader.name != self.config.name)
            && decision.memory.request.as_ref().is_some_and(UnderWay::withdraws);
        let refuses = decide::refuses(&self.config.name, view, &decision.memory);
        let word = Word {
            state: publish::state(view),
            server: status.map(|s| (s.in_recovery, s.ancestry.timeline, s.receiver.is_some())),
            slots: status.map(|s| s.slots.len()),
            leads: leads.cloned(),
            lease,
            checkpointed_for: self.memory.checkpointed_for.clone(),
            site: view.site.as_ref().map(|s| (s.sync.standbys.clone(), s.members.len())),
            primary: view.federation.as_ref().and_then(|f| f.primary.as_ref()).map(|p| p.revision),
            failsafe: view.site.as_ref().and_then(|s| s.failsafe.revision()),
            withdraws,
            refuses,
        };
        let asked = self.dynamic.failsafe_mode || self.promises();
        let (last, at) = &self.told_last;
        let every = if self.global.is_some() { 3 * SEC } else { 8 * SEC };
        let old = last.as_ref() == Some(&word) && view.now.since(*at) < Duration::from_nanos(every);
        // Whoever asks is answered from the last round.
        if old && !asked {
            return;
        }
        let wall = self.sim.world().wall(self.n);
        let picture = Told {
            view: view.clone(),
            extra: Extra::default(),
            dynamic: self.dynamic.clone(),
            lease,
            checkpointed_for: self.memory.checkpointed_for.clone(),
            opened: self.opened,
            reaches: only(!old, || self.sim.world().reaches(self.n)),
            warnings: Vec::new(),
            attention: Vec::new(),
            reason: only(!old, || decision.reason.to_string()),
            unreadable: BTreeSet::new(),
            progress: None,
            suspended: self.suspended,
            writing: self.deadlines.writing(),
            round_trips: RoundTrips::last(&self.deadlines),
            at: wall,
            dcs_seen: wall,
            scheduled_restart: None,
            withdraws,
            refuses,
            fences: only(!old, || self.site_observer.fences().clone()),
            restarts: only(!old, || self.site_observer.restarts().clone()),
            config: self.site_observer.config(),
            slots: only(!old, || slots::told(&self.policy(), &self.memory, view)),
        };
        let picture = Some(Arc::new(picture));
        if asked {
            self.pictures.send_replace(picture.clone());
        }
        if !old {
            self.told_last = (Some(word), view.now);
            self.told.send_replace(picture);
        }
    }

    fn promises(&self) -> bool {
        self.config.federation.as_ref().is_some_and(|federation| federation.promise.is_some())
    }
}
