//! The site DCS as decisions see it: Patroni's keys read with Patroni's tolerance
//! (spec/patroni-compat.md 1.2 to 1.4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use regent_dcs::{Entry, LeaseId, Revision};
use regent_proto::keys::{SiteKey, SiteKeys};
use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::record::{Mark, Promise, Promotions, Record, ReportedFence, SeenEpoch};
use regent_proto::time::BootTime;
use regent_proto::timeline::{Ancestry, Switch, TimelineId};
use serde::Deserialize;

use super::clock::wall_time;
use super::decoded::Decoded;
use super::mirror::Picture;
use super::schedule;
use super::unreadable::Unreadable;
use crate::config::dynamic::Dynamic;
use crate::config::tags;
use crate::decide::view::{
    At, FailoverRequest, FailsafeRecord, Initialize, LeaderKey, Member, PromiseRecord,
    PublishedSlots, Schedule, SiteView, SyncView,
};

/// Patroni's member record, the fields that are used.
#[derive(Debug, Deserialize)]
struct MemberRecord {
    conn_url: String,
    #[serde(default)]
    api_url: String,
    /// Ours: where it answers for its site.
    #[serde(default)]
    promise_url: Option<String>,
    #[serde(default)]
    state: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    replication_state: String,
    #[serde(default)]
    timeline: Option<u32>,
    #[serde(default)]
    xlog_location: Option<u64>,
    #[serde(default)]
    tags: BTreeMap<String, serde_json::Value>,
    /// Ours: the member's history.
    #[serde(default)]
    ancestry: Option<Ancestry>,
    /// Ours: how its fence stands. A newer version's may be of another form: then nothing is shown.
    #[serde(default)]
    regent: Option<serde_json::Value>,
    /// Shown only: whatever stands there is no reason not to read the rest.
    #[serde(default)]
    pending_restart: Option<serde_json::Value>,
    #[serde(default)]
    pending_restart_reason: Option<serde_json::Value>,
    /// Ours: how far each of its slots lets vacuum go.
    #[serde(default)]
    catalog_horizon: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct SyncRecord {
    #[serde(default)]
    leader: Option<String>,
    #[serde(default)]
    sync_standby: Option<String>,
    #[serde(default)]
    quorum: Option<Quorum>,
}

/// A number, which some of Patroni's stores keep as text.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Quorum {
    Number(usize),
    Text(String),
}

/// Patroni's `status`, as far as it can be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct StatusRecord {
    optime: Option<u64>,
    published: PublishedSlots,
}

#[derive(Debug, Clone, Deserialize)]
struct FailoverRecord {
    #[serde(default)]
    leader: Option<NodeName>,
    #[serde(default)]
    member: Option<NodeName>,
    #[serde(default)]
    scheduled_at: Option<String>,
}

/// How `config` stands in the DCS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigKey {
    /// There is none.
    Absent,
    /// Nobody can read it as an object.
    Unreadable {
        /// Its revision.
        revision: u64,
    },
    /// There is one; also before the DCS was read for the first time.
    Read,
}

/// Reads the site's keys.
#[derive(Debug)]
pub struct SiteObserver {
    keys: SiteKeys,
    me: NodeName,
    leaderless_since: Option<BootTime>,
    /// When the request of this revision is due.
    scheduled: Option<(Revision, Schedule)>,
    unreadable: Unreadable,
    fences: BTreeMap<NodeName, ReportedFence>,
    known: Known,
    restarts: BTreeMap<NodeName, serde_json::Value>,
    config: ConfigKey,
    /// Leases of this node; `None`: not known, and then a key in its name is taken for its own.
    own_leases: Option<BTreeSet<LeaseId>>,
    /// `config` as it was last read without a problem: then nothing of it goes by what is in force.
    sound: Option<Box<(Bytes, Dynamic)>>,
}

