//! Reading and writing keys.

use super::context::Context;
use super::{Failure, ensure, same};
use crate::limits::VALUE_BYTES_MAX;
use crate::{Change, Entry, Txn, TxnOutcome};

pub(super) async fn get_finds_what_was_put(context: &Context<'_>) -> Result<(), Failure> {
    let store = context.open().await?;
    let key = context.key("a");
    same("before", &context.get(store.as_ref(), &key).await?, &None)?;
    context.midway().await;
    let revision = context.put(store.as_ref(), &key, "one").await?;
    let expected = Entry {
        key: key.clone(),
        value: b"one".to_vec().into(),
        created: revision,
        modified: revision,
        lease: None,
    };
    same("after", &context.get(store.as_ref(), &key).await?, &Some(expected))?;
    // A key is not its prefix.
    same("a longer key", &context.get(store.as_ref(), &format!("{key}a")).await?, &None)?;
    same("a shorter key", &context.get(store.as_ref(), &key[..key.len() - 1]).await?, &None)
}

pub(super) async fn range_is_the_prefix_in_order(context: &Context<'_>) -> Result<(), Failure> {
    let store = context.open().await?;
    // By bytes: "/" sorts before digits, and letters beyond ASCII after all of ASCII.
    let inside = ["p/", "p//", "p/1", "p/10", "p/2", "p/A", "p/a", "p/a/b", "p/a0", "p/~", "p/é"];
    let outside = ["o/z", "p", "p.", "p0", "q/"];
    for name in inside.iter().rev().chain(&outside) {
        context.put(store.as_ref(), &context.key(name), *name).await?;
    }
    context.midway().await;
    let snapshot = context.range(store.as_ref(), &context.key("p/")).await?;
    let found: Vec<_> = snapshot.entries.iter().map(|entry| entry.key.clone()).collect();
    same("keys", &found, &inside.map(|name| context.key(name)).to_vec())?;
    for entry in &snapshot.entries {
        ensure(entry.modified <= snapshot.revision, || {
            format!("{entry:?} is newer than its snapshot of revision {}", snapshot.revision)
        })?;
    }
    let none = context.range(store.as_ref(), &context.key("nothing/")).await?;
    same("an empty prefix", &none.entries, &Vec::new())?;
    ensure(none.revision >= snapshot.revision, || "the revision went back".to_owned())
}

pub(super) async fn unusual_keys_and_values(context: &Context<'_>) -> Result<(), Failure> {
    let store = context.open().await?;
    let names = [
        " ",
        "'",
        "\"",
        "%",
        "_",
        "\\",
        "\n",
        "\0",
        "\0\0",
        "a\0b",
        "ü",
        "日本",
        "\u{10ffff}",
        "?",
        "*",
        "../..",
        "--",
    ];
    let values = [Vec::new(), vec![0], (0..=255).collect(), vec![0xff; 300], b"NULL".to_vec()];
    let mut expected = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let (key, value) = (context.key(name), values[index % values.len()].clone());
        context.put(store.as_ref(), &key, value.clone()).await?;
        expected.push((key, value));
    }
    context.midway().await;
    for (key, value) in &expected {
        let found = context.get(store.as_ref(), key).await?;
        same(&format!("{key:?}"), &found.map(|entry| entry.value.to_vec()), &Some(value.clone()))?;
    }
    expected.sort();
    let snapshot = context.range(store.as_ref(), &context.key("")).await?;
    let found: Vec<_> = snapshot.entries.into_iter().map(|e| (e.key, e.value.to_vec())).collect();
    same("all of them", &found, &expected)?;
    let high = context.range(store.as_ref(), &context.key("\u{10ffff}")).await?;
    same("those of the highest prefix", &high.entries.len(), &1)
}

pub(super) async fn large_values(context: &Context<'_>) -> Result<(), Failure> {
    let store = context.open().await?;
    let largest = vec![b'x'; VALUE_BYTES_MAX];
    context.midway().await;
    // Together more than gRPC's usual limit of 4 MiB for one answer.
    for name in ["1", "2", "3", "4", "5"] {
        context.put(store.as_ref(), &context.key(name), largest.clone()).await?;
    }
    let snapshot = context.range(store.as_ref(), &context.key("")).await?;
    same("values", &snapshot.entries.len(), &5)?;
    for entry in &snapshot.entries {
        ensure(entry.value == largest, || format!("{} came back changed", entry.key))?;
    }
    let remove = snapshot.entries.iter().map(|entry| Change::delete(entry.key.as_str()));
    context.apply(store.as_ref(), Txn { compares: Vec::new(), changes: remove.collect() }).await?;
    Ok(())
}

pub(super) async fn handles_see_each_other_at_once(context: &Context<'_>) -> Result<(), Failure> {
    let stores = context.open_many(3).await?;
    let key = context.key("a");
    let mut last = None;
    for turn in 0..30_usize {
        if turn == 10 {
            context.midway().await;
        }
        let writer = &stores[turn % 3];
        let revision = context.put(writer.as_ref(), &key, turn.to_string()).await?;
        ensure(Some(revision) > last, || format!("revision {revision} after {last:?}"))?;
        last = Some(revision);
        for reader in &stores {
            let found = context.get(reader.as_ref(), &key).await?;
            same("what another handle reads", &found.map(|e| e.modified), &Some(revision))?;
        }
    }
    Ok(())
}

pub(super) async fn revisions_tell_the_history(context: &Context<'_>) -> Result<(), Failure> {
    let store = context.open().await?;
    let (a, b) = (context.key("a"), context.key("b"));
    let born = context.put(store.as_ref(), &a, "1").await?;
    let changed = context.put(store.as_ref(), &a, "2").await?;
    ensure(changed > born, || format!("a put at {changed} after one at {born}"))?;
    let found = context.get(store.as_ref(), &a).await?.map(|e| (e.created, e.modified));
    same("after a second put", &found, &Some((born, changed)))?;
    context.midway().await;

    let both = Txn::new().then(Change::delete(a.as_str())).then(Change::put(b.as_str(), "1"));
    let deleted = context.apply(store.as_ref(), both).await?;
    ensure(deleted > changed, || "a deletion has a revision too".to_owned())?;
    same("after the deletion", &context.get(store.as_ref(), &a).await?, &None)?;
    let found = context.get(store.as_ref(), &b).await?.map(|e| e.modified);
    same("the other key of the transaction", &found, &Some(deleted))?;

    let again = context.put(store.as_ref(), &a, "2").await?;
    let found = context.get(store.as_ref(), &a).await?.map(|e| (e.created, e.modified));
    same("a key that came again", &found, &Some((again, again)))?;

    // Deleting what isn't there is no error.
    let absent = Txn::new().then(Change::delete(context.key("absent")));
    let outcome = context.txn(store.as_ref(), absent).await?;
    ensure(matches!(outcome, TxnOutcome::Applied { .. }), || format!("{outcome:?}"))?;
    let snapshot = context.range(store.as_ref(), &context.key("")).await?;
    ensure(snapshot.revision >= again, || "the revision went back".to_owned())
}
