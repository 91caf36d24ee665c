//! The transactions on `primary` and `lease`: what each compares and what it puts (the table of
//! protocol.md section 2).
//!
//! Pure: from the records that a decision read to the transaction that it sends. Agent and
//! coordinator send what these say, and the models of `tests/models` ask the same functions what may
//! be applied (ADR 27): nobody else puts `primary` or `lease`. Which records come after which stands
//! in [`crate::edges`]; who may send one, and when, is its sender's business.
//! Invariant: whatever a decision read, and whatever a transaction puts, it compares; *take* and
//! *promote* put a `lease` that nobody can hold any more, so they need not.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::edges::NoEdge;
use crate::keys::GlobalKey;
use crate::name::{NodeName, OperationId, RequestId, SiteName, SystemIdentifier};
use crate::promotion::{AcceptedLoss, Loss};
use crate::record::{
    EpochHistory, Lease, Primary, PrimaryState, Token, Unknown, VERSION, WritesFenced,
};
use crate::time::WallTime;
use crate::timeline::HistoryPoint;

/// A record must still be as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unchanged {
    /// Which.
    pub record: GlobalKey,
    /// The store's modification revision; `None`: it must not exist.
    pub revision: Option<u64>,
}

/// One transaction: all compares hold, or nothing is put.
#[derive(Debug, Clone, PartialEq)]
pub struct Transaction {
    /// Its row of the table.
    pub name: &'static str,
    /// All must hold.
    pub compares: Vec<Unchanged>,
    /// `primary`, where it is put.
    pub primary: Option<Primary>,
    /// `lease`, where it is put.
    pub lease: Option<Lease>,
    /// `history/e`, where it is put.
    pub history: Option<EpochHistory>,
}

/// `primary` and `lease` as a decision read them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Read<'a> {
    /// `primary`.
    pub primary: &'a Primary,
    /// Its revision.
    pub primary_revision: u64,
    /// The revision of `lease`; `None`: there is none.
    pub lease_revision: Option<u64>,
}

/// Who takes primacy, for the history of its epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taker {
    /// Its site.
    pub site: SiteName,
    /// The site's leader.
    pub node: NodeName,
    /// For people.
    pub at: WallTime,
}

impl Transaction {
    fn new(name: &'static str) -> Self {
        Self { name, compares: Vec::new(), primary: None, lease: None, history: None }
    }

    fn when(mut self, record: GlobalKey, revision: Option<u64>) -> Self {
        self.compares.push(Unchanged { record, revision });
        self
    }

    fn on_primary(self, read: &Read<'_>) -> Self {
        self.when(GlobalKey::Primary, Some(read.primary_revision))
    }

    fn on_lease(self, read: &Read<'_>) -> Self {
        self.when(GlobalKey::Lease, read.lease_revision)
    }

    fn put_primary(self, primary: Primary) -> Self {
        Self { primary: Some(primary), ..self }
    }

    fn put_lease(self, lease: Lease) -> Self {
        Self { lease: Some(lease), ..self }
    }

    /// `primary` as it stands once this was applied to what was read.
    #[must_use]
    pub fn primary_after<'a>(&'a self, read: &Read<'a>) -> &'a Primary {
        self.primary.as_ref().unwrap_or(read.primary)
    }

    /// Whether it is refused once this record has another revision.
    #[must_use]
    pub fn compares(&self, record: &GlobalKey) -> bool {
        self.compares.iter().any(|unchanged| unchanged.record == *record)
    }

    /// The holder has a lease to compare: its absence is compared, where there is none.
    fn changing(name: &'static str, read: &Read<'_>, next: Primary) -> Self {
        Self::new(name).on_primary(read).on_lease(read).put_primary(next)
    }
}

/// A new federation has its first `primary`.
#[must_use]
pub fn create(primary: Primary) -> Transaction {
    Transaction::new("create").when(GlobalKey::Primary, None).put_primary(primary)
}

/// *acquire*, also take-over inside the site: a new tenure.
#[must_use]
pub fn acquire(read: &Read<'_>, tenure: Lease) -> Transaction {
    Transaction::new("acquire").on_primary(read).on_lease(read).put_lease(tenure)
}

