//! The files of one server: configuration, signal files, password file, and the agent's own notes
//! in its run directory.
//!
//! As in Patroni the original postgresql.conf becomes postgresql.base.conf and is included; ours is
//! written whole, atomically, at every start and change.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::configuration::Wanted;
use crate::act::epoch_file::EpochFile;
use crate::config::dynamic::Dynamic;
use crate::config::{Config, User};
use crate::decide::parameters;
use crate::decide::view::Follow;

/// Where a recovery ends. Left by a restore, or copied from a server that was restored, each ends the
/// recovery of a standby in a promotion that nobody has decided.
const TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

/// What is in force on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InForce {
    /// Whom the server follows in recovery.
    pub follow: Option<Follow>,
    /// `synchronous_standby_names`.
    pub synchronous: String,
    /// What PostgreSQL does not take, by name: it stays out until another value is wanted.
    #[serde(default)]
    pub refused: BTreeMap<String, Refused>,
    /// Of what this process last put in force, as far as PostgreSQL takes it. What an earlier life did
    /// may not have come to its end: it is done once more.
    #[serde(skip)]
    pub fingerprint: u64,
}

/// A value that PostgreSQL does not take.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Refused {
    /// The value.
    pub value: String,
    /// Why, in its own words.
    pub words: String,
    /// What the file had before, which stays.
    #[serde(default)]
    pub kept: Option<String>,
}

impl InForce {
    /// Whether just this value was refused.
    #[must_use]
    pub fn refuses(&self, name: &str, value: &str) -> bool {
        self.refused.get(name).is_some_and(|refused| refused.value == value)
    }
}

/// Paths of one server.
#[derive(Debug, Clone)]
pub struct Files {
    /// Data directory.
    pub data_dir: PathBuf,
    /// Run directory.
    pub run_dir: PathBuf,
    passfile: PathBuf,
    incomplete: PathBuf,
    /// Where WAL is kept that must not be lost with the data directory.
    pub salvage: PathBuf,
}

