//! A node under somebody else: a member whose site has another leader, and the leader of a standby
//! site under another site, or under a cluster of no federation.

use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::record::{Primary, PrimaryState, ReportedRole};
use regent_proto::timeline::Following;

use super::rejoin::{self, Stand, Told, Way};
use super::remembered::when_keys_are_gone;
use super::upstream::{self, Upstream};
use super::view::{
    At, Control, DataDirectory, FederationView, Follow, Initialize, JobKind, LeaderKey, Process,
    SiteView, Status,
};
use super::{Action, Choice, Job, Judge, Reason, Stranded, synchronous};

/// How far behind a member may be for the prepared list, in bytes; the take itself asks for all.
const LIST_SLACK: u64 = 16 << 20;

/// How long a stopped server waits for a new primary site to open.
const OPENS_WITHIN: Duration = Duration::from_secs(2);
/// How long a promotion's id may be missing before the server is copied anew.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(10);
/// The same for one that follows already and receives nothing: its upstream may be down, and then it
/// may be the one to take over, so this is longer than a leader key outlives its holder.
const STALLED_PATIENCE: Duration = Duration::from_secs(60);
/// How soon such a server is looked at again: its own WAL is being looked through.
const UNKNOWN_AGAIN: Duration = Duration::from_millis(500);
/// How soon a standby to which nothing comes looks whether it does.
const STREAM_AGAIN: Duration = Duration::from_millis(500);
/// How long a leader's record may be older than what has come from it: longer than between two writes.
const RECORD_IS_PRESENT: Duration = Duration::from_secs(10);
/// How soon a restartpoint is asked for again; it needs a checkpoint of the primary to start from.
const RESTARTPOINT_AGAIN: Duration = Duration::from_secs(1);

/// Whether it receives its present timeline from there: an id that is missing changes nothing.
pub(super) fn streams_from(status: &Status, target: &Follow) -> bool {
    let Some(receiver) = &status.receiver else { return false };
    let at = (receiver.host.clone(), receiver.port);
    receiver.timeline == status.ancestry.timeline
        && match target {
            Follow::Nobody => false,
            Follow::Member { address, .. } => *address == at,
            Follow::Site { addresses, .. } | Follow::Remote { addresses, .. } => {
                addresses.contains(&at)
            }
        }
}

impl<'a> Judge<'a> {
    /// Another member holds the site's leader key.
    pub(super) fn follow_leader(&mut self, site: &SiteView, leader: &LeaderKey) -> Choice {
        self.memory.promoting_since = None;
        self.memory.owes_checkpoint_since = None;
        self.memory.remote_silent_since = None;
        if let Some(choice) = self.stop_writer() {
            return choice;
        }
        let own = (&self.policy.me, self.policy.replicatefrom.as_ref(), self.policy.nostream);
        let target = upstream::member_follow(site, &leader.name, own);
        let running = site.members.get(&leader.name).is_some_and(|m| m.state == "running");
        if !self.leader_is_open(site, leader) {
            // Nothing is rewound or copied over for a leader that may never open: it may lack what
            // this node has, and gives the key up once this node runs.
            let stopped = self.view.postgres.process == Process::Stopped;
            let has_data = matches!(self.view.postgres.data, DataDirectory::Cluster(_));
            if has_data {
                let start = vec![Action::Run(Job::StartStandby(Follow::Nobody))];
                let actions = if stopped { start } else { Vec::new() };
                return Choice::act(Reason::AwaitingSource, actions);
            }
        }
        let history = self.leaders_history(site, target.as_ref());
        self.note_following();
        let choice = self.come_under(target.filter(|_| running), history);
        let choice = choice.map(|choice| self.takes_from(site, leader, choice));
        choice.unwrap_or_else(|status| {
            self.keep_epoch(site)
                .or_else(|| self.keep_slots(site, status))
                .or_else(|| self.make_room_for_recovery())
                .or_else(|| self.reload())
                .unwrap_or_else(|| self.follows_on(status, Reason::Following))
        })
    }

