//! Telling others: the member record, and as leader `status`, `history`, `config` and the site's
//! report. Runs beside the decisions, from the newest view; written only on change, the report at
//! least every five seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use regent_dcs::{LeaseId, StoreError};
use regent_proto::keys::SiteKey;
use regent_proto::name::{NodeName, SiteName};
use regent_proto::record::{
    Opened, Promotions, Reach, Record as _, Report, ReportedFence, ReportedNode, ReportedPromise,
    ReportedRole, Unknown, VERSION,
};
use regent_proto::time::{BootTime, Deadline, WallTime};
use regent_proto::timeline::Ancestry;
use serde_json::{Value, json};

use super::config_key;
use super::failsafe::record::Keeper;
use super::fence_report::{self, RoundTrips};
use super::global::GlobalStore;
use super::history::{self, TimelineHistory};
use super::site::{Held, SiteStore};
use crate::config::Config;
use crate::config::dynamic::Dynamic;
use crate::decide::slots::Told;
use crate::decide::slots::readiness::{Horizon, Xid};
use crate::decide::upstream;
use crate::decide::view::{
    DataDirectory, Follow, JobKind, Process, ScheduledRestart, Status, View, WatchdogState,
};
use crate::observe::postgres::Extra;
use crate::observe::site::ConfigKey;

/// One round's picture of everything that is told.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The view that was decided on.
    pub view: View,
    /// What REST shows beside it.
    pub extra: Extra,
    /// The dynamic configuration.
    pub dynamic: Dynamic,
    /// This process's store lease.
    pub lease: Option<LeaseId>,
    /// The last operation whose checkpoint was done.
    pub checkpointed_for: Option<regent_proto::name::OperationId>,
    /// When this node was seen to open.
    pub opened: Option<Opened>,
    /// Reachability of other sites.
    pub reaches: BTreeMap<SiteName, Reach>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// Those of them that need a person: the site's report has them of every node.
    pub attention: Vec<String>,
    /// Keys of the site DCS that cannot be read.
    pub unreadable: BTreeSet<String>,
    /// Why the last decision was made.
    pub reason: String,
    /// What a copy says of its progress.
    pub progress: Option<String>,
    /// A pause has taken the fence away.
    pub suspended: bool,
    /// Until when this node may write.
    pub writing: Deadline,
    /// Round trips of the last renewals.
    pub round_trips: RoundTrips,
    /// When it was made, for people.
    pub at: WallTime,
    /// When the site DCS last answered, for people.
    pub dcs_seen: WallTime,
    /// How the members say that their fences stand.
    pub fences: BTreeMap<NodeName, ReportedFence>,
    /// What waits for a restart at other members, in their words.
    pub restarts: BTreeMap<NodeName, Value>,
    /// How the site's dynamic configuration stands in the DCS.
    pub config: ConfigKey,
    /// The restart that people have scheduled.
    pub scheduled_restart: Option<ScheduledRestart>,
    /// It does not want to be counted on as a synchronous standby for the moment.
    pub withdraws: bool,
    /// What is told of slots.
    pub slots: Told,
    /// It would not lead for the moment.
    pub refuses: bool,
}

/// What waits for a restart, in Patroni's form.
#[must_use]
pub fn pending_restart_reason(view: &View) -> Option<Value> {
    let pending = &view.postgres.configuration.pending_restart;
    (!pending.is_empty()).then(|| {
        let reasons = pending.iter().map(|(name, difference)| {
            let value = json!({"old_value": difference.old, "new_value": difference.new});
            (name.clone(), value)
        });
        Value::Object(reasons.collect())
    })
}

/// What everything says while a pause has taken the fence away (design.md section 3).
pub const NOT_FENCED: &str = "NOT FENCED: PAUSED";

/// Patroni's version that the wire conventions are of; other members compare it.
pub const PATRONI_VERSION: &str = "4.1.4";

/// Patroni's role word.
#[must_use]
pub fn role(picture: &Picture, me: &NodeName) -> &'static str {
    role_in(&picture.view, me)
}