/// Records of each kind that were decoded already. Clones are the same.
#[derive(Debug, Default, Clone)]
pub struct Known {
    members: Decoded<KnownMember>,
    /// `config`.
    documents: Decoded<serde_json::Value>,
    sync: Decoded<SyncRecord>,
    status: Decoded<StatusRecord>,
    failover: Decoded<FailoverRecord>,
    mark: Decoded<Mark>,
    epoch: Decoded<SeenEpoch>,
    failsafe: Decoded<BTreeMap<NodeName, String>>,
    promise: Decoded<Promise>,
    promotions: Decoded<Promotions>,
    history: Decoded<Option<Ancestry>>,
}

/// A member's record.
#[derive(Debug)]
struct KnownMember {
    member: Arc<Member>,
    ancestry: Option<Ancestry>,
    fence: Option<ReportedFence>,
    /// What is wrong with its tags.
    problems: Vec<String>,
    restart: Option<serde_json::Value>,
}

impl SiteObserver {
    /// For this cluster and member.
    #[must_use]
    pub fn new(keys: SiteKeys, me: NodeName) -> Self {
        Self::sharing(keys, me, Known::default())
    }

    /// One of several of this process that watch the same store.
    #[must_use]
    pub fn sharing(keys: SiteKeys, me: NodeName, known: Known) -> Self {
        Self {
            keys,
            me,
            leaderless_since: None,
            scheduled: None,
            unreadable: Unreadable::default(),
            fences: BTreeMap::new(),
            known,
            restarts: BTreeMap::new(),
            config: ConfigKey::Read,
            own_leases: None,
            sound: None,
        }
    }

    /// With the leases that former lives of this node had.
    #[must_use]
    pub fn knowing(mut self, own_leases: Option<BTreeSet<LeaseId>>) -> Self {
        self.own_leases = own_leases;
        self
    }

    /// The view and, where there is a readable one, the dynamic configuration.
    pub fn read(
        &mut self,
        picture: &Picture,
        my_lease: Option<LeaseId>,
        now: BootTime,
        in_force: &Dynamic,
    ) -> Option<(SiteView, Option<Dynamic>)> {
        let answered = picture.answered?;
        self.unreadable.keep(&picture.entries);
        self.known.members.keep(&picture.entries);
        if let Some(had) = &mut self.own_leases {
            had.extend(my_lease);
        }
        let leader = self.leader(picture, my_lease);
        match (&leader, self.leaderless_since) {
            (Some(_), _) => self.leaderless_since = None,
            (None, None) => self.leaderless_since = Some(now),
            (None, Some(_)) => {}
        }
        let (members, ancestries) = self.members(picture);
        let status = self.status(picture);
        let ancestry = leader.as_ref().and_then(|l| ancestries.get(&l.name).cloned());
        let view = SiteView {
            age: now.since(answered),
            leaderless: self.leaderless_since.map_or(Duration::ZERO, |since| now.since(since)),
            initialize: self.initialize(picture),
            sync: self.sync(picture),
            optime: status.as_ref().and_then(|status| status.optime).map(Lsn::new),
            published: status.map(|status| status.published).unwrap_or_default(),
            failover: self.failover(picture, now),
            mark: self
                .record(|known| &known.mark, picture, SiteKey::Mark)
                .map(|(value, entry)| At { value, revision: entry.modified.0 }),
            unreadable_mark: self.unreadable_revision(|known| &known.mark, picture, SiteKey::Mark),
            seen_epoch: self
                .record(|known| &known.epoch, picture, SiteKey::Epoch)
                .map(|(value, entry)| At { value, revision: entry.modified.0 }),
            unreadable_epoch: self.unreadable_revision(
                |known| &known.epoch,
                picture,
                SiteKey::Epoch,
            ),
            failsafe: self.failsafe(picture),
            promise: self.promise(picture),
            promotions: self
                .record(|known| &known.promotions, picture, SiteKey::Promotions)
                .map(|(value, entry)| At { value, revision: entry.modified.0 }),
            history: self.history(picture),
            ancestry,
            leader,
            members,
        };
        Some((view, self.dynamic(picture, in_force)))
    }

    /// How the members say that their fences stand, as of the last reading.
    #[must_use]
    pub fn fences(&self) -> &BTreeMap<NodeName, ReportedFence> {
        &self.fences
    }

