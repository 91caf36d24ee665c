//! Garbage in any record of a running federation: nothing crashes, nobody's role changes, and each
//! process that reads the record says so once, with its key.
//!
//! Every key that there is, in the global quorum and in each site's store, is hit, with values
//! drawn at random from every kind of garbage; the good value is put back before any deadline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use regent_dcs::{Change, Compare, Entry, Store, Txn};
use regent_proto::keys::{GlobalKey, GlobalKeys, SiteKey, SiteKeys};
use regent_proto::name::{Scope, SiteName};
use regent_tests::bed::{Bed, TWO_SITES, explain};
use regent_tests::records::{self, CALL};
use regent_tests::wait::{seconds, until};
use regent_tests::{option, say};
use regentctl::clock;
use tokio_postgres::NoTls;

/// How long whoever reads a record may take to say that it can't.
const SAID: Duration = Duration::from_secs(3);
/// Rows that must be acknowledged while the garbage stands.
const ROWS: usize = 30;
/// Values tried on every key.
const VALUES_A_KEY: usize = 2;

#[derive(Debug, Clone)]
enum Garbage {
    Bytes(Vec<u8>),
    WrongType(serde_json::Value),
    Empty,
    Huge(usize),
    NewerVersion(u32),
}

fn garbage() -> impl Strategy<Value = Garbage> {
    let wrong = prop_oneof![
        Just(serde_json::json!(null)),
        any::<bool>().prop_map(|b| serde_json::json!(b)),
        Just(serde_json::json!([1, "x", {}])),
        Just(serde_json::json!({ "version": "one", "leader": 7, "conn_url": [], "ttl": "x" })),
        Just(serde_json::json!({})),
    ];
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..64).prop_map(Garbage::Bytes),
        wrong.prop_map(Garbage::WrongType),
        Just(Garbage::Empty),
        (1000usize..1_000_000).prop_map(Garbage::Huge),
        (2u32..1000).prop_map(Garbage::NewerVersion),
    ]
}

impl Garbage {
    fn value(&self, good: &[u8]) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::WrongType(value) => value.to_string().into_bytes(),
            Self::Empty => Vec::new(),
            Self::Huge(length) => vec![b'x'; *length],
            Self::NewerVersion(version) => {
                let mut document: serde_json::Value =
                    serde_json::from_slice(good).unwrap_or_else(|_| serde_json::json!({}));
                if let Some(fields) = document.as_object_mut() {
                    fields.insert("version".to_owned(), (*version).into());
                }
                document.to_string().into_bytes()
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Bytes(bytes) => format!("{} random bytes", bytes.len()),
            Self::WrongType(value) => format!("JSON of another shape: {value}"),
            Self::Empty => "nothing".to_owned(),
            Self::Huge(length) => format!("{length} letters"),
            Self::NewerVersion(version) => format!("version {version}"),
        }
    }
}

/// A store with the keys in it that are ours.
struct Place {
    store: Arc<dyn Store>,
    prefix: String,
    site: Option<SiteName>,
}

/// Whether this value means something to whoever reads the key, so that nothing is to be said.
fn is_accepted(place: &Place, keys: &GlobalKeys, key: &str, value: &[u8], kind: &Garbage) -> bool {
    let Some(_) = &place.site else {
        // A version stands in every global record; a foreign key is nobody's business.
        return matches!(keys.classify(key), GlobalKey::Foreign);
    };
    let rest = key.strip_prefix(&place.prefix).unwrap_or_default();
    let ours = [SiteKey::Mark.name(), SiteKey::Epoch.name()].contains(&rest);
    let unread = [SiteKey::History.name(), SiteKey::Failsafe.name()].contains(&rest);
    // Patroni's records carry no version; empty is a word of theirs in some.
    let object = serde_json::from_slice::<serde_json::Value>(value).is_ok_and(|v| v.is_object());
    let newer = matches!(kind, Garbage::NewerVersion(_)) && !ours;
    let lenient = [SiteKey::Config.name(), SiteKey::Sync.name(), SiteKey::Status.name()];
    let empty = value.is_empty() && rest == SiteKey::Initialize.name();
    let leader = rest == SiteKey::Leader.name()
        && std::str::from_utf8(value)
            .is_ok_and(|t| t.parse::<regent_proto::name::NodeName>().is_ok());
    unread || newer || empty || leader || (object && lenient.contains(&rest))
}

