//! Whom a request to switch over could choose: who may lead, who answers, who is near enough, and who
//! has all WAL of a leader that stopped.

use std::collections::BTreeSet;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::time::BootTime;

use super::{Dropped, Manual, dropped};
use crate::decide::race::ANSWERS_FRESH;
use crate::decide::view::{
    At, Control, FailoverRequest, PeerAnswer, PeersView, Sender, SiteView, Status,
};
use crate::decide::{Action, Choice, Judge, Reason, failsafe};

/// Whether a peer may be chosen at all: its server answers, is no primary, and may lead.
pub(in crate::decide) fn may_be_chosen(answer: &PeerAnswer) -> bool {
    !answer.primary && !answer.nofailover && answer.position > Lsn::new(0)
}

/// The sender to a member that streams from this server, past catch-up.
pub(super) fn streaming<'s>(status: &'s Status, name: &NodeName) -> Option<&'s Sender> {
    status.senders.get(name.as_str()).filter(|sender| sender.streaming)
}

/// All WAL of a server that stopped in order, to the end of its shutdown checkpoint.
pub(super) fn has_all(answer: &PeerAnswer, control: &Control) -> bool {
    may_be_chosen(answer)
        && answer.timeline == Some(control.ancestry.timeline)
        && answer.position >= control.end
}

impl<'a> Judge<'a> {
    /// Members that the request could choose: in sync mode those that `sync` names, because nobody
    /// else could lead afterwards. A manual failover may name another, which becomes one of them once
    /// it has all WAL.
    pub(super) fn candidates<'s>(
        &self,
        site: &'s SiteView,
        request: &FailoverRequest,
    ) -> Vec<&'s NodeName> {
        let synchronous = self.synchronous_rule_applies(site);
        let of_sync = |name: &NodeName| match &request.leader {
            Some(_) => site.sync.standbys.contains(name),
            None => true,
        };
        if self.policy.synchronous_mode && site.sync.unreadable {
            // Unknown is not "anybody" (I9).
            return Vec::new();
        }
        let named = |name: &NodeName| request.candidate.as_ref().is_none_or(|c| c == name);
        site.members
            .iter()
            .filter(|(name, member)| **name != self.policy.me && !member.nofailover)
            // It would refuse the key that was given up for it.
            .filter(|(name, _)| !failsafe::site::barred(&site.failsafe, name))
            .map(|(name, _)| name)
            .filter(|name| named(name) && (!synchronous || of_sync(name)))
            .collect()
    }

    /// Nobody else's answer is waited for, as that of a member that has just died would be.
    pub(super) fn ask(&mut self, site: &SiteView, request: &At<FailoverRequest>) -> Choice {
        let now = self.view.now;
        self.memory.asked_for.take_if(|(revision, _)| *revision != request.revision);
        self.memory.asked_for.get_or_insert((request.revision, now));
        let names = self.candidates(site, &request.value).into_iter().cloned().collect();
        let actions = vec![Action::AskCandidates(names)];
        Choice::act(Reason::Manual(Manual::AskingCandidates), actions)
    }

    /// Nobody is fit, so the request ends; but where the answers are those to another question, its
    /// candidates are asked first.
    pub(super) fn nobody(&mut self, site: &SiteView, request: &At<FailoverRequest>) -> Choice {
        match self.memory.asked_for {
            Some((revision, _)) if revision == request.revision => {
                dropped(request, Dropped::NoCandidate)
            }
            Some(_) | None => self.ask(site, request),
        }
    }

    /// The answers that count for this request: none from before its candidates were asked.
    pub(super) fn answers_to(&self, request: &At<FailoverRequest>) -> Option<&'a PeersView> {
        let asked = self.memory.asked_for.filter(|(revision, _)| *revision == request.revision);
        self.answers_since(asked.map(|(_, at)| at))
    }

    /// The members' answers, where they are fresh; given after this instant, where there is one.
    pub(in crate::decide) fn answers_since(
        &self,
        since: Option<BootTime>,
    ) -> Option<&'a PeersView> {
        let view = self.view;
        let peers = view.peers.as_ref()?;
        let asked = view.now.minus(peers.age);
        let fresh = peers.age <= ANSWERS_FRESH && since.is_none_or(|since| asked >= since);
        fresh.then_some(peers)
    }

    /// Those whom the request could choose that answer and are near enough. What one has confirmed to
    /// this server is newer than what it last told of itself.
    pub(super) fn fit(
        &self,
        site: &SiteView,
        request: &FailoverRequest,
        peers: &PeersView,
        status: &Status,
    ) -> BTreeSet<NodeName> {
        let most = self.policy.maximum_lag_on_failover;
        let near = |name: &NodeName, answer: &PeerAnswer| {
            let confirmed = streaming(status, name).map(|sender| sender.flushed);
            let position =
                confirmed.map_or(answer.position, |flushed| flushed.max(answer.position));
            answer.timeline.is_none_or(|t| t == status.ancestry.timeline)
                && status.end.bytes_since(position) <= most
        };
        self.candidates(site, request)
            .into_iter()
            .filter(|name| {
                let answer = peers.answers.get(*name);
                answer.is_some_and(|answer| may_be_chosen(answer) && near(name, answer))
            })
            .cloned()
            .collect()
    }
}
