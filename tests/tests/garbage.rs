//! Garbage in every record of a running federation, the global ones and Patroni's: no process
//! dies, no role changes, every process that reads the record says so once for each revision, with
//! its key; and once the record is back, all is well.
//!
//! The garbage stays until every reader has reported it, or its owner has written the record anew.
//! Where a renewal needs the record (`leader`, `primary`, `lease`), that is long before the
//! deadline, at which an unreadable record rightly fences.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::unistd::Pid;
use regent_dcs::{Change, Compare, Entry, Revision, Txn, TxnOutcome};
use regent_proto::keys::{SiteKey, SiteKeys};
use regent_proto::name::SiteName;
use regent_test_sys::boot;
use regent_tests::bed::{Bed, TWO_SITES, explain};
use regent_tests::records::{CALL, Global, Keys, Records, open};
use regent_tests::report;
use regent_tests::stalls::Stalls;
use regent_tests::wait::{seconds, until};
use regentctl::clock::{self, millis};
use regentctl::report::Case as Line;
use serde_json::{Value, json};

/// Longest wait for every reader's report. The site's leader begins to fence 3.5 s after its last
/// renewal, of which there is one every 0.8 s.
const REPORTED_WITHIN: Duration = Duration::from_secs(2);
/// The longest standstill of writes that is none, beside what the disk itself stood still.
const STANDSTILL: Duration = Duration::from_millis(1000);

/// One record, and who reads it.
struct Subject {
    /// Short, for people.
    name: String,
    key: String,
    /// `None`: the global quorum.
    site: Option<SiteName>,
    /// Processes that read it.
    readers: BTreeSet<String>,
    /// A field whose value is replaced by one of another type.
    field: Option<&'static str>,
    /// Written again and again without being read, so that nobody may ever see the garbage.
    overwritten: bool,
}

impl Subject {
    fn is_versioned(&self) -> bool {
        self.site.is_none() || self.key.contains("/regent/")
    }
}

/// Numbers from a seed (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Bytes that are no UTF-8.
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length).map(|_| self.next().to_le_bytes()[0]).collect();
        if let Some(first) = bytes.first_mut() {
            *first = 0xFF;
        }
        bytes
    }
}

