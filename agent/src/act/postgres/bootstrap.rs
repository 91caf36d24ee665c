//! Making the cluster's first data directory: `initdb` or the operator's own method (a restore, for
//! instance), recovery where that left some to do, `post_bootstrap`, and what becomes of a directory
//! that could not be made (spec/patroni-compat.md 3.2, 5.2).
//!
//! Recovery and `post_bootstrap` run on a server that nobody else can reach: no TCP, and its socket in
//! the agent's private directory. It needs no right, since it acknowledges nothing to anybody, and it
//! is stopped in order; the cluster then opens as a new one does, through the gate (I6). Until then the
//! directory counts as incomplete, so a bootstrap that is cut off at any moment is begun anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;

use super::configuration::Wanted;
use super::copy;
use super::files::{Files, InForce, set, write_atomically};
use super::programs::Programs;
use super::slots;
use super::sql;
use crate::act::scripts;
use crate::config::dynamic::Dynamic;
use crate::config::{BootstrapMethod, CommandLine, Config};
use crate::decide::salvage::Salvage;
use crate::observe::clock::boot_time;

/// The longest that a method, and the recovery after it, may take.
const MADE_WITHIN: Duration = Duration::from_secs(24 * 3600);
/// The longest that `post_bootstrap` may take.
const POST_WITHIN: Duration = Duration::from_secs(3600);
/// The longest that the private server may take to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(300);
/// How soon a server that recovers is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// What it takes.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// PostgreSQL's programs.
    pub programs: &'a Programs,
    /// The server's files.
    pub files: &'a Files,
    /// Configuration.
    pub config: &'a Config,
    /// The dynamic configuration in use.
    pub dynamic: &'a Dynamic,
    /// What a copy must not begin without.
    pub salvage: Option<&'a Salvage>,
}