    /// What the members say waits for a restart, as of the last reading.
    #[must_use]
    pub fn restarts(&self) -> &BTreeMap<NodeName, serde_json::Value> {
        &self.restarts
    }

    /// How `config` stands, as of the last reading.
    #[must_use]
    pub fn config(&self) -> ConfigKey {
        self.config
    }

    /// Keys that cannot be read, for warnings.
    pub fn unreadable(&self) -> impl Iterator<Item = &String> {
        self.unreadable.keys()
    }

    fn entry<'p>(&self, picture: &'p Picture, key: SiteKey) -> Option<&'p Entry> {
        picture.entries.get(&self.keys.key(key))
    }

    fn leader(&mut self, picture: &Picture, my_lease: Option<LeaseId>) -> Option<LeaderKey> {
        let entry = picture.entries.get(&self.keys.key(SiteKey::Leader))?;
        // A name that cannot be read still means: somebody holds it. It is not ours.
        let name = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok());
        // Bound to our own lease it can only have been written under it: whatever it says, nobody
        // else can take it.
        let ours = my_lease.is_some() && entry.lease == my_lease;
        if ours && name.as_ref() != Some(&self.me) {
            self.unreadable.report(entry, "the leader key is ours but does not carry our name");
        }
        let name = if ours { Some(self.me.clone()) } else { name };
        // What nobody holds by a lease was written by hand, and is this node's to bind.
        let foreign = |lease| self.own_leases.as_ref().is_some_and(|had| !had.contains(&lease));
        let twin = !ours && name.as_ref() == Some(&self.me) && entry.lease.is_some_and(foreign);
        let unreadable = name.is_none();
        let name = name.unwrap_or_else(|| {
            self.unreadable.report(entry, "the leader key is not a member name");
            "unreadable".parse().expect("a constant of the accepted form")
        });
        let revision = entry.modified.0;
        Some(LeaderKey { unreadable, bound_to_my_lease: ours, twin, name, revision })
    }

    fn read_as<T: Clone>(
        &mut self,
        kind: fn(&Known) -> &Decoded<T>,
        entry: &Entry,
        decode: fn(&Entry) -> Result<T, String>,
    ) -> Option<T> {
        match &*kind(&self.known).of(entry, decode) {
            Ok(value) => Some(value.clone()),
            Err(problem) => {
                self.unreadable.report(entry, problem);
                None
            }
        }
    }

    fn json<T: serde::de::DeserializeOwned + Clone>(
        &mut self,
        kind: fn(&Known) -> &Decoded<T>,
        entry: &Entry,
    ) -> Option<T> {
        let decode =
            |entry: &Entry| serde_json::from_slice(&entry.value).map_err(|error| error.to_string());
        self.read_as(kind, entry, decode)
    }

    fn record<'p, R: Record + Clone>(
        &mut self,
        kind: fn(&Known) -> &Decoded<R>,
        picture: &'p Picture,
        key: SiteKey,
    ) -> Option<(R, &'p Entry)> {
        let entry = self.entry(picture, key)?;
        self.read_as(kind, entry, record).map(|record| (record, entry))
    }

    fn unreadable_revision<R: Record>(
        &self,
        kind: fn(&Known) -> &Decoded<R>,
        picture: &Picture,
        key: SiteKey,
    ) -> Option<u64> {
        let entry = self.entry(picture, key)?;
        kind(&self.known).of(entry, record).is_err().then_some(entry.modified.0)
    }

    fn history(&mut self, picture: &Picture) -> Option<At<Ancestry>> {
        let entry = self.entry(picture, SiteKey::History)?;
        let value = self.read_as(|known| &known.history, entry, history).flatten()?;
        Some(At { value, revision: entry.modified.0 })
    }

    fn failsafe(&mut self, picture: &Picture) -> FailsafeRecord {
        let Some(entry) = self.entry(picture, SiteKey::Failsafe) else {
            return FailsafeRecord::Absent;
        };
        let revision = entry.modified.0;
        match self.json(|known| &known.failsafe, entry) {
            Some(members) => FailsafeRecord::Read { members, revision },
            None => FailsafeRecord::Unreadable { revision },
        }
    }

    fn promise(&mut self, picture: &Picture) -> PromiseRecord {
        let Some(entry) = self.entry(picture, SiteKey::Promise) else {
            return PromiseRecord::Absent;
        };
        let revision = entry.modified.0;
        match self.record(|known| &known.promise, picture, SiteKey::Promise) {
            Some((value, _)) => PromiseRecord::Read(At { value, revision }),
            None => PromiseRecord::Unreadable { revision },
        }
    }

    fn initialize(&mut self, picture: &Picture) -> Initialize {
        let Some(entry) = self.entry(picture, SiteKey::Initialize) else {
            return Initialize::Absent;
        };
        if entry.value.is_empty() {
            return Initialize::Running;
        }
        match std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok()) {
            Some(identifier) => Initialize::Done(identifier),
            None => {
                self.unreadable.report(entry, "neither empty nor a system identifier");
                Initialize::Unreadable
            }
        }
    }

    fn members(
        &mut self,
        picture: &Picture,
    ) -> (BTreeMap<NodeName, Arc<Member>>, BTreeMap<NodeName, Ancestry>) {
        let prefix = self.keys.members();
        let mut members = BTreeMap::new();
        let mut ancestries = BTreeMap::new();
        self.fences.clear();
        self.restarts.clear();
        for (key, entry) in picture.entries.range(prefix.clone()..) {
            let Some(name) = key.strip_prefix(&prefix) else { break };
            let Ok(name) = name.parse::<NodeName>() else {
                self.unreadable.report(entry, "the key does not end in a member name");
                continue;
            };
            match &*self.known.members.of(entry, known_member) {
                Ok(known) => {
                    self.fences.extend(known.fence.clone().map(|fence| (name.clone(), fence)));
                    self.restarts.extend(known.restart.clone().map(|why| (name.clone(), why)));
                    if let Some(ancestry) = &known.ancestry {
                        ancestries.insert(name.clone(), ancestry.clone());
                    }
                    members.insert(name, Arc::clone(&known.member));
                    if !known.problems.is_empty() {
                        let problems = known.problems.join("; ");
                        self.unreadable.doubt(entry, &format!("tags: {problems}"));
                    }
                }
                Err(problem) => self.unreadable.report(entry, problem),
            }
        }
        (members, ancestries)
    }

    fn sync(&mut self, picture: &Picture) -> SyncView {
        let Some(entry) = self.entry(picture, SiteKey::Sync) else { return SyncView::default() };
        let revision = Some(entry.modified.0);
        let Some(record) = self.json(|known| &known.sync, entry) else {
            return SyncView { revision, unreadable: true, ..SyncView::default() };
        };
        let standbys: BTreeSet<NodeName> = record
            .sync_standby
            .unwrap_or_default()
            .split(',')
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        let leader = record.leader.and_then(|l| l.parse().ok());
        // Who may lead, and with whose votes, is one statement: half of it is none (I9).
        let quorum = match record.quorum {
            None => Some(0),
            Some(Quorum::Number(number)) => Some(number),
            Some(Quorum::Text(text)) => text.trim().parse().ok(),
        };
        let Some(quorum) = quorum else {
            self.unreadable.report(entry, "quorum is not a number");
            return SyncView { revision, unreadable: true, ..SyncView::default() };
        };
        // As Patroni reads it: without a leader it says nothing. More votes than there are, the leader's
        // among them, nobody has; how many more does not matter, and must not overflow a sum.
        let quorum = if leader.is_some() { quorum.min(standbys.len() + 1) } else { 0 };
        SyncView { revision, leader, standbys, unreadable: false, quorum }
    }

    fn status(&mut self, picture: &Picture) -> Option<StatusRecord> {
        let entry = self.entry(picture, SiteKey::Status)?;
        self.read_as(|known| &known.status, entry, status_record)
    }

    /// A request whose time cannot be read is none: it must not be acted upon at once.
    fn failover(&mut self, picture: &Picture, now: BootTime) -> Option<At<FailoverRequest>> {
        let entry = self.entry(picture, SiteKey::Failover)?;
        let record = self.json(|known| &known.failover, entry)?;
        if record.leader.is_none() && record.member.is_none() {
            return None;
        }
        let scheduled = match &record.scheduled_at {
            None => None,
            Some(text) => Some(self.schedule(entry, text, now)?),
        };
        Some(At {
            value: FailoverRequest { leader: record.leader, candidate: record.member, scheduled },
            revision: entry.modified.0,
        })
    }

    /// Once for each revision of the request: from then on only the boot clock counts (I11).
    fn schedule(&mut self, entry: &Entry, text: &str, now: BootTime) -> Option<Schedule> {
        let known = self.scheduled.as_ref().filter(|(revision, _)| *revision == entry.modified);
        if let Some((_, schedule)) = known {
            return Some(schedule.clone());
        }
        let Ok(instant) = schedule::read(text) else {
            self.unreadable.report(entry, "scheduled_at is no date and time with a time zone");
            return None;
        };
        let due = schedule::due(instant, wall_time(), now);
        let schedule = Schedule { due, text: text.to_owned() };
        self.scheduled = Some((entry.modified, schedule.clone()));
        Some(schedule)
    }

    fn dynamic(&mut self, picture: &Picture, in_force: &Dynamic) -> Option<Dynamic> {
        let Some(entry) = self.entry(picture, SiteKey::Config) else {
            self.config = ConfigKey::Absent;
            return None;
        };
        if let Some(sound) = self.sound.as_deref().filter(|(bytes, _)| *bytes == entry.value) {
            self.config = ConfigKey::Read;
            return Some(sound.1.clone());
        }
        self.config = ConfigKey::Unreadable { revision: entry.modified.0 };
        let document = self.known.documents.of(entry, |entry| {
            serde_json::from_slice(&entry.value).map_err(|error| error.to_string())
        });
        let document = match &*document {
            Ok(document) => document,
            Err(problem) => {
                self.unreadable.report(entry, problem);
                return None;
            }
        };
        if !document.is_object() {
            self.unreadable.report(entry, "the dynamic configuration is not an object");
            return None;
        }
        self.config = ConfigKey::Read;
        let dynamic = Dynamic::read(document, in_force);
        if dynamic.problems.is_empty() {
            self.sound = Some(Box::new((entry.value.clone(), dynamic.clone())));
        } else {
            let problems = dynamic.problems.join("; ");
            self.unreadable.report(entry, &format!("{problems}; the value in force stays"));
        }
        Some(dynamic)
    }
}

