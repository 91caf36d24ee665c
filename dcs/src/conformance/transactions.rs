//! Compares and changes.

use futures::future::{try_join, try_join_all};

use super::context::Context;
use super::{Failure, ensure, same};
use crate::{Change, Compare, Revision, Txn, TxnOutcome};

pub(super) async fn create_race_has_one_winner(context: &Context<'_>) -> Result<(), Failure> {
    const RIVALS: usize = 8;
    let stores = context.open_many(RIVALS).await?;
    context.midway().await;
    for round in 0..5 {
        let key = context.key(&format!("initialize-{round}"));
        let race = stores.iter().enumerate().map(|(rival, store)| {
            let txn = Txn::new()
                .when(Compare::Absent { key: key.clone() })
                .then(Change::put(key.as_str(), rival.to_string()));
            context.txn(store.as_ref(), txn)
        });
        let outcomes = try_join_all(race).await?;
        let winners: Vec<_> = (0..RIVALS).filter(|r| outcomes[*r].applied().is_some()).collect();
        same("winners", &winners.len(), &1)?;
        let Some(entry) = context.get(stores[0].as_ref(), &key).await? else {
            return Err(Failure(format!("won by {winners:?}, but absent")));
        };
        same("the value", &entry.value.to_vec(), &winners[0].to_string().into_bytes())?;
        for outcome in outcomes {
            if let TxnOutcome::Conflict { found } = outcome {
                same("what a loser found", &found, &vec![Some(entry.clone())])?;
            }
        }
    }
    Ok(())
}

pub(super) async fn compare_by_revision(context: &Context<'_>) -> Result<(), Failure> {
    let store = context.open().await?;
    let key = context.key("a");
    let put_if = |revision: Revision, value: &str| {
        Txn::new()
            .when(Compare::Modified { key: key.clone(), revision })
            .then(Change::put(key.as_str(), value))
    };
    // No key, no revision: not even 0, which etcd takes for "absent".
    for revision in [Revision(0), Revision(1), Revision(u64::MAX >> 1)] {
        let outcome = context.txn(store.as_ref(), put_if(revision, "x")).await?;
        same("on an absent key", &outcome, &TxnOutcome::Conflict { found: vec![None] })?;
    }
    let first = context.put(store.as_ref(), &key, "1").await?;
    context.midway().await;
    let second = context.apply(store.as_ref(), put_if(first, "2")).await?;
    let entry = context.get(store.as_ref(), &key).await?;
    for stale in [first, Revision(0), Revision(second.0 + 1)] {
        let outcome = context.txn(store.as_ref(), put_if(stale, "x")).await?;
        let expected = TxnOutcome::Conflict { found: vec![entry.clone()] };
        same("with another revision", &outcome, &expected)?;
    }
    // Written with the same value it is another revision all the same.
    context.apply(store.as_ref(), put_if(second, "2")).await?;
    let outcome = context.txn(store.as_ref(), put_if(second, "x")).await?;
    ensure(outcome.applied().is_none(), || "a stale revision was accepted".to_owned())?;
    // A key that came again has not the revision it had.
    context.apply(store.as_ref(), Txn::new().then(Change::delete(key.as_str()))).await?;
    context.put(store.as_ref(), &key, "2").await?;
    let outcome = context.txn(store.as_ref(), put_if(second, "x")).await?;
    ensure(outcome.applied().is_none(), || "a revision outlived its key".to_owned())
}

pub(super) async fn compare_by_value(context: &Context<'_>) -> Result<(), Failure> {
    let store = context.open().await?;
    let key = context.key("leader");
    let release_if = |value: &str| {
        Txn::new()
            .when(Compare::Value { key: key.clone(), value: value.into() })
            .then(Change::delete(key.as_str()))
    };
    // An absent key has no value, not even the empty one.
    for value in ["", "node1"] {
        let outcome = context.txn(store.as_ref(), release_if(value)).await?;
        same("on an absent key", &outcome, &TxnOutcome::Conflict { found: vec![None] })?;
    }
    context.put(store.as_ref(), &key, "node1").await?;
    context.midway().await;
    for value in ["", "node", "node11", "NODE1", "node2"] {
        let outcome = context.txn(store.as_ref(), release_if(value)).await?;
        ensure(outcome.applied().is_none(), || format!("node1 was taken for {value:?}"))?;
    }
    context.apply(store.as_ref(), release_if("node1")).await?;
    same("after the release", &context.get(store.as_ref(), &key).await?, &None)?;
    context.put(store.as_ref(), &key, "").await?;
    context.apply(store.as_ref(), release_if("")).await?;
    Ok(())
}