impl Ground<'_> {
    /// Makes the data directory. One that could not be made is put aside for whoever looks.
    pub async fn make(self) -> anyhow::Result<()> {
        scripts::end_what_makes(&self.files.data_dir).await?;
        let made = self.try_to_make().await;
        if made.is_err() {
            self.put_aside();
        }
        made
    }

    async fn try_to_make(self) -> anyhow::Result<()> {
        let methods = &self.config.methods;
        match &methods.bootstrap {
            None => {
                copy::initdb(self.programs, self.files, self.config, self.dynamic).await?;
            }
            Some(method) => self.restore(method).await?,
        }
        if methods.bootstrap.is_some() || methods.post_bootstrap.is_some() {
            let server = self.start_alone()?;
            self.finish(server).await?;
        }
        copy::done(self.files)
    }

    /// Runs the operator's method, and prepares the recovery of what it left.
    async fn restore(self, method: &BootstrapMethod) -> anyhow::Result<()> {
        let data_dir = &self.files.data_dir;
        copy::begin(self.files)?;
        let mut arguments = Vec::new();
        if !method.maker.no_params {
            arguments.push(format!("--scope={}", self.config.scope));
            arguments.push(format!("--datadir={}", data_dir.display()));
        }
        arguments.extend(method.maker.more.iter().cloned());
        let call = scripts::Call::new("bootstrap", &method.maker.command).arguments(&arguments);
        scripts::run(call.makes(data_dir), MADE_WITHIN).await?;
        ensure!(
            data_dir.join("PG_VERSION").is_file(),
            "bootstrap.{}: the command ended well and left no cluster in {}",
            method.maker.name,
            data_dir.display()
        );
        // Of the server that was copied.
        drop(std::fs::remove_file(data_dir.join("postmaster.pid")));
        copy::forget_sources_configuration(self.files)?;
        slots::forget(self.files);
        let signal = |name: &str| data_dir.join(name).exists();
        let left = signal("recovery.signal") || signal("standby.signal");
        let given = !method.recovery_conf.is_empty();
        let recovers = given || (method.keep_existing_recovery_conf && left);
        self.files.set_standby_signal(false)?;
        let conf = data_dir.join("postgresql.conf");
        self.files.write_configuration(self.config, self.dynamic, &InForce::default())?;
        if recovers {
            write_atomically(&data_dir.join("recovery.signal"), b"")?;
        }
        if given {
            // Written anew at the next start: they are for this recovery only.
            let mut text = std::fs::read_to_string(&conf)?;
            text.push_str(&recovery(method));
            write_atomically(&conf, text.as_bytes())?;
        }
        Ok(())
    }

    /// A server that nobody else can reach. It recovers without serving reads, so what connects has been
    /// recovered.
    fn start_alone(self) -> anyhow::Result<Child> {
        let run_dir = &self.files.run_dir;
        let hba = run_dir.join("bootstrap-hba.conf");
        // Whoever reaches the socket is this user; a restored cluster has passwords of its own.
        write_atomically(&hba, b"local all all trust\n")?;
        let log = self.files.server_log();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let mut command = self.programs.command("postgres");
        let owned = Wanted::of(self.config, self.dynamic).owned();
        command.args(self.files.arguments(self.config, &owned));
        for (name, value) in alone(run_dir, &hba) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdout(Stdio::from(log.try_clone()?)).stderr(Stdio::from(log));
        command.spawn().context("starting PostgreSQL for the bootstrap")
    }

    /// Waits for its recovery, hands it over to `post_bootstrap`, and stops it.
    async fn finish(self, mut server: Child) -> anyhow::Result<()> {
        let begun = boot_time();
        let superuser = &self.config.postgres.authentication.superuser;
        let socket = self.files.run_dir.display().to_string();
        let port = self.config.postgres.listen_host_port().1;
        let client = loop {
            if let Some(status) = server.try_wait()? {
                anyhow::bail!(
                    "PostgreSQL ended ({status}) while the cluster was being made; {} says why",
                    self.files.server_log().display()
                );
            }
            match sql::connect(&socket, port, superuser).await {
                Ok(client) => break client,
                Err(error) if error.to_string().contains("does not exist") => {
                    return Err(error).context("the superuser of the configuration");
                }
                Err(error) => ensure!(
                    boot_time().since(begun) < MADE_WITHIN,
                    "the recovery has not ended: {error}"
                ),
            }
            tokio::time::sleep(ASK_AGAIN).await;
        };
        sql::set_password(&client, superuser).await?;
        drop(client);
        if let Some(post) = &self.config.methods.post_bootstrap {
            self.post_bootstrap(post, &socket, port).await?;
        }
        stop(server).await
    }

    async fn post_bootstrap(
        self,
        command: &CommandLine,
        socket: &str,
        port: u16,
    ) -> anyhow::Result<()> {
        let user = &self.config.postgres.authentication.superuser.username;
        let (host, user) = (encoded(socket), encoded(user));
        let uri = format!("postgres:///postgres?host={host}&port={port}&user={user}");
        let arguments = [uri];
        let call = scripts::Call::new("post_bootstrap", command)
            .arguments(&arguments)
            .passfile(self.files.passfile());
        scripts::run(call, POST_WITHIN).await
    }

    /// As in Patroni: beside the directory, under its name with `.failed`. The marker of what is
    /// incomplete stays, so that nobody takes what could not be moved for a cluster; it goes when the
    /// bootstrap is given up, with what is still there.
    fn put_aside(self) {
        let data_dir = &self.files.data_dir;
        let failed = aside(data_dir);
        if !data_dir.exists() {
            return;
        }
        drop(std::fs::remove_dir_all(&failed));
        match std::fs::rename(data_dir, &failed) {
            Ok(()) => tracing::warn!("what was made lies in {}", failed.display()),
            // A mount point, for instance. It is emptied before anybody tries again.
            Err(error) => tracing::warn!(%error, "{} could not be put aside", data_dir.display()),
        }
    }
}