fn record<R: Record>(entry: &Entry) -> Result<R, String> {
    R::decode(&entry.key, &entry.value).map_err(|error| error.problem)
}

/// Also what Patroni before 2.1 wrote, a number and nothing else. A position of a slot that is none is
/// passed over: a slot without one is not moved.
fn status_record(entry: &Entry) -> Result<StatusRecord, String> {
    let value: serde_json::Value =
        serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
    if let Some(optime) = value.as_u64() {
        return Ok(StatusRecord { optime: Some(optime), ..StatusRecord::default() });
    }
    let fields = value.as_object().ok_or("neither an object nor a position")?;
    let optime = match fields.get("optime") {
        None | Some(serde_json::Value::Null) => None,
        Some(at) => Some(at.as_u64().ok_or("optime is no position")?),
    };
    let slots = fields.get("slots").and_then(serde_json::Value::as_object);
    let slots = slots
        .into_iter()
        .flatten()
        .filter_map(|(name, at)| Some((name.clone(), Lsn::new(at.as_u64()?))));
    let retain = fields.get("retain_slots").and_then(serde_json::Value::as_array);
    let retain = retain.into_iter().flatten().filter_map(|name| Some(name.as_str()?.to_owned()));
    let published = PublishedSlots { slots: slots.collect(), retain: retain.collect() };
    Ok(StatusRecord { optime, published })
}