    /// What came from a cluster that names no promotions has none here either. And its timelines may
    /// have lower numbers than those of this site's own time as primary: a leader's record that stands for
    /// long, while nothing comes, is no word of before a promotion.
    fn leaders_history<'s>(
        &mut self,
        site: &'s SiteView,
        target: Option<&Follow>,
    ) -> Option<Told<'s>> {
        let told = Told::recorded(site.ancestry.as_ref()?);
        let unnamed = matches!(upstream::of(self.view), Upstream::Remote(_));
        let status = self.view.postgres.status.as_ref();
        let receives =
            status.zip(target).is_some_and(|(status, target)| streams_from(status, target));
        if !unnamed || receives {
            self.memory.silent_since = None;
            return Some(Told { unnamed, ..told });
        }
        let since = *self.memory.silent_since.get_or_insert(self.view.now);
        let present = self.view.now.since(since) >= RECORD_IS_PRESENT;
        Some(Told { unnamed, present, ..told })
    }

    /// Whomever it streams from, it rewinds onto the leader, whose history it was judged by. A copy is
    /// taken from a member with the tag `clonefrom`, where there is one and no copy has just failed, or
    /// from the leader (spec/patroni-compat.md 3.2).
    fn takes_from(&self, site: &SiteView, leader: &LeaderKey, mut choice: Choice) -> Choice {
        let failed = self.memory.failed.as_ref().is_some_and(|f| f.job == JobKind::Clone);
        let source = rejoin::clone_member(site, &leader.name, &self.policy.me);
        let itself = rejoin::member_follow(site, &leader.name);
        let source = source.as_ref().filter(|_| !failed).or(itself.as_ref());
        for action in &mut choice.actions {
            if let (Action::Run(Job::Clone(from)), Some(source)) = (&mut *action, source) {
                *from = source.clone();
            }
            if let (Action::Run(Job::Rewind(from)), Some(leader)) = (action, &itself) {
                *from = leader.clone();
            }
        }
        choice
    }

    /// In the primary site a leader is followed once it is open; in a standby site nobody opens.
    pub(super) fn leader_is_open(&self, site: &SiteView, leader: &LeaderKey) -> bool {
        let standby_site = match upstream::of(self.view) {
            Upstream::Site(federation, primary) => {
                !self.has_seen_more(site, federation, &primary.value)
            }
            Upstream::Remote(_) => true,
            Upstream::Nobody(_) | Upstream::Unknown => false,
        };
        standby_site || site.members.get(&leader.name).is_some_and(|m| m.role == "primary")
    }

    /// This node leads a standby site.
    pub(super) fn lead_standby(
        &mut self,
        site: &SiteView,
        federation: &FederationView,
        primary: &At<Primary>,
    ) -> Choice {
        self.memory.promoting_since = None;
        self.forget_stopped();
        if let Some(choice) = self.stop_writer() {
            return choice;
        }
        if self.has_seen_more(site, federation, &primary.value) {
            // An old picture is no reason to follow, to clear or to take anything.
            return self.stay_fenced(Reason::EpochOlder);
        }
        // A site that does not know what it has seen goes on following, and takes nothing.
        let unknown = self.epoch_bars(site, federation, &primary.value);
        if let PrimaryState::Token { to, token, .. } = &primary.value.state
            && *to == federation.site
            && unknown.is_none()
            && let (Process::Running, Some(status)) =
                (self.view.postgres.process, &self.view.postgres.status)
        {
            return self.take(site, primary, (to, token), status);
        }
        if let PrimaryState::Fenced { to, accepted, .. } = &primary.value.state
            && *to == federation.site
            && unknown.is_none()
            && let (Process::Running, Some(status)) =
                (self.view.postgres.process, &self.view.postgres.status)
        {
            return self.promote_site(site, federation, primary, accepted, status);
        }
        self.note_following();
        let assigned = rejoin::upstream_site(federation);
        let target = assigned.as_ref().and_then(|site| rejoin::site_addresses(federation, site));
        let history = assigned.as_ref().and_then(|site| rejoin::site_history(federation, site));
        // Between the stop of A and the take nothing is moved: B must keep A's stream.
        let in_motion = match &primary.value.state {
            PrimaryState::Open => false,
            PrimaryState::Handover { .. }
            | PrimaryState::Token { .. }
            | PrimaryState::Fenced { .. } => self.view.postgres.process == Process::Running,
        };
        if in_motion {
            return Choice::wait(Reason::LeadingStandby);
        }
        if self.opens_any_moment(federation, primary) {
            let left = OPENS_WITHIN.saturating_sub(federation.primary_age);
            return Choice::wait_for(Reason::AwaitingSource, left);
        }
        match self.come_under(target, history.map(Told::recorded)) {
            Ok(choice) => choice,
            // The epoch first: `sync` falls only under the epoch that took primacy away, and a
            // cluster whose making is done has one.
            Err(status) => self
                .own_epoch(site, Some((federation, primary)))
                .filter(|_| unknown.is_none())
                .or_else(|| self.tend_standby_site(site, status, unknown.is_none()))
                .unwrap_or_else(|| {
                    let reason = unknown.unwrap_or(Reason::LeadingStandby);
                    let choice = self.follows_on(status, reason);
                    self.until_restartpoint(status, choice)
                }),
        }
    }

    /// What the leader of a standby site does beside following.
    pub(super) fn tend_standby_site(
        &mut self,
        site: &SiteView,
        status: &Status,
        clears_sync: bool,
    ) -> Option<Choice> {
        self.record_identity(site, None)
            .or_else(|| self.clear_sync(site, clears_sync))
            .or_else(|| self.manual_as_standby_leader(site, status))
            .or_else(|| self.keep_slots(site, status))
            .or_else(|| self.restartpoint(status))
            .or_else(|| self.checkpoint())
            .or_else(|| self.prepare_list(site, status))
            .or_else(|| self.make_room_for_recovery())
            .or_else(|| self.reload())
    }

    /// The site that has just taken primacy is about to open: a server that is stopped starts a
    /// moment later, straight under it.
    fn opens_any_moment(&self, federation: &FederationView, primary: &At<Primary>) -> bool {
        let open = federation
            .reports
            .get(&primary.value.holder)
            .is_some_and(|report| report.role == ReportedRole::Primary);
        self.view.postgres.process == Process::Stopped
            && !open
            && federation.primary_age < OPENS_WITHIN
    }

    /// Streaming again: whatever was rewound has had its effect.
    pub(super) fn note_following(&mut self) {
        if self.view.postgres.status.as_ref().is_some_and(|status| status.receiver.is_some()) {
            self.memory.rewinds = 0;
        }
    }

    /// Nothing is left to do for now. A stream that begins is told by nobody, and others wait to hear of it.
    pub(super) fn follows_on(&self, status: &Status, reason: Reason) -> Choice {
        let wake_in = self.receives_nothing(status).then_some(STREAM_AGAIN);
        Choice { wake_in, ..Choice::wait(reason) }
    }

    /// No later than when a restartpoint is to be asked for again.
    pub(super) fn until_restartpoint(&self, status: &Status, mut choice: Choice) -> Choice {
        let waits =
            status.control_timeline < status.ancestry.timeline && !self.view.checkpoint_runs;
        if let Some(at) = self.memory.restartpoint_at.filter(|_| waits) {
            let left = RESTARTPOINT_AGAIN.saturating_sub(self.view.now.since(at));
            choice.wake_in = Some(choice.wake_in.map_or(left, |wake_in| wake_in.min(left)));
        }
        choice
    }

    /// Members of this site may have to rewind onto this node: until its pg_control is on the
    /// timeline that it replays, `pg_rewind` would find nothing to do.
    fn restartpoint(&mut self, status: &Status) -> Option<Choice> {
        let due = self
            .memory
            .restartpoint_at
            .is_none_or(|at| self.view.now.since(at) >= RESTARTPOINT_AGAIN);
        if self.view.checkpoint_runs || status.control_timeline >= status.ancestry.timeline || !due
        {
            return None;
        }
        self.memory.restartpoint_at = Some(self.view.now);
        Some(Choice::act(Reason::Checkpoint, vec![Action::Run(Job::Checkpoint)]))
    }

    /// The list that this node would open with is in place before it is needed: in recovery it has
    /// no effect, and a take then waits for no reload.
    fn prepare_list(&self, site: &SiteView, status: &Status) -> Option<Choice> {
        let behind_at_most = Lsn::new(status.end.get().saturating_sub(LIST_SLACK));
        let ready = self.confirmed(site, status, behind_at_most);
        let list = synchronous::list(self.policy, &ready);
        (status.synchronous_standby_names != list)
            .then(|| Choice::act(Reason::Synchronous, vec![Action::SetSynchronousNames(list)]))
    }

    /// `sync` is of this site's last time as primary: it must not bar anybody when the site takes
    /// primacy again. It falls only once another site is known to hold primacy, or this one streams from
    /// the cluster that it follows.
    fn clear_sync(&mut self, site: &SiteView, clears: bool) -> Option<Choice> {
        if !clears {
            return None;
        }
        let clears = synchronous::clear(&mut self.memory, site)?;
        Some(Choice::act(Reason::Synchronous, vec![clears]))
    }

    /// Whoever has lost, or never had, the right stops first.
    pub(super) fn stop_writer(&self) -> Option<Choice> {
        if !self.writable() {
            return None;
        }
        let actions = vec![Action::EndTenure, Action::Run(Job::Stop)];
        Some(Choice::act(Reason::StoppingWriter, actions))
    }

    /// Brings the server under `target`: copy, rewind, start, turn. `Err` with the server's status
    /// when nothing is left to do.
    pub(super) fn come_under(
        &mut self,
        target: Option<Follow>,
        history: Option<Told<'_>>,
    ) -> Result<Choice, &'a Status> {
        let choice = self.under(target, history);
        let unknown = |choice: &Choice| {
            choice.reason == Reason::PromotionUnknown
                || choice.reason == Reason::NotCopied(Stranded::PromotionUnknown)
        };
        if !choice.as_ref().is_ok_and(unknown) {
            self.memory.unknown_since = None;
        }
        choice
    }

    fn under(
        &mut self,
        target: Option<Follow>,
        history: Option<Told<'_>>,
    ) -> Result<Choice, &'a Status> {
        let view = self.view;
        let postgres = &view.postgres;
        match (&postgres.data, postgres.process) {
            (DataDirectory::Incomplete, _) if self.is_left_half_rewound() => {
                Ok(Choice::wait(Reason::NotCopied(Stranded::RewindFailed)))
            }
            (DataDirectory::Empty | DataDirectory::Incomplete, _) => Ok(match target {
                Some(from) => Choice::act(Reason::Cloning, vec![Action::Run(Job::Clone(from))]),
                None => Choice::wait(Reason::AwaitingSource),
            }),
            (DataDirectory::Unreadable(text), _) => {
                Ok(Choice::wait(Reason::UnreadableData(text.clone())))
            }
            (DataDirectory::Cluster(control), Process::Stopped) => {
                Ok(self.start_under(control, target, history))
            }
            (DataDirectory::Cluster(_), Process::Starting) => {
                Ok(Choice::wait(Reason::AwaitingServer))
            }
            (DataDirectory::Cluster(control), Process::Running) => {
                let Some(status) = &postgres.status else {
                    return Ok(Choice::wait(Reason::AwaitingServer));
                };
                let turns = target.filter(|target| postgres.follows.as_ref() != Some(target));
                let stand = rejoin::stand(&status.ancestry, status.end, history);
                if stand == Stand::Diverged
                    && let Some(why) = self.stranded(control, status, history)
                {
                    // It serves reads as before until somebody lets it come back.
                    return Ok(Choice::wait(Reason::NotCopied(why)));
                }
                match (stand, turns) {
                    (Stand::Diverged, _) => {
                        Ok(Choice::act(Reason::Rewinding, vec![Action::Run(Job::Stop)]))
                    }
                    // What it streams already it goes on streaming; nothing new blindly.
                    (Stand::Unknown, Some(target)) if streams_from(status, &target) => {
                        Ok(Choice::act(Reason::Turning, vec![Action::Follow(target)]))
                    }
                    (Stand::Unknown, Some(_)) => Ok(self.unknown_history(None, UNKNOWN_PATIENCE)),
                    // Whoever serves at its upstream's address may have been copied meanwhile.
                    (Stand::Unknown, None) if self.receives_nothing(status) => {
                        Ok(self.unknown_history(None, STALLED_PATIENCE))
                    }
                    (Stand::Fine, Some(_)) if history.is_none() => {
                        Ok(Choice::wait(Reason::AwaitingHistory))
                    }
                    (Stand::Fine, Some(target)) => {
                        Ok(Choice::act(Reason::Turning, vec![Action::Follow(target)]))
                    }
                    (Stand::Fine | Stand::Unknown, None) => Err(status),
                }
            }
        }
    }

    /// It follows somebody, and nothing comes from there.
    fn receives_nothing(&self, status: &Status) -> bool {
        let follows = self.view.postgres.follows.as_ref();
        follows.is_some_and(|target| *target != Follow::Nobody && !streams_from(status, target))
    }

    /// No blind follow: waits for the id to become known (the upstream has just been promoted, or
    /// its word is on the way), then makes room for a copy, or copies.
    fn unknown_history(&mut self, stopped_for: Option<Follow>, patience: Duration) -> Choice {
        let since = *self.memory.unknown_since.get_or_insert(self.view.now);
        let waited = self.view.now.since(since);
        if waited < patience {
            let again = (patience - waited).min(UNKNOWN_AGAIN);
            return Choice::wait_for(Reason::PromotionUnknown, again);
        }
        let why = Stranded::PromotionUnknown;
        if !self.may_replace(why) {
            return Choice::wait_for(Reason::NotCopied(why), UNKNOWN_AGAIN);
        }
        let job = stopped_for.map_or(Job::Stop, Job::Clone);
        Choice::act(Reason::PromotionUnknown, vec![Action::Run(job)])
    }

    fn start_under(
        &mut self,
        control: &Control,
        target: Option<Follow>,
        history: Option<Told<'_>>,
    ) -> Choice {
        let Some(target) = target else {
            // Nobody to follow yet: serve reads as a standby rather than nothing.
            return match control.state {
                super::view::ControlState::InRecovery
                | super::view::ControlState::ShutDownInRecovery => Choice::act(
                    Reason::Starting,
                    vec![Action::Run(Job::StartStandby(Follow::Nobody))],
                ),
                super::view::ControlState::ShutDown | super::view::ControlState::InProduction => {
                    Choice::wait(Reason::AwaitingHistory)
                }
            };
        };
        match rejoin::way_back(control, history) {
            Way::Wait => Choice::wait(Reason::AwaitingHistory),
            Way::Unknown => self.unknown_history(Some(target), UNKNOWN_PATIENCE),
            Way::Copy => self.replace(target, Stranded::OtherPromotion, Reason::OtherPromotion),
            Way::Start => {
                Choice::act(Reason::Starting, vec![Action::Run(Job::StartStandby(target))])
            }
            Way::Rewind => match self.no_rewind(control) {
                Some(why) => self.replace(target, why, Reason::Recloning),
                None => Choice::act(Reason::Rewinding, vec![Action::Run(Job::Rewind(target))]),
            },
        }
    }

    /// Why a server that left its upstream's history cannot be rewound.
    fn no_rewind(&self, control: &Control) -> Option<Stranded> {
        if !self.policy.use_pg_rewind {
            return Some(Stranded::RewindOff);
        }
        if !control.rewindable {
            return Some(Stranded::RewindImpossible);
        }
        // A rewind that succeeded and is wanted again has changed nothing (never a loop).
        (self.memory.rewind_failed || self.memory.rewinds >= 2).then_some(Stranded::RewindFailed)
    }

    /// Whether its data directory may be emptied for a new copy (spec/patroni-compat.md 3.7).
    fn may_replace(&self, why: Stranded) -> bool {
        let diverged = self.policy.remove_on_diverged_timelines;
        match why {
            Stranded::RewindFailed => diverged || self.policy.remove_on_rewind_failure,
            Stranded::RewindOff
            | Stranded::RewindImpossible
            | Stranded::OtherPromotion
            | Stranded::PromotionUnknown => diverged,
        }
    }

    /// Copies anew, where that is allowed.
    fn replace(&self, from: Follow, why: Stranded, reason: Reason) -> Choice {
        if self.may_replace(why) {
            Choice::act(reason, vec![Action::Run(Job::Clone(from))])
        } else {
            Choice::wait(Reason::NotCopied(why))
        }
    }

    /// A running server that left the upstream's history: why it cannot come back, if it cannot.
    fn stranded(
        &self,
        control: &Control,
        status: &Status,
        history: Option<Told<'_>>,
    ) -> Option<Stranded> {
        let mine = &status.ancestry;
        let following = history.map(|upstream| upstream.followed_by(mine, status.end, false));
        let why = match following {
            Some(Following::Copies) => Some(Stranded::OtherPromotion),
            Some(Following::Rewinds) => self.no_rewind(control),
            Some(Following::Streams | Following::Unknown) | None => None,
        };
        why.filter(|why| !self.may_replace(*why))
    }

    /// A rewind broke off midway: of no use any more, but not to be emptied unasked.
    fn is_left_half_rewound(&self) -> bool {
        self.view.postgres.half_rewound && !self.may_replace(Stranded::RewindFailed)
    }

    /// A node without data in a cluster that has no leader.
    pub(super) fn make_cluster(&mut self, site: &SiteView) -> Choice {
        let incomplete = self.view.postgres.data == DataDirectory::Incomplete;
        if incomplete && self.is_left_half_rewound() {
            return Choice::wait(Reason::NotCopied(Stranded::RewindFailed));
        }
        let follows = upstream::of(self.view);
        let failed = self.memory.failed.as_ref().is_some_and(|f| {
            f.job == JobKind::Initdb
                || (f.job == JobKind::Clone && matches!(follows, Upstream::Remote(_)))
        });
        if site.initialize == Initialize::Running && self.memory.claimed_initialize && failed {
            // Another node may be luckier, and this one tries again after its pause.
            return Choice::act(Reason::Bootstrap, vec![Action::AbandonInitialize]);
        }
        let made = matches!(site.initialize, Initialize::Done(_));
        if made && self.policy.clones_without_leader && self.view.federation.is_none() {
            // What comes of it is a standby like any other, which the race judges as such.
            let job = Job::Clone(Follow::Nobody);
            return Choice::act(Reason::Cloning, vec![Action::Run(job)]);
        }
        let mine = match site.initialize {
            Initialize::Absent => true,
            // Only the node that claimed it can have begun a directory: there is no leader to
            // copy from.
            Initialize::Running => incomplete,
            // Its copy of another site's database is gone, from every node that runs.
            Initialize::Done(_) => self.can_copy_another_site(site),
            Initialize::Unreadable => false,
        };
        if !mine {
            return Choice::wait(match site.initialize {
                Initialize::Running => Reason::AwaitingBootstrap,
                Initialize::Absent | Initialize::Done(_) | Initialize::Unreadable => {
                    Reason::AwaitingSource
                }
            });
        }
        let job = match follows {
            Upstream::Nobody(None) => Some(Job::Initdb),
            Upstream::Unknown => return Choice::wait(Reason::PrimacyUnknown),
            // A federation that has a database never makes a second one (I13).
            Upstream::Nobody(Some((_, primary))) => {
                primary.value.system_identifier.is_none().then_some(Job::Initdb)
            }
            Upstream::Site(federation, _) => rejoin::upstream_site(federation)
                .filter(|site| rejoin::site_history(federation, site).is_some())
                .and_then(|site| rejoin::site_addresses(federation, &site))
                .map(Job::Clone),
            Upstream::Remote(remote) => {
                upstream::remote_source(remote, &site.initialize).map(Job::Clone)
            }
        };
        let Some(job) = job.filter(|_| self.policy.may_bootstrap && !self.policy.nofailover) else {
            return Choice::wait(Reason::AwaitingSource);
        };
        let remembers = when_keys_are_gone(site, &self.memory).is_some();
        if job == Job::Initdb && (remembers || self.others_have_data(site)) {
            return Choice::wait(Reason::KeysGone);
        }
        let mut actions = Vec::new();
        if site.initialize == Initialize::Absent {
            self.memory.claimed_initialize = true;
            actions.push(Action::ClaimInitialize);
        }
        actions.push(Action::Run(job));
        let again = matches!(site.initialize, Initialize::Done(_));
        Choice::act(if again { Reason::Cloning } else { Reason::Bootstrap }, actions)
    }

    /// No member of this standby site could be copied from, or lead: only another site can help.
    fn can_copy_another_site(&self, site: &SiteView) -> bool {
        let follows = match upstream::of(self.view) {
            Upstream::Site(federation, primary) => {
                !self.has_seen_more(site, federation, &primary.value)
            }
            Upstream::Remote(_) => true,
            Upstream::Nobody(_) | Upstream::Unknown => false,
        };
        follows && !self.other_running_member(site)
    }
}