/// The processes that read a key.
fn readers(bed: &Bed, place: &Place, key: &str) -> Vec<String> {
    let layout = bed.lab().layout();
    let agents = |of: Option<&SiteName>| {
        let nodes = layout.nodes.iter().filter(move |node| of.is_none_or(|of| node.site == *of));
        nodes.map(|node| node.agent()).collect::<Vec<_>>()
    };
    if let Some(site) = &place.site {
        return agents(Some(site));
    }
    let mut readers = bed.coordinators();
    match bed.keys.classify(key) {
        GlobalKey::Primary | GlobalKey::Lease | GlobalKey::Report(_) => {
            readers.extend(agents(None));
        }
        GlobalKey::Assignment(site) => readers.extend(agents(Some(&site))),
        GlobalKey::Topology
        | GlobalKey::RunningOperation
        | GlobalKey::Leader
        | GlobalKey::Operation(_)
        | GlobalKey::Coordinator(_)
        | GlobalKey::History(_) => {}
        GlobalKey::Foreign => readers.clear(),
    }
    readers
}

/// Every node's role and the start of its server.
async fn servers(bed: &Bed) -> anyhow::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for node in &bed.lab().layout().nodes {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(node.postgres_port).user("postgres").dbname("postgres");
        config.password(&bed.lab().secrets().superuser).connect_timeout(CALL);
        let (client, connection) =
            config.connect(NoTls).await.with_context(|| format!("connect to {}", node.name))?;
        let task = tokio::spawn(async move { connection.await.ok() });
        let query =
            "SELECT pg_is_in_recovery()::text || ' since ' || pg_postmaster_start_time()::text";
        let row = client.query_one(query, &[]).await.context(query)?;
        task.abort();
        found.insert(node.name.to_string(), row.get(0));
    }
    Ok(found)
}

async fn pids(bed: &Bed) -> anyhow::Result<BTreeMap<String, Option<i32>>> {
    let all = bed.lab().processes().await?;
    Ok(all.into_iter().map(|process| (process.name, process.pid)).collect())
}

/// What each process has said of the key since its log had these lengths.
fn said(bed: &Bed, lengths: &BTreeMap<String, usize>, key: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (process, length) in lengths {
        let bytes = std::fs::read(bed.lab().layout().log(process)).unwrap_or_default();
        let text = String::from_utf8_lossy(bytes.get(*length..).unwrap_or_default()).into_owned();
        let lines = text.lines().filter(|line| {
            serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| {
                line["level"] == "WARN" && (line["key"] == key || line["fields"]["key"] == key)
            })
        });
        counts.insert(process.clone(), lines.count());
    }
    counts
}

async fn hit(bed: &Bed, place: &Place, entry: &Entry, kind: &Garbage) -> anyhow::Result<()> {
    let (key, store) = (entry.key.clone(), &place.store);
    let (servers_before, pids_before) = (servers(bed).await?, pids(bed).await?);
    let logs: BTreeMap<String, usize> = pids_before
        .keys()
        .map(|process| {
            let length = std::fs::metadata(bed.lab().layout().log(process)).map_or(0, |m| m.len());
            (process.clone(), usize::try_from(length).unwrap_or(0))
        })
        .collect();
    // The value of this moment: some records are rewritten every second.
    let Some(good) = store.get(&key, CALL).await? else { return Ok(()) };
    let value = kind.value(&good.value);
    if value == good.value {
        return Ok(());
    }
    let put =
        |value: &[u8]| Change::Put { key: key.clone(), value: value.to_vec(), lease: good.lease };
    let spoilt = store.txn(Txn::new().then(put(&value)), CALL).await?;
    let spoilt = spoilt.applied().context("a put without compares")?;
    let begun = bed.writer.now();

    let readers = readers(bed, place, &key);
    let accepted = is_accepted(place, &bed.keys, &key, &value, kind);
    let mut stood = true;
    let heard = until("every reader to say so", SAID, async || {
        let now = store.get(&key, CALL).await.map_err(|e| e.to_string())?;
        stood = now.is_some_and(|entry| entry.modified == spoilt);
        if accepted || !stood {
            // Its owner has written it anew.
            return Ok(());
        }
        let counts = said(bed, &logs, &key);
        let silent = readers.iter().filter(|reader| counts.get(*reader) == Some(&0));
        let silent: Vec<&str> = silent.map(String::as_str).collect();
        if silent.is_empty() { Ok(()) } else { Err(format!("silent: {}", silent.join(", "))) }
    })
    .await;
    let rows = bed.writer.wait_for(ROWS, begun, Duration::from_secs(2)).await;
    let during = servers(bed).await;
    // Put back, unless its owner did; and only then judge.
    let restore = Txn::new()
        .when(Compare::Modified { key: key.clone(), revision: spoilt })
        .then(put(&good.value));
    store.txn(restore, CALL).await?;
    heard?;
    rows.context("no rows while the garbage stood")?;
    ensure!(during? == servers_before, "a role changed while the garbage stood");
    bed.writer.wait_for(ROWS, bed.writer.now(), CALL).await.context("afterwards")?;
    let after = servers(bed).await?;
    ensure!(after == servers_before, "a role changed: {servers_before:?} → {after:?}");
    let pids_after = pids(bed).await?;
    ensure!(pids_after == pids_before, "a process ended: {pids_before:?} → {pids_after:?}");
    let counts = said(bed, &logs, &key);
    let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    ensure!(twice.is_empty(), "said more than once: {twice:?}");
    Ok(())
}

