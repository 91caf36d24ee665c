//! Failsafe inside a site: the leader that lost the site DCS asks every member that could take the
//! leader key (spec/patroni-compat.md 3.12), and a member that accepted does not take it.
//!
//! Who could take the key stands in the `failsafe` record: a node outside it never races
//! ([`barred`]). So the record is the electorate of the site, with the same two rules as the
//! federation's (protocol.md section 1): only the holder adds to it, and only while its deadline
//! rests on acknowledged renewals alone; from the moment an addition is sent until it is known not
//! to have been applied, the new member is asked too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regent_proto::name::NodeName;
use regent_proto::time::{BootTime, Deadline, LeaseTiming};

use crate::decide::view::{FailsafeRecord, Member};

/// Members by name, with the REST address that is asked.
pub type Members = BTreeMap<NodeName, String>;

/// What came back from one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It does not take the leader key for this span; Patroni's members say none: their TTL.
    Accepted {
        /// The span, where it was said.
        span: Option<Duration>,
    },
    /// It answered, and not with a yes.
    Refused(String),
    /// No answer in time, or one that cannot be read.
    Silent(String),
}

/// What the leader of a site knows of its own failsafe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// `failsafe_mode` is on, and this node's PostgreSQL is open.
    on: bool,
    /// Everybody who may stand in the record; nobody until this process has written or read it.
    may_lead: Members,
    /// What acknowledged renewals gave.
    renewed: Deadline,
    /// What the last complete round gave.
    promised: Deadline,
}

impl Default for Leader {
    fn default() -> Self {
        Self {
            on: false,
            may_lead: Members::new(),
            renewed: Deadline::NEVER,
            promised: Deadline::NEVER,
        }
    }
}

impl Leader {
    /// Whether rounds may be held: switched on, and an open PostgreSQL that could go on.
    pub fn allow(&mut self, on: bool) {
        self.on = on;
    }

    /// The store acknowledged a renewal.
    pub fn renewed(&mut self, deadline: Deadline) {
        self.renewed = self.renewed.raised(deadline);
        if self.renewed >= self.promised {
            self.promised = Deadline::NEVER;
        }
    }

    /// The right is gone: the store said so.
    pub fn ended(&mut self) {
        self.renewed = Deadline::NEVER;
        self.promised = Deadline::NEVER;
    }

    /// Whether this node goes on by its members' word alone.
    #[must_use]
    pub fn stands(&self, now: BootTime) -> bool {
        self.promised > self.renewed && self.promised.lies_ahead(now)
    }

    /// Whom to ask now: every other member that may lead. `None`: no round. A node that does not
    /// stand in its own record is not the one that this record was agreed for.
    #[must_use]
    pub fn question(&self, me: &NodeName, now: BootTime) -> Option<Members> {
        let holds = self.renewed.raised(self.promised).lies_ahead(now);
        if !self.on || !holds || !self.may_lead.contains_key(me) {
            return None;
        }
        let mut others = self.may_lead.clone();
        others.remove(me);
        Some(others)
    }

    /// What a round that was sent at `sent` gives. Who must have accepted is judged now: a member
    /// that was added meanwhile was not asked.
    pub fn judge(
        &mut self,
        me: &NodeName,
        (sent, now): (BootTime, BootTime),
        timing: &LeaseTiming,
        answers: &BTreeMap<NodeName, Answer>,
    ) -> Option<Deadline> {
        let asked = self.question(me, now)?;
        let mut least = timing.ttl;
        for name in asked.keys() {
            match answers.get(name)? {
                Answer::Accepted { span } => least = least.min(span.unwrap_or(timing.ttl)),
                Answer::Refused(_) | Answer::Silent(_) => return None,
            }
        }
        let given = Deadline::granted(sent, &LeaseTiming { ttl: least, ..timing.clone() });
        self.promised = self.promised.raised(given);
        Some(given)
    }

