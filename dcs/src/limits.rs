//! What every store refuses before it is asked, so that all of them refuse the same.
//!
//! The figures lie under etcd's defaults (requests of 1.5 MiB, 128 operations), so that what one
//! store takes the others take too.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::{Change, Txn};

/// The largest value of a key.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// The largest sum of keys and values in one transaction.
pub const TXN_BYTES_MAX: usize = VALUE_BYTES_MAX + 64 * 1024;
/// The most compares, and the most changes, of one transaction.
pub const TXN_OPERATIONS_MAX: usize = 128;
/// The longest TTL: longer ones are mistakes of unit.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why this key can't be one.
pub fn key(key: &str) -> Result<(), String> {
    if key.is_empty() { Err("the key is empty".to_owned()) } else { Ok(()) }
}

/// Why this can't be a TTL.
pub fn ttl(ttl: Duration) -> Result<(), String> {
    if ttl.is_zero() {
        return Err("a lease with a TTL of zero".to_owned());
    }
    if ttl > LEASE_TTL_MAX {
        return Err(format!("a TTL of {ttl:?}; the longest is {LEASE_TTL_MAX:?}"));
    }
    Ok(())
}

/// Why this transaction can't be one.
pub fn txn(txn: &Txn) -> Result<(), String> {
    if txn.compares.len() > TXN_OPERATIONS_MAX || txn.changes.len() > TXN_OPERATIONS_MAX {
        return Err(format!(
            "{} compares and {} changes; {TXN_OPERATIONS_MAX} of each are the most",
            txn.compares.len(),
            txn.changes.len(),
        ));
    }
    let mut bytes = 0;
    for compare in &txn.compares {
        key(compare.key())?;
        bytes += compare.key().len();
    }
    let mut changed = BTreeSet::new();
    for change in &txn.changes {
        key(change.key())?;
        bytes += change.key().len();
        if !changed.insert(change.key()) {
            return Err(format!("the key {} is changed twice", change.key()));
        }
        if let Change::Put { value, key, .. } = change {
            bytes += value.len();
            if value.len() > VALUE_BYTES_MAX {
                return Err(format!(
                    "the value for {key} has {} bytes; {VALUE_BYTES_MAX} are the most",
                    value.len(),
                ));
            }
        }
    }
    if bytes > TXN_BYTES_MAX {
        return Err(format!("{bytes} bytes in one transaction; {TXN_BYTES_MAX} are the most"));
    }
    Ok(())
}

/// The first byte string after all keys that begin with `prefix`.
pub(crate) fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    // The empty prefix: this byte begins no UTF-8 text.
    vec![0xff]
}

/// What a transaction does, for messages: `change a, b if c is as read`.
pub(crate) fn describe(txn: &Txn) -> String {
    let list = |keys: Vec<&str>| -> String {
        let shown = keys.iter().take(4).copied().collect::<Vec<_>>().join(", ");
        match keys.len().checked_sub(4) {
            Some(more) if more > 0 => format!("{shown} and {more} more"),
            _ => shown,
        }
    };
    let changes = list(txn.changes.iter().map(Change::key).collect());
    let changes =
        if changes.is_empty() { "compare only".to_owned() } else { format!("change {changes}") };
    if txn.compares.is_empty() {
        changes
    } else {
        format!("{changes} if {}", list(txn.compares.iter().map(|c| c.key()).collect()))
    }
}