/// A server that is down is no `primary`, whatever it was: nobody is to follow it yet.
fn role_in(view: &View, me: &NodeName) -> &'static str {
    let leads = view.site.as_ref().and_then(|s| s.leader.as_ref()).is_some_and(|l| l.name == *me);
    // Such a job owns the directory, which is not looked at meanwhile; a cluster is in it.
    let stops_or_starts = match &view.job {
        Some(JobKind::Start | JobKind::Stop | JobKind::CopySlots) => true,
        Some(
            JobKind::Initdb
            | JobKind::Clone
            | JobKind::Rewind
            | JobKind::Checkpoint
            | JobKind::CreateUsers
            | JobKind::PrePromote,
        )
        | None => false,
    };
    match (&view.postgres.data, &view.postgres.status) {
        (DataDirectory::Empty | DataDirectory::Incomplete, None) if !stops_or_starts => {
            "uninitialized"
        }
        (_, Some(status)) if !status.in_recovery => "primary",
        (_, Some(_)) if leads && upstream::is_standby_site(view) => "standby_leader",
        (_, None) if view.postgres.process == Process::Stopped && leads => "demoted",
        (_, Some(_) | None) => "replica",
    }
}

/// Patroni's state word.
#[must_use]
pub fn state(view: &View) -> &'static str {
    match (&view.job, view.postgres.process) {
        (Some(JobKind::Initdb), _) => "initializing new cluster",
        (Some(JobKind::Clone), _) => "creating replica",
        (_, Process::Starting | Process::Stopped) if view.requests.restarting => "restarting",
        (Some(JobKind::Stop), _) => "stopping",
        (_, Process::Running) => "running",
        (_, Process::Starting) => "starting",
        (_, Process::Stopped) => "stopped",
    }
}

/// Patroni's `replication_state`.
#[must_use]
pub fn replication_state(status: &Status) -> Option<&'static str> {
    if !status.in_recovery {
        return None;
    }
    Some(if status.receiver.is_some() { "streaming" } else { "in archive recovery" })
}

/// The member record (spec/patroni-compat.md 1.4).
#[must_use]
pub fn member(config: &Config, picture: &Picture) -> Value {
    let (host, port) = config.postgres.connect_host_port();
    let mut record = json!({
        "conn_url": format!("postgres://{host}:{port}/postgres"),
        "api_url": super::failsafe::record::own_url(config),
        "state": state(&picture.view),
        "role": role(picture, &config.name),
        "version": PATRONI_VERSION,
    });
    if let Some(promise) = config.federation.as_ref().and_then(|f| f.promise.as_ref()) {
        record["promise_url"] = json!(promise.url());
    }
    let tags = tags(config, picture);
    if !tags.is_empty() {
        record["tags"] = json!(tags);
    }
    if let Some(scheduled) = &picture.scheduled_restart {
        let mut shown = scheduled_restart(scheduled);
        if let Some(started) = &scheduled.started {
            shown["postmaster_start_time"] = json!(started.replace('T', " "));
        }
        record["scheduled_restart"] = shown;
    }
    if picture.dynamic.pause {
        record["pause"] = json!(true);
    }
    if let Some(status) = &picture.view.postgres.status {
        record["xlog_location"] = json!(status.end.get());
        if let Some(state) = replication_state(status) {
            record["receive_lsn"] = json!(status.end.get());
            record["replay_lsn"] = json!(status.replayed.get());
            record["replication_state"] = json!(state);
        }
        record["timeline"] = json!(status.ancestry.timeline.0);
        record["ancestry"] = json!(status.ancestry);
        // Ours: how far each slot lets vacuum go. Standbys judge their copies of logical slots by it.
        let held = status.slots.iter();
        let held = held.filter_map(|(name, slot)| Some((name.clone(), slot.catalog_xmin?)));
        let xmins: BTreeMap<String, Xid> = held.collect();
        if let Some(at) = status.slots_at.filter(|_| !xmins.is_empty()) {
            record["catalog_horizon"] = json!(Horizon { at, xmins });
        }
    }
    if let Some(reason) = pending_restart_reason(&picture.view) {
        record["pending_restart"] = json!(true);
        record["pending_restart_reason"] = reason;
    }
    let watchdog = &picture.view.guardian.watchdog;
    if watchdog.required && watchdog.state == WatchdogState::Failed {
        // Patroni's word for it, true for whoever asks only that; here with the reason.
        record["watchdog_failed"] = json!(watchdog.problem);
    }
    // Patroni passes over keys that it does not know.
    record["regent"] = json!(own_fence(config, picture));
    record
}