    /// Before the record is written: those in it are asked from now on. False: not now, since the
    /// deadline rests on a round that a new member took no part in.
    pub fn begin_write(&mut self, members: &Members, now: BootTime) -> bool {
        let adds = members.keys().any(|name| !self.may_lead.contains_key(name));
        if adds && self.stands(now) {
            return false;
        }
        self.may_lead.extend(members.iter().map(|(name, url)| (name.clone(), url.clone())));
        true
    }

    /// The record certainly says this, and no earlier request can change it any more.
    pub fn written(&mut self, members: Members) {
        self.may_lead = members;
    }
}

/// What the leader wants the record to say: every member there is, and those that are away for less
/// than a TTL (their own leases expire in an outage of the store, which does not make them leave).
/// `None`: leave it. Switched off, a record that is there becomes empty, so that it bars nobody.
#[must_use]
pub fn wanted(
    on: bool,
    record: &FailsafeRecord,
    present: &BTreeMap<NodeName, Arc<Member>>,
    (me, my_url): (&NodeName, &str),
    away: &BTreeMap<NodeName, Duration>,
    ttl: Duration,
) -> Option<Members> {
    if !on {
        return match record {
            FailsafeRecord::Absent => None,
            FailsafeRecord::Unreadable { .. } => Some(Members::new()),
            FailsafeRecord::Read { members, .. } => (!members.is_empty()).then(Members::new),
        };
    }
    let known = match record {
        FailsafeRecord::Absent | FailsafeRecord::Unreadable { .. } => Members::new(),
        FailsafeRecord::Read { members, .. } => members.clone(),
    };
    let mut wanted: Members = known
        .into_iter()
        .filter(|(name, _)| away.get(name).is_none_or(|span| *span < ttl))
        .collect();
    for (name, member) in present.iter().filter(|(_, member)| !member.api_url.is_empty()) {
        wanted.insert(name.clone(), member.api_url.clone());
    }
    wanted.insert(me.clone(), my_url.to_owned());
    Some(wanted)
}

/// Whether a node may not take the leader key because the record does not name it: its leader goes
/// on without asking it. A record that cannot be read may name others.
#[must_use]
pub fn barred(record: &FailsafeRecord, me: &NodeName) -> bool {
    match record {
        FailsafeRecord::Absent => false,
        FailsafeRecord::Unreadable { .. } => true,
        FailsafeRecord::Read { members, .. } => !members.is_empty() && !members.contains_key(me),
    }
}

/// A member's word to its leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromisedLeader {
    /// Who.
    pub leader: NodeName,
    /// Until when it keeps the leader key, on this node's clock.
    pub until: BootTime,
}

/// What a member has promised, and whether it may still promise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberWord {
    promised: Option<PromisedLeader>,
    /// It takes the leader key, or opens: it promises nothing until that has ended.
    entered: bool,
}

impl MemberWord {
    /// Promises `leader` the key for `span`. False: this node leads or is about to.
    pub fn accept(&mut self, leader: &NodeName, now: BootTime, span: Duration) -> bool {
        if self.entered {
            return false;
        }
        let before = self.promised.as_ref().map_or(now, |promised| promised.until);
        let until = before.max(now.plus(span));
        self.promised = Some(PromisedLeader { leader: leader.clone(), until });
        true
    }

    /// The promise that stands.
    #[must_use]
    pub fn standing(&self, now: BootTime) -> Option<PromisedLeader> {
        self.promised.clone().filter(|promised| now < promised.until)
    }

    /// Takes the leader key, or opens; forgets what it promised to a leader of before
    /// (hazards.md row 15). Refused while a promise stands.
    pub fn enter(&mut self, now: BootTime) -> Result<(), PromisedLeader> {
        match self.standing(now) {
            Some(promised) => Err(promised),
            None => {
                *self = Self { promised: None, entered: true };
                Ok(())
            }
        }
    }

    /// It neither leads nor writes.
    pub fn leave(&mut self) {
        self.entered = false;
    }
}
