//! The node that holds the site's leader key: opens in the order of protocol.md rule 8, or leads a
//! standby site.

use std::collections::BTreeSet;
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::record::{Primary, PrimaryState};
use regent_proto::timeline::{Ancestry, Containment};

use super::preconditions::{Opening, Precondition};
use super::quorum::{self, Voting};
use super::upstream::{self, Upstream};
use super::view::{
    At, Control, ControlState, DataDirectory, DiskEpoch, FederationView, Follow, Initialize,
    PrePromote, Process, SiteView, Status,
};
use super::{Action, Choice, Job, Judge, LOOK_AGAIN, Reason, Unfit, preconditions, synchronous};

/// How long a promotion may go unseen before it is asked for again.
const PROMOTE_AGAIN: Duration = Duration::from_secs(5);

impl Judge<'_> {
    pub(super) fn lead(&mut self, site: &SiteView) -> Choice {
        match upstream::of(self.view) {
            // Absent, unreadable or never read: never a permission (I27). A server that already
            // writes goes on until its deadline, which only the quorum can raise.
            Upstream::Unknown => self.stay_fenced(Reason::PrimacyUnknown),
            Upstream::Nobody(None) => self.lead_primary(site, None),
            Upstream::Nobody(Some((federation, primary))) => {
                self.lead_holder(site, federation, primary)
            }
            Upstream::Site(federation, primary) => self.lead_standby(site, federation, primary),
            Upstream::Remote(remote) => self.lead_remote(site, remote),
        }
    }

    /// Leads without the right to write and without knowing whom to follow.
    pub(super) fn stay_fenced(&self, reason: Reason) -> Choice {
        match (&self.view.postgres.data, self.view.postgres.process) {
            (DataDirectory::Cluster(_), Process::Stopped) => {
                Choice::act(reason, vec![Action::Run(Job::StartStandby(Follow::Nobody))])
            }
            (
                DataDirectory::Cluster(_)
                | DataDirectory::Empty
                | DataDirectory::Incomplete
                | DataDirectory::Unreadable(_),
                Process::Stopped | Process::Starting | Process::Running,
            ) => Choice::wait(reason),
        }
    }

    fn lead_holder(
        &mut self,
        site: &SiteView,
        federation: &FederationView,
        primary: &At<Primary>,
    ) -> Choice {
        if let Some(reason) = self.epoch_bars(site, federation, &primary.value) {
            // The quorum shows less than this site or node has seen, or nobody knows what they have.
            return self.fenced_by_epoch(reason);
        }
        let writes_fenced = primary.value.writes_fenced.is_some();
        match &primary.value.state {
            PrimaryState::Fenced { .. } => self.fenced(),
            PrimaryState::Open if writes_fenced => self.fenced(),
            PrimaryState::Handover { to, operation, .. } => {
                self.hand_over(site, federation, primary, (to, operation))
            }
            PrimaryState::Token { to, span, .. } => {
                self.await_take(federation, primary, (to, *span))
            }
            PrimaryState::Open if site.unreadable_mark.is_some() => {
                self.mend_mark(site, federation, primary)
            }
            PrimaryState::Open => match &site.mark {
                // Our reading of `primary` may be older than the mark: then wait for a newer one.
                Some(mark) if mark.value.primary_revision >= primary.revision => {
                    Choice::wait(Reason::AwaitingTake)
                }
                // After the take the mark falls together with entering the epoch.
                Some(mark) if self.has_taken(federation, primary) => {
                    match &self.view.postgres.status {
                        Some(status) => {
                            let global = Some((federation, primary));
                            self.open(site, global, status, Some(mark.revision))
                        }
                        None => Choice::wait(Reason::AwaitingServer),
                    }
                }
                Some(mark) => {
                    match self.clear_mark(site, federation, &primary.value, mark.revision) {
                        Ok(action) => Choice::act(Reason::ClearingMark, vec![action]),
                        Err(reason) => self.fenced_by_epoch(reason),
                    }
                }
                None => self.lead_primary(site, Some((federation, primary))),
            },
        }
    }

    pub(super) fn fenced(&self) -> Choice {
        if self.writable() {
            return Choice::act(Reason::Fenced, vec![Action::EndTenure, Action::Run(Job::Stop)]);
        }
        self.stay_fenced(Reason::Fenced)
    }

    /// Open, and it is this site's turn.
    fn lead_primary(
        &mut self,
        site: &SiteView,
        global: Option<(&FederationView, &At<Primary>)>,
    ) -> Choice {
        let postgres = &self.view.postgres;
        if self.writable() && postgres.process == Process::Running {
            let Some(status) = &postgres.status else {
                return self.own_lease(global).unwrap_or(Choice::wait(Reason::AwaitingServer));
            };
            if matches!(self.floor(status), Containment::Diverged | Containment::Behind) {
                // Opened before this floor was set, by a life that missed the handover (rule 7). An id
                // that can't be read any more ends no tenure that began with it.
                return Choice::act(
                    Reason::LacksFloor,
                    vec![Action::EndTenure, Action::Run(Job::Stop)],
                );
            }
            return self
                .own_lease(global)
                .or_else(|| self.own_epoch(site, global))
                .or_else(|| self.manual_as_leader(site, status))
                .unwrap_or_else(|| {
                    let choice = self.steady_primary(site, global, status);
                    self.until_due(site, choice)
                });
        }
        if let (DataDirectory::Cluster(control), Process::Stopped) =
            (&postgres.data, postgres.process)
            && let Some(choice) =
                self.switched_off(site, control).or_else(|| self.not_starting(site))
        {
            return choice;
        }
        if let Some(choice) = self.give_way(site) {
            return choice;
        }
        match (&postgres.data, postgres.process) {
            (DataDirectory::Empty | DataDirectory::Incomplete, _) => {
                Choice::act(Reason::AwaitingSource, vec![Action::ReleaseLeader])
            }
            (DataDirectory::Unreadable(text), _) => {
                Choice::wait(Reason::UnreadableData(text.clone()))
            }
            (DataDirectory::Cluster(control), Process::Stopped) => {
                let fresh = site.initialize == Initialize::Running
                    && control.state == ControlState::ShutDown;
                // What crashed while it was open under this very epoch contains what this epoch
                // demands; anything else goes through recovery, where the floor is tested.
                let crashed =
                    control.state == ControlState::InProduction && self.is_of_this_epoch(global);
                // No new timeline where nobody else can have opened since it stopped in order: for a
                // switchover that came to nothing, or for a restart, its key unbroken.
                let ended = self.opens_again(site, control)
                    || (self.memory.reopens && control.state == ControlState::ShutDown);
                let again = ended && self.is_of_this_epoch(global);
                if fresh || crashed || again {
                    // It opens where it stopped, in the same order as a promotion.
                    // It waits for whom the record names: nothing else may be acknowledged (I3).
                    let synchronous =
                        synchronous::list_at_start(self.policy, &mut self.memory, site);
                    let job = Job::StartPrimary { synchronous };
                    self.own_lease(global)
                        .or_else(|| self.own_epoch(site, global))
                        .or_else(|| self.barred(site, Opening::Start))
                        .unwrap_or(Choice::act(Reason::Starting, vec![Action::Run(job)]))
                } else {
                    let job = Job::StartStandby(Follow::Nobody);
                    Choice::act(Reason::Starting, vec![Action::Run(job)])
                }
            }
            (DataDirectory::Cluster(control), Process::Starting) => self
                .lease_of_frozen(control, global)
                .unwrap_or(Choice::wait(Reason::AwaitingServer)),
            (DataDirectory::Cluster(_), Process::Running) => match &postgres.status {
                None => Choice::wait(Reason::AwaitingServer),
                Some(status) => self
                    .make_room_for_recovery()
                    .unwrap_or_else(|| self.open(site, global, status, None)),
            },
        }
    }

    /// Whether the epoch on disk, under which the server last wrote, is that of `primary`.
    fn is_of_this_epoch(&self, global: Option<(&FederationView, &At<Primary>)>) -> bool {
        global.is_none_or(|(federation, primary)| {
            matches!(&federation.disk_epoch,
                DiskEpoch::Seen(seen) if seen.epoch == primary.value.epoch)
        })
    }

    /// The order of opening: floor, lease, epoch, `pre_promote`, record and list, promote (rule 8).
    fn open(
        &mut self,
        site: &SiteView,
        global: Option<(&FederationView, &At<Primary>)>,
        status: &Status,
        clear_mark: Option<u64>,
    ) -> Choice {
        if let Some(choice) = self.end_request(site) {
            return choice;
        }
        if let Some(since) = self.memory.promoting_since
            && self.view.now.since(since) < PROMOTE_AGAIN
        {
            return Choice::wait_for(Reason::Promoting, LOOK_AGAIN);
        }
        if let Some(promised) = &self.view.failsafe.promised
            && self.view.now < promised.until
        {
            // The key came to this node late, when another had been promised it.
            let left = promised.until.since(self.view.now);
            let reason = Reason::NotCandidate(Unfit::Promised(promised.leader.clone()));
            return Choice::wait_for(reason, left);
        }
        if !self.contains_floor(status) {
            let release = self.other_running_member(site);
            let actions = if release { vec![Action::ReleaseLeader] } else { Vec::new() };
            return Choice::act(Reason::LacksFloor, actions);
        }
        if let Some(choice) = self.unguarded_leader(site) {
            return choice;
        }
        if let Some(choice) = self.own_lease(global) {
            return choice;
        }
        let mut actions = Vec::new();
        match (global, clear_mark) {
            (Some((federation, primary)), Some(mark)) => {
                match self.clear_mark(site, federation, &primary.value, mark) {
                    Ok(action) => actions.push(action),
                    Err(reason) => return Choice::wait(reason),
                }
            }
            (Some(_) | None, _) => match self.own_epoch(site, global) {
                Some(choice) if choice.actions.is_empty() => return choice,
                Some(choice) => actions.extend(choice.actions),
                None => {}
            },
        }
        let entering = !actions.is_empty();
        // Before anything is written down about a promotion that may not come: nobody streams from a
        // server that is not open, and a record that names nobody beside this node lets no other lead
        // once it has given the key back.
        if let Some(choice) = self.ask_pre_promote() {
            return if entering { Choice::act(Reason::EnteringEpoch, actions) } else { choice };
        }
        let unrecorded = self.promotes_unrecorded(site, status);
        let voting = self.voting_before_opening(site, global, status);
        let list = synchronous::list_of(self.policy, &voting);
        let memory = &mut self.memory;
        actions.extend(synchronous::record_at_opening(self.policy, memory, site, voting));
        if status.synchronous_standby_names != list {
            actions.push(Action::SetSynchronousNames(list));
        }
        let lists = !actions.is_empty();
        actions.extend(unrecorded);
        if !actions.is_empty() {
            let reason = match (entering, lists) {
                (true, _) => Reason::EnteringEpoch,
                (false, true) => Reason::SynchronousBeforeOpening,
                (false, false) => Reason::RecordingOpening,
            };
            return Choice::act(reason, actions);
        }
        if let Some(choice) = self.barred(site, Opening::Promotion) {
            return choice;
        }
        self.memory.promoting_since = Some(self.view.now);
        self.memory.owes_checkpoint_since = Some(self.view.now);
        self.memory.list_since = None;
        let unsafe_slots = self.unsafe_slots(status);
        let actions = if unsafe_slots.is_empty() {
            vec![Action::Promote]
        } else {
            vec![Action::Slots(unsafe_slots), Action::Promote]
        };
        Choice { actions, reason: Reason::Promoting, wake_in: Some(LOOK_AGAIN) }
    }

    /// The record of what this node is about to promote from, where it does not stand yet. Without it
    /// the store would name the leader of before, and should this node be lost before it can tell of its
    /// promotion, a tail that nobody confirmed would count for more than what it acknowledges.
    fn promotes_unrecorded(&self, site: &SiteView, status: &Status) -> Option<Action> {
        let recorded = site.promotions.as_ref().is_some_and(|At { value: record, .. }| {
            record.node == self.policy.me
                && record.ancestry == status.ancestry
                && record.promotes_at.is_some_and(|at| at <= status.end)
        });
        let (ancestry, end) = (status.ancestry.clone(), status.end);
        (!recorded).then_some(Action::WritePromotions { ancestry, end })
    }

    /// A refusal gives the key back, for another member.
    fn ask_pre_promote(&self) -> Option<Choice> {
        self.policy.pre_promote?;
        match self.memory.pre_promote {
            PrePromote::NotAsked => {
                Some(Choice::act(Reason::PrePromoting, vec![Action::Run(Job::PrePromote)]))
            }
            PrePromote::Passed => None,
            PrePromote::Refused(_) => {
                let reason = Reason::NotCandidate(Unfit::PrePromoteRefused);
                Some(Choice::act(reason, vec![Action::ReleaseLeader]))
            }
        }
    }

    /// What `pre_promote` said is of one promotion: it is forgotten once that is done, or another
    /// leads; a refusal after a while only, or this node would ask at once again.
    pub(super) fn remember_pre_promote(&mut self) {
        let leader = self.view.site.as_ref().and_then(|site| site.leader.as_ref());
        let leads = leader.is_some_and(|leader| leader.name == self.policy.me);
        let opened = self.view.postgres.status.as_ref().is_some_and(|status| !status.in_recovery);
        let forgets = match self.memory.pre_promote {
            PrePromote::NotAsked => false,
            PrePromote::Passed => opened || !leads,
            PrePromote::Refused(at) => {
                let span = self.policy.pre_promote.unwrap_or_default();
                opened || self.view.now.since(at) >= span
            }
        };
        if forgets {
            self.memory.pre_promote = PrePromote::NotAsked;
        }
    }

    /// The gate of I6, behind every step that leads to it. Whoever may not lead at all makes room.
    fn barred(&self, site: &SiteView, opening: Opening) -> Option<Choice> {
        let unmet = preconditions::unmet(self.policy, self.view, opening);
        if unmet.is_empty() {
            return None;
        }
        let makes_room = unmet.contains(&Precondition::MayLead) && self.other_running_member(site);
        let actions = if makes_room { vec![Action::ReleaseLeader] } else { Vec::new() };
        Some(Choice::not_ready(unmet, actions))
    }

    /// Who is synchronous from the first commit on: those that have confirmed all of the WAL this
    /// node opens with. After a take these are the nodes named by it (protocol.md, *take*).
    fn voting_before_opening(
        &self,
        site: &SiteView,
        global: Option<(&FederationView, &At<Primary>)>,
        status: &Status,
    ) -> Voting {
        if !self.policy.synchronous_mode {
            return Voting::default();
        }
        let taken = global.is_some_and(|(_, primary)| primary.value.floor.is_some());
        if !taken && site.sync.leader.is_some() {
            let me = &self.policy.me;
            if !site.sync.standbys.contains(me) {
                return site.sync.voting();
            }
            let runs = |name: &NodeName| {
                site.members.get(name).is_some_and(|member| {
                    member.state == "running"
                        && synchronous::may_be_waited_for(self.policy, site, name, member)
                })
            };
            let by_quorum = self.policy.synchronous_quorum || site.sync.quorum > 0;
            if let Some(kept) = quorum::kept(&site.sync, me, runs).filter(|_| by_quorum) {
                return kept;
            }
        }
        synchronous::voting(self.policy, self.confirmed(site, status, status.end))
    }

    /// Own members that commits may wait for, that stream and have flushed up to `end`: as many as are
    /// wanted, the preferred ones first.
    pub(super) fn confirmed(
        &self,
        site: &SiteView,
        status: &Status,
        end: Lsn,
    ) -> BTreeSet<NodeName> {
        let mut confirmed: Vec<(&NodeName, i64)> = site
            .members
            .iter()
            .filter(|(name, member)| {
                synchronous::may_be_waited_for(self.policy, site, name, member)
            })
            .filter(|(name, _)| {
                status
                    .senders
                    .get(name.as_str())
                    .is_some_and(|sender| sender.streaming && sender.flushed >= end)
            })
            .map(|(name, member)| (name, member.sync_priority))
            .collect();
        // The members come by name, and this keeps the order of equals.
        confirmed.sort_by_key(|(_, priority)| std::cmp::Reverse(*priority));
        let wanted = if self.policy.synchronous_quorum {
            usize::MAX
        } else {
            self.policy.synchronous_node_count
        };
        confirmed.into_iter().take(wanted).map(|(name, _)| name.clone()).collect()
    }

    /// The primary lease, acquired after the floor was tested (rule 7) and before anything opens.
    fn own_lease(&self, global: Option<(&FederationView, &At<Primary>)>) -> Option<Choice> {
        let (federation, primary) = global?;
        if let Some(held) = &self.view.tenure.primary
            && held.epoch == primary.value.epoch
            && held.deadline.lies_ahead(self.view.now)
        {
            return None;
        }
        Some(Choice::act(
            Reason::AcquiringPrimary,
            vec![Action::AcquirePrimary {
                primary_revision: primary.revision,
                lease_revision: federation.lease_revision,
                epoch: primary.value.epoch,
            }],
        ))
    }

    /// The lease of a server that is frozen until it has one, and so tells nothing. As with one that
    /// crashed: what was open under this very epoch contains what the epoch demands. Of the floor it is
    /// asked what pg_control tells, a checkpoint, which may lie before it.
    fn lease_of_frozen(
        &self,
        control: &Control,
        global: Option<(&FederationView, &At<Primary>)>,
    ) -> Option<Choice> {
        let was_open = self.writable() && control.state == ControlState::InProduction;
        let parted = self.floor_of(&control.ancestry, control.end) == Containment::Diverged;
        if !self.view.guardian.frozen || !was_open || parted || !self.is_of_this_epoch(global) {
            return None;
        }
        self.own_lease(global)
    }

    /// A mark that nobody can read. `primary` is open for this site, and the lease, acquired or
    /// renewed against just this revision of it, proves that this reading is the present one: no
    /// handover is under way, so whatever the mark was for is over.
    fn mend_mark(
        &self,
        site: &SiteView,
        federation: &FederationView,
        primary: &At<Primary>,
    ) -> Choice {
        self.own_lease(Some((federation, primary))).unwrap_or_else(|| {
            let mark = site.unreadable_mark.unwrap_or_default();
            match self.clear_mark(site, federation, &primary.value, mark) {
                Ok(action) => Choice::act(Reason::ClearingMark, vec![action]),
                Err(reason) => self.fenced_by_epoch(reason),
            }
        })
    }

    /// In recovery, with the lease of this epoch in hand: only the outlived mark stands between
    /// this node and the next steps of opening.
    fn has_taken(&self, federation: &FederationView, primary: &At<Primary>) -> bool {
        let in_recovery =
            self.view.postgres.status.as_ref().is_some_and(|status| status.in_recovery);
        in_recovery && self.own_lease(Some((federation, primary))).is_none()
    }

    pub(super) fn contains_floor(&self, status: &Status) -> bool {
        self.floor(status) == Containment::Contained
    }

    fn floor(&self, status: &Status) -> Containment {
        self.floor_of(&status.ancestry, status.end)
    }

    /// How the floor lies to a history with this end; without one everything contains it.
    pub(super) fn floor_of(&self, ancestry: &Ancestry, end: Lsn) -> Containment {
        let primary = self.view.federation.as_ref().and_then(|f| f.primary.as_ref());
        let Some(floor) = primary.and_then(|p| p.value.floor.as_ref()) else {
            return Containment::Contained;
        };
        ancestry.contains(end, floor)
    }

    pub(super) fn other_running_member(&self, site: &SiteView) -> bool {
        site.members.iter().any(|(name, member)| {
            *name != self.policy.me && member.state == "running" && !member.nofailover
        })
    }
}
