//! This node's PostgreSQL: one query on an open connection, pg_control while it is stopped, and the
//! agent's own notes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::timeline::TimelineId;
use serde::Deserialize;
use tokio_postgres::Client;

use super::clock::{boot_time, wall_time};
use super::configuration::{ConfigurationObserver, SettingAnswer};
use super::promotions::{Search, Server};
use crate::act::history::TimelineHistory;
use crate::act::postgres::configuration::Wanted;
use crate::act::postgres::files::Refused;
use crate::act::postgres::server::Postmaster;
use crate::act::postgres::slots::Noted;
use crate::act::postgres::{control, files::Files, programs::Programs, slots, sql};
use crate::config::Config;
use crate::decide::slots::readiness::Xid;
use crate::decide::view::{
    ConfigurationView, Control, DataDirectory, Origin, PostgresView, Process, Receiver, Sender,
    Slot, Status, WalStatus, senders_by_name,
};
use regent_proto::record::ReportedObjects;
use regent_proto::time::{BootTime, WallTime};

/// What decisions wait for, in one round trip. Runs on 13 and newer.
const STATUS: &str = "
SELECT json_build_object(
 'in_recovery', r.in_recovery,
 'end', CASE WHEN r.in_recovery
   THEN greatest(coalesce(pg_last_wal_receive_lsn(), '0/0'), coalesce(pg_last_wal_replay_lsn(), '0/0'))
   ELSE pg_current_wal_flush_lsn() END,
 'replayed', CASE WHEN r.in_recovery THEN coalesce(pg_last_wal_replay_lsn(), '0/0')
   ELSE pg_current_wal_flush_lsn() END,
 'to_the_end', NOT r.in_recovery OR pg_last_wal_receive_lsn() IS NOT NULL
   OR EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'startup'
     AND wait_event IN ('RecoveryWalStream', 'RecoveryRetrieveRetryInterval')),
 'timeline', CASE WHEN r.in_recovery
   THEN greatest((SELECT received_tli FROM pg_stat_wal_receiver), c.timeline_id,
                 (SELECT min_recovery_end_timeline FROM pg_control_recovery()))
   ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END,
 'control_timeline', c.timeline_id,
 'senders', (SELECT json_agg(json_build_object('name', application_name, 'state', state,
    'sync_state', sync_state, 'flushed', flush_lsn, 'user', usename, 'client', client_addr,
    'sync_priority', sync_priority)) FROM pg_stat_replication),
 'receiver', (SELECT json_build_object('host', sender_host, 'port', sender_port,
    'timeline', received_tli, 'status', status, 'upstream_end', latest_end_lsn)
    FROM pg_stat_wal_receiver),
 'synchronous_standby_names', current_setting('synchronous_standby_names'),
 'replayed_at', pg_last_xact_replay_timestamp(),
 'committed_ms', floor(extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000)::bigint,
 'replay_paused', CASE WHEN r.in_recovery THEN pg_is_wal_replay_paused() ELSE false END
)::text FROM (SELECT pg_is_in_recovery() AS in_recovery) r, pg_control_checkpoint() c";

/// What changes rarely and costs more: asked once a second, and after acts that change it.
const SURROUNDINGS: &str = "
SELECT json_build_object(
 'slots_at', CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_flush_lsn() END,
 'slots', (SELECT json_agg(json_build_object('name', slot_name, 'active', active,
    'physical', slot_type = 'physical', 'database', database, 'plugin', plugin,
    'restart', restart_lsn, 'confirmed', confirmed_flush_lsn, 'holds_xmin', xmin IS NOT NULL,
    'catalog_xmin', catalog_xmin::text::bigint, 'wal', wal_status, 'safe_wal', safe_wal_size,
    'invalid', coalesce((to_jsonb(s)->>'conflicting')::boolean, false)
      OR to_jsonb(s)->>'invalidation_reason' IS NOT NULL,
    'failover', coalesce((to_jsonb(s)->>'failover')::boolean, false)))
    FROM pg_replication_slots s WHERE NOT temporary),
 'wal_logical', current_setting('wal_level') = 'logical',
 'slot_wal_limit', (SELECT CASE WHEN setting::bigint >= 0 THEN setting::bigint * 1048576 END
    FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
 'settings', (SELECT json_agg(json_build_object('name', name, 'value', coalesce(setting, ''),
    'unit', unit, 'kind', vartype, 'postmaster', context = 'postmaster',
    'pending', pending_restart))
    FROM pg_settings WHERE name = ANY(FIXED) OR pending_restart
      OR context = 'postmaster' AND name = ANY(WANTED)),
 'version', current_setting('server_version_num')::int,
 'started', pg_postmaster_start_time(),
 'users', (SELECT count(*) FROM pg_roles WHERE rolname = ANY(USERS)))::text";

/// The senders alone, without their positions, which move all the time.
const SENDERS: &str = "
SELECT coalesce(json_agg(json_build_object('name', application_name, 'state', state,
  'sync_state', sync_state)), '[]')::text FROM pg_stat_replication";

/// Settings that plans of a switchover look at.
const FIXED: [&str; 8] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "max_replication_slots",
    "wal_log_hints",
    "data_checksums",
];