/// *renew*: the tenure `lease`, put at this revision, goes on under `primary` at that one. The
/// renewal's own id tells it from another that compares the same.
#[must_use]
pub fn renew(
    (primary_revision, lease_revision): (u64, u64),
    lease: &Lease,
    request: RequestId,
) -> Transaction {
    let next = Lease { counter: lease.counter + 1, request, ..lease.clone() };
    Transaction::new("renew")
        .when(GlobalKey::Primary, Some(primary_revision))
        .when(GlobalKey::Lease, Some(lease_revision))
        .put_lease(next)
}

/// *handover*: the holder is to stop. The coordinator adds what else its decision read.
pub fn handover(
    read: &Read<'_>,
    to: SiteName,
    operation: OperationId,
    span: Duration,
) -> Result<Transaction, NoEdge> {
    let next = read.primary.handed_over(to, operation, span)?;
    Ok(Transaction::new("handover").on_primary(read).put_primary(next))
}

/// *token*: the tenure `lease` ends, stopped cleanly, with no process left.
pub fn token(read: &Read<'_>, lease: &Lease, token: Token) -> Result<Transaction, NoEdge> {
    let next = read.primary.stopped(token)?;
    let released = Lease { released: true, counter: lease.counter + 1, ..lease.clone() };
    Ok(Transaction::changing("token", read, next).put_lease(released))
}

/// *take*: the point of no return. The new lease and the history of the new epoch stand in the same
/// transaction. `tenure` gets the new epoch.
pub fn take(read: &Read<'_>, tenure: Lease, taker: Taker) -> Result<Transaction, NoEdge> {
    let next = read.primary.taken()?;
    let nothing = Loss { at_most: None, at_least_bytes: Some(0) };
    Ok(moved("take", read, next, nothing, tenure, taker))
}

/// *promote*: like *take*, after the wait instead of with a token; the floor falls back to `end`, and
/// what that gives up stands in the history.
pub fn promote(
    read: &Read<'_>,
    (end, loss): (HistoryPoint, Loss),
    tenure: Lease,
    taker: Taker,
) -> Result<Transaction, NoEdge> {
    let next = read.primary.promoted(end)?;
    Ok(moved("promote", read, next, loss, tenure, taker))
}

fn moved(
    name: &'static str,
    read: &Read<'_>,
    next: Primary,
    loss: Loss,
    tenure: Lease,
    taker: Taker,
) -> Transaction {
    let stopping_at = match &read.primary.state {
        PrimaryState::Token { token, .. } => Some(token.stopping_at),
        PrimaryState::Open | PrimaryState::Handover { .. } | PrimaryState::Fenced { .. } => None,
    };
    let history = EpochHistory {
        version: VERSION,
        epoch: next.epoch,
        site: taker.site,
        node: taker.node,
        from: Some(read.primary.holder.clone()),
        operation: read.primary.state.operation().cloned(),
        floor: next.floor.clone(),
        at: taker.at,
        stopping_at,
        lost_bytes: loss.at_least_bytes.unwrap_or(0),
        lost_at_most_ms: loss.at_most_ms(),
        promotions: Vec::new(),
        unknown: Unknown::new(),
    };
    let transaction = Transaction::new(name)
        .on_primary(read)
        .when(GlobalKey::History(next.epoch), None)
        .put_lease(Lease { epoch: next.epoch, ..tenure })
        .put_primary(next);
    Transaction { history: Some(history), ..transaction }
}

/// *roll-back*, by the coordinator, which adds what else its decision read, or by the holder's
/// leader. Take and roll-back compare the same revision, so one of them wins.
pub fn roll_back(read: &Read<'_>) -> Result<Transaction, NoEdge> {
    let next = read.primary.rolled_back()?;
    Ok(Transaction::new("roll-back").on_primary(read).put_primary(next))
}

/// *fence*: nobody acquires, renews or takes any more. The coordinator adds what else its decision
/// read.
pub fn fence(
    read: &Read<'_>,
    to: SiteName,
    operation: OperationId,
    accepted: AcceptedLoss,
) -> Result<Transaction, NoEdge> {
    let next = read.primary.fenced(to, operation, accepted)?;
    Ok(Transaction::new("fence").on_primary(read).put_primary(next))
}

/// *unfence*.
pub fn unfence(read: &Read<'_>) -> Result<Transaction, NoEdge> {
    let next = read.primary.unfenced()?;
    Ok(Transaction::new("unfence").on_primary(read).put_primary(next))
}