/// What its command line says beside the ordinary: nobody reaches this server, and nothing of it reaches
/// anybody. What it would archive waits for the cluster to open, and no subscription that was restored
/// moves its publisher's slot.
fn alone(run_dir: &Path, hba: &Path) -> [(&'static str, String); 8] {
    [
        ("listen_addresses", String::new()),
        ("unix_socket_directories", run_dir.display().to_string()),
        ("unix_socket_permissions", "0700".to_owned()),
        ("hba_file", hba.display().to_string()),
        ("hot_standby", "off".to_owned()),
        ("synchronous_standby_names", String::new()),
        ("archive_command", "false".to_owned()),
        ("max_logical_replication_workers", "0".to_owned()),
    ]
}

fn aside(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.as_os_str().to_owned();
    name.push(".failed");
    PathBuf::from(name)
}

/// Lines for the recovery, which ends with a promotion where nothing else is said.
fn recovery(method: &BootstrapMethod) -> String {
    let mut settings = method.recovery_conf.clone();
    settings.entry("recovery_target_action".to_owned()).or_insert_with(|| "promote".to_owned());
    // Of versions before those that are supported.
    settings.remove("standby_mode");
    let mut text = String::new();
    settings.iter().for_each(|(name, value)| set(&mut text, name, value));
    text
}

/// Everything but letters, digits and what a path is made of.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a String does not fail");
        }
    }
    encoded
}