/// What a switchover does not carry over; asked rarely.
const OBJECTS: &str = "
SELECT json_build_object(
 'prepared_transactions', (SELECT count(*) FROM pg_prepared_xacts),
 'logical_slots', coalesce((SELECT json_agg(slot_name) FROM pg_replication_slots
    WHERE slot_type = 'logical'), '[]'),
 'unlogged_tables', (SELECT count(*) FROM pg_class WHERE relpersistence = 'u' AND relkind = 'r'),
 'collation_mismatches', '[]'::json)::text";

/// Databases whose collation version differs from the one recorded (PostgreSQL 15 and newer).
const COLLATIONS: &str = "
SELECT coalesce(json_agg(datname), '[]')::text FROM pg_database WHERE datallowconn AND
 datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid) AND datcollversion IS NOT NULL";

#[derive(Debug, Deserialize)]
struct Answer {
    in_recovery: bool,
    end: Lsn,
    replayed: Lsn,
    /// `end` is the end of all WAL that is here. A standby that was started reads what it has first, and
    /// tells only how far it is: it has asked its upstream, or waits for more, once it has read all.
    to_the_end: bool,
    timeline: Option<u32>,
    control_timeline: u32,
    senders: Option<Vec<SenderAnswer>>,
    receiver: Option<ReceiverAnswer>,
    synchronous_standby_names: String,
    replayed_at: Option<String>,
    committed_ms: Option<u64>,
    replay_paused: bool,
}

#[derive(Debug, Clone, Deserialize)]
struct Surroundings {
    slots: Option<Vec<SlotAnswer>>,
    settings: Vec<SettingAnswer>,
    slots_at: Option<Lsn>,
    wal_logical: bool,
    slot_wal_limit: Option<u64>,
    version: u32,
    started: String,
    users: usize,
}

#[derive(Debug, Clone, Deserialize)]
struct SenderAnswer {
    name: String,
    state: String,
    sync_state: String,
    flushed: Option<Lsn>,
    user: Option<String>,
    client: Option<String>,
    sync_priority: Option<i64>,
}

impl SenderAnswer {
    fn read(self) -> (String, Sender) {
        let sender = Sender {
            streaming: self.state == "streaming",
            synchronous: matches!(self.sync_state.as_str(), "sync" | "quorum"),
            flushed: self.flushed.unwrap_or_default(),
        };
        (self.name, sender)
    }
}

#[derive(Debug, Deserialize)]
struct ReceiverAnswer {
    host: Option<String>,
    port: Option<u16>,
    timeline: Option<u32>,
    status: Option<String>,
    upstream_end: Option<Lsn>,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a slot")]
struct SlotAnswer {
    name: String,
    active: bool,
    physical: bool,
    database: Option<String>,
    plugin: Option<String>,
    restart: Option<Lsn>,
    confirmed: Option<Lsn>,
    holds_xmin: bool,
    catalog_xmin: Option<Xid>,
    wal: Option<String>,
    safe_wal: Option<i64>,
    invalid: bool,
    failover: bool,
}

impl SlotAnswer {
    /// With whose it is, by the note of copies.
    fn slot(self, noted: &BTreeMap<String, Noted>) -> (String, Slot) {
        let origin = match noted.get(&self.name).filter(|_| !self.physical) {
            None => Origin::Own,
            Some(Noted::Copied) => Origin::Copied,
            Some(Noted::Proven) => Origin::Proven,
            Some(Noted::Unsafe) => Origin::Unsafe,
        };
        let wal = match self.wal.as_deref() {
            Some("reserved") => WalStatus::Reserved,
            Some("extended") => WalStatus::Extended,
            Some("unreserved") => WalStatus::Unreserved,
            Some("lost") => WalStatus::Lost,
            Some(_) | None => WalStatus::Unknown,
        };
        let slot = Slot {
            active: self.active,
            physical: self.physical,
            database: self.database,
            plugin: self.plugin,
            restart: self.restart,
            confirmed: self.confirmed,
            holds_xmin: self.holds_xmin,
            catalog_xmin: self.catalog_xmin,
            wal,
            safe_wal: self.safe_wal,
            invalid: self.invalid,
            failover: self.failover,
            origin,
        };
        (self.name, slot)
    }
}

/// What REST shows beside the view.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Extra {
    /// When the postmaster started, in the server's words.
    pub started: Option<String>,
    /// When the last replayed transaction was committed.
    pub replayed_at: Option<String>,
    /// Patroni's `replication` array.
    pub replication: Vec<serde_json::Value>,
    /// What a switchover does not carry over.
    pub objects: ReportedObjects,
    /// Replay is paused.
    pub replay_paused: bool,
    /// What the file of the present timeline says.
    pub history: Option<TimelineHistory>,
    /// When the server was asked for its end of WAL; `None` where it may have more than it told.
    pub end_asked: Option<BootTime>,
    /// The same by the wall clock, to count a loss by.
    pub end_asked_at: Option<WallTime>,
}