pub(super) async fn all_or_nothing(context: &Context<'_>) -> Result<(), Failure> {
    let stores = context.open_many(2).await?;
    let (writer, reader) = (stores[0].as_ref(), stores[1].as_ref());
    let names = ["a", "b", "c", "d"].map(|name| context.key(name));
    let put_all = |value: String| Txn {
        compares: Vec::new(),
        changes: names.iter().map(|n| Change::put(n.as_str(), value.as_str())).collect(),
    };
    let first = context.apply(writer, put_all("0".to_owned())).await?;
    context.midway().await;
    let write = async {
        let mut last = first;
        for turn in 1..=25 {
            last = context.apply(writer, put_all(turn.to_string())).await?;
        }
        Ok::<_, Failure>(last)
    };
    let read = async {
        for _ in 0..25 {
            let snapshot = context.range(reader, &context.key("")).await?;
            let alike = snapshot
                .entries
                .windows(2)
                .all(|pair| pair[0].value == pair[1].value && pair[0].modified == pair[1].modified);
            ensure(alike && snapshot.entries.len() == names.len(), || {
                format!("half a transaction was seen: {snapshot:?}")
            })?;
        }
        Ok(())
    };
    let (last, ()) = try_join(write, read).await?;

    // One compare of several that doesn't hold: nothing is changed.
    let before = context.range(reader, &context.key("")).await?.entries;
    let mut failing = put_all("never".to_owned())
        .when(Compare::Modified { key: names[0].clone(), revision: last })
        .when(Compare::Absent { key: names[1].clone() });
    failing.changes[2] = Change::delete(names[2].as_str());
    let outcome = context.txn(writer, failing).await?;
    ensure(outcome.applied().is_none(), || "a failing compare was passed over".to_owned())?;
    same("after it", &context.range(reader, &context.key("")).await?.entries, &before)
}

pub(super) async fn conflict_tells_what_was_found(context: &Context<'_>) -> Result<(), Failure> {
    let store = context.open().await?;
    let (a, b, c) = (context.key("a"), context.key("b"), context.key("c"));
    context.put(store.as_ref(), &a, "1").await?;
    context.put(store.as_ref(), &c, "3").await?;
    context.midway().await;
    let entry_a = context.get(store.as_ref(), &a).await?;
    let entry_c = context.get(store.as_ref(), &c).await?;
    // In the order of the compares, also for those that held, also when a key comes twice.
    let txn = Txn::new()
        .when(Compare::Absent { key: c.clone() })
        .when(Compare::as_read(a.as_str(), entry_a.as_ref()))
        .when(Compare::as_read(b.as_str(), None))
        .when(Compare::Value { key: a.clone(), value: b"1".to_vec() })
        .then(Change::put(b.as_str(), "x"));
    let outcome = context.txn(store.as_ref(), txn).await?;
    let found = vec![entry_c, entry_a.clone(), None, entry_a];
    same("the conflict", &outcome, &TxnOutcome::Conflict { found })?;
    same("the key it would have put", &context.get(store.as_ref(), &b).await?, &None)
}

pub(super) async fn concurrent_counters_lose_nothing(context: &Context<'_>) -> Result<(), Failure> {
    const WRITERS: usize = 4;
    const EACH: usize = 10;
    let stores = context.open_many(WRITERS).await?;
    let key = context.key("counter");
    context.midway().await;
    let count = |store: std::sync::Arc<dyn crate::Store>| {
        let key = key.clone();
        async move {
            let mut done = 0;
            while done < EACH {
                let entry = context.get(store.as_ref(), &key).await?;
                let value = entry.as_ref().map_or(0, |e| e.value.len());
                let txn = Txn::new()
                    .when(Compare::as_read(key.as_str(), entry.as_ref()))
                    .then(Change::put(key.as_str(), vec![b'.'; value + 1]));
                done += usize::from(context.txn(store.as_ref(), txn).await?.applied().is_some());
            }
            Ok::<_, Failure>(())
        }
    };
    try_join_all(stores.iter().cloned().map(count)).await?;
    let total = context.get(stores[0].as_ref(), &key).await?.map(|entry| entry.value.len());
    same("the count", &total, &Some(WRITERS * EACH))
}