/// The tags in effect: while it withdraws, nobody is to wait for its confirmation (spec 1.4), and while it
/// would not lead, nobody for it to do so.
#[must_use]
pub fn tags(config: &Config, picture: &Picture) -> BTreeMap<String, Value> {
    let mut tags = config.tags.clone();
    if picture.withdraws {
        tags.insert("nosync".to_owned(), json!(true));
        tags.insert("sync_priority".to_owned(), json!(0));
    }
    if picture.refuses {
        tags.insert("nofailover".to_owned(), json!(true));
    }
    tags
}

/// A scheduled restart with its conditions, as Patroni shows it.
#[must_use]
pub fn scheduled_restart(scheduled: &ScheduledRestart) -> Value {
    let mut shown = json!({"schedule": scheduled.schedule});
    let restart = &scheduled.restart;
    if let Some(role) = restart.role {
        shown["role"] = json!(role.word());
    }
    if let Some(version) = &restart.postgres_version {
        shown["postgres_version"] = json!(version.text);
    }
    if restart.restart_pending {
        shown["restart_pending"] = json!(true);
    }
    if let Some(timeout) = restart.timeout {
        shown["timeout"] = json!(timeout.as_secs());
    }
    shown
}

/// This node's fence as of the picture.
fn own_fence(config: &Config, picture: &Picture) -> ReportedFence {
    fence_report::fence(config, picture, picture.writing, picture.round_trips, picture.view.now)
}

/// Writes what changed.
pub struct Publisher {
    config: Arc<Config>,
    site: SiteStore,
    global: Option<GlobalStore>,
    written: BTreeMap<String, Value>,
    lease: Option<LeaseId>,
    /// When the member record was last written.
    told: Option<BootTime>,
    sequence: u64,
    reported: Option<(Report, BootTime)>,
    /// What `history` and `promotions` tell, where both were written.
    ancestry: Option<Ancestry>,
    /// What `standby_cluster` shows, where it is output.
    upstream: Option<Value>,
    failsafe: Keeper,
}

/// A member record of which only the figures changed is written this often.
const FIGURES_EVERY: Duration = Duration::from_secs(3);
/// A report is repeated at least this often.
const REPORT_EVERY: Duration = Duration::from_secs(4);
/// A report is written at most this often, unless something other than a position changed.
const REPORT_AT_MOST: Duration = Duration::from_secs(1);

/// What a key of the site is given by whoever leads it.
type Valued = fn(&NodeName, (&Picture, &Status)) -> Value;