fn places(bed: &Bed) -> anyhow::Result<Vec<Place>> {
    let layout = bed.lab().layout();
    let mut places =
        vec![Place { store: bed.store(), prefix: bed.keys.prefix().to_owned(), site: None }];
    for (site, store) in &layout.site_stores {
        let scope: Scope = site.as_str().parse()?;
        let prefix = SiteKeys::new("/service", &scope).prefix().to_owned();
        places.push(Place { store: records::open(store)?, prefix, site: Some(site.clone()) });
    }
    Ok(places)
}

/// Records that are there only at times are made, readable and without effect.
async fn complete(place: &Place) -> anyhow::Result<()> {
    if place.site.is_none() {
        return Ok(());
    }
    for key in [SiteKey::Failover, SiteKey::History, SiteKey::Failsafe] {
        let key = format!("{}{}", place.prefix, key.name());
        let value = if key.ends_with("history") { "[]" } else { "{}" };
        let absent = Compare::Absent { key: key.clone() };
        place.store.txn(Txn::new().when(absent).then(Change::put(key, value)), CALL).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_in_any_record_changes_nobodys_role() {
    let mut seed = [0_u8; 32];
    getrandom::fill(&mut seed).unwrap();
    if let Some(given) = option("REGENT_SEED") {
        hex::decode_to_slice(given, &mut seed).unwrap();
    }
    say(format!("REGENT_SEED={}", hex::encode(seed)));
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    // For whoever looks at one key.
    let only = option("REGENT_KEY");

    let bed = Bed::start("garbage", TWO_SITES, None).await.unwrap();
    let begun = clock::now();
    // So that there is an operation, and an epoch with a history.
    let roles = bed.healthy().await.unwrap();
    let whom = bed.lab().coordinators();
    bed.unblocked(&whom, &roles.b).await.unwrap();
    let id = bed.ask(&whom, &roles.b).await.unwrap();
    let ended = bed.see("the switchover", CALL * 3, |global| global.operation(&id)?.outcome);
    ended.await.unwrap();
    bed.healthy().await.unwrap();

    let mut problems = Vec::new();
    let mut hits = 0;
    for place in places(&bed).unwrap() {
        complete(&place).await.unwrap();
        let snapshot = place.store.range(&place.prefix, CALL).await.unwrap();
        for entry in &snapshot.entries {
            if only.as_ref().is_some_and(|only| !entry.key.contains(only)) {
                continue;
            }
            for _ in 0..VALUES_A_KEY {
                let kind = garbage().new_tree(&mut runner).unwrap().current();
                hits += 1;
                if let Err(problem) = hit(&bed, &place, entry, &kind).await {
                    let problem = format!("{}: {}: {problem:#}", entry.key, kind.name());
                    say(format!("FAILED {problem}"));
                    bed.keep_logs();
                    problems.push(problem);
                    bed.start_missing().await.unwrap();
                }
                bed.healthy().await.unwrap();
            }
        }
    }
    say(format!("{hits} values in {:.0} s", seconds(begun)));
    let (history, judgement) = bed.finish().await.unwrap();
    say(explain(&judgement, &history));
    assert!(judgement.is_clean(), "{}", explain(&judgement, &history));
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(only.is_some() || hits > 40, "only {hits} values");
}
