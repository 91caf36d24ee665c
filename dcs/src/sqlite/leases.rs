//! Leases: rows with an expiry on the boot clock, ended by whoever looks first.
//!
//! An expiry is the time read *within* the transaction that grants or renews, plus the TTL; the
//! request was sent before that, so a lease never ends early for its holder. All expiries are of
//! one boot, named in the books. After a reboot nobody can say how much time has passed, so every
//! lease restarts with its full TTL: late, never early.

use std::time::Duration;

use regent_proto::time::BootTime;
use rusqlite::{OptionalExtension, Transaction, params};

use super::database::{Books, delete, signed};
use crate::clock::BootClock;
use crate::{LeaseId, Revision};

/// Ends what is due, or restarts all leases when another boot left them.
pub(super) fn bring_up_to_date(
    transaction: &Transaction<'_>,
    books: &mut Books,
    clock: &BootClock,
) -> rusqlite::Result<()> {
    let now = clock.now();
    if books.boot != clock.boot() {
        transaction
            .prepare_cached("UPDATE lease SET expires = ?1 + ttl")?
            .execute([signed(now.nanos())])?;
        clock.boot().clone_into(&mut books.boot);
        return Ok(());
    }
    if books.next_expiry.is_none_or(|next| next > now) {
        return Ok(());
    }
    let due = transaction
        .prepare_cached("SELECT id FROM lease WHERE expires <= ?1 ORDER BY expires, id")?
        .query_map([signed(now.nanos())], |row| row.get(0).map(LeaseId))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for lease in due {
        tracing::debug!(lease = lease.0, "lease expired");
        end(transaction, books, lease)?;
    }
    Ok(())
}

/// Removes a lease and its keys, all at one revision. A lease that isn't there is no error.
pub(super) fn end(
    transaction: &Transaction<'_>,
    books: &mut Books,
    lease: LeaseId,
) -> rusqlite::Result<()> {
    let keys = transaction
        .prepare_cached("SELECT key FROM entry WHERE lease = ?1 ORDER BY key")?
        .query_map([lease.0], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<Vec<u8>>>>()?;
    let next = Revision(books.revision.0 + 1);
    for key in keys {
        if delete(transaction, &key, next)? {
            books.revision = next;
        }
    }
    transaction.prepare_cached("DELETE FROM lease WHERE id = ?1")?.execute([lease.0]).map(drop)
}

/// A new lease. Its id is random: an id that is counted up would come again in a store that was
/// made anew, and a holder of the old one would renew a stranger's lease.
pub(super) fn grant(
    transaction: &Transaction<'_>,
    ttl: Duration,
    now: BootTime,
) -> rusqlite::Result<LeaseId> {
    loop {
        let random = getrandom::u64()
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        let id = LeaseId(signed(random >> 1));
        if id.0 != 0 && !exists(transaction, id)? {
            transaction
                .prepare_cached("INSERT INTO lease (id, ttl, expires) VALUES (?1, ?2, ?3)")?
                .execute(params![id.0, nanos(ttl), signed(now.plus(ttl).nanos())])?;
            return Ok(id);
        }
    }
}

/// Starts the lease's TTL again; its TTL, or `None` when there is no such lease.
pub(super) fn renew(
    transaction: &Transaction<'_>,
    lease: LeaseId,
    now: BootTime,
) -> rusqlite::Result<Option<Duration>> {
    let ttl: Option<i64> = transaction
        .prepare_cached("UPDATE lease SET expires = ?2 + ttl WHERE id = ?1 RETURNING ttl")?
        .query_row(params![lease.0, signed(now.nanos())], |row| row.get(0))
        .optional()?;
    Ok(ttl.map(|nanos| Duration::from_nanos(nanos.unsigned_abs())))
}

/// Whether there is such a lease.
pub(super) fn exists(transaction: &Transaction<'_>, lease: LeaseId) -> rusqlite::Result<bool> {
    transaction.prepare_cached("SELECT 1 FROM lease WHERE id = ?1")?.exists([lease.0])
}

fn nanos(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_nanos()).unwrap_or(i64::MAX)
}
