//! PostgreSQL's configuration in force: read again when something else is wanted, and a standby that its
//! WAL asks more of than it was started with.

use super::view::Status;
use super::{Action, Choice, Job, Judge, Reason};

impl Judge<'_> {
    /// What is wanted has changed since it was last put into the files. Last in line: nothing that
    /// rights or commits rest on waits for it. The files say whom a standby follows: one that somebody
    /// else set up (a cluster that was paused to be taken over) goes on as it is until that is decided,
    /// or it would stop streaming. A list that was set and is not shown yet comes first: a reload writes
    /// the one that is shown.
    pub(super) fn reload(&self) -> Option<Choice> {
        let postgres = &self.view.postgres;
        let status = postgres.status.as_ref()?;
        let told = !status.in_recovery || postgres.follows.is_some();
        (told
            && !self.list_comes(status)
            && postgres.configuration.wanted != postgres.configuration.in_force)
            .then(|| Choice::act(Reason::Reloading, vec![Action::Reload]))
    }

    /// The leader has set a list that its server does not show yet. One that PostgreSQL refuses never
    /// comes, and holds up nothing.
    fn list_comes(&self, status: &Status) -> bool {
        let leader = self.view.site.as_ref().and_then(|site| site.leader.as_ref());
        let leads = leader.is_some_and(|leader| leader.name == self.policy.me);
        let asked = &self.memory.list_asked;
        leads && !status.in_recovery && asked.is_some() && *asked != self.memory.own_names_refused
    }

    /// Its recovery stands still: the primary was started with more connections, workers or the like
    /// than this server has room for. Started again it has what pg_control then asks for; as it is,
    /// it could not even be promoted.
    pub(super) fn make_room_for_recovery(&self) -> Option<Choice> {
        let recovers = self.view.postgres.status.as_ref().is_some_and(|status| status.in_recovery);
        // In a paused federation nobody would start it again.
        (recovers && self.view.postgres.configuration.too_low && !self.policy.paused)
            .then(|| Choice::act(Reason::RaisingParameters, vec![Action::Run(Job::Stop)]))
    }
}