impl Publisher {
    /// For this member.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        (site, global): (SiteStore, Option<GlobalStore>),
        failsafe: Keeper,
    ) -> Self {
        Self {
            config,
            site,
            global,
            written: BTreeMap::new(),
            lease: None,
            told: None,
            sequence: 0,
            reported: None,
            ancestry: None,
            upstream: None,
            failsafe,
        }
    }

    /// Publishes one picture; whether the site's store has taken everything. Errors are logged at debug:
    /// it is tried again, and the stores' health shows elsewhere. A report that was not made comes with
    /// the next picture, of which a leader makes one a second.
    pub async fn publish(&mut self, picture: &Picture) -> bool {
        let timeout = self.config.site_timing(&picture.dynamic).call_timeout;
        let told = self.publish_member(picture, timeout).await;
        let Some(site) = &picture.view.site else { return told };
        let Some(held) = Held::of(site.leader.as_ref()) else {
            self.written.retain(|key, _| key == "member");
            self.reported = None;
            self.ancestry = None;
            self.upstream = None;
            return told;
        };
        self.failsafe.keep(&self.config, &self.site, picture, held, timeout).await;
        let all = self.publish_site(picture, held, timeout).await;
        self.publish_report(picture).await;
        told && all
    }

    async fn publish_member(&mut self, picture: &Picture, timeout: Duration) -> bool {
        let Some(lease) = picture.lease else { return true };
        let record = member(&self.config, picture);
        let now = picture.view.now;
        let there = picture
            .view
            .site
            .as_ref()
            .is_some_and(|site| site.members.contains_key(&self.config.name));
        // Figures alone are told now and then only: every write wakes every member.
        if there
            && self.lease == Some(lease)
            && self.told.is_some_and(|told| now.since(told) < FIGURES_EVERY)
            && self.written.get("member") == Some(&without_fence_figures(record.clone()))
        {
            return true;
        }
        match self.site.publish_member(record.to_string().into_bytes(), lease, timeout).await {
            Ok(()) => {
                self.lease = Some(lease);
                self.told = Some(now);
                self.written.insert("member".to_owned(), without_fence_figures(record));
                true
            }
            Err(error) => {
                tracing::debug!(%error, "publishing the member record");
                false
            }
        }
    }

    /// What is not ours to write any more is not left over: whoever leads has another picture soon.
    async fn publish_site(&mut self, picture: &Picture, held: Held, timeout: Duration) -> bool {
        config_key::put_back(&self.site, picture, held, timeout).await;
        config_key::show_upstream(&self.site, picture, held, &mut self.upstream, timeout).await;
        let Some(status) = &picture.view.postgres.status else { return true };
        if self.ancestry.as_ref() != Some(&status.ancestry) {
            self.ancestry = None;
        }
        let tells = tells_history(&picture.view);
        // `promotions` before `history`: whoever finds `history` to be the later one takes it for a
        // Patroni member's.
        let values: [(SiteKey, Valued); 2] = [
            (SiteKey::Status, |_, (picture, status)| status_value(&picture.slots, status)),
            (SiteKey::Promotions, |me, (_, status)| promotions(me, status)),
        ];
        for (key, value) in values {
            if key != SiteKey::Status && !tells {
                continue;
            }
            let mended = picture.unreadable.contains(&self.site.keys.key(key));
            let outlived = key == SiteKey::Promotions && is_still_to_promote(&picture.view);
            if mended || outlived || lacks(&picture.view, key) {
                // Ours to write, so ours to mend, and to put back where it was deleted.
                self.written.remove(key.name());
            }
            let written = self.written.get(key.name());
            if key != SiteKey::Status && self.ancestry.is_some() && written.is_some() {
                continue;
            }
            let value = value(&self.config.name, (picture, status));
            if written == Some(&value) {
                continue;
            }
            match self.site.publish(held, key, value.to_string().into_bytes(), timeout).await {
                Ok(Some(_)) => drop(self.written.insert(key.name().to_owned(), value)),
                Ok(None) => return true,
                Err(error) => {
                    tracing::debug!(%error, "publishing {}", key.name());
                    return false;
                }
            }
        }
        if !tells {
            return true;
        }
        let unreadable = picture.unreadable.contains(&self.site.keys.key(SiteKey::History));
        let missing = unreadable || lacks(&picture.view, SiteKey::History);
        if (self.ancestry.is_none() || missing)
            && !self.publish_history(picture, status, held, timeout).await
        {
            return false;
        }
        self.ancestry = Some(status.ancestry.clone());
        true
    }

    /// Merged into what is there; whether it stands.
    async fn publish_history(
        &self,
        picture: &Picture,
        status: &Status,
        held: Held,
        timeout: Duration,
    ) -> bool {
        let failed = |error: StoreError| tracing::debug!(%error, "publishing history");
        let key = self.site.keys.key(SiteKey::History);
        let stored = match self.site.store.get(&key, timeout).await {
            Ok(entry) => {
                entry.and_then(|entry| serde_json::from_slice::<Vec<Value>>(&entry.value).ok())
            }
            Err(error) => {
                failed(error);
                return false;
            }
        };
        let timeline = status.ancestry.timeline;
        let read = picture.extra.history.clone().filter(|history| history.timeline == timeline);
        let found = read.unwrap_or_else(|| TimelineHistory::of(&status.ancestry));
        let promoted_by = (!status.in_recovery).then_some(&self.config.name);
        let known = stored.as_deref().unwrap_or_default();
        let most = picture.dynamic.max_timelines_history;
        let lines = history::lines(&found, promoted_by, known, most);
        if stored.as_ref() == Some(&lines) {
            return true;
        }
        let value = Value::Array(lines).to_string().into_bytes();
        match self.site.publish(held, SiteKey::History, value, timeout).await {
            Ok(written) => written.is_some(),
            Err(error) => {
                failed(error);
                false
            }
        }
    }

    async fn publish_report(&mut self, picture: &Picture) {
        let Some(global) = &self.global else { return };
        let Some(report) = report(&self.config, picture, self.sequence + 1) else { return };
        let comparable = without_figures(&report);
        let now = picture.view.now;
        if let Some((last, at)) = &self.reported {
            let least =
                if *last == comparable { REPORT_EVERY.min(REPORT_AT_MOST) } else { Duration::ZERO };
            if now.since(*at) < least {
                return;
            }
        }
        match global.report(report.encode(), Duration::from_secs(2)).await {
            Ok(()) => {
                self.sequence += 1;
                self.reported = Some((comparable, now));
            }
            Err(error) => tracing::debug!(%error, "reporting to the global quorum"),
        }
    }
}

