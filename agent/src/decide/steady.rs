//! A leader in its ordinary state: finishing a bootstrap, synchronous record and list, slots,
//! checkpoints that a switchover asks for.

use std::time::Duration;

use regent_proto::record::Primary;
use regent_proto::time::BootTime;
use regent_proto::timeline::HistoryPoint;

use super::view::{At, FederationView, Initialize, SiteView, Status};
use super::{Action, Choice, DataDirectory, Job, Judge, Reason, synchronous};

/// The checkpoint that is owed after a promotion waits until the clients are back: its writes would
/// hold up the first commits. A node that has to rewind meanwhile waits for it.
const CHECKPOINT_AFTER_OPENING: Duration = Duration::from_secs(2);

/// How long a synchronous standby may take to turn to the timeline that was just opened.
const STANDBY_RETURNS: Duration = Duration::from_secs(2);

/// How soon it is looked again whether a standby has confirmed what it is waited for, and whether a list that
/// was set is in force: of neither the server tells.
const CONFIRMED_AGAIN: Duration = Duration::from_millis(200);

/// How soon a list of the user's own that is not in force yet is set again.
const OWN_NAMES_AGAIN: Duration = Duration::from_secs(10);

impl Judge<'_> {
    /// Writable, with every right it needs.
    pub(super) fn steady_primary(
        &mut self,
        site: &SiteView,
        global: Option<(&FederationView, &At<Primary>)>,
        status: &Status,
    ) -> Choice {
        self.memory.promoting_since = None;
        self.memory.marked = None;
        if !self.view.postgres.users_exist {
            return Choice::act(Reason::FinishingBootstrap, vec![Action::Run(Job::CreateUsers)]);
        }
        // What commits wait for comes first: a quorum that is away or a full disk holds up names.
        self.record_identity(site, global)
            .or_else(|| self.keep_synchronous(site, status))
            .or_else(|| self.keep_slots(site, status))
            .or_else(|| self.name_promotion(status))
            .or_else(|| self.record_promotion(status))
            .or_else(|| self.checkpoint())
            .or_else(|| self.reload())
            .unwrap_or_else(|| self.leads_on(site, status, Reason::Leading))
    }

    /// Nothing is left to do for now. What comes next by itself is looked for in time.
    pub(super) fn leads_on(&self, site: &SiteView, status: &Status, reason: Reason) -> Choice {
        let now = self.view.now;
        let left = |since: BootTime, span: Duration| span.saturating_sub(now.since(since));
        let opened = self.memory.owes_checkpoint_since;
        let opened = opened.map(|since| left(since, CHECKPOINT_AFTER_OPENING.min(STANDBY_RETURNS)));
        let confirms = synchronous::awaits_confirmation(self.policy, &self.memory, site, status)
            .then_some(CONFIRMED_AGAIN);
        let own = &self.policy.own_standby_names;
        let own_waits = !self.policy.synchronous_mode && status.synchronous_standby_names != *own;
        let own_names = self.memory.own_names_asked.as_ref().filter(|_| own_waits);
        let own_names = own_names.map(|(_, at)| match &self.memory.own_names_refused {
            Some(_) => left(*at, OWN_NAMES_AGAIN),
            None => left(*at, OWN_NAMES_AGAIN).min(CONFIRMED_AGAIN),
        });
        let soon = [opened, confirms, own_names].into_iter().flatten();
        Choice { wake_in: soon.filter(|left| !left.is_zero()).min(), ..Choice::wait(reason) }
    }

    /// A timeline whose WAL tells no promotion any more gets a name (I14), after it was looked
    /// through: what others may have read from theirs stays its id.
    pub(super) fn name_promotion(&self, status: &Status) -> Option<Choice> {
        (status.is_unnamed() && status.name_sought)
            .then(|| Choice::act(Reason::NamingPromotion, vec![Action::NamePromotion]))
    }

    fn record_promotion(&self, status: &Status) -> Option<Choice> {
        let history = self.view.federation.as_ref()?.history.as_ref()?;
        let held = self.view.tenure.primary.as_ref()?;
        let ancestry = &status.ancestry;
        let promotion = HistoryPoint {
            timeline: ancestry.timeline,
            position: ancestry.begin(ancestry.timeline)?,
            promotion: Some(ancestry.promotion.clone()?),
        };
        (!history.value.promotions.contains(&promotion)).then(|| {
            Choice::act(
                Reason::NamingPromotion,
                vec![Action::RecordPromotion {
                    history_revision: history.revision,
                    lease_revision: held.lease_revision,
                    promotion,
                }],
            )
        })
    }

    pub(super) fn record_identity(
        &self,
        site: &SiteView,
        global: Option<(&FederationView, &At<Primary>)>,
    ) -> Option<Choice> {
        let DataDirectory::Cluster(control) = &self.view.postgres.data else { return None };
        let mut actions = Vec::new();
        match &site.initialize {
            Initialize::Done(_) => {}
            Initialize::Absent | Initialize::Running | Initialize::Unreadable => {
                actions.push(Action::RecordInitialize(control.system_identifier));
            }
        }
        if let Some((_, primary)) = global
            && primary.value.system_identifier.is_none()
            && let Some(held) = &self.view.tenure.primary
        {
            actions.push(Action::RecordIdentity {
                primary_revision: primary.revision,
                lease_revision: held.lease_revision,
                system_identifier: control.system_identifier,
            });
        }
        (!actions.is_empty()).then(|| Choice::act(Reason::FinishingBootstrap, actions))
    }

    pub(super) fn keep_synchronous(&mut self, site: &SiteView, status: &Status) -> Option<Choice> {
        let in_step = status.synchronous_standby_names
            == synchronous::list_of(self.policy, &site.sync.voting());
        let opened = self.memory.owes_checkpoint_since;
        if in_step
            && site.sync.leader.as_ref() == Some(&self.policy.me)
            && !site.sync.standbys.is_empty()
            && opened.is_some_and(|since| self.view.now.since(since) < STANDBY_RETURNS)
        {
            // It confirmed everything just before the opening and is turning to the new timeline:
            // letting it go now would leave the first rows on one node only.
            return None;
        }
        let step = synchronous::next(self.policy, &mut self.memory, site, status);
        if self.memory.list_asked.is_none() {
            self.memory.own_names_refused = None;
        }
        let step = step?;
        if let Some(back) = synchronous::put_back(self.policy, &mut self.memory, site, status) {
            // Where the list comes first, it covers the record already.
            let lists = matches!(step, Action::SetSynchronousNames(_));
            let steps = if lists { vec![step] } else { vec![back, step] };
            return Some(Choice::act(Reason::ListChanged, steps));
        }
        if let Action::SetSynchronousNames(own) = &step
            && !self.policy.synchronous_mode
        {
            // The user's: what PostgreSQL refuses never comes into force.
            let asked = self.memory.own_names_asked.as_ref();
            let now = self.view.now;
            if asked.is_some_and(|(text, at)| text == own && now.since(*at) < OWN_NAMES_AGAIN) {
                return None;
            }
            if asked.is_some_and(|(text, _)| text == own) {
                self.memory.own_names_refused = Some(own.clone());
            }
            self.memory.own_names_asked = Some((own.clone(), now));
        }
        Some(Choice::act(Reason::Synchronous, vec![step]))
    }

    /// Runs beside everything else; at most one at a time.
    pub(super) fn checkpoint(&mut self) -> Option<Choice> {
        if self.view.checkpoint_runs {
            return None;
        }
        let assignment = self.view.federation.as_ref().and_then(|f| f.assignment.as_ref());
        let asked = assignment.and_then(|a| a.checkpoint_for.as_ref());
        let asked = asked.filter(|asked| Some(*asked) != self.memory.checkpointed_for.as_ref());
        let owed = self
            .memory
            .owes_checkpoint_since
            .is_some_and(|since| self.view.now.since(since) >= CHECKPOINT_AFTER_OPENING);
        if asked.is_none() && !owed {
            return None;
        }
        self.memory.checkpointing_for = asked.cloned();
        Some(Choice::act(Reason::Checkpoint, vec![Action::Run(Job::Checkpoint)]))
    }
}