impl Files {
    /// Paths under a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let run_dir = config.regent.run_dir.clone();
        let passfile = config.postgres.pgpass.clone().unwrap_or_else(|| run_dir.join("pgpass"));
        let data_dir = config.postgres.data_dir.clone();
        let salvage = config.regent.salvage_dir.clone().unwrap_or_else(|| {
            let mut name = data_dir.clone().into_os_string();
            name.push(".regent-salvage");
            PathBuf::from(name)
        });
        let incomplete = EpochFile::new(config).path().with_extension("regent-incomplete");
        Self { data_dir, run_dir, passfile, incomplete, salvage }
    }

    /// Note that a copy, a rewind or `initdb` has begun and not ended. Beside the epoch: a reboot, which
    /// may empty the run directory, must not make half a cluster look like a whole one.
    #[must_use]
    pub fn incomplete(&self) -> PathBuf {
        self.incomplete.clone()
    }

    /// Notes, durably, that the data directory is incomplete from now on.
    pub fn begin(&self, what: &str) -> anyhow::Result<()> {
        write_atomically(&self.incomplete, what.as_bytes()).with_context(|| {
            format!(
                "{}: noting that the data directory is incomplete; want a directory that this user may \
                 write to, or another place by regent.epoch_file",
                self.incomplete.display()
            )
        })
    }

    /// It is complete, also after a reboot: a note that came back would have it copied over.
    pub fn complete(&self) -> std::io::Result<()> {
        std::fs::remove_file(&self.incomplete)?;
        sync_parent(&self.incomplete)
    }

    /// The note of an agent that kept it in the run directory.
    pub fn take_note_over(&self) -> anyhow::Result<()> {
        let old = self.run_dir.join("data-incomplete");
        let what = match std::fs::read_to_string(&old) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            read => read.with_context(|| format!("reading {}", old.display()))?,
        };
        self.begin(&what)?;
        std::fs::remove_file(&old).with_context(|| format!("removing {}", old.display()))
    }

    /// Whether what began and did not end is a rewind.
    #[must_use]
    pub fn half_rewound(&self) -> bool {
        std::fs::read(self.incomplete()).is_ok_and(|note| note.starts_with(b"pg_rewind"))
    }

    /// The server's own log.
    #[must_use]
    pub fn server_log(&self) -> PathBuf {
        self.run_dir.join("postgresql.log")
    }

    /// Whether the signal file for standby mode is there.
    #[must_use]
    pub fn standby_signal(&self) -> bool {
        self.data_dir.join("standby.signal").exists()
    }

    /// Makes, or removes, the signal file.
    pub fn set_standby_signal(&self, on: bool) -> std::io::Result<()> {
        let file = self.data_dir.join("standby.signal");
        drop(std::fs::remove_file(self.data_dir.join("recovery.signal")));
        if on {
            write_atomically(&file, b"")
        } else {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            }
        }
    }

    /// Writes the password file for replication, rewind and the agent itself.
    pub fn write_passfile(&self, config: &Config) -> std::io::Result<()> {
        let users = &config.postgres.authentication;
        let users = [Some(&users.superuser), Some(&users.replication), users.rewind.as_ref()];
        let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
        let mut text = String::new();
        for user in users.into_iter().flatten() {
            let password = escape(user.password.reveal());
            writeln!(text, "*:*:*:{}:{password}", escape(&user.username))
                .expect("writing to a String does not fail");
        }
        // What is right is not written again: a disk that is full must not end a life that needs nothing.
        if std::fs::read(&self.passfile).is_ok_and(|found| found == text.as_bytes()) {
            return Ok(());
        }
        write_atomically(&self.passfile, text.as_bytes())
    }

    /// The command line for `postgres`.
    #[must_use]
    pub fn arguments(&self, config: &Config, owned: &BTreeMap<String, String>) -> Vec<String> {
        let (host, port) = config.postgres.listen_host_port();
        let mut arguments = vec!["-D".to_owned(), self.data_dir.to_string_lossy().into_owned()];
        let mut set = |name: &str, value: &str| {
            arguments.push("-c".to_owned());
            arguments.push(format!("{name}={value}"));
        };
        set("listen_addresses", host);
        set("port", &port.to_string());
        set("cluster_name", config.scope.as_str());
        for (name, value) in owned {
            set(name, value);
        }
        arguments
    }

    /// Writes postgresql.conf and pg_hba.conf for this state.
    pub fn write_configuration(
        &self,
        config: &Config,
        dynamic: &Dynamic,
        in_force: &InForce,
    ) -> std::io::Result<()> {
        self.keep_base()?;
        let main = self.data_dir.join("postgresql.conf");
        let wanted = Wanted::of(config, dynamic);
        write_atomically(&main, self.text(config, &wanted, in_force).as_bytes())?;
        self.note(in_force)?;
        self.write_access(&wanted, in_force)?;
        // No more than a copy for another day: nothing waits for it.
        if let Err(error) = self.keep_dynamic(dynamic) {
            tracing::warn!(%error, "keeping the dynamic configuration in the data directory");
        }
        Ok(())
    }

    /// Writes into postgresql.conf what changes with the role, and nothing else: what is wanted by now
    /// may be something that PostgreSQL does not take and was not asked about yet. A file that is not of
    /// ours is written whole.
    pub fn write_role(
        &self,
        config: &Config,
        dynamic: &Dynamic,
        in_force: &InForce,
    ) -> std::io::Result<()> {
        let mut parameters = self.written();
        if parameters.is_empty() {
            return self.write_configuration(config, dynamic, in_force);
        }
        self.put_role(&mut parameters, config, &Wanted::of(config, dynamic), in_force);
        write_atomically(&self.data_dir.join("postgresql.conf"), render(&parameters).as_bytes())?;
        self.note(in_force)
    }

    fn note(&self, in_force: &InForce) -> std::io::Result<()> {
        let note = serde_json::to_vec(in_force).map_err(std::io::Error::other)?;
        write_atomically(&self.in_force(), &note)
    }

    /// The original postgresql.conf becomes the one that ours includes.
    pub fn keep_base(&self) -> std::io::Result<()> {
        let main = self.data_dir.join("postgresql.conf");
        let base = self.data_dir.join("postgresql.base.conf");
        if base.exists() {
            return Ok(());
        }
        if main.exists() { std::fs::rename(&main, &base) } else { write_atomically(&base, b"") }
    }

    /// The content of postgresql.conf for this state.
    #[must_use]
    pub fn text(&self, config: &Config, wanted: &Wanted, in_force: &InForce) -> String {
        let mut parameters = wanted.parameters.clone();
        parameters.extend(wanted.recovery.clone());
        for (name, refused) in &in_force.refused {
            if parameters.get(name) != Some(&refused.value) {
                continue;
            }
            match &refused.kept {
                Some(kept) => drop(parameters.insert(name.clone(), kept.clone())),
                None => drop(parameters.remove(name)),
            }
        }
        self.put_role(&mut parameters, config, wanted, in_force);
        render(&parameters)
    }

    fn put_role(
        &self,
        parameters: &mut BTreeMap<String, String>,
        config: &Config,
        wanted: &Wanted,
        in_force: &InForce,
    ) {
        put_feedback(parameters, wanted, in_force);
        put_delay(parameters, wanted, in_force);
        if let Some(follow) = &in_force.follow {
            parameters.extend(self.recovery_parameters(config, follow));
            if !wanted.slots.use_slots {
                parameters.insert("primary_slot_name".to_owned(), String::new());
            }
        }
        parameters.insert("synchronous_standby_names".to_owned(), in_force.synchronous.clone());
    }

    /// The values that postgresql.conf has, where it is of ours.
    #[must_use]
    pub fn written(&self) -> BTreeMap<String, String> {
        let text = std::fs::read_to_string(self.data_dir.join("postgresql.conf"));
        let text = text.ok().filter(|text| text.starts_with(HEADER)).unwrap_or_default();
        text.lines().filter_map(written_line).collect()
    }

    /// Patroni's kept cache of the dynamic configuration, by its name and in its form, where there is
    /// a cluster to keep it in.
    #[must_use]
    pub fn dynamic(&self) -> PathBuf {
        self.data_dir.join("patroni.dynamic.json")
    }

    /// Keeps the document that is in force, for the time when the DCS has none.
    pub fn keep_dynamic(&self, dynamic: &Dynamic) -> std::io::Result<()> {
        let there = self.data_dir.join("PG_VERSION").exists() && !self.incomplete().exists();
        if !there || !dynamic.document.is_object() {
            return Ok(());
        }
        let text = dynamic.document.to_string();
        if std::fs::read(self.dynamic()).is_ok_and(|kept| kept == text.as_bytes()) {
            return Ok(());
        }
        write_atomically(&self.dynamic(), text.as_bytes())
    }

    /// What was kept; nothing where it is missing, or not an object.
    #[must_use]
    pub fn read_dynamic(&self) -> Option<serde_json::Value> {
        if self.incomplete().exists() {
            // Of whatever is being copied.
            return None;
        }
        let kept = std::fs::read(self.dynamic()).ok()?;
        serde_json::from_slice(&kept).ok().filter(serde_json::Value::is_object)
    }

    /// Whether postgresql.auto.conf sets this one.
    #[must_use]
    pub fn auto_conf_sets(&self, name: &str) -> bool {
        let text = std::fs::read(self.data_dir.join("postgresql.auto.conf")).unwrap_or_default();
        text.split(|byte| *byte == b'\n').any(|line| set_by(line) == name)
    }

    /// Takes out of postgresql.auto.conf what would outdo the agent: `ALTER SYSTEM` and base backups
    /// leave settings of recovery there.
    pub fn strip_auto_conf(&self) -> std::io::Result<()> {
        let file = self.data_dir.join("postgresql.auto.conf");
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let lines = text.split_inclusive(|byte| *byte == b'\n');
        let kept = lines.filter(|line| !outdoes(line));
        let kept: Vec<u8> = kept.flatten().copied().collect();
        if kept.len() == text.len() {
            return Ok(());
        }
        tracing::warn!("settings that would outdo the agent's are removed from {}", file.display());
        write_atomically(&file, &kept)
    }

    fn in_force(&self) -> PathBuf {
        self.run_dir.join("in-force.json")
    }

    /// What an earlier life of this agent had written; nothing where the note is missing or not
    /// readable, and then it is written anew.
    #[must_use]
    pub fn read_in_force(&self) -> InForce {
        let note = std::fs::read(self.in_force()).ok();
        note.and_then(|note| serde_json::from_slice(&note).ok()).unwrap_or_default()
    }

    /// The file that says who may connect.
    #[must_use]
    pub fn hba(&self) -> PathBuf {
        self.data_dir.join("pg_hba.conf")
    }

    /// pg_hba.conf and pg_ident.conf, where they are ours: neither is without any line, nor is one
    /// that the parameters put elsewhere.
    fn write_access(&self, wanted: &Wanted, in_force: &InForce) -> std::io::Result<()> {
        let given = |lines: &[String], elsewhere: &str| {
            let ours = !lines.is_empty() && !wanted.parameters.contains_key(elsewhere);
            ours.then(|| format!("{HEADER}{}\n", lines.join("\n")))
        };
        if let Some(text) = given(&wanted.ident, "ident_file") {
            write_atomically(&self.data_dir.join("pg_ident.conf"), text.as_bytes())?;
        }
        let hba = given(&wanted.hba, "hba_file");
        // What was refused is not written again: the file is still the one before.
        match hba.filter(|_| !in_force.refuses("pg_hba", &wanted.hba.join("\n"))) {
            Some(text) => write_atomically(&self.hba(), text.as_bytes()),
            None => Ok(()),
        }
    }

    fn recovery_parameters(&self, config: &Config, follow: &Follow) -> BTreeMap<String, String> {
        let nowhere = TARGETS.map(|target| (target.to_owned(), String::new()));
        let mut parameters = BTreeMap::from(nowhere);
        parameters.insert("recovery_target_timeline".to_owned(), "latest".to_owned());
        let conninfo = match follow {
            Follow::Nobody => String::new(),
            Follow::Member { address, .. } => self.conninfo(
                &config.postgres.authentication.replication,
                std::slice::from_ref(address),
                config.name.as_str(),
            ),
            Follow::Site { addresses, .. } => self.conninfo(
                &config.postgres.authentication.replication,
                addresses,
                config.name.as_str(),
            ),
            Follow::Remote { addresses, .. } if addresses.is_empty() => String::new(),
            // No member over there is called so: commits of theirs must not wait for this one.
            Follow::Remote { addresses, .. } => self.conninfo_to_writer(
                &config.postgres.authentication.replication,
                addresses,
                &format!("{}/{}", config.scope, config.name),
            ),
        };
        let slot = match follow {
            Follow::Nobody => String::new(),
            Follow::Member { .. } | Follow::Site { .. } => config.name.slot(),
            Follow::Remote { slot, .. } => slot.clone().unwrap_or_default(),
        };
        parameters.insert("primary_conninfo".to_owned(), conninfo);
        parameters.insert("primary_slot_name".to_owned(), slot);
        parameters
    }

    /// The same for the one of several hosts that writes, as in Patroni: which of them does changes there
    /// with each failover. A single one is taken as it is.
    #[must_use]
    pub fn conninfo_to_writer(
        &self,
        user: &User,
        addresses: &[(String, u16)],
        application: &str,
    ) -> String {
        let conninfo = self.conninfo(user, addresses, application);
        let which = if addresses.len() > 1 { " target_session_attrs=read-write" } else { "" };
        format!("{conninfo}{which}")
    }

    /// The password file.
    #[must_use]
    pub fn passfile(&self) -> &Path {
        &self.passfile
    }

    /// A connection string without its password, which stands in the password file.
    #[must_use]
    pub fn conninfo(&self, user: &User, addresses: &[(String, u16)], application: &str) -> String {
        let hosts: Vec<&str> = addresses.iter().map(|(host, _)| host.as_str()).collect();
        let ports: Vec<String> = addresses.iter().map(|(_, port)| port.to_string()).collect();
        let quote = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
        format!(
            "user={} passfile={} host={} port={} application_name={} sslmode=prefer \
             connect_timeout=3 keepalives_idle=5 keepalives_interval=2 keepalives_count=3",
            quote(&user.username),
            quote(&self.passfile.to_string_lossy()),
            quote(&hosts.join(",")),
            quote(&ports.join(",")),
            quote(application),
        )
    }
}