/// Every kind of garbage for a record with this good value.
fn kinds(
    subject: &Subject,
    good: Option<&[u8]>,
    random: &mut Numbers,
) -> Vec<(&'static str, Vec<u8>)> {
    let good = good.unwrap_or(br#"{"version":1,"some":"thing"}"#);
    let mut kinds = vec![
        ("random bytes", random.bytes(64)),
        ("another JSON type", br#"[17, "garbage"]"#.to_vec()),
        ("truncated", truncated(good)),
        ("deep nesting", b"[".repeat(20_000)),
        ("100 kB", random.bytes(100_000)),
    ];
    // An empty `initialize` means that a bootstrap runs.
    if !subject.key.ends_with("/initialize") {
        kinds.push(("empty", Vec::new()));
    }
    if let Ok(Value::Object(mut record)) = serde_json::from_slice::<Value>(good) {
        if subject.is_versioned() {
            let mut newer = record.clone();
            newer.insert("version".to_owned(), json!(2));
            kinds.push(("newer version", Value::Object(newer).to_string().into_bytes()));
        }
        if let Some(field) = subject.field {
            record.insert(field.to_owned(), json!([{ "garbage": true }]));
            kinds.push(("field of another type", Value::Object(record).to_string().into_bytes()));
        }
    }
    kinds
}

/// Half of the record. Half of a name may be a name, so a brace stands before it.
fn truncated(good: &[u8]) -> Vec<u8> {
    let half = &good[..good.len() / 2];
    if half.first() == Some(&b'{') { half.to_vec() } else { [b"{", half].concat() }
}

/// How often each process said of which key that it cannot be read.
#[derive(Default)]
struct Logs {
    files: BTreeMap<String, PathBuf>,
    /// Bytes of each log that were looked at.
    seen: BTreeMap<String, usize>,
    counts: BTreeMap<(String, String), usize>,
}

impl Logs {
    fn of(bed: &Bed) -> Self {
        let agents = bed.lab().layout().nodes.iter().map(|node| node.agent());
        let processes = agents.chain(bed.coordinators());
        let files = processes.map(|p| (p.clone(), bed.lab().layout().log(&p))).collect();
        Self { files, ..Self::default() }
    }

    fn look(&mut self) {
        for (process, file) in &self.files {
            let bytes = std::fs::read(file).unwrap_or_default();
            let seen = self.seen.entry(process.clone()).or_default();
            let new = bytes.get(*seen..).unwrap_or_default();
            let whole = new.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            *seen += whole;
            for line in new[..whole].split(|byte| *byte == b'\n') {
                if let Some(key) = unreadable(line) {
                    *self.counts.entry((process.clone(), key)).or_default() += 1;
                }
            }
        }
    }

    fn count(&self, process: &str, key: &str) -> usize {
        self.counts.get(&(process.to_owned(), key.to_owned())).copied().unwrap_or_default()
    }
}

/// The key of a line that reports an unreadable record.
fn unreadable(line: &[u8]) -> Option<String> {
    let line: Value = serde_json::from_slice(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    let message = fields.get("message")?.as_str()?;
    let reports = message.contains("cannot be read") && message.contains("record");
    reports.then(|| fields.get("key")?.as_str().map(str::to_owned))?
}

/// What must stay as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Roles {
    primary: String,
    leaders: BTreeMap<SiteName, String>,
    processes: BTreeMap<String, Option<i32>>,
    postmasters: Vec<Option<Pid>>,
}

struct Trial {
    bed: Bed,
    sites: BTreeMap<SiteName, Records>,
    logs: Logs,
    random: Numbers,
    stalls: Stalls,
}

/// What was seen of one record.
struct Seen {
    revisions: usize,
    mended_by_owner: usize,
    outage: Duration,
}

impl Trial {
    async fn start(seed: u64) -> anyhow::Result<Self> {
        let bed = Bed::start("garbage", TWO_SITES, None).await?;
        let roles = bed.healthy().await?;
        // So that there is an operation, and a history.
        let whom = bed.coordinator(&roles.elected)?;
        let operation = bed.begin(&whom, &roles.b).await?;
        bed.see("the switchover's outcome", Duration::from_secs(60), |global| {
            global.operation(&operation)?.outcome
        })
        .await?;
        bed.healthy().await?;
        let mut sites = BTreeMap::new();
        for (site, place) in &bed.lab().layout().site_stores {
            let prefix = site_keys(site)?.prefix().to_owned();
            sites.insert(site.clone(), Records::follow(open(place)?, prefix).await?);
        }
        let logs = Logs::of(&bed);
        let stalls = Stalls::watch(&bed.lab().layout().dir)?;
        Ok(Self { bed, sites, logs, random: Numbers(seed), stalls })
    }

    fn records(&self, subject: &Subject) -> &Records {
        match &subject.site {
            None => &self.bed.records,
            Some(site) => &self.sites[site],
        }
    }

    fn subjects(&self) -> anyhow::Result<Vec<Subject>> {
        let mut subjects = self.global_subjects();
        for site in self.bed.lab().data_sites() {
            subjects.extend(self.site_subjects(&site)?);
        }
        Ok(subjects)
    }

    fn agents(&self, of: Option<&SiteName>) -> BTreeSet<String> {
        let nodes = self.bed.lab().layout().nodes.iter();
        nodes.filter(|node| of.is_none_or(|s| node.site == *s)).map(|n| n.agent()).collect()
    }

    fn global_subjects(&self) -> Vec<Subject> {
        let keys = &self.bed.keys;
        let coordinators: BTreeSet<String> = self.bed.coordinators().into_iter().collect();
        let base = keys.prefix().to_owned();
        let mut found: Vec<String> = self.bed.records.now().into_keys().collect();
        found.push(format!("{base}garbage/here"));
        let fields = [
            ("topology", "yaml"),
            ("primary", "epoch"),
            ("lease", "counter"),
            ("operation", "id"),
            ("leader", "tenure"),
            ("sites/", "generation"),
            ("operations/", "steps"),
            ("coordinators/", "address"),
            ("history/", "epoch"),
        ];
        let subject = |key: String| {
            let name = key.strip_prefix(&base).unwrap_or(&key).to_owned();
            let field = fields.iter().find(|(prefix, _)| name.starts_with(prefix));
            let agents = match name.split('/').collect::<Vec<_>>()[..] {
                ["primary" | "lease"] | ["sites", _, "report"] => self.agents(None),
                ["sites", site, "assignment"] => self.agents(site.parse().ok().as_ref()),
                _ => BTreeSet::new(),
            };
            let readers = match name.as_str() {
                "garbage/here" => BTreeSet::new(),
                _ => agents.union(&coordinators).cloned().collect(),
            };
            let field = field.map(|(_, field)| *field);
            Subject { name, key, site: None, readers, field, overwritten: false }
        };
        found.into_iter().map(subject).collect()
    }

    fn site_subjects(&self, site: &SiteName) -> anyhow::Result<Vec<Subject>> {
        let keys = site_keys(site)?;
        let subject = |key: String, field| Subject {
            name: format!("{site}: {}", key.strip_prefix(keys.prefix()).unwrap_or(&key)),
            key,
            site: Some(site.clone()),
            readers: self.agents(Some(site)),
            field: Some(field),
            overwritten: false,
        };
        let mut subjects: Vec<Subject> = SiteKey::ALL
            .into_iter()
            .map(|which| {
                let field = match which {
                    SiteKey::Config => "ttl",
                    SiteKey::Sync => "sync_standby",
                    SiteKey::Status => "optime",
                    SiteKey::Failover => "member",
                    SiteKey::Mark => "operation",
                    SiteKey::Epoch => "epoch",
                    SiteKey::Promise => "span_ms",
                    SiteKey::Promotions => "ancestry",
                    SiteKey::Initialize
                    | SiteKey::Leader
                    | SiteKey::History
                    | SiteKey::Failsafe => "any",
                };
                // With failsafe off its leader empties what it finds.
                let overwritten = matches!(which, SiteKey::Status | SiteKey::Failsafe);
                let mut subject = Subject { overwritten, ..subject(keys.key(which), field) };
                if matches!(which, SiteKey::History | SiteKey::Failsafe) {
                    // Patroni's tools read the one; the other may be mended before it is read.
                    subject.readers.clear();
                }
                subject
            })
            .collect();
        let nodes = self.bed.lab().layout().nodes.iter().filter(|node| node.site == *site);
        subjects.extend(nodes.map(|node| Subject {
            // Its position is part of it.
            overwritten: true,
            ..subject(keys.member(&node.name), "conn_url")
        }));
        Ok(subjects)
    }

    async fn roles(&self) -> anyhow::Result<Roles> {
        let mut leaders = BTreeMap::new();
        for (site, records) in &self.sites {
            let key = site_keys(site)?.key(SiteKey::Leader);
            let entry = records.store.get(&key, CALL).await?;
            let name = entry.map(|e| String::from_utf8_lossy(&e.value).into_owned());
            leaders.insert(site.clone(), name.unwrap_or_default());
        }
        let store = self.bed.store();
        let found = store.range(self.bed.keys.prefix(), CALL).await?.entries;
        let found: Keys = found.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        let global = Global { keys: &self.bed.keys, found: &found };
        let primary = global.primary().context("`primary` can't be read")?;
        let lease = global.lease().context("`lease` can't be read")?;
        let processes = self.bed.lab().processes().await?;
        let nodes = &self.bed.lab().layout().nodes;
        let postmasters = nodes.iter().map(|node| self.bed.lab().postmaster_pid(&node.name));
        Ok(Roles {
            primary: format!("{} at {}, {}", primary.holder, primary.epoch, lease.node),
            leaders,
            processes: processes.into_iter().map(|p| (p.name, p.pid)).collect(),
            postmasters: postmasters.collect::<Result<_, _>>()?,
        })
    }

    /// Replaces the record as it is just now; what it was, and the revision of the new one.
    async fn replace(
        &self,
        subject: &Subject,
        value: Option<&[u8]>,
        lease: Option<regent_dcs::LeaseId>,
    ) -> anyhow::Result<(Option<Entry>, Revision)> {
        let store = &self.records(subject).store;
        until("an undisturbed write", Duration::from_secs(2), async || {
            let found = store.get(&subject.key, CALL).await.map_err(|e| e.to_string())?;
            let key = subject.key.clone();
            let change = match (value, lease) {
                (None, _) => Change::delete(key.clone()),
                (Some(value), None) => Change::put(key.clone(), value),
                (Some(value), Some(lease)) => Change::put_leased(key.clone(), value, lease),
            };
            let txn = Txn::new().when(Compare::as_read(key, found.as_ref())).then(change);
            match store.txn(txn, CALL).await.map_err(|e| e.to_string())? {
                TxnOutcome::Applied { revision } => Ok((found, revision)),
                TxnOutcome::Conflict { .. } => Err("its owner was faster".to_owned()),
            }
        })
        .await
    }

    /// Writes every kind of garbage and puts the record back.
    async fn run(&mut self, subject: &Subject) -> anyhow::Result<Seen> {
        let before = self.roles().await?;
        let (from, begun) = (self.bed.writer.now(), boot::now());
        let good = self.records(subject).store.get(&subject.key, CALL).await?;
        let value = good.as_ref().map(|entry| entry.value.clone());
        let kinds = kinds(subject, value.as_deref(), &mut self.random);
        let mut seen = Seen { revisions: 0, mended_by_owner: 0, outage: Duration::ZERO };
        self.logs.look();
        let said: BTreeMap<String, usize> =
            subject.readers.iter().map(|p| (p.clone(), self.logs.count(p, &subject.key))).collect();
        let lease = good.as_ref().and_then(|entry| entry.lease);
        for (turn, (kind, garbage)) in kinds.into_iter().enumerate() {
            // Written by a stranger, or under the owner's own lease.
            let lease = lease.filter(|_| turn % 2 == 1);
            let (replaced, revision) = self.replace(subject, Some(&garbage), lease).await?;
            seen.revisions += 1;
            // Whoever was slower than the owner has not seen what the owner wrote over.
            let least = seen.revisions - seen.mended_by_owner;
            if self.reported(subject, &said, least, revision).await.context(kind)? {
                seen.mended_by_owner += 1;
            } else {
                match replaced {
                    Some(good) => self.put_back(subject, &good, revision).await?,
                    None => drop(self.replace(subject, None, None).await?),
                }
            }
            let after = self.roles().await.context(kind)?;
            ensure!(before == after, "{kind}: {before:?} became {after:?}");
        }
        self.bed.progress().await?;
        let after = self.roles().await?;
        ensure!(before == after, "{before:?} became {after:?}");
        self.logs.look();
        let reports = |process: &str| {
            let count = self.logs.count(process, &subject.key);
            count - said.get(process).copied().unwrap_or_default()
        };
        let mut all = 0;
        for process in &subject.readers {
            let count = reports(process);
            all += count;
            let least = seen.revisions - seen.mended_by_owner;
            ensure!(
                (least..=seen.revisions).contains(&count),
                "{process} reported {count} times for {} revisions, of which {} were overwritten \
                 at once",
                seen.revisions,
                seen.mended_by_owner
            );
        }
        ensure!(
            subject.readers.is_empty() || subject.overwritten || all >= seen.revisions,
            "{all} reports of {} revisions",
            seen.revisions
        );
        seen.outage = self.bed.outage(from, self.bed.writer.now());
        let disk = self.stalls.worst_since(begun);
        ensure!(
            seen.outage < STANDSTILL + disk,
            "writes stood still for {} ms, and the disk kept a sync waiting for {} ms",
            millis(seen.outage),
            millis(disk)
        );
        Ok(seen)
    }

    /// Puts the good record back, unless its owner did.
    async fn put_back(
        &self,
        subject: &Subject,
        good: &Entry,
        garbage: Revision,
    ) -> anyhow::Result<()> {
        let key = subject.key.clone();
        let change = match good.lease {
            None => Change::put(key.clone(), good.value.clone()),
            Some(lease) => Change::put_leased(key.clone(), good.value.clone(), lease),
        };
        let still = Compare::Modified { key, revision: garbage };
        self.records(subject).store.txn(Txn::new().when(still).then(change), CALL).await?;
        Ok(())
    }

    /// Waits until every reader has reported at least this many revisions; true when the owner wrote
    /// the record anew before.
    async fn reported(
        &mut self,
        subject: &Subject,
        said: &BTreeMap<String, usize>,
        revisions: usize,
        garbage: Revision,
    ) -> anyhow::Result<bool> {
        let store = self.records(subject).store.clone();
        let logs = &mut self.logs;
        until("every reader's report", REPORTED_WITHIN, async || {
            let found = store.get(&subject.key, CALL).await.map_err(|e| e.to_string())?;
            if found.is_none_or(|entry| entry.modified != garbage) {
                return Ok(true);
            }
            logs.look();
            let silent: Vec<&String> = said
                .iter()
                .filter(|(process, before)| logs.count(process, &subject.key) < *before + revisions)
                .map(|(process, _)| process)
                .collect();
            if silent.is_empty() { Ok(false) } else { Err(format!("silent: {silent:?}")) }
        })
        .await
    }
}

fn site_keys(site: &SiteName) -> anyhow::Result<SiteKeys> {
    Ok(SiteKeys::new("/service", &site.as_str().parse()?))
}

/// Tries every record; goes on after a failure where the federation recovers.
async fn try_all(trial: &mut Trial, only: Option<&str>) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for subject in trial.subjects()? {
        if only.is_some_and(|only| !subject.name.contains(only)) {
            continue;
        }
        let begun = clock::now();
        let line = match trial.run(&subject).await {
            Ok(seen) => {
                regent_tests::say(format!(
                    "{:<32} {} revisions, {} of them mended by its owner, largest gap {:>3} ms, \
                     {:.1} s",
                    subject.name,
                    seen.revisions,
                    seen.mended_by_owner,
                    millis(seen.outage),
                    seconds(begun)
                ));
                let gap = seen.outage.as_secs_f64() * 1e3;
                Line::new(subject.name.clone()).figure("largest gap", gap, "ms")
            }
            Err(problem) => {
                regent_tests::say(format!("{:<32} FAILED: {problem:#}", subject.name));
                trial.bed.keep_logs();
                Line::new(subject.name.clone()).require(false, || format!("{problem:#}"))
            }
        };
        let failed = !regentctl::report::passed(std::slice::from_ref(&line));
        lines.push(line);
        if failed && let Err(problem) = recover(trial, &subject).await {
            lines.push(Line::new("recovery").require(false, || format!("{problem:#}")));
            break;
        }
    }
    Ok(lines)
}

/// After a failure: what can't mend itself is removed.
async fn recover(trial: &Trial, subject: &Subject) -> anyhow::Result<()> {
    let found = trial.records(subject).store.get(&subject.key, CALL).await?;
    let garbage = found.is_some_and(|entry| {
        let text = String::from_utf8_lossy(&entry.value).into_owned();
        !subject.key.ends_with("/leader") && serde_json::from_str::<Value>(&text).is_err()
    });
    if garbage {
        trial.replace(subject, None, None).await?;
    }
    trial.bed.start_missing().await?;
    trial.bed.healthy().await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_in_any_record_changes_no_role_and_is_reported_once() {
    #[expect(clippy::disallowed_methods, reason = "for whoever looks at one record")]
    let [only, seed] = ["REGENT_CASE", "REGENT_SEED"].map(|name| std::env::var(name).ok());
    let seed = seed.map(|seed| seed.parse().expect("REGENT_SEED is a number"));
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    regent_tests::say(format!("REGENT_SEED={seed}"));
    let begun = clock::now();
    let mut trial = Trial::start(seed).await.unwrap();
    regent_tests::say(format!("started in {:.0} s", seconds(begun)));
    let before = trial.roles().await.unwrap();
    let mut lines = try_all(&mut trial, only.as_deref()).await.unwrap();
    let healthy = trial.bed.healthy().await;
    let after = trial.roles().await.unwrap();
    let Trial { bed, stalls, .. } = trial;
    drop(stalls);
    let federation = bed.federation().await.unwrap();
    lines.push(
        Line::new("afterwards")
            .require(healthy.is_ok(), || format!("{healthy:?}"))
            .require(before == after, || format!("{before:?} became {after:?}"))
            .require(federation.unreadable.is_empty(), || format!("{:?}", federation.unreadable)),
    );
    let (history, judgement) = bed.finish().await.unwrap();
    let rows = Line::new("rows");
    lines.push(rows.require(judgement.is_clean(), || explain(&judgement, &history)));
    regent_tests::say(format!("{} records in {:.0} s", lines.len() - 2, seconds(begun)));
    regentctl::report::write(&report::file("garbage"), &lines).unwrap();
    let failed: Vec<&Line> = lines.iter().filter(|line| !line.reason.is_empty()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