/// Patroni's `status`: where the leader is, where its slots are, and whose it keeps. What is empty is
/// left out.
fn status_value(told: &Told, status: &Status) -> Value {
    let mut value = json!({"optime": status.end.get()});
    if !told.positions.is_empty() {
        let slots = told.positions.iter().map(|(name, at)| (name.clone(), json!(at.get())));
        value["slots"] = Value::Object(slots.collect());
    }
    if !told.retain.is_empty() {
        value["retain_slots"] = json!(told.retain);
    }
    value
}

/// Whether the leader's history may stand in the site DCS: that of a server which is open, or that of a
/// standby site's leader. Whoever has only taken the key leaves what the last leader wrote:
/// should it be lost before it opens, a race is decided by that.
fn tells_history(view: &View) -> bool {
    let open = view.postgres.status.as_ref().is_some_and(|status| !status.in_recovery);
    open || upstream::is_standby_site(view)
}

/// The record says that a leader is about to promote.
fn is_still_to_promote(view: &View) -> bool {
    let record = view.site.as_ref().and_then(|site| site.promotions.as_ref());
    record.is_some_and(|record| record.value.promotes_at.is_some())
}

/// One of the keys that tell of the leader is not there, or cannot be read.
fn lacks(view: &View, key: SiteKey) -> bool {
    view.site.as_ref().is_some_and(|site| {
        (key == SiteKey::Status && site.optime.is_none())
            || (key == SiteKey::Promotions && site.promotions.is_none())
            || (key == SiteKey::History && site.history.is_none())
    })
}

/// Where each timeline was left, with who began it.
fn promotions(me: &NodeName, status: &Status) -> Value {
    json!(Promotions {
        version: VERSION,
        node: me.clone(),
        ancestry: status.ancestry.clone(),
        promotes_at: None,
        unknown: Unknown::new(),
    })
}

/// A member record without what changes with every renewal.
fn without_fence_figures(mut record: Value) -> Value {
    for volatile in ["deadline_left_ms", "site_round_trip_ms", "primary_round_trip_ms"] {
        record["regent"][volatile] = Value::Null;
    }
    record
}

/// What is left of a report without what changes with every write or renewal.
fn without_figures(report: &Report) -> Report {
    let mut rest = report.clone();
    (rest.sequence, rest.at) = (0, WallTime::default());
    (rest.position, rest.position_at) = (None, None);
    (rest.last_commit, rest.lag_bytes, rest.promise) = (None, None, None);
    for node in &mut rest.nodes {
        (node.position, node.fence) = (None, None);
    }
    rest
}