/// Whom a server follows says whether it holds back that one's vacuum, where this node's own file does not.
fn put_feedback(parameters: &mut BTreeMap<String, String>, wanted: &Wanted, in_force: &InForce) {
    const NAME: &str = "hot_standby_feedback";
    let own = wanted.parameters.get(NAME);
    let wants = !wanted.own_feedback && wanted.slots.want_feedback(in_force.follow.as_ref());
    if wants {
        parameters.insert(NAME.to_owned(), "on".to_owned());
    } else if let Some(value) = own.filter(|value| parameters::is_truth(value)) {
        parameters.insert(NAME.to_owned(), value.clone());
    } else if own.is_none() {
        parameters.remove(NAME);
    }
}

/// What a standby cluster's leader replays late its members need not delay again.
fn put_delay(parameters: &mut BTreeMap<String, String>, wanted: &Wanted, in_force: &InForce) {
    const NAME: &str = "recovery_min_apply_delay";
    let Some(of_section) = &wanted.remote_delay else { return };
    let remote = matches!(in_force.follow, Some(Follow::Remote { .. }));
    let otherwise = wanted.recovery.get(NAME).filter(|value| !in_force.refuses(NAME, value));
    match otherwise.filter(|_| !remote).or_else(|| remote.then_some(of_section)) {
        Some(value) => drop(parameters.insert(NAME.to_owned(), value.clone())),
        None => drop(parameters.remove(NAME)),
    }
}

