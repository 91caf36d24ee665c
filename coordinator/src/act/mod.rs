//! Performs what was decided: one transaction on the global quorum. No choices, no retry; the
//! outcome comes back as an observation.

pub mod session;

use std::time::Duration;

use regent_dcs::{Change, Compare, LeaseId, Store, StoreError, Txn, TxnOutcome};
use regent_proto::keys::GlobalKeys;
use regent_proto::record::Record as _;

use crate::decide::write::{Expect, Put, Write};

/// The longest wait for one answer of the quorum.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// The write as a transaction of the store.
#[must_use]
pub fn transaction(keys: &GlobalKeys, write: &Write) -> Txn {
    let compares = write.compares.iter().map(|expect| compare(keys, expect)).collect();
    let puts = write.puts.iter().map(|put| change(keys, put));
    let forgets = write.forgets.iter().map(|id| Change::delete(keys.operation(id)));
    let changes = puts.chain(forgets).collect();
    Txn { compares, changes }
}

fn compare(keys: &GlobalKeys, expect: &Expect) -> Compare {
    let key = keys.of(&expect.record);
    match expect.revision {
        Some(revision) => Compare::Modified { key, revision: regent_dcs::Revision(revision.0) },
        None => Compare::Absent { key },
    }
}

fn change(keys: &GlobalKeys, put: &Put) -> Change {
    let key = keys.of(&put.record());
    match put {
        Put::Topology(record) => Change::put(key, record.encode()),
        Put::Primary(record) => Change::put(key, record.encode()),
        Put::Assignment(_, record) => Change::put(key, record.encode()),
        Put::Running(record) => Change::put(key, record.encode()),
        Put::Operation(record) => Change::put(key, record.encode()),
        Put::Leader(record, lease) => Change::put_leased(key, record.encode(), LeaseId(lease.0)),
        Put::Coordinator(record, lease) => {
            Change::put_leased(key, record.encode(), LeaseId(lease.0))
        }
    }
}

/// Performs a write.
pub async fn perform(
    store: &dyn Store,
    keys: &GlobalKeys,
    write: &Write,
) -> Result<TxnOutcome, StoreError> {
    store.txn(transaction(keys, write), CALL_TIMEOUT).await
}

/// Whether the quorum holds exactly what `write` would have put: it was applied. The contrary is
/// not certain: a write whose answer was lost may yet be applied, or was overwritten.
pub async fn read_back(
    store: &dyn Store,
    keys: &GlobalKeys,
    write: &Write,
) -> Result<bool, StoreError> {
    for change in transaction(keys, write).changes {
        match change {
            Change::Put { key, value, .. } => {
                let found = store.get(&key, CALL_TIMEOUT).await?;
                if found.is_none_or(|entry| entry.value != value) {
                    return Ok(false);
                }
            }
            Change::Delete { key } => {
                if store.get(&key, CALL_TIMEOUT).await?.is_some() {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}
