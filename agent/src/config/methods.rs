//! Other ways to make a data directory than `initdb` and `pg_basebackup` (spec/patroni-compat.md 5.2,
//! 5.4): `bootstrap.method` with the section of its name, `post_bootstrap`, and
//! `postgresql.create_replica_methods` with a section each.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::scripts::CommandLine;

/// Those of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Methods {
    /// How the cluster is made; `initdb` where there is none.
    pub bootstrap: Option<BootstrapMethod>,
    /// Runs on the new cluster before anybody else may connect.
    pub post_bootstrap: Option<CommandLine>,
    /// How a replica is made: tried in order; none: `pg_basebackup`.
    pub replica: Vec<ReplicaMethod>,
    /// All that the section `postgresql` has a command for, whoever names them.
    pub known: BTreeMap<String, ReplicaMethod>,
}

/// A command that makes a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maker {
    /// Its name, which is that of its section.
    pub name: String,
    /// The command.
    pub command: CommandLine,
    /// The parameters that say what is wanted are left out.
    pub no_params: bool,
    /// Further parameters, from further keys.
    pub more: Vec<String>,
}

/// A custom bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapMethod {
    /// What is run.
    pub maker: Maker,
    /// What it left for recovery stays.
    pub keep_existing_recovery_conf: bool,
    /// Settings for the recovery.
    pub recovery_conf: BTreeMap<String, String>,
}

/// One way to make a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaMethod {
    /// `pg_basebackup` from a member.
    Basebackup,
    /// The operator's.
    Custom {
        /// What is run.
        maker: Maker,
        /// It wants to find what is there.
        keep_data: bool,
        /// It needs no running member.
        no_leader: bool,
    },
}

/// What is wrong, and at which key.
pub(super) type Wrong = (String, String);

impl Methods {
    /// Reads them from the whole file.
    pub(super) fn read(file: &Value) -> Result<Self, Wrong> {
        let (bootstrap, postgresql) = (&file["bootstrap"], &file["postgresql"]);
        let post = ["post_bootstrap", "post_init"].into_iter().find(|key| set(&bootstrap[*key]));
        let post_bootstrap = match post {
            Some(key) => Some(command(&bootstrap[key], &format!("bootstrap.{key}"))?),
            None => None,
        };
        let method = match named(file, "bootstrap").first() {
            Some(name) => Some(bootstrap_method(bootstrap, name)?),
            None => None,
        };
        let key = replica_key(postgresql);
        let place = format!("postgresql.{key}");
        let names: &[Value] = match &postgresql[key] {
            Value::Null => &[],
            Value::Array(names) => names,
            other => return Err((place, format!("{other}; want a list of names"))),
        };
        let mut replica = Vec::new();
        for name in names {
            let name = name.as_str();
            let name = name.ok_or_else(|| (place.clone(), "want a list of names".to_owned()))?;
            replica.push(replica_method(postgresql, name)?);
        }
        let mut known = BTreeMap::new();
        for name in with_commands(postgresql) {
            // One that nobody names may be wrong.
            known.extend(
                replica_method(postgresql, name).ok().map(|found| (name.to_owned(), found)),
            );
        }
        Ok(Self { bootstrap: method, post_bootstrap, replica, known })
    }

    /// The methods of these names; the text says which one there is not.
    pub fn named(&self, names: &[String]) -> Result<Vec<ReplicaMethod>, String> {
        let found = names.iter().map(|name| match name.as_str() {
            "basebackup" => Ok(ReplicaMethod::Basebackup),
            other => self.known.get(other).cloned().ok_or_else(|| {
                format!(
                    "standby_cluster.create_replica_methods: this agent's file has no section \
                     postgresql.{other} with a command"
                )
            }),
        });
        found.collect()
    }

    /// A replica can be made while nobody leads.
    #[must_use]
    pub fn needs_no_leader(&self) -> bool {
        self.replica.iter().any(|method| match method {
            ReplicaMethod::Custom { no_leader, .. } => *no_leader,
            ReplicaMethod::Basebackup => false,
        })
    }