/// Whether a line of postgresql.auto.conf sets what the agent alone sets.
fn outdoes(line: &[u8]) -> bool {
    parameters::is_recovery(&set_by(line))
}

/// The parameter that a line sets.
fn set_by(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let name = line.trim_start().split(|c: char| c == '=' || c.is_whitespace()).next();
    name.unwrap_or_default().to_ascii_lowercase()
}

const HEADER: &str = "# Written by the Regent agent; changes made here are lost.\n";

/// A line as [`render`] writes it.
fn written_line(line: &str) -> Option<(String, String)> {
    let (name, rest) = line.split_once(" = '")?;
    let text = rest.strip_suffix('\'')?.replace("''", "'");
    let mut value = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            value.push(letter);
            continue;
        }
        match letters.next()? {
            'n' => value.push('\n'),
            other => value.push(other),
        }
    }
    Some((name.to_owned(), value))
}

fn render(parameters: &BTreeMap<String, String>) -> String {
    let mut text = format!("{HEADER}include 'postgresql.base.conf'\n");
    parameters.iter().for_each(|(name, value)| set(&mut text, name, value));
    text
}

/// A line that sets a parameter, as PostgreSQL reads configuration files (its manual, 20.1.2).
pub(super) fn set(text: &mut String, name: &str, value: &str) {
    let value = value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n");
    writeln!(text, "{name} = '{value}'").expect("writing to a String does not fail");
}

