//! What a server's configuration files shall say, of the agent's file and the dynamic configuration;
//! and what PostgreSQL says to it before it is in force (spec/patroni-compat.md 4.1).
//!
//! A value that PostgreSQL refuses would keep it from starting the next time. So it is asked first, with
//! the new file beside the one in force: `postgres -C` reads its configuration, and no more. What it
//! names is left out and told in its own words.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::files::{Files, InForce, Refused, write_atomically};
use super::programs::Programs;
use crate::config::Config;
use crate::config::dynamic::Dynamic;
use crate::decide::parameters;

/// The longest that PostgreSQL may take to read its configuration.
const BOUND: Duration = Duration::from_secs(2);
/// How many rounds of values to leave out are tried: each names one at least.
const ROUNDS: u32 = 20;

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
}

/// The file's lists, where it has some, stand in place of the dynamic ones.
fn first(lists: [&Vec<String>; 3]) -> Vec<String> {
    lists.into_iter().find(|lines| !lines.is_empty()).cloned().unwrap_or_default()
}

impl Wanted {
    /// The agent's file stands above the dynamic configuration, but not over what the agent owns.
    #[must_use]
    pub fn of(config: &Config, dynamic: &Dynamic) -> Self {
        let mut given = dynamic.parameters.clone();
        for (name, value) in &config.postgres.parameters {
            match value {
                Some(_) | None if parameters::is_owned(&name.to_ascii_lowercase()) => {}
                Some(value) => drop(given.insert(name.clone(), value.clone())),
                None => drop(given.remove(name)),
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
        let none = Vec::new();
        Self {
            parameters: parameters::wanted(&given),
            recovery,
            hba: first([&config.postgres.pg_hba, &dynamic.pg_hba, &config.bootstrap.pg_hba]),
            ident: first([&config.postgres.pg_ident, &dynamic.pg_ident, &none]),
        }
    }

    /// Changes whenever something of it does. Never 0, which is that of nothing yet.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        // FNV-1a: the same in every build, since it is compared with what an earlier life noted.
        let mut hash = 0xCBF2_9CE4_8422_2325_u64;
        let mut add = |text: &str| {
            for byte in text.bytes().chain([0]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
            }
        };
        for map in [&self.parameters, &self.recovery] {
            for (name, value) in map {
                add(name);
                add(value);
            }
            add("");
        }
        for lines in [&self.hba, &self.ident] {
            for line in lines {
                add(line);
            }
            add("");
        }
        hash.max(1)
    }

    /// The owned parameters of a server that is started as a primary.
    #[must_use]
    pub fn owned(&self) -> BTreeMap<String, String> {
        parameters::effective(&self.parameters, &BTreeMap::new(), false).values
    }
}

/// What of this PostgreSQL does not take, in its own words. Nothing where it cannot be asked: it then
/// says so itself when it reads the file.
pub async fn examine(
    programs: &Programs,
    files: &Files,
    (config, wanted): (&Config, &Wanted),
    in_force: &InForce,
) -> BTreeMap<String, Refused> {
    let candidate = files.data_dir.join("postgresql.conf.regent-candidate");
    let mut judged = in_force.clone();
    // What was refused before may be another version's word: asked again.
    let hba = wanted.hba.join("\n");
    judged.refused.retain(|name, refused| name == "pg_hba" && refused.value == hba);
    if let Err(error) = files.keep_base() {
        tracing::debug!(%error, "keeping the original postgresql.conf");
        return judged.refused;
    }
    for _ in 0..ROUNDS {
        let text = files.text(config, wanted, &judged);
        if let Err(error) = write_atomically(&candidate, text.as_bytes()) {
            tracing::debug!(%error, "writing a configuration for PostgreSQL to judge");
            break;
        }
        let Some(said) = judge(programs, files, config, wanted, &candidate).await else { break };
        let before = judged.refused.len();
        for (name, words) in named(&said) {
            let value = wanted.parameters.get(&name).or_else(|| wanted.recovery.get(&name));
            if let Some(value) = value {
                judged.refused.insert(name, Refused { value: value.clone(), words });
            }
        }
        if judged.refused.len() == before {
            tracing::warn!(said, "PostgreSQL does not take its configuration");
            break;
        }
    }
    drop(std::fs::remove_file(&candidate));
    judged.refused
}

/// What PostgreSQL says to a file; `None` where it takes it, or gives no answer.
async fn judge(
    programs: &Programs,
    files: &Files,
    config: &Config,
    wanted: &Wanted,
    candidate: &Path,
) -> Option<String> {
    let mut command = programs.command("postgres");
    command
        .args(files.arguments(config, &wanted.owned()))
        .arg("-c")
        .arg(format!("config_file={}", candidate.display()))
        .args(["-C", "data_directory"]);
    let printed = programs.printed(command, BOUND).await?;
    (!printed.success).then_some(printed.errors)
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
