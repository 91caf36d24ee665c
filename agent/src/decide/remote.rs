//! The leader of a cluster that `standby_cluster` makes follow another one, of no federation: it is the
//! standby leader, and its members stream from it (spec/patroni-compat.md 3.14).
//!
//! The other cluster may be anybody's. It names no promotions, so its timelines are told apart by
//! where they began, and it is asked itself ([`RemoteView::found`]). Nothing here opens: once the section
//! is gone, `lead` does, as after any failover.

use super::follow::streams_from;
use super::rejoin::Told;
use super::view::{Control, DataDirectory, Follow, Process, RemoteView, SiteView};
use super::{Action, Choice, Job, Judge, Reason, upstream};

impl<'a> Judge<'a> {
    /// This node leads a cluster that `standby_cluster` makes follow another one.
    pub(super) fn lead_remote(&mut self, site: &SiteView, remote: &'a RemoteView) -> Choice {
        self.memory.promoting_since = None;
        self.memory.silent_since = None;
        self.forget_stopped();
        if let Some(choice) = self.stop_writer() {
            return choice;
        }
        let view = self.view;
        let postgres = &view.postgres;
        match &postgres.data {
            // Any member that has data leads rather than one that has none.
            DataDirectory::Empty | DataDirectory::Incomplete => {
                return Choice::act(Reason::AwaitingSource, vec![Action::ReleaseLeader]);
            }
            DataDirectory::Cluster(control) => {
                if let Some(choice) = foreign(remote, control) {
                    return choice;
                }
            }
            DataDirectory::Unreadable(_) => {}
        }
        self.note_following();
        let target = upstream::remote_follow(remote);
        if remote.addresses.is_empty()
            && let Some(choice) = self.recovers_from_the_archive(&target)
        {
            return choice;
        }
        let history = self.remote_history(remote, &target);
        let streams = postgres.status.as_ref().is_some_and(|status| streams_from(status, &target));
        // While nobody answers there a standby serves reads all the same.
        let waits = history.is_none() && postgres.process == Process::Stopped;
        match self.come_under(Some(target).filter(|_| !waits), history) {
            Ok(choice) => choice,
            Err(status) => self.tend_standby_site(site, status, streams).unwrap_or_else(|| {
                let choice = self.follows_on(status, Reason::LeadingStandby);
                self.until_restartpoint(status, choice)
            }),
        }
    }

    /// Nobody is asked: what the archive has is replayed, and what it has not is not.
    fn recovers_from_the_archive(&self, target: &Follow) -> Option<Choice> {
        let postgres = &self.view.postgres;
        match postgres.process {
            Process::Stopped => {
                let start = Action::Run(Job::StartStandby(target.clone()));
                Some(Choice::act(Reason::Starting, vec![start]))
            }
            Process::Running if postgres.follows.as_ref() != Some(target) => {
                Some(Choice::act(Reason::Turning, vec![Action::Follow(target.clone())]))
            }
            Process::Starting | Process::Running => None,
        }
    }

    /// What the other cluster told of itself. Told before its stream ended it may be older than what has
    /// come from there since.
    fn remote_history(&mut self, remote: &'a RemoteView, target: &Follow) -> Option<Told<'a>> {
        let status = self.view.postgres.status.as_ref();
        let streams = status.is_some_and(|status| streams_from(status, target));
        if streams {
            self.memory.remote_silent_since = None;
        }
        let found = remote.found.as_ref();
        let silent_since = if streams {
            None
        } else {
            Some(*self.memory.remote_silent_since.get_or_insert(self.view.now))
        };
        found
            .filter(|found| silent_since.is_none_or(|since| found.asked >= since))
            .map(|found| Told { ancestry: &found.ancestry, unnamed: true, present: !streams })
    }
}

/// `standby_cluster` names a cluster of another database: nothing of that comes over this one's (I13).
fn foreign(remote: &RemoteView, control: &Control) -> Option<Choice> {
    let found = remote.found.as_ref()?;
    (found.system_identifier != control.system_identifier).then(|| {
        Choice::wait(Reason::ForeignData(format!(
            "standby_cluster: the cluster there has system identifier {}, this one has {}: that is \
             another database; name the right host, or take the section away",
            found.system_identifier, control.system_identifier
        )))
    })
}
