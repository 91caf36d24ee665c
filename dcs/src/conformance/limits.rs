//! What is refused, and how long a call may take.

use std::time::Duration;

use super::context::Context;
use super::{Failure, ensure, same};
use crate::limits::{LEASE_TTL_MAX, TXN_OPERATIONS_MAX, VALUE_BYTES_MAX};
use crate::{Change, Compare, StoreError, Txn};

pub(super) async fn bad_requests_are_refused(context: &Context<'_>) -> Result<(), Failure> {
    let store = context.open().await?;
    let timeout = context.expect().timeout;
    let a = context.key("a");
    let many = |count: usize| Txn {
        compares: Vec::new(),
        changes: (0..count).map(|i| Change::put(context.key(&i.to_string()), "x")).collect(),
    };
    context.midway().await;
    let bad = [
        ("a key put twice", {
            Txn::new().then(Change::put(a.as_str(), "1")).then(Change::put(a.as_str(), "2"))
        }),
        ("a key put and deleted", {
            Txn::new().then(Change::put(a.as_str(), "1")).then(Change::delete(a.as_str()))
        }),
        ("an empty key", Txn::new().then(Change::put("", "1"))),
        ("an empty key compared", {
            Txn::new()
                .when(Compare::Absent { key: String::new() })
                .then(Change::put(a.as_str(), "1"))
        }),
        ("a value too large", Txn::new().then(Change::put(&*a, vec![0; VALUE_BYTES_MAX + 1]))),
        ("two values too large together", {
            Txn::new()
                .then(Change::put(&*a, vec![0; VALUE_BYTES_MAX]))
                .then(Change::put(context.key("b"), vec![0; VALUE_BYTES_MAX]))
        }),
        ("too many changes", many(TXN_OPERATIONS_MAX + 1)),
    ];
    for (what, txn) in bad {
        let outcome = store.txn(txn, timeout).await;
        ensure(matches!(outcome, Err(StoreError::Refused { .. })), || {
            format!("{what}: {outcome:?}")
        })?;
    }
    let outcome = store.get("", timeout).await;
    ensure(matches!(outcome, Err(StoreError::Refused { .. })), || format!("get: {outcome:?}"))?;
    for ttl in [Duration::ZERO, LEASE_TTL_MAX + Duration::from_secs(1)] {
        let outcome = store.grant(ttl, timeout).await;
        ensure(matches!(outcome, Err(StoreError::Refused { .. })), || {
            format!("{ttl:?}: {outcome:?}")
        })?;
    }
    let found = context.range(store.as_ref(), &context.key("")).await?.entries;
    same("what that left behind", &found, &Vec::new())?;
    // And the most that is allowed is.
    context.apply(store.as_ref(), many(TXN_OPERATIONS_MAX - 1)).await.map(drop)
}

pub(super) async fn timeouts_are_kept(context: &Context<'_>) -> Result<(), Failure> {
    /// What the machine may add: other programs run on it.
    const SLACK: Duration = Duration::from_secs(1);
    let store = context.open().await?;
    let key = context.key("a");
    context.put(store.as_ref(), &key, "0").await?;
    let lease = context.grant(store.as_ref()).await?;
    context.midway().await;
    for (turn, micros) in [0, 1, 100, 1_000, 5_000, 50_000].into_iter().enumerate() {
        let timeout = Duration::from_micros(micros);
        let begun = context.now();
        let txn = Txn::new().then(Change::put(key.as_str(), turn.to_string()));
        let outcomes = [
            store.get(&key, timeout).await.err(),
            store.range(&key, timeout).await.err(),
            store.txn(txn, timeout).await.err(),
            store.renew(lease.id, timeout).await.err(),
        ];
        let took = context.now().since(begun);
        ensure(took <= timeout * 4 + SLACK, || format!("{timeout:?} each, but took {took:?}"))?;
        let [get, range, txn, renew] = outcomes;
        for read in [get, range].into_iter().flatten() {
            ensure(matches!(read, StoreError::NotDone { .. }), || format!("a read: {read}"))?;
        }
        for write in [txn, renew].into_iter().flatten() {
            ensure(!matches!(write, StoreError::Refused { .. }), || format!("a write: {write}"))?;
        }
    }
    // The store is as usable as before.
    context.put(store.as_ref(), &key, "end").await?;
    context.revoke(store.as_ref(), lease.id).await
}
