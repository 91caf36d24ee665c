//! Who has the site's leader key: this node, another one, nobody, or nobody can tell.

use super::view::{Initialize, LeaderKey, SiteView};
use super::{Action, Choice, Job, Judge, Reason};

impl Judge<'_> {
    /// What there is to do goes by who has the key.
    pub(super) fn unpaused(&mut self, site: &SiteView) -> Choice {
        if let Some(choice) = self.refuse_foreign_data(site) {
            return choice;
        }
        match &site.leader {
            Some(leader) if leader.unreadable => self.leader_unreadable(),
            Some(leader) if leader.name == self.policy.me => self.hold_leader_key(site, leader),
            Some(leader) => {
                let choice = self.follow_leader(site, leader);
                self.beside_a_switchover(site, leader, choice)
            }
            None => self.race(site),
        }
    }

    /// Nobody can take the key over and nobody renews it. A writer goes on until its deadline, and
    /// the rest stay as they are: unknown is no reason to change a role (I9).
    fn leader_unreadable(&self) -> Choice {
        let ahead = self.view.tenure.site.lies_ahead(self.view.now);
        if self.writable() && !ahead {
            let actions = vec![Action::EndTenure, Action::Run(Job::Stop)];
            return Choice::act(Reason::StoppingWriter, actions);
        }
        Choice::wait(Reason::LeaderUnreadable)
    }

    /// The key carries our name under another lease, and this process's own deadline lies ahead: the
    /// renewal thread moves the key to a lease of another TTL, and the picture was quicker, or slower,
    /// than its word of it. Binding the key to the lease of before would end the right. Where the key
    /// is not ours after all, the thread ends the deadline.
    pub(super) fn key_moves(&self) -> Option<Choice> {
        let ahead = self.view.tenure.site.lies_ahead(self.view.now);
        ahead.then(|| Choice::wait(Reason::AwaitingRenewal))
    }

    /// Another agent has this node's name and the leader key: it is respected until its lease ends.
    fn beside_a_twin(&self) -> Choice {
        self.stop_writer().unwrap_or_else(|| self.stay_fenced(Reason::TwinLeads))
    }

    /// The leader key carries our name.
    fn hold_leader_key(&mut self, site: &SiteView, leader: &LeaderKey) -> Choice {
        if !leader.bound_to_my_lease {
            if let Some(choice) = self.key_moves() {
                return choice;
            }
            if leader.twin {
                return self.beside_a_twin();
            }
            // A former life of this node: its right ended with it, the key is bound anew and
            // nothing is opened before the renewal is acknowledged.
            return match self.view.tenure.has_lease {
                true => Choice::act(Reason::RetakingLeader, vec![Action::AcquireLeader]),
                false => Choice::wait(Reason::AwaitingRenewal),
            };
        }
        if !self.view.tenure.site.lies_ahead(self.view.now) {
            if let Some(choice) = self.stands_back(site) {
                // The key is on its way out: the renewal thread goes on until it is gone.
                return choice;
            }
            return match &site.initialize {
                // Reads are served while the right to more is waited for.
                Initialize::Done(_) => self.stay_fenced(Reason::AwaitingRenewal),
                Initialize::Absent | Initialize::Running | Initialize::Unreadable => {
                    Choice::wait(Reason::AwaitingRenewal)
                }
            };
        }
        self.lead(site)
    }
}
