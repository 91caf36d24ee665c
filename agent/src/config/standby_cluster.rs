//! The section `standby_cluster` of the dynamic configuration: the cluster of no federation that this one
//! follows (spec/patroni-compat.md 3.14, section 4).
//!
//! It says who may write, so it is taken whole or stays whole as it is in force (I21). Its commands may
//! have a password in them: no message shows one.

use serde_json::{Map, Value};

use super::dynamic::{Dynamic, Reader};
use super::slots;

/// The section, where it makes this cluster follow another one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StandbyCluster {
    /// Hosts and ports; none: WAL comes from the archive alone.
    pub addresses: Vec<(String, u16)>,
    /// `primary_slot_name`: the slot there.
    pub slot: Option<String>,
    /// `restore_command`, of every member.
    pub restore_command: Option<String>,
    /// `archive_cleanup_command`, of every member.
    pub archive_cleanup_command: Option<String>,
    /// `recovery_min_apply_delay`, of the standby leader.
    pub recovery_min_apply_delay: Option<String>,
    /// `create_replica_methods`, for copies from there; none: those of the agents' files.
    pub create_replica_methods: Vec<String>,
}

/// The section's name.
pub const KEY: &str = "standby_cluster";
/// PostgreSQL's port, where none is given.
const PORT: u16 = 5432;

/// The key that is wrong, what is shown of it, and what is wanted.
type Wrong = (&'static str, Value, &'static str);

/// Reads it from a document; `None`: the cluster follows nobody.
pub(super) fn read(reader: &mut Reader<'_>, in_force: &Dynamic) -> Option<StandbyCluster> {
    let document = reader.document;
    let value = document.get(KEY).filter(|value| !value.is_null())?;
    let (key, shown, wanted) = match value.as_object() {
        None => (None, Value::from("this"), "an object with a host or a restore_command"),
        Some(section) => match section_of(section) {
            Ok(read) => return read,
            Err((key, shown, wanted)) => (Some(key), shown, wanted),
        },
    };
    let place = key.map_or_else(|| KEY.to_owned(), |key| format!("{KEY}.{key}"));
    reader.refuse(&place, &shown, wanted, ());
    // All of it stays as it was, whichever key is wrong.
    reader.kept.push(vec![KEY.to_owned()]);
    in_force.standby_cluster.clone()
}

fn section_of(section: &Map<String, Value>) -> Result<Option<StandbyCluster>, Wrong> {
    let restore_command = command(section, "restore_command")?;
    let addresses = addresses(section)?;
    let read = StandbyCluster {
        slot: slot(section)?,
        archive_cleanup_command: command(section, "archive_cleanup_command")?,
        recovery_min_apply_delay: delay(section)?,
        create_replica_methods: methods(section)?,
        restore_command,
        addresses,
    };
    let follows = !read.addresses.is_empty() || read.restore_command.is_some();
    Ok(follows.then_some(read))
}

/// What is there; as in Patroni an empty text says nothing.
fn given<'a>(section: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    section.get(key).filter(|value| !value.is_null() && value.as_str() != Some(""))
}

fn addresses(section: &Map<String, Value>) -> Result<Vec<(String, u16)>, Wrong> {
    let wanted_host = "one host, or several with commas between them";
    let wanted_port =
        "a port from 1 to 65535, or as many as there are hosts with commas between them";
    let hosts = given(section, "host");
    let wrong_host = |value: &Value| ("host", value.clone(), wanted_host);
    let names: Vec<&str> = match hosts {
        None => Vec::new(),
        Some(value) => {
            let text = value.as_str().ok_or_else(|| wrong_host(value))?;
            text.split(',').map(str::trim).collect()
        }
    };
    let is_host = |name: &&str| {
        !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    if let Some(value) = hosts.filter(|_| !names.iter().all(is_host)) {
        return Err(wrong_host(value));
    }
    let wrong_port = |value: &Value| ("port", value.clone(), wanted_port);
    let ports: Vec<u16> = match given(section, "port") {
        None => vec![PORT],
        Some(value) => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let numbers: Option<Vec<u16>> = text
                .split(',')
                .map(|port| port.trim().parse().ok().filter(|port| *port > 0))
                .collect();
            let numbers = numbers.ok_or_else(|| wrong_port(value))?;
            if names.is_empty() {
                return Err(("host", Value::Null, "a host beside the port"));
            }
            if numbers.len() != 1 && numbers.len() != names.len() {
                return Err(wrong_port(value));
            }
            numbers
        }
    };
    let last = ports.last().copied().unwrap_or(PORT);
    let ports = ports.into_iter().chain(std::iter::repeat(last));
    Ok(names.into_iter().map(str::to_owned).zip(ports).collect())
}