/// *fence writes*: the holder's renewals are refused from here on, so that it stops (rule 3), and
/// nothing of its site opens. The coordinator adds what else its decision read.
pub fn fence_writes(read: &Read<'_>, fence: WritesFenced) -> Result<Transaction, NoEdge> {
    let next = read.primary.writes_fenced_by(fence)?;
    Ok(Transaction::new("fence writes").on_primary(read).put_primary(next))
}

/// *unfence writes*: whoever leads the holder's site may acquire again.
pub fn unfence_writes(read: &Read<'_>) -> Result<Transaction, NoEdge> {
    let next = read.primary.writes_unfenced()?;
    Ok(Transaction::new("unfence writes").on_primary(read).put_primary(next))
}

/// The holder of the lease records the identity of a database that it has just made.
#[must_use]
pub fn identity(read: &Read<'_>, system_identifier: SystemIdentifier) -> Transaction {
    let system_identifier = Some(system_identifier);
    let next = Primary { system_identifier, ..read.primary.clone() };
    Transaction::changing("record identity", read, next)
}

/// *electorate +*: the holder of the lease lets another site take primacy.
#[must_use]
pub fn electorate_with(read: &Read<'_>, site: SiteName) -> Transaction {
    let mut electorate: BTreeSet<SiteName> = read.primary.electorate.clone();
    electorate.insert(site);
    Transaction::changing("electorate +", read, Primary { electorate, ..read.primary.clone() })
}

/// Sites leave the electorate, which anyone may let happen: those that remain are named. A site to
/// which primacy is on its way may leave, too: it then takes nothing, and primacy goes back.
pub fn electorate_of(
    read: &Read<'_>,
    remaining: &BTreeSet<SiteName>,
) -> Result<Transaction, NoEdge> {
    let next = read.primary.with_remaining(remaining)?;
    Ok(Transaction::new("electorate -").on_primary(read).put_primary(next))
}

/// The holder of the lease adds a promotion to the history of its epoch, read at this revision: the
/// take comes before the promotion, and a site may fail over inside an epoch.
#[must_use]
pub fn promotion(
    (history, revision): (&EpochHistory, u64),
    lease_revision: u64,
    promotion: HistoryPoint,
) -> Transaction {
    let mut next = history.clone();
    next.promotions.push(promotion);
    let transaction = Transaction::new("record promotion")
        .when(GlobalKey::History(history.epoch), Some(revision))
        .when(GlobalKey::Lease, Some(lease_revision));
    Transaction { history: Some(next), ..transaction }
}

