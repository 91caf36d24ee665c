//! The edges of `primary`: from the record as read to the record that a transaction puts
//! (protocol.md section 2). There is no other edge. What else a transaction compares, and who may
//! send it, is the business of whoever sends it.
//! Invariant: primacy is only on its way to, and only moves to, a member of the electorate ("the sites
//! that may take primacy", section 1). Both are asked: anyone may remove a site at any instant, also
//! between handover and take, and a `primary` whose holder is no member is one that nobody reads.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::name::{OperationId, SiteName};
use crate::promotion::AcceptedLoss;
use crate::record::{Primary, PrimaryState, Token, WritesFenced};
use crate::timeline::HistoryPoint;

/// There is no such edge from the record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoEdge {
    /// It is not in a state that the transaction starts from.
    #[error("{transaction}: `primary` is {state}, which this transaction does not start from")]
    State {
        /// Which transaction.
        transaction: &'static str,
        /// The state seen.
        state: &'static str,
    },
    /// Primacy would go to who may not take it.
    #[error("{transaction}: {site} is not in the electorate, so it may not take primacy")]
    NoMember {
        /// Which transaction.
        transaction: &'static str,
        /// Whose primacy it would be.
        site: SiteName,
    },
    /// The holder would leave the electorate.
    #[error("{transaction}: {site} holds primacy, so it stays in the electorate")]
    Holder {
        /// Which transaction.
        transaction: &'static str,
        /// The holder.
        site: SiteName,
    },
}

impl Primary {
    fn no_edge(&self, transaction: &'static str) -> NoEdge {
        NoEdge::State { transaction, state: self.state.name() }
    }

    fn member(&self, transaction: &'static str, site: &SiteName) -> Result<(), NoEdge> {
        if self.electorate.contains(site) {
            Ok(())
        } else {
            Err(NoEdge::NoMember { transaction, site: site.clone() })
        }
    }

    fn in_state(&self, state: PrimaryState) -> Self {
        Self { state, ..self.clone() }
    }

    /// *handover*: the holder is to stop.
    pub fn handed_over(
        &self,
        to: SiteName,
        operation: OperationId,
        span: Duration,
    ) -> Result<Self, NoEdge> {
        match &self.state {
            PrimaryState::Open => {
                self.member("handover", &to)?;
                Ok(self.in_state(PrimaryState::Handover { to, operation, span }))
            }
            PrimaryState::Handover { .. }
            | PrimaryState::Token { .. }
            | PrimaryState::Fenced { .. } => Err(self.no_edge("handover")),
        }
    }

    /// *token*: the holder has stopped; what it ended with is the new floor.
    pub fn stopped(&self, token: Token) -> Result<Self, NoEdge> {
        let PrimaryState::Handover { to, operation, span } = &self.state else {
            return Err(self.no_edge("token"));
        };
        let floor = Some(token.end.clone());
        let (to, operation, span) = (to.clone(), operation.clone(), *span);
        Ok(Self { floor, ..self.in_state(PrimaryState::Token { to, operation, span, token }) })
    }

    /// *take*: primacy moves to whom the token is for.
    pub fn taken(&self) -> Result<Self, NoEdge> {
        let PrimaryState::Token { to, token, .. } = &self.state else {
            return Err(self.no_edge("take"));
        };
        self.member("take", to)?;
        let floor = Some(token.end.clone());
        let (holder, epoch) = (to.clone(), self.epoch.next());
        Ok(Self { holder, epoch, floor, ..self.in_state(PrimaryState::Open) })
    }

    /// *roll-back*: primacy stays where it is; the floor is kept.
    pub fn rolled_back(&self) -> Result<Self, NoEdge> {
        match &self.state {
            PrimaryState::Handover { .. } | PrimaryState::Token { .. } => {
                Ok(self.in_state(PrimaryState::Open))
            }
            PrimaryState::Open | PrimaryState::Fenced { .. } => Err(self.no_edge("roll-back")),
        }
    }

    /// *fence*: nobody acquires, renews or takes any more.
    pub fn fenced(
        &self,
        to: SiteName,
        operation: OperationId,
        accepted: AcceptedLoss,
    ) -> Result<Self, NoEdge> {
        match &self.state {
            PrimaryState::Open | PrimaryState::Handover { .. } | PrimaryState::Token { .. } => {
                self.member("fence", &to)?;
                Ok(self.in_state(PrimaryState::Fenced { to, operation, accepted }))
            }
            PrimaryState::Fenced { .. } => Err(self.no_edge("fence")),
        }
    }

    /// *promote*: primacy moves to whom it was fenced for, which has `end`: the floor falls back to
    /// it, here alone. A fence of the writes was of the old holder's.
    pub fn promoted(&self, end: HistoryPoint) -> Result<Self, NoEdge> {
        let PrimaryState::Fenced { to, .. } = &self.state else {
            return Err(self.no_edge("promote"));
        };
        self.member("promote", to)?;
        let (holder, epoch, floor) = (to.clone(), self.epoch.next(), Some(end));
        let open = self.in_state(PrimaryState::Open);
        Ok(Self { holder, epoch, floor, writes_fenced: None, ..open })
    }

