//! Watches: every change, in order, once, soon; or the word that some are gone.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{try_join, try_join_all};

use super::context::Context;
use super::follower::Follower;
use super::{Failure, ensure, same};
use crate::{Change, Entry, Event, Revision, Txn, Watch, WatchError};

fn last_revision(events: &[Event]) -> Revision {
    events.last().map_or(Revision(0), Event::revision)
}

/// What a prefix holds, by its events.
fn replay(mut entries: BTreeMap<String, Entry>, events: &[Event]) -> BTreeMap<String, Entry> {
    for event in events {
        match event {
            Event::Put(entry) => entries.insert(entry.key.clone(), entry.clone()),
            Event::Deleted { key, .. } => entries.remove(key),
        };
    }
    entries
}

pub(super) async fn watch_misses_and_repeats_nothing(context: &Context<'_>) -> Result<(), Failure> {
    const WRITERS: usize = 4;
    const EACH: usize = 25;
    let stores = context.open_many(WRITERS + 1).await?;
    let prefix = context.key("");
    let start = context.range(stores[0].as_ref(), &prefix).await?.revision;
    let mut early = context.follow(&stores[WRITERS], &prefix, start).await?;
    context.midway().await;
    let write = |writer: usize| {
        let (store, context) = (stores[writer].clone(), &context);
        async move {
            let mut made = Vec::new();
            for turn in 0..EACH {
                // Two keys at one revision, and every third time a deletion.
                let (own, shared) = (context.key(&format!("own-{writer}")), context.key("shared"));
                let own = match turn % 3 {
                    2 => Change::delete(own),
                    _ => Change::put(own, turn.to_string()),
                };
                let txn =
                    Txn::new().then(own).then(Change::put(shared, format!("{writer}/{turn}")));
                made.push(context.apply(store.as_ref(), txn).await?);
            }
            Ok::<_, Failure>(made)
        }
    };
    let all_seen = |events: &[Event]| {
        events.iter().filter(|e| e.key().ends_with("shared")).count() == WRITERS * EACH
    };
    let writing = try_join_all((0..WRITERS).map(write));
    let compaction_possible = context.expect().disturbed;
    let watching = async {
        if compaction_possible {
            // What compaction may take is not counted; the end is compared below.
            return Ok(());
        }
        early.until("all changes", all_seen).await
    };
    let (made, ()) = try_join(writing, watching).await?;
    let mut made: Vec<_> = made.into_iter().flatten().collect();
    made.sort();
    let last = made.last().copied().unwrap_or_default();
    early.until("the last change", |events| last_revision(events) >= last).await?;
    let seen = |follower: &Follower<'_>| -> Vec<Revision> {
        let shared = follower.events.iter().filter(|e| e.key().ends_with("shared"));
        shared.map(Event::revision).collect()
    };
    if !early.gap {
        same("revisions seen while writing", &seen(&early), &made)?;
    }
    let found = context.range(stores[0].as_ref(), &prefix).await?.entries;
    let found: BTreeMap<_, _> = found.into_iter().map(|e| (e.key.clone(), e)).collect();
    if !early.gap {
        same("what the events add up to", &replay(BTreeMap::new(), &early.events), &found)?;
    }
    // A watch that comes late sees the same.
    let mut late = context.follow(&stores[0], &prefix, start).await?;
    late.until("the last change", |events| last_revision(events) >= last).await?;
    if !early.gap && !late.gap {
        same("what a late watch sees", &late.events, &early.events)?;
    }
    Ok(())
}

pub(super) async fn watch_keeps_to_its_prefix(context: &Context<'_>) -> Result<(), Failure> {
    let stores = context.open_many(2).await?;
    let store = stores[0].as_ref();
    let start = context.put(store, &context.key("a/before"), "x").await?;
    let mut follower = context.follow(&stores[1], &context.key("a/"), start).await?;
    context.midway().await;
    for name in ["a", "a.", "a0", "b/", "a/1", "0", "a/2", "a/"] {
        context.put(store, &context.key(name), name).await?;
    }
    let end = context.key("a/");
    follower.until("the last put", |events| events.iter().any(|e| e.key() == end)).await?;
    if follower.gap {
        return Ok(());
    }
    let seen: Vec<_> = follower.events.iter().map(|e| e.key().to_owned()).collect();
    same("keys seen", &seen, &["a/1", "a/2", "a/"].map(|name| context.key(name)).to_vec())
}