/// Fast shutdown: pg_control then says that it was stopped in order.
async fn stop(mut server: Child) -> anyhow::Result<()> {
    if let Some(pid) = server.id().and_then(|pid| i32::try_from(pid).ok()) {
        kill(Pid::from_raw(pid), Signal::SIGINT).context("stopping PostgreSQL")?;
    }
    let ended = tokio::time::timeout(STOPS_WITHIN, server.wait()).await;
    let status = ended.context("PostgreSQL does not stop after the bootstrap")??;
    ensure!(status.success(), "PostgreSQL was not stopped in order after the bootstrap: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::config::{Maker, ReplicaMethod};
    use crate::decide::view::Follow;

    fn config(dir: &Path) -> Config {
        let text = format!(
            "
scope: a
name: a1
restapi: {{listen: '127.0.0.1:8008'}}
sqlite: {{path: {0}/a.db}}
regent: {{run_dir: {0}/run, stop_budget: 1500ms}}
bootstrap: {{dcs: {{ttl: 5, loop_wait: 1, retry_timeout: 1}}}}
postgresql:
  listen: 127.0.0.1:5501
  data_dir: {0}/data
  authentication:
    superuser: {{username: postgres, password: s3cret}}
    replication: {{username: replicator, password: s3cret}}
",
            dir.display()
        );
        Config::parse(Path::new("agent.yml"), &text).expect("good")
    }

    /// With a directory that looks like a cluster.
    fn files(config: &Config) -> Files {
        let files = Files::new(config);
        std::fs::create_dir(&files.run_dir).expect("made");
        std::fs::create_dir(&files.data_dir).expect("made");
        std::fs::write(files.data_dir.join("PG_VERSION"), "17\n").expect("written");
        files
    }

    fn method(settings: &[(&str, &str)]) -> BootstrapMethod {
        let command = CommandLine { program: "/bin/true".into(), arguments: Vec::new() };
        let pairs = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        BootstrapMethod {
            maker: Maker { name: "x".to_owned(), command, no_params: false, more: Vec::new() },
            keep_existing_recovery_conf: false,
            recovery_conf: pairs.collect(),
        }
    }

    #[test]
    fn a_recovery_ends_in_a_promotion_unless_something_else_is_said() {
        let settings = [("restore_command", "cp '/a b/%f' \\%p"), ("standby_mode", "on")];
        let plain = recovery(&method(&settings));
        let wanted =
            "recovery_target_action = 'promote'\nrestore_command = 'cp ''/a b/%f'' \\\\%p'\n";
        assert_eq!(plain, wanted);
        let other = recovery(&method(&[("recovery_target_action", "shutdown")]));
        assert_eq!(other, "recovery_target_action = 'shutdown'\n");
    }

    #[test]
    fn what_is_given_up_leaves_nothing_that_counts_as_a_cluster() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = files(&config(dir.path()));
        let version = files.data_dir.join("PG_VERSION");
        copy::give_up(&files).expect("nothing was begun");
        assert!(version.exists(), "of nobody's bootstrap");
        write_atomically(&files.incomplete(), b"copy\n").expect("noted");
        copy::give_up(&files).expect("given up");
        assert!(!version.exists() && !files.incomplete().exists());
        std::fs::remove_dir(&files.data_dir).expect("it is empty");
        write_atomically(&files.incomplete(), b"copy\n").expect("noted");
        copy::give_up(&files).expect("put aside before");
        assert!(!files.data_dir.exists() && !files.incomplete().exists());
    }

    /// A directory that somebody has filled meanwhile is not emptied for a method that needs nobody.
    #[tokio::test]
    async fn without_a_source_nothing_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = config(dir.path());
        let command = CommandLine { program: "/bin/true".into(), arguments: Vec::new() };
        let maker =
            Maker { name: "backup".to_owned(), command, no_params: false, more: Vec::new() };
        let custom = ReplicaMethod::Custom { maker, keep_data: false, no_leader: true };
        config.methods.replica = vec![custom];
        let files = files(&config);
        let (programs, dynamic) = (Programs::new(Path::new("")), config.first_dynamic());
        let ground = Ground {
            programs: &programs,
            files: &files,
            config: &config,
            dynamic: &dynamic,
            salvage: None,
        };
        let left = files.data_dir.join("global/pg_control");
        std::fs::create_dir_all(left.parent().expect("it has one")).expect("made");
        std::fs::write(&left, "kept").expect("written");
        // Also where a file of it is lost.
        for lost in [false, true] {
            if lost {
                std::fs::remove_file(files.data_dir.join("PG_VERSION")).expect("it is there");
            }
            let made =
                ground.make_replica(&config.methods.replica, &[], &watch::Sender::new(None)).await;
            let failed = format!("{:#}", made.expect_err("nobody to have it from"));
            assert!(failed.contains("what is here stays"), "{failed}");
            assert!(left.exists() && !files.incomplete().exists());
        }
    }

    /// Or a standby, and every copy of it, would promote itself where a restore was to end.
    #[test]
    fn where_a_restore_was_to_end_ends_no_standby() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config(dir.path());
        let files = files(&config);
        let auto = files.data_dir.join("postgresql.auto.conf");
        files.strip_auto_conf().expect("nothing is there");
        let left = b"# Do not edit.\nrecovery_target_time = '2026-11-30'\n\
            Recovery_Target_Action='promote'\nrestore_command='get %f %p'\nwork_mem = '\xff'\n";
        std::fs::write(&auto, left).expect("written");
        files.strip_auto_conf().expect("written");
        assert_eq!(std::fs::read(&auto).expect("there"), b"# Do not edit.\nwork_mem = '\xff'\n");

        let conf = files.data_dir.join("postgresql.conf");
        let mut in_force = InForce::default();
        let write = |in_force: &InForce| {
            let dynamic = config.first_dynamic();
            files.write_configuration(&config, &dynamic, in_force).expect("written");
            std::fs::read_to_string(&conf).expect("there")
        };
        let text = write(&in_force);
        assert!(!text.contains("recovery_target"), "a restore's own goes by them: {text}");
        in_force.follow = Some(Follow::Nobody);
        let text = write(&in_force);
        for target in ["", "_lsn", "_name", "_time", "_xid"] {
            let nowhere = format!("\nrecovery_target{target} = ''\n");
            assert!(text.contains(&nowhere), "{target}: {text}");
        }
    }

    #[test]
    fn a_server_that_is_alone_archives_nothing_and_subscribes_to_nothing() {
        let settings = alone(Path::new("/run"), Path::new("/run/hba"));
        for wanted in [
            ("listen_addresses", ""),
            ("archive_command", "false"),
            ("max_logical_replication_workers", "0"),
        ] {
            assert!(settings.iter().any(|(name, value)| (*name, value.as_str()) == wanted));
        }
    }

    #[test]
    fn what_a_uri_would_misread_is_encoded() {
        assert_eq!(encoded("/run/a-1_x.y"), "/run/a-1_x.y");
        assert_eq!(encoded("a b&c=d%"), "a%20b%26c%3Dd%25");
    }

    #[test]
    fn what_failed_lies_beside() {
        assert_eq!(aside(Path::new("/data/pg")), Path::new("/data/pg.failed"));
    }
}
