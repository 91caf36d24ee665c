//! What a server's configuration files shall say, of the agent's file and the dynamic configuration;
//! and what PostgreSQL says to it before it is in force (spec/patroni-compat.md 4.1).
//!
//! A value that PostgreSQL refuses would keep it from starting the next time. So it is asked first, with
//! the new file beside the one in force: `postgres -C` reads its configuration, and no more. What it
//! names stays as it was, or is left out, and is told in its own words.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::time::Duration;

use super::files::{Files, InForce, Refused, write_atomically};
use super::programs::Programs;
use crate::config::Config;
use crate::config::dynamic::Dynamic;
use crate::decide::parameters;
use crate::decide::slots::Rules;
use crate::observe::clock::boot_time;

/// The longest that PostgreSQL may take to read its configuration.
const BOUND: Duration = Duration::from_secs(2);
/// No round of values to leave out begins later than this: the main loop waits, and counts as hanging
/// after 10 s (`decide::renewal`). Each round takes some 10 ms and names one value at least.
const ROUNDS_WITHIN: Duration = Duration::from_secs(2);

/// What the files shall say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// postgresql.conf, without what changes with the role.
    pub parameters: BTreeMap<String, String>,
    /// Settings of recovery.
    pub recovery: BTreeMap<String, String>,
    /// Lines of pg_hba.conf; none: the file is not ours.
    pub hba: Vec<String>,
    /// Lines of pg_ident.conf; none: the file is not ours.
    pub ident: Vec<String>,
    /// What is to be done with slots: with the role, it says what a standby asks for.
    pub slots: Rules,
    /// The agent's file itself says whether this node holds back the vacuum of whom it follows.
    pub own_feedback: bool,
    /// `recovery_min_apply_delay` of whoever leads a standby cluster.
    pub remote_delay: Option<String>,
}

/// The file's lists, where it has some, stand in place of the dynamic ones.
fn first(lists: [&Vec<String>; 3]) -> Vec<String> {
    lists.into_iter().find(|lines| !lines.is_empty()).cloned().unwrap_or_default()
}

impl Wanted {
    /// The agent's file stands above the dynamic configuration, but not over what the agent owns.
    #[must_use]
    pub fn of(config: &Config, dynamic: &Dynamic) -> Self {
        let small = |(name, value): (&String, &String)| (name.to_ascii_lowercase(), value.clone());
        let mut given: BTreeMap<String, String> = dynamic.parameters.iter().map(small).collect();
        for (name, value) in &config.postgres.parameters {
            let name = name.to_ascii_lowercase();
            match value {
                Some(_) | None if parameters::is_owned(&name) => {}
                Some(value) => drop(given.insert(name, value.clone())),
                None => drop(given.remove(&name)),
            }
        }
        let mut recovery = dynamic.recovery_conf.clone();
        for (name, value) in &config.postgres.recovery_conf {
            let name = name.to_ascii_lowercase();
            match value {
                Some(_) | None if parameters::is_agents(&name) || !parameters::is_name(&name) => {}
                Some(value) => drop(recovery.insert(name, value.clone())),
                None => drop(recovery.remove(&name)),
            }
        }
        // Of every member of a standby cluster, as in Patroni; in a federation the section says nothing.
        let remote = dynamic.standby_cluster.as_ref().filter(|_| config.federation.is_none());
        let of_section = remote.into_iter().flat_map(|section| {
            [
                ("restore_command", &section.restore_command),
                ("archive_cleanup_command", &section.archive_cleanup_command),
            ]
        });
        for (name, command) in of_section {
            recovery.extend(command.clone().map(|command| (name.to_owned(), command)));
        }
        let none = Vec::new();
        Self {
            parameters: parameters::wanted(&given),
            recovery,
            hba: first([&config.postgres.pg_hba, &dynamic.pg_hba, &config.bootstrap.pg_hba]),
            ident: first([&config.postgres.pg_ident, &dynamic.pg_ident, &none]),
            slots: dynamic.slots.clone(),
            own_feedback: config
                .postgres
                .parameters
                .keys()
                .any(|name| name.eq_ignore_ascii_case("hot_standby_feedback")),
            remote_delay: remote.and_then(|section| section.recovery_min_apply_delay.clone()),
        }
    }

    /// Changes whenever something of it does. Never 0, which is that of nothing yet.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let slots = (self.slots.use_slots, self.slots.want_feedback(None));
        let mut hasher = DefaultHasher::new();
        (&self.parameters, &self.recovery, &self.hba, &self.ident, slots).hash(&mut hasher);
        self.remote_delay.hash(&mut hasher);
        hasher.finish().max(1)
    }

    /// The owned parameters of a server that is started as a primary.
    #[must_use]
    pub fn owned(&self) -> BTreeMap<String, String> {
        parameters::effective(&self.parameters, &BTreeMap::new(), false).values
    }
}

