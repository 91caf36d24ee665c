//! Between our words and etcd's.

use std::time::Duration;

use etcd_client::{
    Compare as EtcdCompare, CompareOp, EventType, KeyValue, PutOptions, ResponseHeader,
    Txn as EtcdTxn, TxnOp, TxnOpResponse, TxnResponse,
};

use crate::{Change, Compare, Entry, Event, LeaseId, Revision, Txn, TxnOutcome};

/// One key, or `None` for one that is not text: it is somebody else's, and no call of ours could
/// name it.
pub(super) fn entry(pair: &KeyValue) -> Option<Entry> {
    Some(Entry {
        key: key(pair)?,
        value: pair.value().to_vec().into(),
        created: revision(pair.create_revision()),
        modified: revision(pair.mod_revision()),
        lease: (pair.lease() != 0).then(|| LeaseId(pair.lease())),
    })
}

fn key(pair: &KeyValue) -> Option<String> {
    match pair.key_str() {
        Ok(key) => Some(key.to_owned()),
        Err(_) => {
            tracing::warn!(key = ?pair.key(), "passed over a key that is not UTF-8");
            None
        }
    }
}

/// One event, with its revision.
pub(super) fn event(event: &etcd_client::Event) -> Option<(Revision, Event)> {
    let pair = event.kv()?;
    let at = revision(pair.mod_revision());
    let event = match event.event_type() {
        EventType::Put => Event::Put(entry(pair)?),
        EventType::Delete => Event::Deleted { key: key(pair)?, revision: at },
    };
    Some((at, event))
}

/// A transaction that answers a conflict with what the compared keys held.
pub(super) fn request(txn: &Txn) -> EtcdTxn {
    let compares: Vec<_> = txn.compares.iter().flat_map(compare).collect();
    let changes: Vec<_> = txn.changes.iter().map(change).collect();
    let found: Vec<_> =
        txn.compares.iter().map(|compare| TxnOp::get(compare.key(), None)).collect();
    EtcdTxn::new().when(compares).and_then(changes).or_else(found)
}

fn compare(compare: &Compare) -> Vec<EtcdCompare> {
    match compare {
        // No key has revision 0, but etcd takes an absent key for one that has.
        Compare::Modified { key, revision: Revision(0) } => {
            vec![EtcdCompare::version(key.as_str(), CompareOp::Less, 0)]
        }
        Compare::Modified { key, revision } => {
            vec![EtcdCompare::mod_revision(key.as_str(), CompareOp::Equal, signed(*revision))]
        }
        Compare::Absent { key } => {
            vec![EtcdCompare::version(key.as_str(), CompareOp::Equal, 0)]
        }
        Compare::Value { key, value } => {
            vec![EtcdCompare::value(key.as_str(), CompareOp::Equal, value.clone())]
        }
    }
}

fn change(change: &Change) -> TxnOp {
    match change {
        Change::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key.as_str(), value.clone(), options)
        }
        Change::Delete { key } => TxnOp::delete(key.as_str(), None),
    }
}

pub(super) fn outcome(answer: &TxnResponse) -> TxnOutcome {
    if answer.succeeded() {
        return TxnOutcome::Applied { revision: header_revision(answer.header()) };
    }
    let found = answer.op_responses().into_iter().map(|response| match response {
        TxnOpResponse::Get(found) => found.kvs().first().and_then(entry),
        // The "else" branch has nothing but gets.
        TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
    });
    TxnOutcome::Conflict { found: found.collect() }
}

pub(super) fn header_revision(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(Revision(0), |header| revision(header.revision()))
}

/// etcd's numbers are signed on the wire and never negative.
pub(super) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// A TTL as etcd tells it; `None` for "there is no such lease".
pub(super) fn seconds(ttl: i64) -> Option<Duration> {
    u64::try_from(ttl).ok().filter(|ttl| *ttl > 0).map(Duration::from_secs)
}

/// etcd counts in seconds: a lease is rounded up, since it must not end early.
pub(super) fn whole_seconds(ttl: Duration) -> i64 {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