    /// The commands, each with its key.
    pub(super) fn commands(&self) -> Vec<(String, &CommandLine)> {
        let bootstrap = self.bootstrap.iter().map(|method| ("bootstrap", &method.maker));
        let replica = self.replica.iter().filter_map(|method| match method {
            ReplicaMethod::Custom { maker, .. } => Some(("postgresql", maker)),
            ReplicaMethod::Basebackup => None,
        });
        let makers = bootstrap.chain(replica);
        let makers = makers
            .map(|(section, maker)| (format!("{section}.{}.command", maker.name), &maker.command));
        let post = self.post_bootstrap.iter();
        makers.chain(post.map(|post| ("bootstrap.post_bootstrap".to_owned(), post))).collect()
    }
}

/// The sections of a section that are named as methods.
pub(super) fn named<'a>(file: &'a Value, section: &str) -> Vec<&'a str> {
    let section_value = &file[section];
    match section {
        "bootstrap" => {
            let name = section_value["method"].as_str();
            name.into_iter().filter(|name| *name != "initdb").collect()
        }
        "postgresql" => with_commands(section_value).collect(),
        _ => Vec::new(),
    }
}

/// Sections with a command are methods: `standby_cluster` in the DCS may name one that the file does not.
fn with_commands(postgresql: &Value) -> impl Iterator<Item = &str> {
    let sections = postgresql.as_object().into_iter().flatten();
    let methods = sections.filter(|(_, section)| set(&section["command"]));
    methods.map(|(name, _)| name.as_str())
}

/// The list has two spellings.
fn replica_key(postgresql: &Value) -> &'static str {
    let old = "create_replica_method";
    if set(&postgresql[old]) { old } else { "create_replica_methods" }
}

fn set(value: &Value) -> bool {
    !value.is_null()
}

fn command(value: &Value, place: &str) -> Result<CommandLine, Wrong> {
    let text = value.as_str().ok_or("want a command");
    let command = text.map_err(str::to_owned).and_then(|text| text.to_owned().try_into());
    command.map_err(|problem| (place.to_owned(), problem))
}

fn section<'a>(of: &'a Value, place: &str, name: &str) -> Result<&'a Map<String, Value>, Wrong> {
    let wrong = "want a section with the method's command";
    of[name].as_object().ok_or_else(|| (format!("{place}.{name}"), wrong.to_owned()))
}

fn maker(
    section: &Map<String, Value>,
    (place, name): (&str, &str),
    reserved: &[&str],
) -> Result<Maker, Wrong> {
    let missing = Value::Null;
    let given = section.get("command").unwrap_or(&missing);
    let command = command(given, &format!("{place}.{name}.command"))?;
    let more = section.iter().filter(|(key, _)| {
        !reserved.contains(&key.as_str()) && !["command", "no_params"].contains(&key.as_str())
    });
    let more = more.map(|(key, value)| format!("--{key}={}", text(value))).collect();
    let no_params = flag(section, "no_params");
    Ok(Maker { name: name.to_owned(), command, no_params, more })
}

fn bootstrap_method(bootstrap: &Value, name: &str) -> Result<BootstrapMethod, Wrong> {
    let section = section(bootstrap, "bootstrap", name)?;
    let reserved = ["keep_existing_recovery_conf", "recovery_conf", "scope", "datadir"];
    let settings = section.get("recovery_conf").and_then(Value::as_object);
    let settings = settings.into_iter().flatten().filter(|(_, value)| set(value));
    Ok(BootstrapMethod {
        maker: maker(section, ("bootstrap", name), &reserved)?,
        keep_existing_recovery_conf: flag(section, "keep_existing_recovery_conf"),
        recovery_conf: settings.map(|(key, value)| (key.clone(), text(value))).collect(),
    })
}

fn replica_method(postgresql: &Value, name: &str) -> Result<ReplicaMethod, Wrong> {
    if name == "basebackup" {
        return Ok(ReplicaMethod::Basebackup);
    }
    let section = section(postgresql, "postgresql", name)?;
    let reserved =
        ["keep_data", "no_leader", "no_master", "scope", "role", "datadir", "connstring"];
    Ok(ReplicaMethod::Custom {
        maker: maker(section, ("postgresql", name), &reserved)?,
        keep_data: flag(section, "keep_data"),
        no_leader: flag(section, "no_leader") || flag(section, "no_master"),
    })
}

