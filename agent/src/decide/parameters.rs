//! PostgreSQL's parameters (spec/patroni-compat.md 4.1): which ones the agent owns and what it accepts
//! for them, what a server is started with, and which of the wanted ones wait for a restart.
//!
//! A standby is never started below what its WAL was written with: PostgreSQL would refuse to recover.
//! So values rise on standbys first and fall on the primary first, whatever order they are restarted in.

use std::collections::BTreeMap;

/// What the agent accepts for a parameter.
#[derive(Debug, Clone, Copy)]
enum Accepts {
    /// A whole number between these.
    Between(u64, u64),
    /// On or off, in any of PostgreSQL's words.
    Truth,
    /// On, in any of its words: the agent could not see a standby otherwise.
    On,
    /// One of these words.
    Words(&'static [&'static str]),
    /// A size of at least so many bytes, in megabytes where it has no unit.
    Size(u32),
}

/// The most that PostgreSQL takes for whatever counts against its processes (MAX_BACKENDS).
const BACKENDS: u64 = 0x3_FFFF;

/// Parameters that the agent owns and passes on the command line, with Patroni's defaults.
const OWNED: [(&str, &str, Accepts); 10] = [
    ("wal_level", "replica", Accepts::Words(&["replica", "hot_standby", "logical"])),
    ("hot_standby", "on", Accepts::On),
    ("max_connections", "100", Accepts::Between(25, BACKENDS)),
    ("max_wal_senders", "10", Accepts::Between(3, BACKENDS)),
    ("max_prepared_transactions", "0", Accepts::Between(0, BACKENDS)),
    ("max_locks_per_transaction", "64", Accepts::Between(32, 0x7FFF_FFFF)),
    ("max_worker_processes", "8", Accepts::Between(2, BACKENDS)),
    ("max_replication_slots", "10", Accepts::Between(4, BACKENDS)),
    ("track_commit_timestamp", "off", Accepts::Truth),
    ("wal_log_hints", "on", Accepts::Truth),
];

/// WAL kept for standbys without a slot: Patroni's, in the file and not on the command line.
const WAL_KEPT: (&str, &str) = ("wal_keep_size", "128MB");
/// Its name before PostgreSQL 13, in segments.
const WAL_KEPT_BEFORE: &str = "wal_keep_segments";
/// The segments that the old name counts in, whatever `initdb` chose, as in Patroni.
const SEGMENT_MB: u64 = 16;

/// Parameters that recovery checks against what the WAL was written with (pg_control has them).
pub const RAISED_ON_STANDBYS: [&str; 5] = [
    "max_connections",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "max_worker_processes",
    "max_wal_senders",
];

/// Parameters that the agent writes itself and takes from nobody.
const AGENTS: [&str; 8] = [
    // Another directory than the one that is guarded.
    "data_directory",
    "listen_addresses",
    "port",
    "cluster_name",
    "synchronous_standby_names",
    "primary_conninfo",
    "primary_slot_name",
    // A standby must not end its recovery by a file.
    "promote_trigger_file",
];

/// Whether the agent alone sets this. A recovery target would promote, or stop, a standby without any
/// decision.
#[must_use]
pub fn is_agents(name: &str) -> bool {
    AGENTS.contains(&name) || name.starts_with("recovery_target")
}

/// Whether it is passed on the command line, and taken from the dynamic configuration only.
#[must_use]
pub fn is_owned(name: &str) -> bool {
    OWNED.iter().any(|(owned, ..)| *owned == name)
}

/// Whether it configures recovery: in postgresql.auto.conf it would outdo what the agent writes.
#[must_use]
pub fn is_recovery(name: &str) -> bool {
    let recovers = [
        "restore_command",
        "archive_cleanup_command",
        "recovery_end_command",
        "recovery_min_apply_delay",
    ];
    is_agents(name) || recovers.contains(&name)
}

/// Whether it can be the name of a parameter. Anything else would be another line of the file.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        let mut letters = part.bytes();
        letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && letters.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$'))
    };
    name.len() <= 200 && name.split('.').all(part)
}

/// What is wanted where this value is not accepted for a parameter that the agent owns.
pub fn accepts(name: &str, value: &str) -> Result<(), String> {
    let owned = OWNED.iter().find(|(owned, ..)| *owned == name).map(|(.., accepts)| *accepts);
    let accepts = match (owned, name) {
        (Some(accepts), _) => accepts,
        (None, "wal_keep_size") => Accepts::Size(16 << 20),
        (None, WAL_KEPT_BEFORE) => Accepts::Between(1, 0x7FFF_FFFF),
        (None, _) => return Ok(()),
    };
    let (good, wanted) = match accepts {
        Accepts::Between(least, most) => (
            number(value).is_some_and(|number| (least..=most).contains(&number)),
            format!("a whole number from {least} to {most}"),
        ),
        Accepts::Truth => (truth(value).is_some(), "on or off".to_owned()),
        Accepts::On => (truth(value) == Some(true), "on".to_owned()),
        Accepts::Words(words) => (words.contains(&value), words.join(", ")),
        Accepts::Size(least) => (
            amount(value, "MB").is_some_and(|bytes| bytes >= f64::from(least)),
            format!("a size of at least {}MB", least >> 20),
        ),
    };
    if good { Ok(()) } else { Err(wanted) }
}