    /// *electorate −*: those that remain are named, and the holder must.
    pub fn with_remaining(&self, remaining: &BTreeSet<SiteName>) -> Result<Self, NoEdge> {
        let electorate: BTreeSet<SiteName> =
            self.electorate.intersection(remaining).cloned().collect();
        if electorate.contains(&self.holder) {
            Ok(Self { electorate, ..self.clone() })
        } else {
            let (transaction, site) = ("electorate -", self.holder.clone());
            Err(NoEdge::Holder { transaction, site })
        }
    }

    /// *unfence*: the same holder, epoch and floor.
    pub fn unfenced(&self) -> Result<Self, NoEdge> {
        match &self.state {
            PrimaryState::Fenced { .. } => Ok(self.in_state(PrimaryState::Open)),
            PrimaryState::Open | PrimaryState::Handover { .. } | PrimaryState::Token { .. } => {
                Err(self.no_edge("unfence"))
            }
        }
    }

    /// *fence writes*: the holder keeps primacy and writes no more, whoever leads it, until this is lifted.
    pub fn writes_fenced_by(&self, fence: WritesFenced) -> Result<Self, NoEdge> {
        self.in_open("fence writes", self.writes_fenced.is_none())?;
        Ok(Self { writes_fenced: Some(fence), ..self.clone() })
    }

    /// *unfence writes*: the holder may write again.
    pub fn writes_unfenced(&self) -> Result<Self, NoEdge> {
        self.in_open("unfence writes", self.writes_fenced.is_some())?;
        Ok(Self { writes_fenced: None, ..self.clone() })
    }