/// Looks at the server.
pub struct PostgresObserver {
    config: Arc<Config>,
    programs: Programs,
    files: Files,
    client: Option<Client>,
    /// Of which postmaster the connection and the timeline below are.
    postmaster: Option<Postmaster>,
    /// The highest timeline this postmaster was seen on: pg_control lags behind a standby that lost
    /// its receiver, and a timeline never goes back.
    timeline: u32,
    control: Option<Control>,
    problem: Option<String>,
    objects: ReportedObjects,
    objects_asked: Option<BootTime>,
    surroundings: Option<(BootTime, Surroundings)>,
    /// For the ids of promotions.
    search: Search,
    configuration: ConfigurationObserver,
    /// What the file of the timeline that was last seen says.
    history: Option<TimelineHistory>,
    /// The server was made to read its files again, and shows what comes of it a moment later.
    reads_files: Option<BootTime>,
    /// When what this round waits for may be there.
    again: Option<BootTime>,
}

/// How often the objects are looked at.
const OBJECTS_EVERY: Duration = Duration::from_secs(20);
/// How old the surroundings may be.
const SURROUNDINGS_EVERY: Duration = Duration::from_secs(1);

impl PostgresObserver {
    /// For this server.
    #[must_use]
    pub fn new(config: Arc<Config>, programs: Programs, files: Files) -> Self {
        let search = Search::new(programs.clone(), &files.data_dir);
        let configuration = ConfigurationObserver::new(programs.clone(), files.clone());
        Self {
            config,
            programs,
            files,
            client: None,
            postmaster: None,
            timeline: 0,
            control: None,
            problem: None,
            objects: ReportedObjects::default(),
            objects_asked: None,
            surroundings: None,
            search,
            configuration,
            history: None,
            reads_files: None,
            again: None,
        }
    }

    /// What the server's configuration is compared with from now on.
    pub fn expects(&mut self, wanted: &Arc<Wanted>, refused: &BTreeMap<String, Refused>) {
        if self.configuration.expects(wanted, refused) {
            self.surroundings = None;
        }
    }

    /// The server was made to read its files again.
    pub fn forget_files(&mut self) {
        self.reads_files = Some(boot_time());
        self.surroundings = None;
        self.configuration.forget();
    }

    /// A connection for acts; `None` while the server does not answer.
    #[must_use]
    pub fn client(&self) -> Option<&Client> {
        self.client.as_ref().filter(|client| !client.is_closed())
    }

    /// A job touched the data directory or the server: everything is read again.
    pub fn forget(&mut self) {
        self.search.forget();
        self.control = None;
        self.surroundings = None;
    }

    /// An act changed slots: they are asked for again.
    pub fn forget_surroundings(&mut self) {
        self.surroundings = None;
    }

    /// When there is something to see of which nobody tells: what a look through WAL has found, and what the
    /// server makes of files that it was told to read. `None`: nothing is expected.
    #[must_use]
    pub fn looks_again(&self) -> Option<BootTime> {
        self.again
    }