fn slot(section: &Map<String, Value>) -> Result<Option<String>, Wrong> {
    let key = "primary_slot_name";
    let Some(value) = given(section, key) else { return Ok(None) };
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let named = value.as_str().filter(|name| name.len() <= 63 && name.bytes().all(letter));
    let wanted = "at most 63 of a to z, 0 to 9 and _";
    named.map(|name| Some(name.to_owned())).ok_or_else(|| (key, value.clone(), wanted))
}

fn command(section: &Map<String, Value>, key: &'static str) -> Result<Option<String>, Wrong> {
    let Some(value) = given(section, key) else { return Ok(None) };
    let text = value.as_str().filter(|text| !text.contains('\0'));
    let text = text.ok_or_else(|| (key, Value::from("what is there"), "a command as one text"));
    text.map(|text| Some(text.to_owned()))
}

fn delay(section: &Map<String, Value>) -> Result<Option<String>, Wrong> {
    let key = "recovery_min_apply_delay";
    let Some(value) = given(section, key) else { return Ok(None) };
    let wanted = "a time as in 5min, or milliseconds";
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    // PostgreSQL counts a bare number as milliseconds.
    let bare = text.bytes().all(|byte| byte.is_ascii_digit());
    let text = if bare { format!("{text}ms") } else { text };
    let read = slots::span(&Value::from(text.clone()));
    let fits = read.is_some_and(|span| i32::try_from(span.as_millis()).is_ok());
    if fits { Ok(Some(text)) } else { Err((key, value.clone(), wanted)) }
}