/// A whole number as everybody reads it: PostgreSQL takes a leading zero for octal.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let octal = text.len() > 1 && text.starts_with('0');
    if plain && !octal { text.parse().ok() } else { None }
}

/// Whether PostgreSQL takes it for on or off.
#[must_use]
pub fn is_truth(word: &str) -> bool {
    truth(word).is_some()
}

fn truth(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" | "t" | "y" => Some(true),
        "off" | "false" | "no" | "0" | "f" | "n" => Some(false),
        _ => None,
    }
}

/// What a parameter is and what it would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What the server has, or is started with.
    pub old: String,
    /// What is wanted.
    pub new: String,
}

/// What a server is started with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Effective {
    /// The owned parameters, for the command line.
    pub values: BTreeMap<String, String>,
    /// Those that are higher than wanted, because the WAL to be recovered was written with more.
    pub raised: BTreeMap<String, Difference>,
}

/// The owned parameters of a server about to start: what is wanted, Patroni's default where that is not
/// accepted, and for a standby no less than its pg_control has.
#[must_use]
pub fn effective(
    wanted: &BTreeMap<String, String>,
    control: &BTreeMap<String, u64>,
    standby: bool,
) -> Effective {
    let mut effective = Effective::default();
    for (name, default, _) in OWNED {
        let wanted = wanted.get(name).filter(|value| accepts(name, value).is_ok());
        let mut value = wanted.map_or(default, String::as_str).to_owned();
        if value == "hot_standby" {
            // The same since 9.6, and what the server shows.
            "replica".clone_into(&mut value);
        }
        let floor = control.get(name).filter(|_| standby && RAISED_ON_STANDBYS.contains(&name));
        if let Some(floor) = floor
            && number(&value).is_none_or(|value| value < *floor)
        {
            let raised = Difference { old: floor.to_string(), new: value };
            value = floor.to_string();
            effective.raised.insert(name.to_owned(), raised);
        }
        effective.values.insert(name.to_owned(), value);
    }
    effective
}

/// All parameters that are wanted in the file: the given ones without what the agent sets itself, the
/// owned ones, and the WAL to be kept under its present name.
#[must_use]
pub fn wanted(given: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut wanted: BTreeMap<String, String> = given
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, _)| is_name(name) && !is_agents(name))
        .collect();
    let segments = wanted.remove(WAL_KEPT_BEFORE);
    let segments = segments.filter(|value| accepts(WAL_KEPT_BEFORE, value).is_ok());
    let segments = segments.as_deref().and_then(number);
    let (name, default) = WAL_KEPT;
    let kept = wanted.remove(name).filter(|value| accepts(name, value).is_ok());
    let kept = kept
        .or_else(|| segments.map(|n| format!("{}MB", n.saturating_mul(SEGMENT_MB))))
        .unwrap_or_else(|| default.to_owned());
    wanted.insert(name.to_owned(), kept);
    // The command line has these and wins; said here as well, or every reload would complain about the
    // other value in postgresql.base.conf.
    let owned = effective(&wanted, &BTreeMap::new(), false);
    wanted.extend(owned.values);
    wanted
}

/// A row of `pg_settings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value, in `unit`.
    pub value: String,
    /// The unit of the value.
    pub unit: Option<String>,
    /// `bool`, `integer`, `real`, `string` or `enum`.
    pub kind: String,
    /// It changes with a restart only.
    pub postmaster: bool,
    /// The server itself says that the file has another value which waits for a restart.
    pub pending: bool,
}

/// What waits for a restart, with what the server has and what is wanted.
#[must_use]
pub fn pending(
    wanted: &BTreeMap<String, String>,
    settings: &[Setting],
) -> BTreeMap<String, Difference> {
    let mut pending = BTreeMap::new();
    for setting in settings {
        let want = wanted.get(&setting.name.to_ascii_lowercase());
        let differs = want.filter(|want| setting.postmaster && !same(want, setting));
        let new = match (differs, setting.pending) {
            (Some(want), _) => want.clone(),
            // Somebody else's file: the server keeps its value to itself.
            (None, true) => "?".to_owned(),
            (None, false) => continue,
        };
        let unit = setting.unit.as_deref().unwrap_or_default();
        let old = shown(&setting.value, unit);
        pending.insert(setting.name.clone(), Difference { old, new });
    }
    pending
}