pub(super) async fn watch_wakes_up_soon(context: &Context<'_>) -> Result<(), Failure> {
    let stores = context.open_many(2).await?;
    let key = context.key("a");
    let start = context.put(stores[0].as_ref(), &key, "start").await?;
    let mut follower = context.follow(&stores[1], &key, start).await?;
    context.midway().await;
    let mut waits = Vec::new();
    for turn in 0..40_u32 {
        let revision = context.put(stores[0].as_ref(), &key, turn.to_string()).await?;
        let acknowledged = context.now();
        follower.until("the put", |events| last_revision(events) >= revision).await?;
        waits.push(context.now().since(acknowledged));
    }
    if context.expect().disturbed {
        return Ok(());
    }
    waits.sort();
    let median = waits[waits.len() / 2];
    // The median: on a busy machine any one wait may be long, and that is not the store's doing.
    ensure(median <= context.expect().wake_up, || {
        format!("half of all watches woke up {median:?} or more after the acknowledgement")
    })
}

pub(super) async fn watch_sees_a_lease_end(context: &Context<'_>) -> Result<(), Failure> {
    let stores = context.open_many(2).await?;
    let key = context.key("leader");
    let holder = stores[0].as_ref();
    let lease = context.grant(holder).await?;
    let granted = context.now();
    let txn = Txn::new().then(Change::put_leased(key.as_str(), "held", lease.id));
    let start = context.apply(holder, txn).await?;
    let mut follower = context.follow(&stores[1], &key, start).await?;
    context.midway().await;
    let latest = lease.ttl + context.expect().expiry_late_by;
    let deleted = |events: &[Event]| matches!(events.last(), Some(Event::Deleted { .. }));
    let ended = follower.until("the deletion", deleted).await;
    if ended.is_err() && follower.gap {
        // The deletion itself was compacted: the key must be gone.
        return same("the key", &context.get(holder, &key).await?, &None);
    }
    ended?;
    let took = context.now().since(granted);
    ensure(took <= latest, || format!("seen only {took:?} after the grant, TTL {:?}", lease.ttl))?;
    same("the key", &context.get(holder, &key).await?, &None)
}

pub(super) async fn snapshot_and_watch_fit_together(context: &Context<'_>) -> Result<(), Failure> {
    const TURNS: u32 = 60;
    let stores = context.open_many(2).await?;
    let (prefix, end) = (context.key(""), context.key("end"));
    context.midway().await;
    let write = async {
        for turn in 0..TURNS {
            let key = context.key(&(turn % 5).to_string());
            let change = match turn % 7 {
                6 => Change::delete(key),
                _ => Change::put(key, turn.to_string()),
            };
            context.apply(stores[0].as_ref(), Txn::new().then(change)).await?;
        }
        context.put(stores[0].as_ref(), &end, "end").await
    };
    // Several readers that begin in the middle of the writing.
    let read = |begin: u32| {
        let (stores, context, prefix, end) = (&stores, &context, &prefix, &end);
        async move {
            for _ in 0..begin {
                context.range(stores[1].as_ref(), prefix).await?;
            }
            let snapshot = context.range(stores[1].as_ref(), prefix).await?;
            let mut follower = context.follow(&stores[1], prefix, snapshot.revision).await?;
            let start: BTreeMap<_, _> =
                snapshot.entries.into_iter().map(|e| (e.key.clone(), e)).collect();
            let there = start.contains_key(end);
            let seen = |events: &[Event]| there || events.iter().any(|e| e.key() == end);
            follower.until("the end", seen).await?;
            Ok::<_, Failure>((follower.gap, replay(start, &follower.events)))
        }
    };
    let readers = try_join_all([0, 3, 10, 30].map(read));
    let (_, mirrors) = try_join(write, readers).await?;
    let found = context.range(stores[0].as_ref(), &prefix).await?.entries;
    let found: BTreeMap<_, _> = found.into_iter().map(|e| (e.key.clone(), e)).collect();
    for (gap, mirror) in mirrors {
        if !gap {
            same("a mirror of the prefix", &mirror, &found)?;
        }
    }
    Ok(())
}

