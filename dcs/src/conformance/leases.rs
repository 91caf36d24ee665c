//! Leases: as long as promised, never shorter, and no key outlives its lease.

use std::time::Duration;

use super::context::Context;
use super::{Failure, ensure, same};
use crate::{Change, Compare, LeaseId, Renewal, Store, StoreError, Txn};

/// Between two looks at a key that is to go by itself.
const LOOK_EVERY: Duration = Duration::from_millis(20);

async fn put_leased(
    context: &Context<'_>,
    store: &dyn Store,
    key: &str,
    lease: LeaseId,
) -> Result<(), Failure> {
    let txn = Txn::new().then(Change::put_leased(key, "held", lease));
    context.apply(store, txn).await.map(drop)
}

pub(super) async fn renewed_lease_lives(context: &Context<'_>) -> Result<(), Failure> {
    let stores = context.open_many(2).await?;
    let (holder, other) = (stores[0].as_ref(), stores[1].as_ref());
    let key = context.key("leader");
    let lease = context.grant(holder).await?;
    ensure(lease.ttl >= context.expect().ttl, || format!("a TTL of only {:?}", lease.ttl))?;
    put_leased(context, holder, &key, lease.id).await?;
    let entry = context.get(other, &key).await?;
    same("the lease of the key", &entry.and_then(|e| e.lease), &Some(lease.id))?;
    context.midway().await;
    // Twice its TTL it could not last without renewals.
    let end = context.now().plus(lease.ttl * 2);
    let mut deadline = context.now();
    while context.now() < end {
        let sent = context.now();
        match context.renew(holder, lease.id).await? {
            Renewal::Renewed { ttl } => {
                same("the TTL renewed", &ttl, &lease.ttl)?;
                deadline = sent.plus(ttl);
            }
            // Disturbance, or a busy machine, may keep renewals away for a whole TTL.
            Renewal::Lost => {
                let late = context.now() >= deadline;
                return ensure(late, || "lost before its time".to_owned());
            }
        }
        let found = context.get(other, &key).await?;
        ensure(found.is_some() || context.now() >= deadline, || {
            "the key went although its lease was renewed".to_owned()
        })?;
        context.reach(sent.plus(lease.ttl / 4)).await;
    }
    Ok(())
}

pub(super) async fn lease_never_ends_early(context: &Context<'_>) -> Result<(), Failure> {
    let stores = context.open_many(2).await?;
    let (holder, other) = (stores[0].as_ref(), stores[1].as_ref());
    let key = context.key("leader");
    let lease = context.grant(holder).await?;
    put_leased(context, holder, &key, lease.id).await?;
    let sent = context.now();
    same("at once", &context.renew(holder, lease.id).await?, &Renewal::Renewed { ttl: lease.ttl })?;
    // Renewals are repeated under disturbance; the last one was sent at `sent` or later.
    context.midway().await;
    loop {
        let found = context.get(other, &key).await?;
        // Read after the answer: if the key is missing now, it went before now.
        if context.now() >= sent.plus(lease.ttl) {
            return Ok(());
        }
        ensure(found.is_some(), || {
            format!("gone {:?} after the renewal, TTL {:?}", context.now().since(sent), lease.ttl)
        })?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(super) async fn lease_ends_and_is_lost(context: &Context<'_>) -> Result<(), Failure> {
    let stores = context.open_many(2).await?;
    let (holder, other) = (stores[0].as_ref(), stores[1].as_ref());
    let key = context.key("leader");
    let lease = context.grant(holder).await?;
    put_leased(context, holder, &key, lease.id).await?;
    let latest = context.now().plus(lease.ttl + context.expect().expiry_late_by);
    context.midway().await;
    while context.get(other, &key).await?.is_some() {
        ensure(context.now() < latest, || "the key outlived its lease".to_owned())?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    same("a renewal after that", &context.renew(holder, lease.id).await?, &Renewal::Lost)?;
    same("a second one", &context.renew(other, lease.id).await?, &Renewal::Lost)?;
    // Whoever comes next can have the key.
    let taken = Txn::new()
        .when(Compare::Absent { key: key.clone() })
        .then(Change::put(key.as_str(), "taken"));
    context.apply(other, taken).await.map(drop)
}

pub(super) async fn revoked_lease_takes_its_keys(context: &Context<'_>) -> Result<(), Failure> {
    let store = context.open().await?;
    let (mine, other) =
        (context.grant_long(store.as_ref()).await?, context.grant_long(store.as_ref()).await?);
    ensure(mine.id != other.id, || "two leases with one id".to_owned())?;
    for name in ["a", "b"] {
        put_leased(context, store.as_ref(), &context.key(name), mine.id).await?;
    }
    context.put(store.as_ref(), &context.key("free"), "x").await?;
    context.midway().await;
    context.revoke(store.as_ref(), mine.id).await?;
    let left = context.range(store.as_ref(), &context.key("")).await?.entries;
    let left: Vec<_> = left.into_iter().map(|entry| entry.key).collect();
    same("keys left", &left, &vec![context.key("free")])?;
    same("a renewal", &context.renew(store.as_ref(), mine.id).await?, &Renewal::Lost)?;
    // It is gone, and that is what was asked for.
    context.revoke(store.as_ref(), mine.id).await?;
    context.revoke(store.as_ref(), other.id).await
}

pub(super) async fn lost_lease_can_not_be_used(context: &Context<'_>) -> Result<(), Failure> {
    let store = context.open().await?;
    let lease = context.grant_long(store.as_ref()).await?;
    context.midway().await;
    context.revoke(store.as_ref(), lease.id).await?;
    let txn = Txn::new().then(Change::put(context.key("a"), "x")).then(Change::put_leased(
        context.key("b"),
        "x",
        lease.id,
    ));
    let timeout = context.expect().timeout;
    let outcome = loop {
        match store.txn(txn.clone(), timeout).await {
            // It can't have been applied, so it may be repeated.
            Err(error) if error.may_have_happened() && context.expect().disturbed => {}
            Err(StoreError::NotDone { .. }) if context.expect().disturbed => {}
            outcome => break outcome,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    ensure(matches!(outcome, Err(StoreError::Refused { .. })), || format!("{outcome:?}"))?;
    let found = context.range(store.as_ref(), &context.key("")).await?.entries;
    same("keys put with it", &found, &Vec::new())
}

pub(super) async fn put_rebinds_a_key(context: &Context<'_>) -> Result<(), Failure> {
    let store = context.open().await?;
    let (one, two) =
        (context.grant_long(store.as_ref()).await?, context.grant_long(store.as_ref()).await?);
    let (freed, moved) = (context.key("freed"), context.key("moved"));
    for key in [&freed, &moved] {
        put_leased(context, store.as_ref(), key, one.id).await?;
    }
    context.midway().await;
    context.put(store.as_ref(), &freed, "x").await?;
    put_leased(context, store.as_ref(), &moved, two.id).await?;
    context.revoke(store.as_ref(), one.id).await?;
    let entry = context.get(store.as_ref(), &freed).await?;
    same("the freed key's lease", &entry.map(|e| e.lease), &Some(None))?;
    let entry = context.get(store.as_ref(), &moved).await?;
    same("the moved key's lease", &entry.map(|e| e.lease), &Some(Some(two.id)))?;
    context.revoke(store.as_ref(), two.id).await?;
    same("the moved key", &context.get(store.as_ref(), &moved).await?, &None)
}