/// *limits*: what the holder of the lease, and its promises, may use at most.
#[must_use]
pub fn limits(read: &Read<'_>, ttl_max: Duration, span_max: Duration) -> Transaction {
    Transaction::changing("limits", read, Primary { ttl_max, span_max, ..read.primary.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Epoch;
    use crate::lsn::Lsn;
    use crate::timeline::TimelineId;

    const SPAN: Duration = Duration::from_secs(30);
    const LOSS: Loss =
        Loss { at_most: Some(Duration::from_millis(1500)), at_least_bytes: Some(64) };

    fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().expect("a name")
    }

    fn point(position: u64) -> HistoryPoint {
        HistoryPoint { timeline: TimelineId(1), position: Lsn::new(position), promotion: None }
    }

    fn open() -> Primary {
        Primary {
            version: VERSION,
            federation: uuid::Uuid::nil(),
            system_identifier: None,
            holder: name("eu"),
            epoch: Epoch::FIRST,
            state: PrimaryState::Open,
            floor: Some(point(3)),
            electorate: [name("eu"), name("us")].into(),
            ttl_max: SPAN,
            span_max: SPAN,
            writes_fenced: None,
            unknown: Unknown::new(),
        }
    }

    fn lease() -> Lease {
        Lease {
            version: VERSION,
            site: name("eu"),
            node: name("eu-1"),
            tenure: name("tenure-1"),
            epoch: Epoch::FIRST,
            counter: 4,
            request: name("request-1"),
            ttl: SPAN,
            released: false,
            unknown: Unknown::new(),
        }
    }

    fn a_token() -> Token {
        Token {
            from: name("eu"),
            epoch: Epoch::FIRST,
            system_identifier: name("7000000000000000001"),
            end: point(7),
            tenure: name("tenure-1"),
            stopping_at: WallTime(5),
        }
    }

    fn taker() -> Taker {
        Taker { site: name("us"), node: name("us-1"), at: WallTime(9) }
    }

    fn by_hand() -> WritesFenced {
        WritesFenced { by: "ann".into(), reason: "a drill".into() }
    }

    fn read(primary: &Primary) -> Read<'_> {
        Read { primary, primary_revision: 11, lease_revision: Some(12) }
    }

    /// The table of protocol.md section 2, row by row.
    #[test]
    fn each_transaction_compares_and_puts_what_the_table_says() {
        let open = open();
        let handed = open.handed_over(name("us"), name("op-1"), SPAN).expect("from open");
        let stopped = handed.stopped(a_token()).expect("from handover");
        let fenced =
            open.fenced(name("us"), name("op-1"), AcceptedLoss::default()).expect("from open");
        let silenced = open.writes_fenced_by(by_hand()).expect("from open");
        let next = Epoch::FIRST.next();
        let all = |result: Result<Transaction, NoEdge>| result.expect("from its state");
        let p = Unchanged { record: GlobalKey::Primary, revision: Some(11) };
        let l = Unchanged { record: GlobalKey::Lease, revision: Some(12) };
        let h = Unchanged { record: GlobalKey::History(next), revision: None };
        let both = vec![p.clone(), l];
        let only = vec![p.clone()];
        let new = vec![p, h];
        // What it compares; whether it puts `primary`, `lease`, the history of an epoch.
        for (transaction, compares, puts) in [
            (acquire(&read(&open), lease()), both.clone(), [false, true, false]),
            (renew((11, 12), &lease(), name("request-2")), both.clone(), [false, true, false]),
            (
                all(handover(&read(&open), name("us"), name("op-1"), SPAN)),
                only.clone(),
                [true, false, false],
            ),
            (all(token(&read(&handed), &lease(), a_token())), both.clone(), [true, true, false]),
            (all(take(&read(&stopped), lease(), taker())), new.clone(), [true, true, true]),
            (
                all(promote(&read(&fenced), (point(2), LOSS), lease(), taker())),
                new,
                [true, true, true],
            ),
            (all(roll_back(&read(&handed))), only.clone(), [true, false, false]),
            (all(roll_back(&read(&stopped))), only.clone(), [true, false, false]),
            (
                all(fence(&read(&open), name("us"), name("op-1"), AcceptedLoss::default())),
                only.clone(),
                [true, false, false],
            ),
            (all(unfence(&read(&fenced))), only.clone(), [true, false, false]),
            (all(fence_writes(&read(&open), by_hand())), only.clone(), [true, false, false]),
            (all(unfence_writes(&read(&silenced))), only, [true, false, false]),
            (electorate_with(&read(&open), name("ap")), both.clone(), [true, false, false]),
            (limits(&read(&open), SPAN / 2, SPAN), both.clone(), [true, false, false]),
            (identity(&read(&open), name("7000000000000000001")), both, [true, false, false]),
        ] {
            let name = transaction.name;
            assert_eq!(transaction.compares, compares, "{name}");
            let put = [
                transaction.primary.is_some(),
                transaction.lease.is_some(),
                transaction.history.is_some(),
            ];
            assert_eq!(put, puts, "{name}");
        }
    }

    #[test]
    fn a_first_acquire_compares_that_there_is_no_lease() {
        let open = open();
        let absent = Read { lease_revision: None, ..read(&open) };
        let wanted = Unchanged { record: GlobalKey::Lease, revision: None };
        assert_eq!(acquire(&absent, lease()).compares[1], wanted);
    }

    #[test]
    fn the_lease_is_renewed_and_released_by_its_own_tenure() {
        let renewed = renew((11, 12), &lease(), name("request-2")).lease.expect("put");
        assert_eq!((renewed.counter, &renewed.request), (5, &name("request-2")));
        assert_eq!((&renewed.tenure, renewed.released), (&lease().tenure, false));
        let handed = open().handed_over(name("us"), name("op-1"), SPAN).expect("from open");
        let ended = token(&read(&handed), &lease(), a_token()).expect("from handover");
        let released = ended.lease.expect("put");
        assert_eq!((released.counter, released.released), (5, true));
        assert_eq!(released.tenure, lease().tenure);
    }

    #[test]
    fn who_takes_holds_the_new_epoch_and_writes_its_history() {
        let handed = open().handed_over(name("us"), name("op-1"), SPAN).expect("from open");
        let stopped = handed.stopped(a_token()).expect("from handover");
        let taken = take(&read(&stopped), lease(), taker()).expect("from token");
        let (primary, history) = (taken.primary.expect("put"), taken.history.expect("put"));
        assert_eq!(taken.lease.expect("put").epoch, primary.epoch);
        assert_eq!((history.epoch, history.floor), (primary.epoch, primary.floor));
        assert_eq!((history.from, history.operation), (Some(name("eu")), Some(name("op-1"))));
        assert_eq!((history.site, history.stopping_at), (name("us"), Some(WallTime(5))));
        assert_eq!((history.lost_bytes, history.lost_at_most_ms), (0, None));
    }

    #[test]
    fn a_promotion_says_in_the_history_what_it_gives_up() {
        let fenced = open().fenced(name("us"), name("op-1"), AcceptedLoss::default());
        let fenced = fenced.expect("from open");
        let promoted = promote(&read(&fenced), (point(2), LOSS), lease(), taker());
        let promoted = promoted.expect("from fenced");
        let (primary, history) = (promoted.primary.expect("put"), promoted.history.expect("put"));
        assert_eq!((&primary.holder, primary.floor), (&name("us"), Some(point(2))));
        assert_eq!(
            (history.epoch, promoted.lease.map(|l| l.epoch)),
            (primary.epoch, Some(primary.epoch))
        );
        assert_eq!((history.lost_bytes, history.lost_at_most_ms), (64, Some(1500)));
        assert_eq!((history.from, history.operation), (Some(name("eu")), Some(name("op-1"))));
    }

    #[test]
    fn a_federation_is_made_only_where_there_is_none() {
        let made = create(open());
        let absent = Unchanged { record: GlobalKey::Primary, revision: None };
        assert_eq!((made.compares, made.primary), (vec![absent], Some(open())));
    }

    #[test]
    fn sites_leave_the_electorate_and_none_comes_in_by_it() {
        let open = open();
        let smaller = electorate_of(&read(&open), &[name("eu"), name("ap")].into());
        let smaller = smaller.expect("the holder remains");
        let wanted = vec![Unchanged { record: GlobalKey::Primary, revision: Some(11) }];
        assert_eq!(smaller.compares, wanted);
        let next = smaller.primary.expect("put");
        assert_eq!(next.electorate, [name("eu")].into());
        assert_eq!(Primary { electorate: open.electorate.clone(), ..next }, open);
    }

    #[test]
    fn a_promotion_enters_the_history_that_was_read_under_the_lease_that_was_read() {
        let handed = open().handed_over(name("us"), name("op-1"), SPAN).expect("from open");
        let stopped = handed.stopped(a_token()).expect("from handover");
        let taken = take(&read(&stopped), lease(), taker()).expect("from token");
        let history = taken.history.expect("put");
        let recorded = promotion((&history, 21), 12, point(8));
        let wanted = [(GlobalKey::History(history.epoch), 21), (GlobalKey::Lease, 12)];
        let wanted = wanted.map(|(record, at)| Unchanged { record, revision: Some(at) });
        assert_eq!(recorded.compares, wanted);
        assert_eq!((&recorded.primary, &recorded.lease), (&None, &None));
        let promotions = vec![point(8)];
        assert_eq!(recorded.history, Some(EpochHistory { promotions, ..history }));
    }

    #[test]
    fn the_holder_changes_electorate_and_limits_and_nothing_else() {
        let open = open();
        let added = electorate_with(&read(&open), name("ap")).primary.expect("put");
        assert_eq!(added.electorate.len(), 3);
        assert_eq!(Primary { electorate: open.electorate.clone(), ..added }, open);
        let lower = limits(&read(&open), SPAN / 2, SPAN / 3).primary.expect("put");
        assert_eq!((lower.ttl_max, lower.span_max), (SPAN / 2, SPAN / 3));
        assert_eq!(Primary { ttl_max: SPAN, span_max: SPAN, ..lower }, open);
    }
}