pub(super) async fn next_may_be_dropped(context: &Context<'_>) -> Result<(), Failure> {
    const TURNS: u32 = 40;
    const DROPPED_AFTER: Duration = Duration::from_micros(100);
    let stores = context.open_many(2).await?;
    let key = context.key("a");
    let start = context.range(stores[0].as_ref(), &key).await?.revision;
    let timeout = context.expect().timeout;
    context.midway().await;
    let mut watch: Box<dyn Watch> = match stores[1].watch(&key, start, timeout).await {
        Ok(watch) => watch,
        Err(_) if context.expect().disturbed => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let write = async {
        for turn in 0..TURNS {
            context.put(stores[0].as_ref(), &key, turn.to_string()).await?;
        }
        Ok::<_, Failure>(())
    };
    let read = async {
        let mut seen = Vec::new();
        let give_up = context.now().plus(context.expect().patience);
        let mut patience = DROPPED_AFTER;
        while seen.len() < TURNS as usize && context.now() < give_up {
            // Dropped after its first step, and after a while.
            let next = match watch.next().now_or_never() {
                Some(next) => Ok(next),
                None => tokio::time::timeout(patience, watch.next()).await,
            };
            match next {
                // Longer each time: on a busy machine nothing at all is done in so short a time.
                Err(_) => patience *= 2,
                Ok(Ok(events)) => {
                    seen.extend(events);
                    patience = DROPPED_AFTER;
                }
                Ok(Err(_)) if context.expect().disturbed => return Ok(None),
                Ok(Err(error)) => return Err(error.into()),
            }
        }
        Ok(Some(seen))
    };
    let ((), seen) = try_join(write, read).await?;
    let Some(seen) = seen else { return Ok(()) };
    let values: Vec<_> = seen
        .into_iter()
        .filter_map(|event| match event {
            Event::Put(entry) => Some(entry.value.to_vec()),
            Event::Deleted { .. } => None,
        })
        .collect();
    let expected: Vec<_> = (0..TURNS).map(|turn| turn.to_string().into_bytes()).collect();
    same("values seen in spite of dropped futures", &values, &expected)
}

pub(super) async fn compaction_is_told(context: &Context<'_>) -> Result<(), Failure> {
    let store = context.open().await?;
    let (key, timeout) = (context.key("a"), context.expect().timeout);
    let start = context.put(store.as_ref(), &key, "0").await?;
    for turn in 1..10_u32 {
        context.put(store.as_ref(), &key, turn.to_string()).await?;
    }
    context.midway().await;
    context.compact().await?;
    let give_up = context.now().plus(context.expect().patience);
    let oldest = loop {
        // Some stores say it when asked, some with the first answer.
        let told = match store.watch(&key, start, timeout).await {
            Ok(mut watch) => match tokio::time::timeout(timeout, watch.next()).await {
                // A member that was left behind has not applied the compaction yet: what it still
                // has must be everything since, and it is asked again.
                Ok(Ok(events)) => {
                    let values = events.iter().map(|event| match event {
                        Event::Put(entry) => Some(entry.value.to_vec()),
                        Event::Deleted { .. } => None,
                    });
                    let whole = values
                        .zip(1_u32..)
                        .all(|(v, turn)| v == Some(turn.to_string().into_bytes()));
                    if context.expect().disturbed && whole && context.now() < give_up {
                        continue;
                    }
                    return Err(Failure(format!("instead came {events:?}")));
                }
                Ok(Err(error)) => error,
                Err(_) => return Err(Failure("the watch just stayed silent".to_owned())),
            },
            Err(error) => error,
        };
        match told {
            WatchError::Compacted { oldest } => break oldest,
            WatchError::Failed(_) if context.expect().disturbed && context.now() < give_up => {}
            WatchError::Failed(error) => return Err(error.into()),
        }
    };
    ensure(oldest > start, || format!("{oldest} is not after {start}"))?;
    // Both ways on work: from the revision told, and from a snapshot.
    let snapshot = context.range(store.as_ref(), &key).await?;
    same("the key", &snapshot.entries.first().map(|e| e.value.to_vec()), &Some(b"9".to_vec()))?;
    for after in [oldest, snapshot.revision] {
        let mut follower = context.follow(&store, &key, after).await?;
        let value = after.0.to_string();
        context.put(store.as_ref(), &key, value.as_str()).await?;
        let arrived = |events: &[Event]| {
            events.iter().any(|e| matches!(e, Event::Put(e) if e.value == value.as_bytes()))
        };
        follower.until("the put after the compaction", arrived).await?;
    }
    Ok(())
}
