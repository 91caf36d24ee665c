//! What nothing can ask of a state any more is forgotten, so that states which differ in it alone are
//! one.
//!
//! Each line says why nobody asks. A mutant that does ask keeps it. Without this the bounds that have
//! promises, credit and a failover at once do not end.

use super::records::PState;
use super::{Mutant, Primacy, State, rules};

impl Primacy {
    /// Whether a site may still be fenced for, or is.
    pub(super) fn may_be_promoted(&self, s: &State, at: usize) -> bool {
        let is = matches!(s.p.state, PState::Fenced(to) if usize::from(to) == at);
        self.bounds.promotes(at) && (is || s.fences < self.bounds.fences)
    }

    pub(super) fn forget(&self, s: &mut State) {
        let bounds = &self.bounds;
        let last_fence = s.fences == bounds.fences && !bounds.removes;
        // Where rows differ a node gives way, too, and is followed by another leader.
        let last_leader = s.failovers == bounds.failovers && bounds.rows == 0;
        for at in 0..s.sites.len() {
            let promoted = self.may_be_promoted(s, at);
            let stands = s.sites[at].promise.is_some_and(|age| rules::promise_stands(s, age));
            let site = &mut s.sites[at];
            if bounds.rows == 0 {
                // Without rows its nodes are alike.
                site.leader = 0;
            }
            // Waits, credit and promises are counted by who may be promoted; also promises that are
            // over, where another leader may come and count them anew.
            if !promoted || (!stands && last_leader) {
                site.promise = None;
            }
            let memory = &mut site.memory;
            if !promoted {
                (memory.reading, memory.fenced_for, memory.lease_for) = (None, None, None);
            }
            // Credit was given, and `primary` changes no more before it is taken or let go.
            if last_fence && memory.fenced_for.is_some() {
                memory.lease_for = None;
            }
            // A round that gives nothing any more has ended.
            memory.round = memory.round.filter(|(age, _)| rules::granted(*age, rules::SPAN) > 0);
            if !bounds.adds && !bounds.removes {
                // Only who adds a member looks at what renewals alone gave.
                memory.acknowledged = 0;
            }
            if !bounds.promises {
                // Asked where promises may be lived by.
                (memory.refused, memory.electorate) = (false, 0);
            }
        }
        if !bounds.promises {
            for request in s.requests.iter_mut().flatten() {
                request.read.0 = 0;
            }
        }
    }

    /// Whether a reading is long on its way: what it shows is what stands when it is answered, and
    /// nothing counts from its sending, but in the mutant that does.
    pub(super) fn reads_slowly(&self) -> bool {
        self.is(Mutant::WaitAnchoredAtTheSending)
    }
}