    /// Why the server last did not answer.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// The view of the server. `job` says that a job owns the data directory at the moment, `frozen` that
    /// its processes are stopped until the leases are renewed.
    pub async fn read(
        &mut self,
        postmaster: Option<Postmaster>,
        follows: Option<crate::decide::view::Follow>,
        (job, frozen): (bool, bool),
    ) -> (PostgresView, Extra) {
        if postmaster != self.postmaster {
            self.client = None;
            self.timeline = 0;
            self.postmaster = postmaster;
            self.control = None;
            self.objects_asked = None;
            self.surroundings = None;
            self.configuration.forget();
            self.search.forget();
            self.history = None;
            self.reads_files = None;
        }
        // What is not looked at in this round is not waited for.
        self.search.rest();
        let mut configuration = ConfigurationView::default();
        let mut extra = Extra::default();
        let mut users_exist = false;
        let mut status = None;
        let (asked, asked_at) = (boot_time(), wall_time());
        // A job that stops or copies the server owns it: asking would only wait for it. And what is
        // frozen answers nobody: what lets it go on are the leases that this round decides to renew.
        if postmaster.is_some()
            && !job
            && !frozen
            && let Some(answer) = self.ask().await
            && let Some(surroundings) = self.surroundings().await
        {
            users_exist = surroundings.users == self.users().len();
            self.look_at_objects(answer.in_recovery).await;
            // As `client`, but of this field alone: the comparison keeps what it was told.
            let client = self.client.as_ref().filter(|client| !client.is_closed());
            let (settings, paused) = (&surroundings.settings, answer.replay_paused);
            configuration = self.configuration.view(client, settings, paused).await;
            extra = self.extra(&answer, &surroundings);
            let to_the_end = answer.to_the_end;
            let mut found = self.status(answer, surroundings);
            let newest = || control::newest_segment(&self.files.data_dir);
            extra.end_asked = (to_the_end && is_sure(&found, newest)).then_some(asked);
            extra.end_asked_at = extra.end_asked.map(|_| asked_at);
            let server = if found.in_recovery { Server::Recovers } else { Server::Writes };
            extra.history = self.history(found.ancestry.timeline);
            found.name_sought =
                self.search.go_on(&mut found.ancestry, found.end, server, boot_time());
            status = Some(found);
        }
        let stopped = postmaster.is_none();
        let data = if job { DataDirectory::Incomplete } else { self.data(stopped).await };
        let process = match (postmaster, &status) {
            (None, _) => Process::Stopped,
            (Some(_), None) => Process::Starting,
            (Some(_), Some(_)) => Process::Running,
        };
        let read = self.reads_files.filter(|_| status.is_some());
        let read = read.map(|told| told.plus(SURROUNDINGS_EVERY));
        self.again = [self.search.looks_again(), read].into_iter().flatten().min();
        let view = PostgresView {
            data,
            process,
            status,
            follows,
            standby_signal: self.files.standby_signal(),
            users_exist,
            configuration,
            half_rewound: self.files.half_rewound(),
        };
        (view, extra)
    }

    fn users(&self) -> Vec<&str> {
        let users = &self.config.postgres.authentication;
        let rewind = users.rewind.as_ref().map(|user| user.username.as_str());
        [Some(users.replication.username.as_str()), rewind].into_iter().flatten().collect()
    }