fn methods(section: &Map<String, Value>) -> Result<Vec<String>, Wrong> {
    // The list has two spellings here as well.
    let keys = ["create_replica_methods", "create_replica_method"];
    let found = keys.into_iter().find_map(|key| Some((key, given(section, key)?)));
    let Some((key, value)) = found else { return Ok(Vec::new()) };
    let names: Option<Vec<String>> = value
        .as_array()
        .and_then(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect());
    names.ok_or_else(|| (key, value.clone(), "a list of names"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(section: &Value, in_force: &Dynamic) -> Dynamic {
        Dynamic::read(&json!({KEY: section}), in_force)
    }

    fn first(section: &Value) -> Option<StandbyCluster> {
        let read = read(section, &Dynamic::default());
        assert!(read.problems.is_empty(), "{:?}", read.problems);
        read.standby_cluster
    }

    fn at(addresses: &[(&str, u16)]) -> StandbyCluster {
        let addresses = addresses.iter().map(|(host, port)| ((*host).to_owned(), *port));
        StandbyCluster { addresses: addresses.collect(), ..StandbyCluster::default() }
    }

    #[test]
    fn hosts_with_one_port_or_one_each_or_an_archive_alone_are_followed() {
        for (section, wanted) in [
            (json!({"host": "a", "port": 5433}), Some(at(&[("a", 5433)]))),
            (json!({"host": "a"}), Some(at(&[("a", 5432)]))),
            (json!({"host": "a, b", "port": "5433"}), Some(at(&[("a", 5433), ("b", 5433)]))),
            (json!({"host": "a,::1", "port": "1,2"}), Some(at(&[("a", 1), ("::1", 2)]))),
            (json!({"host": "a", "port": null, "theirs": 1}), Some(at(&[("a", 5432)]))),
            (
                json!({"restore_command": "cp /wal/%f %p", "recovery_min_apply_delay": 500,
                    "archive_cleanup_command": "clean %r", "create_replica_methods": ["backup"]}),
                Some(StandbyCluster {
                    restore_command: Some("cp /wal/%f %p".to_owned()),
                    archive_cleanup_command: Some("clean %r".to_owned()),
                    recovery_min_apply_delay: Some("500ms".to_owned()),
                    create_replica_methods: vec!["backup".to_owned()],
                    ..StandbyCluster::default()
                }),
            ),
            (
                json!({"host": "a", "primary_slot_name": "b_1", "recovery_min_apply_delay": "5min"}),
                Some(StandbyCluster {
                    slot: Some("b_1".to_owned()),
                    recovery_min_apply_delay: Some("5min".to_owned()),
                    ..at(&[("a", 5432)])
                }),
            ),
            // Nobody is named.
            (json!(null), None),
            (json!({}), None),
            (json!({"host": "", "restore_command": null}), None),
            (json!({"primary_slot_name": "b_1"}), None),
        ] {
            assert_eq!(first(&section), wanted, "{section}");
        }
    }

    /// Neither does a slip of the hand make a primary of a standby cluster, nor the reverse.
    #[test]
    fn a_section_that_cannot_be_read_stays_whole_as_it_is_in_force() {
        let good = json!({"host": "a", "port": 5433, "primary_slot_name": "b"});
        let follows = read(&good, &Dynamic::default());
        for (section, key) in [
            (json!("a"), "standby_cluster: "),
            (json!(["a"]), "standby_cluster: "),
            (json!({"host": 5}), "standby_cluster.host: "),
            (json!({"host": "a,,b"}), "standby_cluster.host: "),
            (json!({"host": "a b"}), "standby_cluster.host: "),
            (json!({"port": 5433}), "standby_cluster.host: "),
            (json!({"host": "a", "port": 0}), "standby_cluster.port: "),
            (json!({"host": "a", "port": 65_536}), "standby_cluster.port: "),
            (json!({"host": "a", "port": "5433,"}), "standby_cluster.port: "),
            (json!({"host": "a", "port": "1,2"}), "standby_cluster.port: "),
            (json!({"host": "a", "port": {}}), "standby_cluster.port: "),
            (
                json!({"host": "a", "primary_slot_name": "B-1"}),
                "standby_cluster.primary_slot_name: ",
            ),
            (json!({"host": "a", "restore_command": ["cp"]}), "standby_cluster.restore_command: "),
            (
                json!({"host": "a", "recovery_min_apply_delay": "soon"}),
                "standby_cluster.recovery_min_apply_delay: ",
            ),
            (
                json!({"host": "a", "recovery_min_apply_delay": "30d"}),
                "standby_cluster.recovery_min_apply_delay: ",
            ),
            (
                json!({"host": "a", "create_replica_methods": "basebackup"}),
                "standby_cluster.create_replica_methods: ",
            ),
        ] {
            for in_force in [&follows, &Dynamic::default()] {
                let kept = read(&section, in_force);
                assert_eq!(kept.standby_cluster, in_force.standby_cluster, "{section}");
                let [problem] = &kept.problems[..] else {
                    panic!("{section}: {:?}", kept.problems)
                };
                assert!(problem.starts_with(key), "{section}: {problem}");
                let document = kept.document.get(KEY);
                assert_eq!(document, in_force.document.get(KEY), "{section}");
            }
        }
    }

    #[test]
    fn no_message_shows_a_command() {
        let section = json!({"host": "a", "restore_command": {"fetch --password": "s3cret"}});
        let said = read(&section, &Dynamic::default()).problems;
        assert!(said.len() == 1 && !said[0].contains("s3cret"), "{said:?}");
    }
}