/// Patroni's `history`: where each timeline was left. Lines of another form tell nothing.
fn history(entry: &Entry) -> Result<Option<Ancestry>, String> {
    let lines: Vec<serde_json::Value> =
        serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
    let switches: Option<Vec<Switch>> = lines
        .iter()
        .map(|line| {
            let timeline = u32::try_from(line.get(0)?.as_u64()?).ok()?;
            let end = Lsn::new(line.get(1)?.as_u64()?);
            Some(Switch { timeline: TimelineId(timeline), end, promotion: None })
        })
        .collect();
    Ok(switches.map(|switches| {
        let timeline = switches.last().map_or(1, |last| last.timeline.0.saturating_add(1));
        Ancestry { timeline: TimelineId(timeline), promotion: None, switches }
    }))
}

fn known_member(entry: &Entry) -> Result<KnownMember, String> {
    let record: MemberRecord =
        serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
    let (host, port) = host_port(&record.conn_url)
        .ok_or_else(|| "conn_url is not postgres://HOST:PORT/DATABASE".to_owned())?;
    let tags::Read { tags, problems, contradictions: _ } = tags::read(&record.tags);
    let horizon = record.catalog_horizon.and_then(|told| serde_json::from_value(told).ok());
    let member = Arc::new(Member {
        host,
        port,
        nofailover: tags.nofailover,
        nosync: tags.nosync,
        sync_priority: tags.sync_priority,
        nostream: tags.nostream,
        replicatefrom: tags.replicatefrom,
        clonefrom: tags.clonefrom,
        horizon,
        api_url: record.api_url,
        promise_url: record.promise_url,
        streaming: record.replication_state == "streaming",
        state: record.state,
        role: record.role,
        timeline: record.timeline.map(TimelineId),
        position: record.xlog_location.map(Lsn::new),
    });
    let fence = record.regent.and_then(|told| serde_json::from_value(told).ok());
    // Patroni before 4.0 gives no reason.
    let why = record.pending_restart_reason.unwrap_or_else(|| serde_json::json!({}));
    let waits = record.pending_restart == Some(serde_json::Value::Bool(true));
    let restart = waits.then_some(why);
    Ok(KnownMember { member, ancestry: record.ancestry, fence, problems, restart })
}