/// A value in the server's unit as a person would write it.
fn shown(value: &str, unit: &str) -> String {
    let digits = unit.bytes().take_while(u8::is_ascii_digit).count();
    let (blocks, unit) = unit.split_at(digits);
    match (value.parse::<u64>(), blocks.parse::<u64>()) {
        (Ok(value), Ok(blocks)) => format!("{}{unit}", value.saturating_mul(blocks)),
        (Ok(_) | Err(_), Ok(_) | Err(_)) => format!("{value}{unit}"),
    }
}

/// Whether a value means what the server has.
fn same(wanted: &str, setting: &Setting) -> bool {
    let has = setting.value.as_str();
    let unit = setting.unit.as_deref().unwrap_or_default();
    match setting.kind.as_str() {
        "bool" => truth(wanted).is_some_and(|wanted| truth(has) == Some(wanted)),
        "enum" => {
            wanted.eq_ignore_ascii_case(has)
                || (truth(wanted).is_some() && truth(wanted) == truth(has))
        }
        "integer" | "real" => {
            // The server chooses, and shows what it chose.
            if wanted.trim().starts_with('-') {
                return true;
            }
            let (Some(base), Some(wanted)) = (amount("1", unit), amount(wanted, unit)) else {
                return wanted == has;
            };
            let Ok(has) = has.parse::<f64>() else { return false };
            let wanted = wanted / base;
            let slack = if setting.kind == "integer" { 0.5 } else { has.abs() * 1e-6 };
            (wanted - has).abs() <= slack
        }
        _ => wanted == has,
    }
}

/// A number with one of PostgreSQL's units, in bytes or microseconds; in `unit` where it has none.
fn amount(text: &str, unit: &str) -> Option<f64> {
    let text = text.trim();
    let ends = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, own) = text.split_at(ends);
    let number: f64 = number.parse().ok()?;
    let own = own.trim();
    Some(number * factor(if own.is_empty() { unit } else { own })?)
}