    /// Primacy rests, and the operator's fence is as it must be: an operation that moves primacy ends
    /// first, so that nobody has to ask what a fence means in the middle of one.
    fn in_open(&self, transaction: &'static str, fits: bool) -> Result<(), NoEdge> {
        match &self.state {
            PrimaryState::Open if fits => Ok(()),
            PrimaryState::Open => {
                let fenced = self.writes_fenced.is_some();
                let state = if fenced { "open with writes fenced" } else { "open for writes" };
                Err(NoEdge::State { transaction, state })
            }
            PrimaryState::Handover { .. }
            | PrimaryState::Token { .. }
            | PrimaryState::Fenced { .. } => Err(self.no_edge(transaction)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Epoch;
    use crate::lsn::Lsn;
    use crate::record::{Unknown, VERSION};
    use crate::time::WallTime;
    use crate::timeline::TimelineId;

    const SPAN: Duration = Duration::from_secs(30);

    fn site(name: &str) -> SiteName {
        name.parse().expect("a label")
    }

    fn operation() -> OperationId {
        "op-1".parse().expect("an identifier")
    }

    fn point(position: u64) -> HistoryPoint {
        HistoryPoint { timeline: TimelineId(1), position: Lsn::new(position), promotion: None }
    }

    fn token() -> Token {
        Token {
            from: site("eu"),
            epoch: Epoch::FIRST,
            system_identifier: "7000000000000000001".parse().expect("digits"),
            end: point(7),
            tenure: "tenure-1".parse().expect("an identifier"),
            stopping_at: WallTime(0),
        }
    }

    fn open() -> Primary {
        Primary {
            version: VERSION,
            federation: uuid::Uuid::nil(),
            system_identifier: None,
            holder: site("eu"),
            epoch: Epoch::FIRST,
            state: PrimaryState::Open,
            floor: Some(point(3)),
            electorate: ["eu", "us"].into_iter().map(site).collect(),
            ttl_max: SPAN,
            span_max: SPAN,
            writes_fenced: None,
            unknown: Unknown::new(),
        }
    }

    #[test]
    fn every_edge_starts_from_its_states_and_from_no_other() {
        let handover = open().handed_over(site("us"), operation(), SPAN).expect("from open");
        let token = handover.stopped(token()).expect("from handover");
        let fenced =
            open().fenced(site("us"), operation(), AcceptedLoss::default()).expect("from open");
        let states = [open(), handover, token, fenced];
        type Edge = fn(&Primary) -> Result<Primary, NoEdge>;
        let edges: [(&str, Edge, [bool; 4]); 7] = [
            (
                "handover",
                |p| p.handed_over(site("us"), operation(), SPAN),
                [true, false, false, false],
            ),
            ("token", |p| p.stopped(self::token()), [false, true, false, false]),
            ("take", Primary::taken, [false, false, true, false]),
            ("roll-back", Primary::rolled_back, [false, true, true, false]),
            (
                "fence",
                |p| p.fenced(site("us"), operation(), AcceptedLoss::default()),
                [true, true, true, false],
            ),
            ("promote", |p| p.promoted(point(5)), [false, false, false, true]),
            ("unfence", Primary::unfenced, [false, false, false, true]),
        ];
        for (name, edge, starts) in edges {
            for (from, starts) in states.iter().zip(starts) {
                let error = edge(from).err();
                let wanted = NoEdge::State { transaction: name, state: from.state.name() };
                assert_eq!(error, (!starts).then_some(wanted), "{name} from {}", from.state.name());
            }
        }
    }

    #[test]
    fn primacy_moves_with_a_new_epoch_and_the_floor_falls_back_in_a_promotion_alone() {
        let handover = open().handed_over(site("us"), operation(), SPAN).expect("from open");
        let token = handover.stopped(token()).expect("from handover");
        let taken = token.taken().expect("from token");
        let back = token.rolled_back().expect("from token");
        let fenced =
            token.fenced(site("us"), operation(), AcceptedLoss::default()).expect("from token");
        let unfenced = fenced.unfenced().expect("from fenced");
        let promoted = fenced.promoted(point(5)).expect("from fenced");
        for (what, record, holder, epoch, floor) in [
            ("handover", &handover, "eu", 1, 3),
            ("token", &token, "eu", 1, 7),
            ("take", &taken, "us", 2, 7),
            ("roll-back", &back, "eu", 1, 7),
            ("fence", &fenced, "eu", 1, 7),
            ("unfence", &unfenced, "eu", 1, 7),
            ("promote", &promoted, "us", 2, 5),
        ] {
            let found = (&record.holder, record.epoch.get(), record.floor.clone());
            assert_eq!(found, (&site(holder), epoch, Some(point(floor))), "{what}");
            assert_eq!(record.electorate, open().electorate, "{what}");
        }
        assert!([taken, back, unfenced, promoted].iter().all(|p| p.state == PrimaryState::Open));
    }

    #[test]
    fn primacy_goes_to_no_site_that_is_not_or_no_more_in_the_electorate() {
        let handover = open().handed_over(site("us"), operation(), SPAN).expect("from open");
        let token = handover.stopped(token()).expect("from handover");
        let fenced =
            token.fenced(site("us"), operation(), AcceptedLoss::default()).expect("from token");
        let without = |primary: &Primary| {
            let eu = [site("eu")].into();
            primary.with_remaining(&eu).expect("the holder remains")
        };
        // Removed before, and while primacy is on its way.
        for (transaction, refused) in [
            ("handover", without(&open()).handed_over(site("us"), operation(), SPAN)),
            ("fence", without(&open()).fenced(site("us"), operation(), AcceptedLoss::default())),
            ("fence", without(&handover).fenced(site("us"), operation(), AcceptedLoss::default())),
            ("take", without(&token).taken()),
            ("promote", without(&fenced).promoted(point(5))),
        ] {
            assert_eq!(refused, Err(NoEdge::NoMember { transaction, site: site("us") }));
        }
        // And there is a way back from each.
        let back = without(&handover).stopped(self::token()).expect("from handover");
        for open in [without(&token).rolled_back(), back.rolled_back(), without(&fenced).unfenced()]
        {
            let open = open.expect("a way back");
            assert_eq!((open.holder, open.state), (site("eu"), PrimaryState::Open));
        }
    }

    #[test]
    fn writes_are_fenced_where_primacy_rests_and_nothing_else_changes() {
        let by = || WritesFenced { by: "ann".into(), reason: "a drill".into() };
        let fenced = open().writes_fenced_by(by()).expect("from open");
        assert_eq!(fenced, Primary { writes_fenced: Some(by()), ..open() });
        assert_eq!(fenced.writes_unfenced(), Ok(open()));
        // It was of the holder: who is promoted in its place writes, and who is not keeps it.
        let promoting =
            fenced.fenced(site("us"), operation(), AcceptedLoss::default()).expect("from open");
        assert_eq!(promoting.unfenced(), Ok(fenced.clone()));
        assert_eq!(promoting.promoted(point(5)).map(|p| p.writes_fenced), Ok(None));
        // Twice is no edge, and neither is one in the middle of what moves primacy.
        let state = |transaction, state| Err(NoEdge::State { transaction, state });
        let twice = fenced.writes_fenced_by(by());
        assert_eq!(twice, state("fence writes", "open with writes fenced"));
        assert_eq!(open().writes_unfenced(), state("unfence writes", "open for writes"));
        let handover = open().handed_over(site("us"), operation(), SPAN).expect("from open");
        let token = handover.stopped(token()).expect("from handover");
        let promoting =
            open().fenced(site("us"), operation(), AcceptedLoss::default()).expect("from open");
        for moving in [handover, token, promoting] {
            let name = moving.state.name();
            assert_eq!(moving.writes_fenced_by(by()), state("fence writes", name));
            assert_eq!(moving.writes_unfenced(), state("unfence writes", name));
        }
    }

    #[test]
    fn the_holder_stays_in_the_electorate() {
        let smaller = open().with_remaining(&[site("eu"), site("ap")].into());
        assert_eq!(smaller.map(|p| p.electorate), Ok([site("eu")].into()));
        let refused = open().with_remaining(&[site("us")].into());
        let (transaction, site) = ("electorate -", site("eu"));
        assert_eq!(refused, Err(NoEdge::Holder { transaction, site }));
    }
}
