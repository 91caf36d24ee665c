//! The plan of a soak: which events, in which order. A pure function of the seed, so that a run that
//! failed can be had again.
//!
//! Events come in rounds. Each round has every event of [`ROUND`], in an order of its own: so every
//! round has ten leaders that are taken away and five switchovers, whatever the seed.

use std::fmt;

/// To whom something happens; roles, since nobody knows beforehand which node will lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whom {
    /// Who leads.
    Leader,
    /// For whom commits wait.
    Synchronous,
    /// The third node.
    Other,
}

/// What happens to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// SIGKILL of its agent, which comes back only when writes have.
    AgentKilled,
    /// SIGKILL of its agent, which its service starts again at once.
    AgentRestarted,
    /// SIGTERM of its agent, as its service is stopped; it comes back when writes have.
    AgentStopped,
    /// SIGSTOP of its agent until writes are back.
    AgentFrozen,
    /// SIGKILL of its guardian.
    GuardianKilled,
    /// SIGKILL of its postmaster; the backends are left alone.
    PostmasterKilled,
    /// SIGINT of its postmaster: somebody stops PostgreSQL behind Regent's back.
    ServerStopped,
    /// SIGKILL of agent, guardian and server at once.
    NodeKilled,
    /// All its processes are frozen for twice the TTL.
    NodeFrozen,
    /// As [`Deed::NodeKilled`], and its disk is gone: it comes back empty.
    NodeRemoved,
}

/// What people ask the agents' REST API for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// A switchover to the synchronous standby, by name.
    ToSynchronous,
    /// A switchover to whoever may lead.
    ToAnybody,
    /// A failover to the node that commits do not wait for.
    FailoverToOther,
}

/// Which members of the DCS are killed and started again at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Members {
    /// All.
    All,
    /// The one that the leader's agent talks to.
    OfLeader,
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// To a node.
    Node(Deed, Whom),
    /// Over REST.
    Asked(Request),
    /// To the DCS.
    Dcs(Members),
}

impl Event {
    /// Whether it takes the leader away until another node leads.
    #[must_use]
    pub fn deposes(self) -> bool {
        match self {
            Self::Node(deed, Whom::Leader) => match deed {
                Deed::AgentKilled
                | Deed::AgentStopped
                | Deed::AgentFrozen
                | Deed::NodeKilled
                | Deed::NodeFrozen
                | Deed::NodeRemoved => true,
                // In place or by another: both are right.
                Deed::AgentRestarted
                | Deed::GuardianKilled
                | Deed::PostmasterKilled
                | Deed::ServerStopped => false,
            },
            Self::Node(_, Whom::Synchronous | Whom::Other) | Self::Asked(_) | Self::Dcs(_) => false,
        }
    }

    /// Whether it is a switchover that somebody asks for.
    #[must_use]
    pub fn is_switchover(self) -> bool {
        match self {
            Self::Asked(Request::ToSynchronous | Request::ToAnybody) => true,
            Self::Asked(Request::FailoverToOther) | Self::Node(..) | Self::Dcs(_) => false,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (deed, whom) = match self {
            Self::Node(deed, whom) => (deed, whom),
            Self::Asked(Request::ToSynchronous) => return f.write_str("switchover, named"),
            Self::Asked(Request::ToAnybody) => return f.write_str("switchover, unnamed"),
            Self::Asked(Request::FailoverToOther) => return f.write_str("failover by name"),
            Self::Dcs(Members::All) => return f.write_str("DCS restarted"),
            Self::Dcs(Members::OfLeader) => return f.write_str("leader's DCS member restarted"),
        };
        let whom = match whom {
            Whom::Leader => "leader",
            Whom::Synchronous => "synchronous standby",
            Whom::Other => "other standby",
        };
        let deed = match deed {
            Deed::AgentKilled => "agent killed",
            Deed::AgentRestarted => "agent killed and restarted",
            Deed::AgentStopped => "agent stopped",
            Deed::AgentFrozen => "agent frozen",
            Deed::GuardianKilled => "guardian killed",
            Deed::PostmasterKilled => "postmaster killed",
            Deed::ServerStopped => "server stopped by hand",
            Deed::NodeKilled => "node killed",
            Deed::NodeFrozen => "node frozen",
            Deed::NodeRemoved => "node removed with its data",
        };
        write!(f, "{whom}: {deed}")
    }
}

/// One round, before it is shuffled.
pub const ROUND: [Event; 25] = [
    Event::Node(Deed::NodeKilled, Whom::Leader),
    Event::Node(Deed::NodeKilled, Whom::Leader),
    Event::Node(Deed::NodeKilled, Whom::Leader),
    Event::Node(Deed::AgentKilled, Whom::Leader),
    Event::Node(Deed::AgentKilled, Whom::Leader),
    Event::Node(Deed::AgentStopped, Whom::Leader),
    Event::Node(Deed::AgentStopped, Whom::Leader),
    Event::Node(Deed::AgentFrozen, Whom::Leader),
    Event::Node(Deed::NodeFrozen, Whom::Leader),
    Event::Node(Deed::NodeRemoved, Whom::Leader),
    Event::Node(Deed::AgentRestarted, Whom::Leader),
    Event::Node(Deed::GuardianKilled, Whom::Leader),
    Event::Node(Deed::PostmasterKilled, Whom::Leader),
    Event::Node(Deed::ServerStopped, Whom::Leader),
    Event::Node(Deed::NodeKilled, Whom::Synchronous),
    Event::Node(Deed::NodeFrozen, Whom::Synchronous),
    Event::Node(Deed::NodeRemoved, Whom::Other),
    Event::Asked(Request::ToSynchronous),
    Event::Asked(Request::ToSynchronous),
    Event::Asked(Request::ToSynchronous),
    Event::Asked(Request::ToSynchronous),
    Event::Asked(Request::ToAnybody),
    Event::Asked(Request::FailoverToOther),
    Event::Dcs(Members::All),
    Event::Dcs(Members::OfLeader),
];

/// Numbers from a seed (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number up to `most`. Of so few that the remainder's bias is nothing.
    fn up_to(&mut self, most: usize) -> usize {
        let bound = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }
}

/// So many events.
#[must_use]
pub fn plan(seed: u32, events: usize) -> Vec<Event> {
    let mut numbers = Numbers(seed.into());
    let mut plan = Vec::with_capacity(events);
    while plan.len() < events {
        let mut round = ROUND;
        for last in (1..round.len()).rev() {
            round.swap(last, numbers.up_to(last));
        }
        let left = events - plan.len();
        plan.extend(round.into_iter().take(left));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_seed_says_everything_and_a_longer_run_begins_as_a_shorter_one() {
        let all: BTreeSet<Vec<Event>> = (0..50).map(|seed| plan(seed, 200)).collect();
        assert_eq!(all.len(), 50);
        for seed in 0..50 {
            let long = plan(seed, 200);
            assert_eq!(long, plan(seed, 200));
            assert_eq!(long[..60], plan(seed, 60));
        }
        assert!(plan(1, 0).is_empty());
    }

    #[test]
    fn every_round_has_every_event_ten_failovers_and_five_switchovers() {
        let mut all = ROUND.to_vec();
        all.sort_unstable();
        for seed in 0..50 {
            for round in plan(seed, 200).chunks(ROUND.len()) {
                let mut sorted = round.to_vec();
                sorted.sort_unstable();
                assert_eq!(sorted, all, "seed {seed}");
                assert_eq!(round.iter().filter(|event| event.deposes()).count(), 10);
                assert_eq!(round.iter().filter(|event| event.is_switchover()).count(), 5);
            }
        }
    }
}