/// What of this PostgreSQL does not take, in its own words. Where it cannot be asked, what it said before
/// stands: of anything new it then says so itself when it reads the file.
pub async fn examine(
    programs: &Programs,
    files: &Files,
    (config, wanted): (&Config, &Wanted),
    in_force: &InForce,
) -> BTreeMap<String, Refused> {
    let candidate = files.data_dir.join("postgresql.conf.regent-candidate");
    let mut judged = in_force.clone();
    // Nothing is wrong with the agent's lists, and one of the user's own, in force while the mode is off, is
    // no value of these: a refusal of it would keep the rest from being judged.
    judged.synchronous = String::new();
    // What was refused before may be another version's word: asked again.
    let written = files.written();
    let hba = wanted.hba.join("\n");
    judged.refused.retain(|name, refused| name == "pg_hba" && refused.value == hba);
    if let Err(error) = files.keep_base() {
        tracing::debug!(%error, "keeping the original postgresql.conf");
        return as_before(judged.refused, in_force);
    }
    let begun = boot_time();
    while boot_time().since(begun) < ROUNDS_WITHIN {
        let text = files.text(config, wanted, &judged);
        if let Err(error) = write_atomically(&candidate, text.as_bytes()) {
            tracing::debug!(%error, "writing a configuration for PostgreSQL to judge");
            judged.refused = as_before(judged.refused, in_force);
            break;
        }
        let said = match judge(programs, files, config, wanted, &candidate).await {
            Judgement::Takes => break,
            Judgement::Says(said) => said,
            Judgement::Unknown => {
                tracing::debug!("PostgreSQL did not judge its configuration");
                judged.refused = as_before(judged.refused, in_force);
                break;
            }
        };
        let before = judged.refused.clone();
        for (name, words) in named(&said) {
            let value = wanted.parameters.get(&name).or_else(|| wanted.recovery.get(&name));
            if let Some(value) = value {
                // Named again: then what stood there before is not taken either.
                let again = before.contains_key(&name);
                let kept = written.get(&name).filter(|kept| !again && *kept != value).cloned();
                judged.refused.insert(name, Refused { value: value.clone(), words, kept });
            }
        }
        if judged.refused == before {
            tracing::warn!(said, "PostgreSQL does not take its configuration");
            break;
        }
    }
    drop(std::fs::remove_file(&candidate));
    judged.refused
}

/// What was refused before, beside what is known by now.
fn as_before(judged: BTreeMap<String, Refused>, in_force: &InForce) -> BTreeMap<String, Refused> {
    let mut refused = in_force.refused.clone();
    refused.extend(judged);
    refused
}

/// What PostgreSQL says to a file.
enum Judgement {
    Takes,
    Says(String),
    /// It did not start, or not answer in time.
    Unknown,
}

async fn judge(
    programs: &Programs,
    files: &Files,
    config: &Config,
    wanted: &Wanted,
    candidate: &Path,
) -> Judgement {
    let mut command = programs.command("postgres");
    command
        .args(files.arguments(config, &wanted.owned()))
        .arg("-c")
        .arg(format!("config_file={}", candidate.display()))
        // What it says is read, whatever the file has it log.
        .args(["-c", "lc_messages=C", "-c", "log_min_messages=warning", "-C", "data_directory"]);
    match programs.printed(command, BOUND).await {
        Some(printed) if printed.success => Judgement::Takes,
        Some(printed) => Judgement::Says(printed.errors),
        None => Judgement::Unknown,
    }
}

/// The value of a parameter as a stopped server would have it.
pub async fn setting(programs: &Programs, files: &Files, name: &str) -> Option<String> {
    let mut command = programs.command("postgres");
    command.arg("-D").arg(&files.data_dir).args(["-C", name]);
    let printed = programs.printed(command, BOUND).await?;
    printed.success.then(|| printed.output.trim().to_owned())
}