/// As PostgreSQL's words for it.
fn flag(section: &Map<String, Value>, key: &str) -> bool {
    section.get(key).is_some_and(|value| match value {
        Value::Bool(on) => *on,
        Value::String(text) => {
            matches!(text.to_lowercase().as_str(), "on" | "true" | "yes" | "1")
        }
        Value::Number(number) => number.as_u64() == Some(1),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    })
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(program: &str) -> CommandLine {
        CommandLine { program: program.into(), arguments: Vec::new() }
    }

    #[test]
    fn methods_are_read_with_their_sections() {
        let file = json!({
            "bootstrap": {
                "method": "restore", "post_init": "/bin/post",
                "restore": {
                    "command": "/bin/restore --delta", "no_params": true, "stanza": "main", "jobs": 4,
                    "keep_existing_recovery_conf": "on",
                    "recovery_conf": {"restore_command": "/bin/get %f %p", "recovery_target": null},
                },
            },
            "postgresql": {
                "create_replica_methods": ["backup", "basebackup"],
                "backup": {"command": "/bin/backup", "no_leader": 1, "keep_data": true},
            },
        });
        let methods = Methods::read(&file).expect("good");
        let bootstrap = methods.bootstrap.clone().expect("one");
        let arguments = vec!["--delta".to_owned()];
        assert_eq!(bootstrap.maker.command, CommandLine { arguments, ..line("/bin/restore") });
        assert_eq!(bootstrap.maker.more, ["--stanza=main", "--jobs=4"]);
        assert!(bootstrap.maker.no_params && bootstrap.keep_existing_recovery_conf);
        assert_eq!(bootstrap.recovery_conf.len(), 1);
        assert_eq!(methods.post_bootstrap, Some(line("/bin/post")));
        assert_eq!(methods.replica[1], ReplicaMethod::Basebackup);
        assert!(methods.needs_no_leader());
        let keys: Vec<String> = methods.commands().into_iter().map(|(key, _)| key).collect();
        let wanted =
            ["bootstrap.restore.command", "postgresql.backup.command", "bootstrap.post_bootstrap"];
        assert_eq!(keys, wanted);
        assert_eq!(named(&file, "bootstrap"), ["restore"]);
        assert_eq!(named(&file, "postgresql"), ["backup"]);
        let by_name = |name: &str| methods.named(&[name.to_owned()]);
        assert_eq!(by_name("backup"), Ok(vec![methods.replica[0].clone()]));
        assert_eq!(by_name("basebackup"), Ok(vec![ReplicaMethod::Basebackup]));
        assert!(by_name("restore").is_err_and(|said| said.contains("postgresql.restore")));
    }

    #[test]
    fn without_any_the_built_in_ones_are_used() {
        for file in [
            json!({"bootstrap": {"method": "initdb"}, "postgresql": {}}),
            json!({"postgresql": {"create_replica_method": ["basebackup"]}}),
        ] {
            let methods = Methods::read(&file).expect("good");
            assert!(methods.bootstrap.is_none() && !methods.needs_no_leader(), "{file}");
        }
    }

    #[test]
    fn what_is_wrong_has_its_place() {
        for (file, place) in [
            (json!({"bootstrap": {"method": "x"}}), "bootstrap.x"),
            (json!({"bootstrap": {"method": "x", "x": {}}}), "bootstrap.x.command"),
            (json!({"bootstrap": {"post_bootstrap": 3}}), "bootstrap.post_bootstrap"),
            (
                json!({"postgresql": {"create_replica_methods": "x"}}),
                "postgresql.create_replica_methods",
            ),
            (
                json!({"postgresql": {"create_replica_methods": [3]}}),
                "postgresql.create_replica_methods",
            ),
            (json!({"postgresql": {"create_replica_methods": ["x"]}}), "postgresql.x"),
        ] {
            let (found, _) = Methods::read(&file).expect_err("wrong");
            assert_eq!(found, place, "{file}");
        }
    }
}
