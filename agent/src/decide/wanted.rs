//! What a request to switch over changes for whoever does not lead (spec/patroni-compat.md 3.6.2): it
//! chooses between nodes that may lead anyway (I16), and whoever gave the key up makes room.

use std::time::Duration;

use super::manual::{Manual, SwitchingStep, may_be_chosen};
use super::view::{DataDirectory, Due, FailoverRequest, LeaderKey, PeersView, Process, SiteView};
use super::{Choice, Judge, Reason, Unfit};

/// How long whoever gave the key up leaves it, and this machine, to the next leader.
const MAKES_ROOM: Duration = Duration::from_secs(2);
/// How long others stand back for a candidate that seems fit: should it not take the key for a reason
/// that only it knows, somebody else has to (I20).
const STANDS_BACK: Duration = Duration::from_secs(5);
/// How soon a member looks at its own server again while the leader's is stopped for a switchover:
/// nobody tells it when the last WAL has come.
const LOOKS_AGAIN: Duration = Duration::from_millis(20);

impl Judge<'_> {
    /// A request that counts in a race: one that is not for later.
    fn wanted_now<'s>(&self, site: &'s SiteView) -> Option<&'s FailoverRequest> {
        let request = &site.failover.as_ref()?.value;
        let counts = match request.scheduled.as_ref().map(|schedule| schedule.due) {
            None => true,
            Some(Due::BeforeBoot) => false,
            // Two machines' clocks differ a little. The leader may have acted on it since.
            Some(Due::At(due)) => due.since(self.view.now) <= self.policy.loop_wait,
        };
        counts.then_some(request)
    }

    /// Spec 3.6.2: this node was chosen.
    pub(super) fn is_wanted(&self, site: &SiteView) -> bool {
        let wanted = self.wanted_now(site).and_then(|request| request.candidate.as_ref());
        wanted == Some(&self.policy.me)
    }

    /// It was chosen whatever others have. A switchover, which names the leader, is to lose nothing:
    /// carried out as planned it leaves nobody ahead, and where the leader died instead, it is a race.
    pub(super) fn is_wanted_though_behind(&self, site: &SiteView) -> bool {
        self.is_wanted(site)
            && self.wanted_now(site).is_some_and(|request| request.leader.is_none())
    }

    /// Spec 3.6.2: another one was chosen, and seems fit.
    pub(super) fn other_is_wanted(&self, site: &SiteView, peers: &PeersView) -> Option<Unfit> {
        let wanted = self.wanted_now(site)?.candidate.as_ref()?;
        let may_lead = !self.synchronous_rule_applies(site)
            || site.sync.standbys.contains(wanted)
            || site.sync.leader.as_ref() == Some(wanted);
        let fit = *wanted != self.policy.me
            && may_lead
            && site.members.get(wanted).is_some_and(|member| !member.nofailover)
            && peers.answers.get(wanted).is_some_and(may_be_chosen);
        (fit && site.leaderless < STANDS_BACK).then(|| Unfit::OtherWanted(wanted.clone()))
    }

    /// The free key is left to the next leader for a while by whoever gave it up.
    pub(super) fn makes_room(&self, site: &SiteView) -> Option<Choice> {
        let named = self.wanted_now(site)?.leader.as_ref() == Some(&self.policy.me);
        let gave_up = site.failover.as_ref().is_some_and(|request| {
            self.memory.switching.as_ref().is_some_and(|s| s.revision == request.revision)
        });
        let left = MAKES_ROOM.saturating_sub(site.leaderless);
        ((named || gave_up) && !left.is_zero())
            .then(|| Choice::wait_for(Reason::Manual(Manual::MakingRoom), left))
    }

    /// Another member has the key. Whoever gave it up for that one starts straight under it, once it
    /// is open; and while a leader stops for a request, the others look soon, because they are asked
    /// how far they are.
    pub(super) fn beside_a_switchover(
        &mut self,
        site: &SiteView,
        leader: &LeaderKey,
        mut choice: Choice,
    ) -> Choice {
        let postgres = &self.view.postgres;
        let open = site.members.get(&leader.name).is_some_and(|member| member.role == "primary");
        let waits = matches!(postgres.data, DataDirectory::Cluster(_))
            && postgres.process == Process::Stopped
            && !open;
        let step = self.memory.switching.as_ref().map(|switching| switching.step);
        if let Some(SwitchingStep::Released { since }) = step
            && waits
        {
            let left = MAKES_ROOM.saturating_sub(self.view.now.since(since));
            if !left.is_zero() {
                return Choice::wait_for(Reason::Manual(Manual::MakingRoom), left);
            }
        }
        let request = site.failover.as_ref().map(|request| request.revision);
        self.memory.switching.take_if(|switching| match switching.step {
            // Once for each request: two nodes of a standby site would pass the key to and fro.
            SwitchingStep::Released { .. } => request != Some(switching.revision),
            SwitchingStep::Checkpointing { .. }
            | SwitchingStep::Stopping
            | SwitchingStep::Stopped { .. }
            | SwitchingStep::GivenUp(_) => true,
        });
        let stops = site.members.get(&leader.name).is_some_and(|member| member.state != "running");
        if stops && choice.actions.is_empty() && self.wanted_now(site).is_some() {
            let soon = choice.wake_in.map_or(LOOKS_AGAIN, |wake_in| wake_in.min(LOOKS_AGAIN));
            choice.wake_in = Some(soon);
        }
        choice
    }
}