/// The parameters that messages name, with what is said of each.
fn named(said: &str) -> Vec<(String, String)> {
    let mut named: Vec<(String, String)> = Vec::new();
    for line in said.lines() {
        let words = ["LOG:  ", "FATAL:  ", "ERROR:  "]
            .iter()
            .find_map(|level| line.split_once(level).map(|(_, words)| words.trim()));
        let hint = ["HINT:  ", "DETAIL:  "]
            .iter()
            .find_map(|level| line.split_once(level).map(|(_, words)| words.trim()));
        match (words, hint) {
            (Some(words), _) => {
                let name = words
                    .split_once("parameter \"")
                    .and_then(|(_, rest)| rest.split_once('"'))
                    .map(|(name, _)| name.to_ascii_lowercase());
                if let Some(name) = name {
                    named.push((name, words.to_owned()));
                }
            }
            (None, Some(hint)) => {
                if let Some((_, words)) = named.last_mut() {
                    words.push_str("; ");
                    words.push_str(hint);
                }
            }
            (None, None) => {}
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::super::salvage::tests::{Place, config};
    use super::*;
    use crate::decide::view::Follow;

    fn dynamic(section: serde_json::Value) -> Dynamic {
        Dynamic::read(&serde_json::json!({"postgresql": section}), &Dynamic::default())
    }

    #[test]
    fn every_change_of_what_is_wanted_changes_the_fingerprint() {
        let place = Place::new();
        let config = config(place.dir.path());
        let print = |section| Wanted::of(&config, &dynamic(section)).fingerprint();
        let all = [
            serde_json::json!({}),
            serde_json::json!({"parameters": {"work_mem": "4MB"}}),
            serde_json::json!({"parameters": {"work_mem": "5MB"}}),
            serde_json::json!({"parameters": {"max_connections": 200}}),
            serde_json::json!({"pg_hba": ["local all all trust"]}),
            serde_json::json!({"pg_hba": ["local all all", "trust"]}),
            serde_json::json!({"pg_ident": ["local all all trust"]}),
            serde_json::json!({"recovery_conf": {"restore_command": "cp"}}),
        ];
        let prints: std::collections::BTreeSet<u64> = all.iter().cloned().map(print).collect();
        assert_eq!(prints.len(), all.len());
        assert_ne!(Wanted::default().fingerprint(), InForce::default().fingerprint);
        let unused = serde_json::json!({"use_pg_rewind": true});
        assert_eq!(print(unused), print(serde_json::json!({})), "nothing of it is in a file");
    }

    #[test]
    fn the_agents_file_stands_above_but_not_over_what_the_agent_owns() {
        let place = Place::new();
        let mut config = config(place.dir.path());
        let dynamic = dynamic(serde_json::json!({"parameters": {"Work_Mem": "4MB",
            "max_connections": 200, "jit": "off"}, "pg_hba": ["local all all trust"]}));
        let local = |value: &str| Some(value.to_owned());
        config.postgres.parameters = [
            ("work_mem".to_owned(), local("5MB")),
            ("max_connections".to_owned(), local("300")),
            ("JIT".to_owned(), None),
        ]
        .into();
        config.bootstrap.pg_hba = vec!["host all all all reject".to_owned()];
        let wanted = Wanted::of(&config, &dynamic);
        assert_eq!(wanted.parameters["work_mem"], "5MB");
        assert_eq!(wanted.parameters["max_connections"], "200");
        assert_eq!(wanted.parameters["track_commit_timestamp"], "off");
        assert!(!wanted.parameters.contains_key("jit"));
        assert_eq!(wanted.hba, dynamic.pg_hba);
        assert_eq!(wanted.owned()["max_connections"], "200");
    }

    #[test]
    fn what_is_refused_is_read_from_postgresqls_own_words() {
        let said = "\
2026-11-30 09:50:46.123 UTC [7] LOG:  invalid value for parameter \"shared_buffers\": \"lots\"
2026-11-30 09:50:46.123 UTC [7] HINT:  Valid units for this parameter are \"B\", \"kB\", and \"MB\".
2026-11-30 09:50:46.123 UTC [7] LOG:  unrecognized configuration parameter \"wrok_mem\" in file \"x\" line 4
2026-11-30 09:50:46.123 UTC [7] FATAL:  configuration file \"x\" contains errors";
        let named = named(said);
        let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["shared_buffers", "wrok_mem"]);
        assert!(named[0].1.contains("\"lots\"; Valid units"), "{}", named[0].1);
    }

    /// A `postgres` that refuses what is asked in its words, as long as the file has it.
    #[expect(clippy::disallowed_methods, reason = "a process that ends at once")]
    fn judges(place: &Place, script: &str) -> Programs {
        let bin = place.dir.path().join("bin");
        std::fs::create_dir_all(&bin).expect("made");
        let line = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
        let mut shell = std::process::Command::new("sh");
        let text = format!("#!/bin/sh\n{script}\n");
        let written = shell.args(["-c", line]).arg(bin.join("postgres")).arg(text).status();
        assert!(written.expect("sh").success());
        Programs::new(&bin)
    }

    #[tokio::test]
    async fn what_postgresql_refuses_is_left_out_until_another_value_is_wanted() {
        let place = Place::new();
        let config = config(place.dir.path());
        let candidate = place.files.data_dir.join("postgresql.conf.regent-candidate");
        let asks = "for p in shared_buffers wrok_mem; do if grep -q \"^$p = 'lots'\" ";
        let says = "; then echo \"[1] LOG:  invalid value for parameter \\\"$p\\\"\" >&2; exit 1; fi; done";
        let programs = judges(&place, &format!("{asks}{}{says}", candidate.display()));
        let sized = |value: &str| {
            let parameters = serde_json::json!({"shared_buffers": value, "wrok_mem": value});
            dynamic(serde_json::json!({"parameters": parameters}))
        };
        let wants = |value: &str| Wanted::of(&config, &sized(value));
        let lots = wants("lots");
        let nothing = InForce::default();
        let refused = examine(&programs, &place.files, (&config, &lots), &nothing).await;
        assert_eq!(refused.keys().collect::<Vec<_>>(), ["shared_buffers", "wrok_mem"]);
        assert!(!candidate.exists(), "nothing is left of it");
        let in_force = InForce { refused, ..InForce::default() };
        let text = place.files.text(&config, &lots, &in_force);
        assert!(!text.contains("'lots'") && text.contains("max_connections = '100'"), "{text}");
        let text = place.files.text(&config, &wants("64MB"), &in_force);
        assert!(text.contains("shared_buffers = '64MB'"), "{text}");
        let fine = wants("64MB");
        let judged = examine(&programs, &place.files, (&config, &fine), &in_force).await;
        assert!(judged.is_empty(), "{judged:?}");
        // What stood there before stays.
        place.files.write_configuration(&config, &sized("64MB"), &in_force).expect("written");
        let judged = examine(&programs, &place.files, (&config, &lots), &in_force).await;
        let kept = judged["shared_buffers"].kept.as_deref();
        assert_eq!(kept, Some("64MB"));
        let stays = InForce { refused: judged, ..InForce::default() };
        let text = place.files.text(&config, &lots, &stays);
        assert!(text.contains("shared_buffers = '64MB'"), "{text}");
        // One that says nothing that helps, and one that takes it, refuse nothing.
        for script in ["echo 'no such file' >&2; exit 1", "exit 0"] {
            let silent = judges(&place, script);
            let judged = examine(&silent, &place.files, (&config, &lots), &nothing).await;
            assert!(judged.is_empty(), "{script}: {judged:?}");
        }
        // Where there is no answer, what was refused before stays out.
        let gone = Programs::new(&place.dir.path().join("gone"));
        let judged = examine(&gone, &place.files, (&config, &lots), &stays).await;
        assert_eq!(judged, stays.refused);
    }

    #[test]
    fn values_are_written_so_that_they_stay_one_value() {
        let place = Place::new();
        let config = config(place.dir.path());
        let value = "cp '%p' \\\\nas\\wal\nport = 1";
        let wanted = Wanted::of(
            &config,
            &dynamic(serde_json::json!({"parameters": {"archive_command": value}})),
        );
        let text = place.files.text(&config, &wanted, &InForce::default());
        let line = text.lines().find(|line| line.starts_with("archive_command")).expect("there");
        assert_eq!(line, r"archive_command = 'cp ''%p'' \\\\nas\\wal\nport = 1'");
    }

    #[test]
    fn a_standby_recovers_from_where_it_is_told_and_from_the_archive() {
        let place = Place::new();
        let mut config = config(place.dir.path());
        config.postgres.recovery_conf =
            [("recovery_min_apply_delay".to_owned(), Some("1h".to_owned()))].into();
        let dynamic = dynamic(serde_json::json!({"recovery_conf": {"restore_command": "cp a b",
            "recovery_min_apply_delay": "5s"}}));
        let wanted = Wanted::of(&config, &dynamic);
        let follow = Some(Follow::Nobody);
        let in_force = InForce { follow, ..InForce::default() };
        let text = place.files.text(&config, &wanted, &in_force);
        for line in [
            "restore_command = 'cp a b'",
            "recovery_min_apply_delay = '1h'",
            "recovery_target_timeline = 'latest'",
            "primary_conninfo = ''",
        ] {
            assert!(text.lines().any(|there| there == line), "{line}: {text}");
        }
    }
}