/// The site's report, as its leader sees it.
#[must_use]
pub fn report(config: &Config, picture: &Picture, sequence: u64) -> Option<Report> {
    let federation = picture.view.federation.as_ref()?;
    let site = picture.view.site.as_ref()?;
    let status = picture.view.postgres.status.as_ref();
    let primary = federation.primary.as_ref().map(|at| &at.value);
    let synchronous_nodes = synchronous_nodes(picture, &config.name);
    let identifier = match &picture.view.postgres.data {
        DataDirectory::Cluster(control) => Some(control.system_identifier),
        DataDirectory::Empty | DataDirectory::Incomplete | DataDirectory::Unreadable(_) => None,
    };
    let mut settings = status.map(|s| (*s.settings).clone()).unwrap_or_default();
    settings.insert("use_pg_rewind".to_owned(), i64::from(picture.dynamic.use_pg_rewind));
    let streaming = status.is_some_and(|status| status.receiver.is_some());
    Some(Report {
        version: VERSION,
        site: federation.site.clone(),
        node: config.name.clone(),
        sequence,
        at: picture.at,
        epoch: site
            .seen_epoch
            .as_ref()
            .map_or(regent_proto::Epoch::new(0), |seen| seen.value.epoch),
        generation: federation.assignment.as_ref().map_or(0, |a| a.generation),
        checkpointed_for: picture.checkpointed_for.clone(),
        opened: picture.opened,
        role: match status {
            None => ReportedRole::Down,
            Some(status) if status.in_recovery => ReportedRole::Standby,
            Some(_) => ReportedRole::Primary,
        },
        system_identifier: identifier
            .or_else(|| primary.filter(|_| status.is_some()).and_then(|p| p.system_identifier)),
        ancestry: status.map(|status| status.ancestry.clone()),
        position: status.map(|status| status.end),
        position_at: picture.extra.end_asked_at,
        last_commit: status.and_then(|status| status.last_commit),
        lag_bytes: lag(picture),
        promise: Some(ReportedPromise::new(
            picture.view.failsafe.last_promise_ends,
            picture.view.now,
        )),
        promotion_awaits: primary
            .filter(|primary| primary.state.fenced_for() == Some(&federation.site))
            .map(|_| picture.reason.clone()),
        streaming_from: match &picture.view.postgres.follows {
            Some(Follow::Site { site, .. }) if streaming => Some(site.clone()),
            Some(
                Follow::Site { .. }
                | Follow::Remote { .. }
                | Follow::Member { .. }
                | Follow::Nobody,
            )
            | None => None,
        },
        nodes: nodes(config, picture),
        synchronous_mode: picture.dynamic.synchronous_mode,
        synchronous_nodes,
        settings,
        free_slots: status.map_or(0, |status| status.free_slots),
        free_senders: status.map_or(0, |status| status.free_senders),
        slots: status.map(|s| s.slots.keys().cloned().collect()).unwrap_or_default(),
        objects: picture.extra.objects.clone(),
        reaches: picture.reaches.clone(),
        warnings: site_warnings(config, picture),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        server_version: status.map_or(0, |status| status.server_version),
        unknown: Unknown::new(),
    })
}

/// The leader's own, and what of the other nodes needs a person.
fn site_warnings(config: &Config, picture: &Picture) -> Vec<String> {
    let others = picture.fences.iter().filter(|(name, _)| **name != config.name);
    let others = others.flat_map(|(name, fence)| {
        fence.attention.iter().map(move |what| format!("{name}: {what}"))
    });
    picture.warnings.iter().cloned().chain(others).collect()
}

/// Patroni's word for a member that `sync` names, by the mode.
#[must_use]
pub fn of_sync(picture: &Picture, name: &NodeName) -> Option<&'static str> {
    let site = picture.view.site.as_ref()?;
    let word = if picture.dynamic.synchronous_quorum { "quorum_standby" } else { "sync_standby" };
    site.sync.standbys.contains(name).then_some(word)
}

/// As primary: whom commits wait for. As standby leader: own members that have confirmed its WAL.
fn synchronous_nodes(picture: &Picture, me: &NodeName) -> BTreeSet<NodeName> {
    let (Some(site), Some(status)) = (&picture.view.site, &picture.view.postgres.status) else {
        return BTreeSet::new();
    };
    if !status.in_recovery {
        return site.sync.standbys.clone();
    }
    site.members
        .iter()
        .filter(|(name, member)| *name != me && !member.nosync)
        .filter(|(name, _)| {
            // Confirmation of the very last record comes a moment later; being in the stream and
            // not a segment behind is what a plan wants to know.
            status.senders.get(name.as_str()).is_some_and(|sender| {
                sender.streaming && status.end.bytes_since(sender.flushed) < 16 << 20
            })
        })
        .map(|(name, _)| name.clone())
        .collect()
}

fn lag(picture: &Picture) -> Option<u64> {
    let status = picture.view.postgres.status.as_ref().filter(|status| status.in_recovery)?;
    let federation = picture.view.federation.as_ref()?;
    let holder = &federation.primary.as_ref()?.value.holder;
    let ahead = federation.reports.get(holder)?.position?;
    Some(ahead.bytes_since(status.replayed))
}