/// What one of a unit is, in bytes or microseconds: `8kB` is a unit of `pg_settings`, too.
fn factor(unit: &str) -> Option<f64> {
    let digits = unit.bytes().take_while(u8::is_ascii_digit).count();
    let (blocks, name) = unit.split_at(digits);
    let blocks: f64 = if blocks.is_empty() { 1.0 } else { blocks.parse().ok()? };
    let one = match name {
        "" | "B" | "us" => 1.0,
        "kB" => 1024.0,
        "MB" => 1_048_576.0,
        "GB" => 1_073_741_824.0,
        "TB" => 1_099_511_627_776.0,
        "ms" => 1e3,
        "s" => 1e6,
        "min" => 6e7,
        "h" => 3.6e9,
        "d" => 8.64e10,
        _ => return None,
    };
    Some(blocks * one)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn each_owned_parameter_has_its_range_and_outside_it_the_default_stands() {
        for (name, good, bad) in [
            ("wal_level", "logical", "minimal"),
            ("hot_standby", "yes", "off"),
            ("max_connections", "25", "24"),
            ("max_connections", "262143", "262144"),
            ("max_wal_senders", "3", "2"),
            ("max_prepared_transactions", "0", "-1"),
            ("max_locks_per_transaction", "32", "31"),
            ("max_worker_processes", "2", "1"),
            ("max_replication_slots", "4", "many"),
            ("max_replication_slots", "40", "040"),
            ("track_commit_timestamp", "true", "maybe"),
            ("wal_log_hints", "off", ""),
            ("wal_keep_size", "16MB", "15MB"),
            ("wal_keep_size", "16", "1024kB"),
            ("wal_keep_segments", "1", "0"),
        ] {
            assert_eq!(accepts(name, good), Ok(()), "{name} {good}");
            assert!(accepts(name, bad).is_err(), "{name} {bad}");
            let with = |value| wanted(&map(&[(name, value)]));
            assert_eq!(with(bad), wanted(&BTreeMap::new()), "{name} {bad}");
            let both = (with(good), wanted(&BTreeMap::new()));
            assert!(both.0 != both.1 || matches!(good, "0" | "yes"), "{name} {good}: {both:?}");
        }
        assert_eq!(accepts("shared_buffers", "lots"), Ok(()), "PostgreSQL judges that itself");
        assert_eq!(wanted(&map(&[("wal_keep_segments", "3")]))["wal_keep_size"], "48MB");
        assert_eq!(wanted(&map(&[("wal_level", "hot_standby")]))["wal_level"], "replica");
    }

    #[test]
    fn what_the_agent_sets_and_what_is_no_name_is_not_written() {
        let given = map(&[
            ("Work_Mem", "4MB"),
            ("port", "1"),
            ("Data_Directory", "/elsewhere"),
            ("recovery_target_time", "now"),
            ("primary_conninfo", "host=evil"),
            ("a b", "c"),
            ("x = 1\nport", "2"),
            ("pg_stat_statements.max", "10"),
        ]);
        let mut names: Vec<String> = wanted(&given).into_keys().collect();
        names.retain(|name| !OWNED.iter().any(|(owned, ..)| owned == name));
        assert_eq!(names, ["pg_stat_statements.max", "wal_keep_size", "work_mem"]);
    }

    fn setting(name: &str, value: &str, unit: &str, kind: &str) -> Setting {
        Setting {
            name: name.to_owned(),
            value: value.to_owned(),
            unit: (!unit.is_empty()).then(|| unit.to_owned()),
            kind: kind.to_owned(),
            postmaster: true,
            pending: false,
        }
    }

    #[test]
    fn a_value_is_compared_by_what_it_means() {
        for (wanted, has, unit, kind, same) in [
            ("1GB", "131072", "8kB", "integer", true),
            ("1024MB", "131072", "8kB", "integer", true),
            ("131072", "131072", "8kB", "integer", true),
            ("1GB", "131071", "8kB", "integer", false),
            ("100", "200", "", "integer", false),
            ("-1", "512", "8kB", "integer", true),
            ("5s", "5000", "ms", "integer", true),
            ("1.5", "1.5", "", "real", true),
            ("1.6", "1.5", "", "real", false),
            ("true", "on", "", "bool", true),
            ("no", "on", "", "bool", false),
            ("Replica", "replica", "", "enum", true),
            ("a,b", "a, b", "", "string", false),
            ("rubbish", "100", "", "integer", false),
        ] {
            let pending = pending(&map(&[("x", wanted)]), &[setting("x", has, unit, kind)]);
            assert_eq!(pending.is_empty(), same, "{wanted} {has} {unit}");
        }
        let mut reloadable = setting("work_mem", "4096", "kB", "integer");
        reloadable.postmaster = false;
        assert!(pending(&map(&[("work_mem", "1MB")]), &[reloadable]).is_empty());
        let mut edited = setting("shared_buffers", "16384", "8kB", "integer");
        edited.pending = true;
        let found = pending(&BTreeMap::new(), &[edited]);
        let wanted = Difference { old: "131072kB".to_owned(), new: "?".to_owned() };
        assert_eq!(found.get("shared_buffers"), Some(&wanted), "somebody edited a file");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        /// However the wanted values rise and fall, and in whatever order the nodes are restarted: no
        /// standby starts below what its WAL was written with. What falls, falls on the primary
        /// first: a standby follows only once its WAL says so.
        #[test]
        fn a_standby_is_never_started_below_its_wal(
            steps in proptest::collection::vec((0usize..5, 0usize..4, 30u64..300), 1..40)
        ) {
            // What is wanted; what the primary writes into WAL; what each standby has replayed.
            let mut wanted: BTreeMap<String, String> = BTreeMap::new();
            let none = BTreeMap::new();
            let numbers = |values: &BTreeMap<String, String>| -> BTreeMap<String, u64> {
                RAISED_ON_STANDBYS
                    .iter()
                    .map(|name| ((*name).to_owned(), values[*name].parse().expect("a number")))
                    .collect()
            };
            let mut written = numbers(&effective(&wanted, &none, false).values);
            let mut replayed = [written.clone(), written.clone()];
            for (which, event, value) in steps {
                let name = RAISED_ON_STANDBYS[which];
                match event {
                    0 => drop(wanted.insert(name.to_owned(), value.to_string())),
                    1 => written = numbers(&effective(&wanted, &written, false).values),
                    standby => {
                        let own = &mut replayed[standby - 2];
                        let begun = effective(&wanted, own, true);
                        let values = numbers(&begun.values);
                        for (name, has) in &values {
                            prop_assert!(has >= &own[name], "{name} starts below its WAL");
                            let want: u64 = begun.raised.get(name).map_or(*has, |raised| {
                                raised.new.parse().expect("a number")
                            });
                            prop_assert_eq!(begun.raised.contains_key(name), *has != want);
                            // Not higher than it must.
                            prop_assert!(*has == want || *has == own[name]);
                        }
                        // It recovers with these, or is started again with what its WAL says by then.
                        own.clone_from(&written);
                    }
                }
            }
            // The primary obeys at once.
            let primary = effective(&wanted, &written, false);
            prop_assert!(primary.raised.is_empty());
        }
    }
}