    async fn ask(&mut self) -> Option<Answer> {
        if self.client().is_none() {
            match sql::connect_local(&self.config).await {
                Ok(client) => self.client = Some(client),
                Err(error) => {
                    self.problem = Some(error.to_string());
                    return None;
                }
            }
        }
        let client = self.client.as_ref()?;
        let answer = match sql::text(client, STATUS).await {
            Ok(text) => serde_json::from_str(&text).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match answer {
            Ok(answer) => {
                self.problem = None;
                Some(answer)
            }
            Err(problem) => {
                // A promotion in the middle of the query is one such; the next round asks again.
                tracing::debug!(problem, "asking PostgreSQL for its state");
                self.problem = Some(problem);
                self.client = None;
                None
            }
        }
    }

    async fn surroundings(&mut self) -> Option<Surroundings> {
        let now = boot_time();
        if self.reads_files.is_some_and(|told| now.since(told) >= SURROUNDINGS_EVERY) {
            (self.reads_files, self.surroundings) = (None, None);
        }
        if let Some((asked, known)) = &self.surroundings
            && now.since(*asked) < SURROUNDINGS_EVERY
        {
            return Some(known.clone());
        }
        let users: Vec<String> = self.users().into_iter().map(sql::literal).collect();
        let array = |names: &[&str]| {
            let quoted: Vec<String> = names.iter().map(|n| sql::literal(n)).collect();
            format!("ARRAY[{}]::text[]", quoted.join(","))
        };
        // Names of parameters are words (`parameters::is_name`).
        let wanted: Vec<&str> = self.configuration.names().collect();
        let query = SURROUNDINGS
            .replace("USERS", &format!("ARRAY[{}]::name[]", users.join(",")))
            .replace("FIXED", &array(&FIXED))
            .replace("WANTED", &array(&wanted));
        let text = sql::text(self.client.as_ref()?, &query).await.ok()?;
        let surroundings: Surroundings = serde_json::from_str(&text).ok()?;
        self.surroundings = Some((now, surroundings.clone()));
        Some(surroundings)
    }

    async fn look_at_objects(&mut self, in_recovery: bool) {
        let now = boot_time();
        if self.objects_asked.is_some_and(|asked| now.since(asked) < OBJECTS_EVERY) {
            return;
        }
        let Some(client) = &self.client else { return };
        let Ok(text) = sql::text(client, OBJECTS).await else { return };
        let Ok(mut objects) = serde_json::from_str::<ReportedObjects>(&text) else { return };
        if !in_recovery
            && let Ok(text) = sql::text(client, COLLATIONS).await
            && let Ok(databases) = serde_json::from_str(&text)
        {
            objects.collation_mismatches = databases;
        }
        self.objects = objects;
        self.objects_asked = Some(now);
    }

    fn extra(&self, answer: &Answer, surroundings: &Surroundings) -> Extra {
        let senders = answer.senders.iter().flatten();
        Extra {
            started: Some(surroundings.started.clone()),
            replayed_at: answer.replayed_at.clone(),
            replication: senders
                .map(|s| {
                    serde_json::json!({"usename": s.user, "application_name": s.name,
                        "client_addr": s.client, "state": s.state, "sync_state": s.sync_state,
                        "sync_priority": s.sync_priority})
                })
                .collect(),
            objects: self.objects.clone(),
            replay_paused: answer.replay_paused,
            history: None,
            end_asked: None,
            end_asked_at: None,
        }
    }

    /// Read once for each timeline of a postmaster: nobody changes it afterwards.
    fn history(&mut self, timeline: TimelineId) -> Option<TimelineHistory> {
        if timeline.0 <= 1 {
            return None;
        }
        if self.history.as_ref().is_none_or(|known| known.timeline != timeline) {
            self.history = TimelineHistory::read(&self.files.data_dir, timeline);
        }
        self.history.clone()
    }

    fn status(&mut self, answer: Answer, surroundings: Surroundings) -> Status {
        self.timeline = self.timeline.max(answer.timeline.unwrap_or(0));
        let senders = answer.senders.unwrap_or_default();
        let used_senders = senders.len();
        let senders = senders_by_name(senders.into_iter().map(SenderAnswer::read));
        let slots = surroundings.slots.unwrap_or_default();
        let any_logical = slots.iter().any(|slot| !slot.physical);
        let noted = if any_logical { slots::noted(&self.files) } else { BTreeMap::new() };
        let slots: BTreeMap<String, Slot> =
            slots.into_iter().map(|slot| slot.slot(&noted)).collect();
        let settings: BTreeMap<String, i64> = surroundings
            .settings
            .iter()
            .filter(|setting| FIXED.contains(&setting.name.as_str()))
            .filter_map(|setting| {
                let number = match setting.value.as_str() {
                    "on" => 1,
                    "off" => 0,
                    text => text.parse().ok()?,
                };
                Some((setting.name.clone(), number))
            })
            .collect();
        let free = |limit: &str, used: usize| {
            settings.get(limit).map_or(0, |most| most - i64::try_from(used).unwrap_or(i64::MAX))
        };
        let upstream_end = answer.receiver.as_ref().and_then(|receiver| receiver.upstream_end);
        Status {
            in_recovery: answer.in_recovery,
            ancestry: control::ancestry(&self.files.data_dir, TimelineId(self.timeline)),
            name_sought: false,
            control_timeline: TimelineId(answer.control_timeline),
            end: answer.end,
            replayed: answer.replayed,
            // A promoted server has that of its standby's time still.
            last_commit: answer.committed_ms.filter(|_| answer.in_recovery).map(WallTime),
            wall: wall_time(),
            receiver: answer.receiver.and_then(|receiver| {
                (receiver.status.as_deref() == Some("streaming")).then_some(())?;
                Some(Receiver {
                    host: receiver.host?,
                    port: receiver.port?,
                    timeline: TimelineId(receiver.timeline?),
                })
            }),
            synchronous_standby_names: answer.synchronous_standby_names,
            free_slots: free("max_replication_slots", slots.len()),
            free_senders: free("max_wal_senders", used_senders),
            senders,
            slots,
            settings: Arc::new(settings),
            server_version: surroundings.version,
            wal_logical: surroundings.wal_logical,
            slot_wal_limit: surroundings.slot_wal_limit,
            slots_at: surroundings.slots_at,
            upstream_end,
        }
    }

    async fn data(&mut self, stopped: bool) -> DataDirectory {
        if self.files.incomplete().exists() {
            return DataDirectory::Incomplete;
        }
        if let Some(control) = &mut self.control {
            if stopped {
                self.search.go_on(&mut control.ancestry, control.end, Server::Stopped, boot_time());
            }
            return DataDirectory::Cluster(control.clone());
        }
        match is_empty(&self.files.data_dir) {
            Ok(true) => return DataDirectory::Empty,
            Ok(false) => {}
            Err(error) => {
                let path = self.files.data_dir.display();
                return DataDirectory::Unreadable(format!("cannot read {path}: {error}"));
            }
        }
        match control::read(&self.programs, &self.files.data_dir).await {
            Ok(mut control) => {
                if stopped {
                    self.search.go_on(
                        &mut control.ancestry,
                        control.end,
                        Server::Stopped,
                        boot_time(),
                    );
                }
                self.control = Some(control.clone());
                DataDirectory::Cluster(control)
            }
            Err(problem) => DataDirectory::Unreadable(problem),
        }
    }
}

/// Whether the timeline that a server tells is that of the end of its WAL. Without a receiver it is
/// pg_control's, which lags behind what a standby that was just started has read.
fn is_sure(found: &Status, newest_segment: impl FnOnce() -> u32) -> bool {
    !found.in_recovery || found.receiver.is_some() || newest_segment() <= found.ancestry.timeline.0
}

/// Who streams at the moment and whether it is counted as synchronous, as [`Status::streams`] says it of
/// a round; `None` where the server does not answer.
pub async fn streams(client: &Client) -> Option<BTreeMap<String, bool>> {
    let text = sql::text(client, SENDERS).await.ok()?;
    streams_in(&text)
}

fn streams_in(text: &str) -> Option<BTreeMap<String, bool>> {
    let senders: Vec<SenderAnswer> = serde_json::from_str(text).ok()?;
    let senders = senders_by_name(senders.into_iter().map(SenderAnswer::read)).into_iter();
    let streaming = senders.filter(|(_, sender)| sender.streaming);
    Some(streaming.map(|(name, sender)| (name, sender.synchronous)).collect())
}

fn is_empty(directory: &std::path::Path) -> std::io::Result<bool> {
    match std::fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// How soon a server that does not answer yet is asked again.
pub const ASK_AGAIN: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tests::world::status;

    #[test]
    fn a_timeline_below_the_newest_segment_is_sure_with_a_receiver_only() {
        let mut found = status(true, 2, 500);
        assert!(is_sure(&found, || 2));
        assert!(!is_sure(&found, || 3), "it was restarted just after it had turned");
        let timeline = TimelineId(2);
        found.receiver = Some(Receiver { host: "h".to_owned(), port: 1, timeline });
        assert!(is_sure(&found, || 3));
        assert!(is_sure(&status(false, 2, 500), || 3));
    }

    #[test]
    fn the_look_and_the_round_fold_the_senders_of_one_name_alike() {
        let rows = serde_json::json!([
            {"name": "a2", "state": "streaming", "sync_state": "sync", "flushed": "0/64"},
            {"name": "a2", "state": "streaming", "sync_state": "potential", "flushed": "0/C8"},
            {"name": "a3", "state": "streaming", "sync_state": "async"},
            {"name": "a4", "state": "catchup", "sync_state": "async"},
        ]);
        let looked = streams_in(&rows.to_string()).expect("rows of this form");
        let wanted = BTreeMap::from([("a2".to_owned(), true), ("a3".to_owned(), false)]);
        assert_eq!(looked, wanted);
        let mut reversed = rows.as_array().expect("a list").clone();
        reversed.reverse();
        assert_eq!(streams_in(&serde_json::json!(reversed).to_string()), Some(wanted.clone()));
        let rows: Vec<SenderAnswer> = serde_json::from_value(rows).expect("rows of this form");
        let mut status = status(false, 3, 500);
        status.senders = senders_by_name(rows.into_iter().map(SenderAnswer::read));
        assert_eq!(status.streams(), wanted);
        assert_eq!(streams_in("no rows"), None);
    }
}