/// Host and port of `postgres://HOST:PORT/DATABASE`.
fn host_port(url: &str) -> Option<(String, u16)> {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"))?;
    let authority = rest.split(['/', '?']).next()?;
    let authority = authority.rsplit('@').next()?;
    let (host, port) = authority.rsplit_once(':')?;
    Some((host.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use regent_proto::time::WallTime;

    use super::*;
    use crate::decide::view::Due;

    const KEY: &str = "/service/a/failover";

    fn entry(value: &serde_json::Value) -> Entry {
        Entry {
            key: "k".to_owned(),
            value: value.to_string().into(),
            created: Revision(1),
            modified: Revision(1),
            lease: None,
        }
    }

    #[test]
    fn a_members_tags_are_read_as_its_own_agent_reads_them_and_what_is_wrong_is_said() {
        let record = |tags| {
            let url = "postgres://127.0.0.1:5432/postgres";
            known_member(&entry(&serde_json::json!({"conn_url": url, "tags": tags})))
                .expect("a member")
        };
        let known = record(serde_json::json!({"failover_priority": 0, "sync_priority": "2",
            "replicatefrom": "a2", "zone": "b"}));
        let member = &known.member;
        assert!(member.nofailover && !member.nosync);
        assert_eq!((member.sync_priority, &member.replicatefrom), (2, &"a2".parse().ok()));
        assert_eq!(known.problems, Vec::<String>::new());
        assert_eq!(record(serde_json::json!({"sync_priority": "much"})).problems.len(), 1);
    }

    #[test]
    fn a_key_in_its_name_under_a_lease_that_it_never_had_is_a_twins() {
        let keys = SiteKeys::new("/service", &"eu".parse().expect("a scope"));
        type Row = (&'static str, Option<i64>, Option<BTreeSet<LeaseId>>, bool);
        let had = |ids: &[i64]| Some(ids.iter().copied().map(LeaseId).collect());
        let rows: [Row; 7] = [
            ("a1", Some(3), had(&[2]), true),
            ("a1", Some(3), had(&[]), true),
            ("a1", Some(2), had(&[2]), false),
            ("a1", Some(7), had(&[2]), false),
            ("a1", None, had(&[2]), false),
            ("a1", Some(3), None, false),
            ("a2", Some(3), had(&[2]), false),
        ];
        for (holder, lease, had, twin) in rows {
            let mut picture =
                Picture { answered: Some(BootTime::from_nanos(1)), ..Picture::default() };
            let key = keys.key(SiteKey::Leader);
            let value = holder.to_owned().into();
            let lease = lease.map(LeaseId);
            let put = Entry { key: key.clone(), value, lease, ..entry(&serde_json::Value::Null) };
            picture.entries.insert(key, put);
            let mut observer = SiteObserver::new(keys.clone(), "a1".parse().expect("a name"));
            observer = observer.knowing(had.clone());
            let now = BootTime::from_nanos(2);
            let read = observer.read(&picture, Some(LeaseId(7)), now, &Dynamic::default());
            let leader = read.expect("answered").0.leader.expect("there");
            assert_eq!(leader.twin, twin, "{holder} {lease:?} {had:?}");
            // Of this life, until another one took its place.
            let read = observer.read(&picture, Some(LeaseId(8)), now, &Dynamic::default());
            assert_eq!(read.expect("answered").0.leader.expect("there").twin, twin);
        }
    }

    #[test]
    fn both_histories_are_read_with_the_revisions_that_tell_which_is_later() {
        let keys = SiteKeys::new("/service", &"eu".parse().expect("a scope"));
        let record = serde_json::json!({"version": 1, "node": "a2", "promotes_at": "0/C8",
            "ancestry": {"timeline": 2, "switches": [{"timeline": 1, "end": "0/64"}]}});
        let mut picture = Picture { answered: Some(BootTime::from_nanos(1)), ..Picture::default() };
        let values = [
            (SiteKey::Promotions, record, 7),
            (SiteKey::History, serde_json::json!([[1, 100], [2, 200]]), 8),
        ];
        for (key, value, revision) in values {
            let key = keys.key(key);
            let entry = Entry { key: key.clone(), modified: Revision(revision), ..entry(&value) };
            picture.entries.insert(key, entry);
        }
        let mut observer = SiteObserver::new(keys.clone(), "a1".parse().expect("a name"));
        let mut read = |picture: &Picture| {
            let now = BootTime::from_nanos(2);
            let read = observer.read(picture, None, now, &Dynamic::default());
            let (site, _) = read.expect("it answered");
            (site.promotions, site.history, observer.unreadable().count())
        };
        let (promotions, history, unreadable) = read(&picture);
        let promotions = promotions.expect("a record");
        assert_eq!((promotions.revision, promotions.value.node.as_str()), (7, "a2"));
        assert_eq!(promotions.value.promotes_at, Some(Lsn::new(200)));
        let history = history.expect("a list");
        assert_eq!((history.revision, history.value.timeline), (8, TimelineId(3)));
        assert_eq!(unreadable, 0);
        // An older version's record names no promotion that was to come.
        let key = keys.key(SiteKey::Promotions);
        let older = serde_json::json!({"version": 1, "node": "a2", "ancestry": {"timeline": 1}});
        let older = Entry { key: key.clone(), modified: Revision(9), ..entry(&older) };
        picture.entries.insert(key.clone(), older);
        let promotes_at = read(&picture).0.map(|record| record.value.promotes_at);
        assert_eq!(promotes_at, Some(None));
        // Garbage tells nothing, and is said.
        let garbage = entry(&serde_json::json!({"node": 7}));
        picture.entries.insert(key.clone(), Entry { key, modified: Revision(10), ..garbage });
        let (promotions, history, unreadable) = read(&picture);
        assert_eq!((promotions, history.is_some(), unreadable), (None, true, 1));
    }

    #[test]
    fn the_history_of_patroni_tells_the_last_timeline() {
        let read = |value| history(&entry(&value)).expect("a list");
        let told =
            read(serde_json::json!([[1, 100, "no recovery target specified"], [2, 200, "x", "y"]]));
        let told = told.expect("lines");
        assert_eq!(told.timeline, TimelineId(3));
        assert_eq!(told.left(TimelineId(2)), Some(Some(Lsn::new(200))));
        assert_eq!(told.unnamed(), vec![TimelineId(3), TimelineId(2)]);
        assert_eq!(read(serde_json::json!([])).map(|told| told.timeline), Some(TimelineId(1)));
        assert_eq!(read(serde_json::json!([["one", 2]])), None);
        assert!(history(&entry(&serde_json::json!({}))).is_err());
    }

    fn observer() -> SiteObserver {
        let keys = SiteKeys::new("/service", &"a".parse().expect("a label"));
        SiteObserver::new(keys, "a1".parse().expect("a label"))
    }

    fn request(
        observer: &mut SiteObserver,
        value: &str,
        revision: u64,
        now: BootTime,
    ) -> Option<FailoverRequest> {
        let entry = Entry {
            key: KEY.to_owned(),
            value: value.as_bytes().to_vec().into(),
            created: Revision(1),
            modified: Revision(revision),
            lease: None,
        };
        let entries = [(KEY.to_owned(), entry)].into();
        let picture = Picture { entries, revision: Revision(revision), answered: Some(now) };
        let (view, _) = observer.read(&picture, None, now, &Dynamic::default()).expect("answered");
        let request = view.failover?;
        assert_eq!(request.revision, revision);
        Some(request.value)
    }

    #[test]
    fn a_schedule_is_put_on_the_boot_clock_once_for_each_revision() {
        let mut observer = observer();
        let hour = Duration::from_secs(3600);
        let (now, then) = (BootTime::from_nanos(7_000_000_000_000), Duration::from_secs(10));
        let at = WallTime(wall_time().0 + 3_600_000);
        let text = format!(r#"{{"leader":"a1","scheduled_at":"{at}"}}"#);
        let mut due = |revision, now| {
            let request = request(&mut observer, &text, revision, now).expect("readable");
            let schedule = request.scheduled.expect("scheduled");
            assert_eq!(schedule.text, at.to_string());
            let Due::At(due) = schedule.due else { panic!("{schedule:?}") };
            due
        };
        let first = due(3, now);
        assert!(first <= now.plus(hour) && first > now.plus(hour - Duration::from_secs(60)));
        // The wall clock still says nearly the same, the boot clock does not: nothing is computed anew.
        assert_eq!(due(3, now.plus(then)), first);
        assert!(due(4, now.plus(then)) > first, "another request is");
    }

    #[test]
    fn a_request_that_cannot_be_read_is_none() {
        let now = BootTime::from_nanos(7_000_000_000_000);
        for value in ["{}", "null", r#"{"leader":null,"member":null}"#] {
            let mut observer = observer();
            assert_eq!(request(&mut observer, value, 3, now), None, "{value}: idle");
        }
        for value in [
            "x",
            r#"{"leader":7}"#,
            r#"{"leader":"a1","scheduled_at":"soon"}"#,
            r#"{"leader":"a1","scheduled_at":"2026-11-30T10:00:00"}"#,
            r#"{"leader":"a1","scheduled_at":7}"#,
        ] {
            let mut observer = observer();
            assert_eq!(request(&mut observer, value, 3, now), None, "{value}");
            assert_eq!(observer.unreadable().collect::<Vec<_>>(), [KEY], "{value}");
        }
        let mut observer = observer();
        let read = request(&mut observer, r#"{"leader":"a1","member":"a2"}"#, 3, now);
        let read = read.expect("readable");
        let names = (read.leader.expect("named"), read.candidate.expect("named"));
        assert_eq!((names.0.as_str(), names.1.as_str()), ("a1", "a2"));
        assert_eq!(read.scheduled, None, "for now");
    }
}