fn nodes(config: &Config, picture: &Picture) -> Vec<ReportedNode> {
    let Some(site) = &picture.view.site else { return Vec::new() };
    let leader = site.leader.as_ref().map(|leader| &leader.name);
    site.members
        .iter()
        .map(|(name, member)| {
            let own = *name == config.name;
            let status = picture.view.postgres.status.as_ref().filter(|_| own);
            let word = if own { state(&picture.view).to_owned() } else { member.state.clone() };
            let streams = word == "running"
                && if own {
                    status.is_some_and(|s| s.receiver.is_some())
                } else {
                    member.streaming
                };
            ReportedNode {
                name: name.clone(),
                role: if own {
                    role(picture, &config.name).to_owned()
                } else {
                    member.role.clone()
                },
                state: if streams { "streaming".to_owned() } else { word },
                host: member.host.clone(),
                port: member.port,
                api_url: member.api_url.clone(),
                promise_url: member.promise_url.clone(),
                timeline: status.map(|s| s.ancestry.timeline).or(member.timeline),
                position: status.map(|s| s.end).or(member.position),
                upstream: leader.filter(|_| !own).map(|leader| {
                    let tag = member.replicatefrom.as_ref();
                    upstream::of_member(&site.members, leader, (name, tag)).clone()
                }),
                fence: if own {
                    Some(own_fence(config, picture))
                } else {
                    picture.fences.get(name).cloned()
                },
                unknown: Unknown::new(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tests::world::{World, history, promotions, remote};

    /// A node that has taken the key and dies before it opens must not pass for the last leader.
    #[test]
    fn histories_are_told_by_a_server_that_is_open_and_by_a_standby_sites_leader() {
        let told = |bend: fn(&mut World)| {
            let mut world = World::new();
            bend(&mut world);
            tells_history(&world.view)
        };
        assert!(told(|_| {}));
        assert!(!told(|w| w.standby(3, 500)));
        assert!(!told(|w| w.view.postgres.status = None));
        assert!(!told(|w| {
            w.standby(3, 500);
            w.view.federation = None;
        }));
        assert!(told(|w| {
            w.standby(3, 500);
            w.view.federation = None;
            w.view.remote = Some(remote(3));
        }));
        assert!(!told(|w| {
            // Nobody knows whose turn it is: it may be this site's.
            w.standby(3, 500);
            w.federation().primary = None;
        }));
        assert!(told(|w| {
            w.standby(3, 500);
            w.held_by_b();
        }));
    }

    #[test]
    fn a_node_that_restarts_has_a_cluster_and_is_no_primary_before_it_is_open() {
        let me: NodeName = "a1".parse().expect("a name");
        let mut world = World::new();
        assert_eq!(role_in(&world.view, &me), "primary");
        world.view.postgres.status = None;
        // What a job owns is not looked at.
        world.view.postgres.data = DataDirectory::Incomplete;
        world.view.requests.restarting = true;
        for (job, process, leads, others) in [
            (JobKind::Stop, Process::Starting, "replica", "replica"),
            (JobKind::Stop, Process::Stopped, "demoted", "replica"),
            (JobKind::Start, Process::Stopped, "demoted", "replica"),
            (JobKind::Start, Process::Starting, "replica", "replica"),
        ] {
            world.view.job = Some(job);
            world.view.postgres.process = process;
            world.leader(Some("a1"));
            assert_eq!(role_in(&world.view, &me), leads, "{:?} {process:?}", world.view.job);
            world.leader(Some("a2"));
            assert_eq!(role_in(&world.view, &me), others, "{:?} {process:?}", world.view.job);
        }
        for job in [None, Some(JobKind::Clone), Some(JobKind::Initdb)] {
            world.view.job = job;
            assert_eq!(role_in(&world.view, &me), "uninitialized", "{:?}", world.view.job);
        }
    }

    /// Also where the same history was published before it went down.
    #[test]
    fn what_was_about_to_promote_is_written_anew_once_it_is_open() {
        let mut world = World::new();
        assert!(!is_still_to_promote(&world.view));
        world.site().promotions = Some(promotions("a1", history(3), Some(500)));
        assert!(is_still_to_promote(&world.view));
        world.site().promotions = None;
        assert!(!is_still_to_promote(&world.view));
        world.view.site = None;
        assert!(!is_still_to_promote(&world.view));
    }

    #[test]
    fn what_was_deleted_is_written_again() {
        let mut world = World::new();
        world.site().history = Some(crate::decide::view::At { value: history(3), revision: 43 });
        let keys = [SiteKey::Status, SiteKey::Promotions, SiteKey::History];
        let missing = |world: &World| keys.map(|key| lacks(&world.view, key));
        assert_eq!(missing(&world), [false; 3]);
        world.site().history = None;
        assert_eq!(missing(&world), [false, false, true]);
        world.site().promotions = None;
        assert_eq!(missing(&world), [false, true, true]);
        world.site().optime = None;
        assert_eq!(missing(&world), [true; 3]);
        assert!(!lacks(&world.view, SiteKey::Leader));
    }
}
