//! PostgreSQL's configuration in force: read again when something else is wanted, and a standby that its
//! WAL asks more of than it was started with.

use super::{Action, Choice, Job, Judge, Reason};

impl Judge<'_> {
    /// What is wanted has changed since it was last put into the files. Last in line: nothing that
    /// rights or commits rest on waits for it.
    pub(super) fn reload(&self) -> Option<Choice> {
        let configuration = &self.view.postgres.configuration;
        let answers = self.view.postgres.status.is_some();
        (answers && configuration.wanted != configuration.in_force)
            .then(|| Choice::act(Reason::Reloading, vec![Action::Reload]))
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