/// Writes a file of mode 0600 so that a crash leaves the old or the new one.
pub fn write_atomically(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".regent-new");
    let temporary = PathBuf::from(temporary);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// What was renamed or removed there stays so after a crash.
fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::salvage::tests::{Place, config};
    use super::*;

    fn read(place: &Place, name: &str) -> String {
        std::fs::read_to_string(place.files.data_dir.join(name)).unwrap_or_default()
    }

    #[test]
    fn half_a_cluster_is_known_without_the_run_directory_and_by_an_older_agents_note() {
        let place = Place::new();
        place.files.take_note_over().expect("there is none");
        assert!(!place.files.incomplete().exists());
        place.files.begin("copy\n").expect("noted");
        std::fs::remove_dir_all(&place.files.run_dir).expect("as a reboot does");
        assert!(place.files.incomplete().exists() && !place.files.half_rewound());
        place.files.complete().expect("done");
        assert!(!place.files.incomplete().exists());
        std::fs::create_dir(&place.files.run_dir).expect("made");
        let old = place.files.run_dir.join("data-incomplete");
        std::fs::write(&old, "pg_rewind\n").expect("written");
        place.files.take_note_over().expect("taken over");
        assert!(place.files.half_rewound() && !old.exists());
    }

    #[test]
    fn the_document_in_force_is_kept_where_there_is_a_cluster_and_read_again() {
        let place = Place::new();
        let document = serde_json::json!({"ttl": 30, "theirs": {"b": 1, "a": 2}});
        let dynamic = Dynamic::read(&document, &Dynamic::default());
        assert_eq!(place.files.read_dynamic(), None);
        place.files.keep_dynamic(&dynamic).expect("kept");
        assert_eq!(read(&place, "patroni.dynamic.json"), document.to_string(), "Patroni's form");
        assert_eq!(place.files.read_dynamic(), Some(document));
        for garbage in ["", "[1]", "{\"ttl\":"] {
            std::fs::write(place.files.dynamic(), garbage).expect("written");
            assert_eq!(place.files.read_dynamic(), None, "{garbage:?}");
        }
        // One of nothing yet is not put over it.
        place.files.keep_dynamic(&Dynamic::default()).expect("passed over");
        assert_eq!(read(&place, "patroni.dynamic.json"), "{\"ttl\":");
        std::fs::remove_file(place.files.dynamic()).expect("there");
        std::fs::write(place.files.incomplete(), "copy\n").expect("written");
        place.files.keep_dynamic(&dynamic).expect("passed over");
        assert!(!place.files.dynamic().exists(), "a copy is being made there");
        std::fs::write(place.files.dynamic(), "{}").expect("written");
        assert_eq!(place.files.read_dynamic(), None, "it is the source's");
    }

    #[test]
    fn alter_system_does_not_outdo_the_agent() {
        let place = Place::new();
        place.files.strip_auto_conf().expect("nothing there");
        let kept = "# Do not edit\nwork_mem = '5MB'\n";
        let outdoes = "Primary_Conninfo = 'host=x'\nrecovery_target_time = 'now'\n\
                       restore_command = ''\nsynchronous_standby_names = ''\n";
        let file = place.files.data_dir.join("postgresql.auto.conf");
        std::fs::write(&file, format!("{kept}{outdoes}")).expect("written");
        let sets = |name| place.files.auto_conf_sets(name);
        assert!(sets("synchronous_standby_names") && sets("work_mem") && !sets("port"));
        place.files.strip_auto_conf().expect("stripped");
        assert_eq!(read(&place, "postgresql.auto.conf"), kept);
        assert!(!sets("synchronous_standby_names"));
    }

    #[test]
    fn a_pg_hba_that_was_refused_is_not_written_again() {
        let place = Place::new();
        let config = config(place.dir.path());
        let with = |line: &str| {
            let section = serde_json::json!({"pg_hba": [line], "pg_ident": ["m s p"]});
            Dynamic::read(&serde_json::json!({"postgresql": section}), &Dynamic::default())
        };
        let good = with("local all all trust");
        place.files.write_configuration(&config, &good, &InForce::default()).expect("written");
        assert!(read(&place, "pg_hba.conf").ends_with("local all all trust\n"));
        assert!(read(&place, "pg_ident.conf").ends_with("m s p\n"));
        let bad = with("nonsense");
        let (value, words) = ("nonsense".to_owned(), "line 1".to_owned());
        let refused = Refused { value, words, kept: None };
        let refused = [("pg_hba".to_owned(), refused)].into();
        let in_force = InForce { refused, ..InForce::default() };
        place.files.write_configuration(&config, &bad, &in_force).expect("written");
        assert!(read(&place, "pg_hba.conf").ends_with("local all all trust\n"));
        assert_eq!(place.files.read_in_force(), in_force, "and that is noted");
        let better = with("local all all peer");
        place.files.write_configuration(&config, &better, &in_force).expect("written");
        assert!(read(&place, "pg_hba.conf").ends_with("peer\n"));
    }

    #[test]
    fn what_was_written_is_read_back_value_by_value() {
        let place = Place::new();
        let config = config(place.dir.path());
        let value = "cp '%p' \\\\nas\\new\nport = 1";
        let section = serde_json::json!({"parameters": {"archive_command": value}});
        let document = serde_json::json!({"postgresql": section});
        let dynamic = Dynamic::read(&document, &Dynamic::default());
        assert!(place.files.written().is_empty());
        place.files.write_configuration(&config, &dynamic, &InForce::default()).expect("written");
        let written = place.files.written();
        assert_eq!(written.get("archive_command").map(String::as_str), Some(value));
        assert_eq!(written.get("synchronous_standby_names").map(String::as_str), Some(""));
        std::fs::write(place.files.data_dir.join("postgresql.conf"), "port = '1'\n")
            .expect("written");
        assert!(place.files.written().is_empty(), "not one of ours");
    }

    /// Of whom logical slots are kept, the vacuum is held back; not another site's.
    #[test]
    fn feedback_and_the_slots_name_go_by_the_role_and_by_the_rules_for_slots() {
        let place = Place::new();
        let mut config = config(place.dir.path());
        let read = |document: serde_json::Value| Dynamic::read(&document, &Dynamic::default());
        let logical = serde_json::json!({"s": {"type": "logical", "database": "d", "plugin": "p"}});
        let with = read(serde_json::json!({"slots": logical}));
        let off =
            serde_json::json!({"use_slots": false, "parameters": {"hot_standby_feedback": "off"}});
        let off = read(serde_json::json!({"slots": logical, "postgresql": off}));
        let address = ("h".to_owned(), 1);
        let name = "a2".parse().expect("a name");
        let member = Follow::Member { name, address: address.clone() };
        let site = Follow::Site { site: "b".parse().expect("a name"), addresses: vec![address] };
        let written = |config: &Config, dynamic: &Dynamic, follow: &Follow| {
            let role = InForce { follow: Some(follow.clone()), ..InForce::default() };
            place.files.write_role(config, dynamic, &role).expect("written");
            let written = place.files.written();
            let slot = written.get("primary_slot_name").is_some_and(|slot| !slot.is_empty());
            (written.get("hot_standby_feedback").cloned(), slot)
        };
        let said = |word: &str| Some(word.to_owned());
        assert_eq!(written(&config, &with, &member), (said("on"), true));
        assert_eq!(written(&config, &with, &site), (None, true), "and it goes with the role");
        assert_eq!(written(&config, &off, &member), (said("on"), false));
        assert_eq!(written(&config, &off, &site), (said("off"), false), "what is wanted otherwise");
        let own = ("hot_standby_feedback".to_owned(), Some("off".to_owned()));
        config.postgres.parameters.extend([own]);
        assert_eq!(
            written(&config, &with, &member),
            (said("off"), true),
            "the file has the last word"
        );
        let wanted = |dynamic: &Dynamic| Wanted::of(&config, dynamic).fingerprint();
        assert_ne!(wanted(&with), wanted(&Dynamic::default()), "so it is read again");
    }

    /// Whoever leads the cluster follows the other one, delayed; every member restores from its archive.
    #[test]
    fn a_standby_cluster_s_section_is_in_the_files_of_whom_it_concerns() {
        let place = Place::new();
        let config = config(place.dir.path());
        let document = serde_json::json!({
            "standby_cluster": {"host": "a,b", "port": "1,2", "primary_slot_name": "us",
                "restore_command": "get %f %p", "recovery_min_apply_delay": "5min"},
            "postgresql": {"recovery_conf": {"restore_command": "other"}},
        });
        let dynamic = Dynamic::read(&document, &Dynamic::default());
        let section = dynamic.standby_cluster.clone().expect("there");
        let remote = Follow::Remote { addresses: section.addresses, slot: section.slot };
        let (name, address) = ("a2".parse().expect("a name"), ("h".to_owned(), 1));
        let member = Follow::Member { name, address };
        let archive = Follow::Remote { addresses: Vec::new(), slot: None };
        let (own, delay) = (config.name.slot(), Some("5min"));
        let cluster = format!("application_name='{}/", config.scope);
        for (follow, slot, delay, hosts) in [
            (&remote, "us", delay, "host='a,b' port='1,2'"),
            (&member, own.as_str(), None, "host='h' port='1'"),
            (&archive, "", delay, ""),
            (&remote, "us", delay, "host='a,b' port='1,2'"),
        ] {
            let role = InForce { follow: Some(follow.clone()), ..InForce::default() };
            place.files.write_role(&config, &dynamic, &role).expect("written");
            let written = place.files.written();
            let has = |name: &str| written.get(name).map(String::as_str);
            assert_eq!(has("restore_command"), Some("get %f %p"), "{follow:?}");
            assert_eq!(has("recovery_min_apply_delay"), delay, "{follow:?}");
            assert_eq!(has("primary_slot_name"), Some(slot), "{follow:?}");
            let conninfo = has("primary_conninfo").expect("there");
            assert!(conninfo.contains(hosts), "{conninfo}");
            let to_writer = conninfo.ends_with("target_session_attrs=read-write");
            assert_eq!(to_writer, hosts.contains("a,b"), "{conninfo}");
            assert_eq!(conninfo.contains(&cluster), to_writer, "{conninfo}");
        }
    }

    #[test]
    fn a_change_of_role_brings_nothing_in_that_was_not_judged() {
        let place = Place::new();
        let config = config(place.dir.path());
        let with = |size: &str, line: &str| {
            let section = serde_json::json!({"parameters": {"shared_buffers": size},
                "pg_hba": [line]});
            Dynamic::read(&serde_json::json!({"postgresql": section}), &Dynamic::default())
        };
        let (good, bad) = (with("64MB", "local all all trust"), with("lots", "nonsense"));
        let (nothing, synchronous) = (InForce::default(), "\"a2\"".to_owned());
        // Whoever configured it before.
        place.files.write_role(&config, &good, &nothing).expect("written");
        let role = InForce { synchronous, follow: Some(Follow::Nobody), ..nothing };
        place.files.write_role(&config, &bad, &role).expect("written");
        let written = place.files.written();
        for (name, value) in [
            ("shared_buffers", "64MB"),
            ("synchronous_standby_names", "\"a2\""),
            ("primary_conninfo", ""),
            ("recovery_target_timeline", "latest"),
        ] {
            assert_eq!(written.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(read(&place, "pg_hba.conf").ends_with("local all all trust\n"));
        assert_eq!(place.files.read_in_force(), role, "and it is noted");
    }

    /// A version before this one noted less.
    #[test]
    fn a_note_of_an_older_agent_is_read() {
        let place = Place::new();
        let note = r#"{"follow": null, "synchronous": "\"a2\""}"#;
        std::fs::write(place.files.in_force(), note).expect("written");
        let read = place.files.read_in_force();
        assert_eq!((read.synchronous.as_str(), read.fingerprint), ("\"a2\"", 0));
    }
}
