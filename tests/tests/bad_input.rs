//! Bad input as a person meets it, in the programs themselves: one clear message with the place,
//! the value and what is accepted, an exit code that is not 0, and nothing changed.
//!
//! Each case changes one thing in a file that is good, or asks one wrong thing of a federation
//! that runs.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use regent_proto::wire::ExecuteSwitchoverRequest;
use regent_tests::bed::{Bed, TWO_SITES, explain};
use regent_tests::gate::Gate;
use regent_tests::program::{self, Finished};
use regent_tests::wait::until;
use regent_tests::{option, say};
use regentctl::coordinators::Client;
use regentctl::exit::Exit;
use regentctl::lab::owner::Owner;
use regentctl::lab::process;
use serde_json::{Value, json};

/// Every program says no at once.
const AT_ONCE: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(60);

/// What is wrong with an answer, if anything: it must say all the words, in few lines, without a
/// trace of the program's insides.
fn wrong(done: &Finished, code: Option<u8>, words: &[&str]) -> Option<String> {
    let said = format!("{}{}", done.stdout, done.stderr);
    let missing: Vec<&&str> = words.iter().filter(|word| !said.contains(**word)).collect();
    if done.code == Some(0) || code.is_some_and(|code| done.code != Some(i32::from(code))) {
        return Some(format!("exit code {:?}: {said}", done.code));
    }
    if !missing.is_empty() {
        return Some(format!("does not say {missing:?}: {said}"));
    }
    // The parser shows the place in the file in a few lines.
    let lines = done.stderr.lines().filter(|line| !line.trim().is_empty()).count();
    let insides = said.contains("panicked") || said.contains("stack backtrace");
    (lines == 0 || lines > 12 || insides).then(|| format!("not one clear message: {said}"))
}

#[derive(Debug, Default)]
struct Findings(Vec<String>);

impl Findings {
    fn note(&mut self, case: &str, problem: Option<String>) {
        match problem {
            None => say(format!("{case}: ok")),
            Some(problem) => {
                say(format!("{case}: FAILED: {problem}"));
                self.0.push(format!("{case}: {problem}"));
            }
        }
    }
}

/// A configuration with one thing changed: the value at a JSON pointer, or none.
fn edited(good: &Value, edits: &[(&str, Option<Value>)]) -> String {
    let mut file = good.clone();
    for (pointer, value) in edits {
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        let parent = file.pointer_mut(parent).expect("a section that is there");
        let parent = parent.as_object_mut().expect("a section");
        match value {
            Some(value) => parent.insert(name.to_owned(), value.clone()),
            None => parent.shift_remove(name),
        };
    }
    // JSON is YAML; in lines, as a person writes it.
    serde_json::to_string_pretty(&file).expect("a value that was read")
}

/// A directory of the lab's user, beside the lab.
struct Scratch {
    dir: tempfile::TempDir,
    owner: Owner,
}

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("regent-bad-").tempdir_in("/tmp")?;
        // The agents' user keeps the epoch beside the data directory.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777))?;
        Ok(Self { dir, owner: Owner::choose()? })
    }

    fn give(&self, path: &Path) -> anyhow::Result<()> {
        if self.owner.dropped {
            chown(path, Some(self.owner.uid.as_raw()), Some(self.owner.gid.as_raw()))?;
        }
        Ok(())
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> anyhow::Result<PathBuf> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        self.give(&path)?;
        Ok(path)
    }

    fn directory(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir.path().join(name);
        if !path.exists() {
            std::fs::create_dir(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
            self.give(&path)?;
        }
        Ok(path)
    }

    /// A `bin_dir` whose programs say that they are of this version.
    fn postgres(&self, version: &str) -> anyhow::Result<PathBuf> {
        let bin = self.directory(&format!("postgres-{version}"))?;
        for name in ["postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata"] {
            let path = format!("postgres-{version}/{name}");
            let script = format!("#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n");
            self.file(&path, &script, 0o755)?;
        }
        Ok(bin)
    }

    /// Runs a program of the lab as the lab's user.
    fn run(&self, program: &Path, arguments: &[&str]) -> anyhow::Result<Finished> {
        let done = process::run(program, arguments, Path::new("/"), Some(&self.owner), AT_ONCE)?;
        let code = done.status.code();
        Ok(Finished { code, stdout: done.stdout, stderr: done.stderr })
    }
}

fn regentctl(arguments: &[&str], environment: &[(&str, &Path)]) -> anyhow::Result<Finished> {
    let mut command = program::ours("regentctl")?;
    command.args(arguments);
    if let Some(bin) = option("REGENT_PG_BIN") {
        command.env("REGENT_PG_BIN", bin);
    }
    command.envs(environment.iter().copied());
    program::run(command, LIMIT)
}

// --- topology files --------------------------------------------------------------------------

/// A replacement in the shipped topology, and what the message must say.
const TOPOLOGIES: [(&str, &str, &str, &[&str]); 22] = [
    ("unknown key", "    cost: 1", "    cots: 1", &["cots", "cost"]),
    ("unknown section", "policy:", "polizy:", &["polizy", "policy"]),
    ("unknown kind", "kind: witness", "kind: witnes", &["witnes", "data", "witness"]),
    ("unknown store", "store: embedded", "store: zookeeper", &["zookeeper", "embedded", "etcd"]),
    ("number for a list", "voters: [eu, us, witness]", "voters: 3", &["voters", "want a list"]),
    ("word for a number", "cost: 1", "cost: cheap", &["cheap"]),
    ("word for yes or no", "    synchronous: true", "    synchronous: maybe", &["maybe"]),
    ("duration without unit", "site_ttl: 5s", "site_ttl: \"5\"", &["\"5\"", "unit", "30s"]),
    ("number for a duration", "handover_span: 15s", "handover_span: 15", &["15", "unit"]),
    ("size without unit", "16MB", "\"16\"", &["\"16\"", "16MB"]),
    ("a site's name twice", "name: us\n", "name: eu\n", &["sites[1].name", "\"eu\"", "twice"]),
    ("a node's name twice", "name: us-1", "name: eu-1", &["nodes[0].name", "\"eu-1\"", "twice"]),
    (
        "a port twice",
        "      - name: eu-1\n      - name: eu-2",
        "      - {name: eu-1, postgres_port: 15432}\n      - {name: eu-2, rest_port: 15432}",
        &["sites[0].nodes[1]", "15432", "twice"],
    ),
    ("a site without DCS", "    dcs: embedded\n    # While", "    # While", &["sites[0].dcs"]),
    ("a link to nowhere", "between: [eu, us]", "between: [eu, mars]", &["links[0]", "mars", "eu"]),
    ("a voter from nowhere", "[eu, us, witness]", "[eu, us, mars]", &["quorum.voters", "mars"]),
    ("a primary from nowhere", "primary: eu\n", "primary: mars\n", &["primary", "mars", "us"]),
    ("the witness as primary", "primary: eu\n", "primary: witness\n", &["primary", "witness"]),
    ("a bad name", "federation: two-sites", "federation: Two Sites", &["Two Sites"]),
    ("a TTL that is too short", "site_ttl: 5s", "site_ttl: 1s", &["policy.site_ttl", "1s", "3s"]),
    ("TTLs that don't fit", "primary_ttl: 15s", "primary_ttl: 9s", &["primary_ttl", "9s", "15s"]),
    ("no YAML", "sites:\n", "sites: [\n", &["line"]),
];

#[test]
fn bad_topologies_are_refused_by_validate() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("topology.yaml");
    let mut findings = Findings::default();
    for (name, good, bad, words) in TOPOLOGIES {
        assert_eq!(TWO_SITES.matches(good).count().min(1), 1, "{name}: {good:?} is not there");
        std::fs::write(&file, TWO_SITES.replacen(good, bad, 1)).unwrap();
        let shown = file.display().to_string();
        let done = regentctl(&["topology", "validate", &shown], &[]).unwrap();
        let mut words = words.to_vec();
        words.push("topology.yaml");
        findings.note(name, wrong(&done, Some(Exit::Usage.code()), &words));
    }
    // Dangerous, but allowed: a warning with a name, which a lab's topology can accept.
    let loud = TWO_SITES.replace("accept: [single-store-quorum]", "accept: []");
    let few = TWO_SITES.replace("voters: [eu, us, witness]", "voters: [eu, us]");
    for (warning, text) in [("single-store-quorum", loud), ("few-voter-sites", few)] {
        std::fs::write(&file, text).unwrap();
        let done = regentctl(&["topology", "validate", &file.display().to_string()], &[]).unwrap();
        let said = format!("{}{}", done.stdout, done.stderr);
        let fine = done.code == Some(0) && said.contains(warning);
        findings.note(warning, (!fine).then(|| format!("{:?}: {said}", done.code)));
    }
    let done = regentctl(&["topology", "validate", "topologies/cascade.yaml"], &[]).unwrap();
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{}", done.stdout);
    assert!(findings.0.is_empty(), "{:#?}", findings.0);
}

// --- labs ------------------------------------------------------------------------------------

/// Name, arguments, environment, what the message must say.
type LabCase<'a> = (&'a str, Vec<&'a str>, Vec<(&'a str, &'a Path)>, Vec<&'a str>);

#[test]
fn a_lab_that_cannot_be_is_refused_and_leaves_nothing() {
    let scratch = Scratch::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = TWO_SITES.replacen(
        "      - name: us-2",
        &format!("      - {{name: us-2, rest_port: {port}}}"),
        1,
    );
    let topology = scratch.file("taken.yaml", &taken, 0o644).unwrap().display().to_string();
    let old = scratch.postgres("12.9").unwrap();
    let lab = scratch.dir.path().join("lab");
    let dir = lab.display().to_string();
    let good = "topologies/two-sites-and-witness.yaml";
    let port = port.to_string();
    let pg = "REGENT_PG_BIN";
    let cases: [LabCase<'_>; 5] = [
        (
            "a port in use",
            vec!["lab", "up", &topology, "--dir", &dir],
            vec![],
            vec!["sites[1].nodes[1].rest_port", &port, "in use"],
        ),
        (
            "no PostgreSQL",
            vec!["lab", "up", good, "--dir", &dir],
            vec![(pg, Path::new("/nonexistent"))],
            vec!["REGENT_PG_BIN", "/nonexistent", "13 or newer", "scripts/install"],
        ),
        (
            "PostgreSQL 12",
            vec!["lab", "up", good, "--dir", &dir],
            vec![(pg, old.as_path())],
            vec!["13 or newer", "PostgreSQL 12", "REGENT_PG_BIN"],
        ),
        ("no such file", vec!["lab", "up", "nowhere.yaml", "--dir", &dir], vec![], vec!["nowhere"]),
        (
            "a directory that exists",
            vec!["lab", "up", good, "--dir", "/tmp"],
            vec![],
            vec!["/tmp", "exists already"],
        ),
    ];
    let mut findings = Findings::default();
    for (name, arguments, environment, words) in cases {
        let done = regentctl(&arguments, &environment).unwrap();
        findings.note(name, wrong(&done, None, &words));
        assert!(!lab.exists(), "{name}: {dir} is left");
    }
    assert!(findings.0.is_empty(), "{:#?}", findings.0);
}

// --- agents and coordinators -----------------------------------------------------------------

type Edits = Vec<(&'static str, Option<Value>)>;

/// What `regent-agent --check` refuses: the edits, and what the message must say.
fn agent_files() -> Vec<(&'static str, Edits, Vec<&'static str>)> {
    let set = |pointer, value| vec![(pointer, Some(value))];
    vec![
        ("unknown key", set("/regent/guess", json!(1)), vec!["guess", "run_dir"]),
        ("unknown key of the store", set("/sqlite/pat", json!("x")), vec!["pat", "path"]),
        ("unknown key of ours", set("/federation/sight", json!("us")), vec!["sight", "site"]),
        ("number for a duration", set("/regent/stop_budget", json!(5)), vec!["5", "unit"]),
        (
            "duration without unit",
            set("/regent/stop_budget", json!("1500")),
            vec!["\"1500\"", "unit", "500ms"],
        ),
        ("word for a level", set("/regent/log/format", json!("xml")), vec!["xml", "json", "text"]),
        (
            "a log level that is none",
            set("/regent/log/level", json!("loud")),
            vec!["loud", "info", "debug"],
        ),
        (
            "one port for both listeners",
            vec![
                ("/restapi/listen", Some(json!("127.0.0.1:8008"))),
                ("/postgresql/listen", Some(json!("127.0.0.1:8008"))),
            ],
            vec!["postgresql.listen", "8008", "restapi.listen"],
        ),
        (
            "a setting of another type",
            set("/bootstrap/dcs/synchronous_mode", json!(7)),
            vec!["bootstrap.dcs", "synchronous_mode", "7", "on or off"],
        ),
        ("no DCS", vec![("/sqlite", None)], vec!["sqlite", "etcd3", "no store"]),
        (
            "two DCS",
            set("/etcd3", json!({"hosts": ["127.0.0.1:2379"]})),
            vec!["sqlite", "etcd3", "exactly one"],
        ),
        (
            "etcd without hosts",
            vec![("/sqlite", None), ("/etcd3", Some(json!({})))],
            vec!["etcd3", "hosts"],
        ),
        ("no name", vec![("/name", None)], vec!["name"]),
        ("a bad name", set("/name", json!("a b")), vec!["a b"]),
        (
            "no port",
            set("/restapi/listen", json!("localhost")),
            vec!["restapi.listen", "HOST:PORT"],
        ),
        (
            "a port that is none",
            set("/postgresql/listen", json!("127.0.0.1:99999")),
            vec!["postgresql.listen", "99999", "HOST:PORT"],
        ),
        (
            "open to the world",
            set("/restapi/listen", json!("0.0.0.0:8008")),
            vec!["restapi.listen", "0.0.0.0:8008", "loopback", "insecure"],
        ),
        (
            "a callback that is not there",
            set("/postgresql/callbacks", json!({"on_role_change": "/nonexistent/vip.sh up"})),
            vec!["postgresql.callbacks.on_role_change", "/nonexistent/vip.sh", "is not there"],
        ),
        (
            "a replica method without its section",
            set("/postgresql/create_replica_methods", json!(["backup"])),
            vec!["postgresql.backup", "command"],
        ),
        (
            "a relative directory",
            set("/postgresql/data_dir", json!("data")),
            vec!["postgresql.data_dir", "data", "absolute"],
        ),
        (
            "one user for both",
            set("/postgresql/authentication/replication/username", json!("postgres")),
            vec!["postgresql.authentication", "postgres", "two users"],
        ),
        (
            "a TTL that leaves no time",
            set("/bootstrap/dcs/ttl", json!(1)),
            vec!["bootstrap.dcs", "1s"],
        ),
    ]
}

fn coordinator_files() -> Vec<(&'static str, Edits, Vec<&'static str>)> {
    let set = |pointer, value| vec![(pointer, Some(value))];
    let quorum = json!({"sqlite": {"path": "/tmp/x.db"}});
    let federation = json!({"name": "two-sites", "quorum": quorum});
    vec![
        ("unknown key", set("/lisen", json!("x")), vec!["lisen", "listen"]),
        ("number for a list", set("/federations", json!(1)), vec!["federations"]),
        ("no federation", set("/federations", json!([])), vec!["federations", "at least one"]),
        (
            "one federation twice",
            set("/federations", json!([federation, federation])),
            vec!["federations[1].name", "two-sites", "twice"],
        ),
        (
            "no quorum",
            set("/federations", json!([{"name": "two-sites", "quorum": {}}])),
            vec!["federations[0].quorum", "sqlite", "etcd3"],
        ),
        ("no port", set("/listen", json!("localhost")), vec!["listen", "localhost", "IP:PORT"]),
        (
            "open to the world",
            set("/listen", json!("0.0.0.0:7000")),
            vec!["listen", "0.0.0.0:7000", "tls", "insecure"],
        ),
        ("no name", vec![("/name", None)], vec!["name"]),
        ("a bad site", set("/site", json!("US")), vec!["US"]),
        ("a level", set("/log/level", json!("loud")), vec!["loud", "info", "debug"]),
    ]
}

fn read(file: &Path) -> anyhow::Result<Value> {
    serde_saphyr::from_str(&std::fs::read_to_string(file)?).context("read YAML")
}

fn files(bed: &Bed, scratch: &Scratch, findings: &mut Findings) -> anyhow::Result<()> {
    let layout = bed.lab().layout();
    let bin = layout.dir.join("bin");
    for (program, good, cases) in [
        ("regent-agent", layout.config("agent-us-2"), agent_files()),
        ("regent-coordinator", layout.config("coordinator-us"), coordinator_files()),
    ] {
        let good = read(&good)?;
        for (name, edits, words) in cases {
            let file = scratch.file("bad.yml", &edited(&good, &edits), 0o600)?;
            let done =
                scratch.run(&bin.join(program), &["--check", &file.display().to_string()])?;
            let mut words = words;
            words.push("bad.yml");
            findings.note(&format!("{program}: {name}"), wrong(&done, None, &words));
        }
        let done = scratch.run(&bin.join(program), &["/nonexistent.yml"])?;
        findings.note(&format!("{program}: no file"), wrong(&done, None, &["/nonexistent.yml"]));
    }
    Ok(())
}

/// Files that are good, in a world that does not fit: found at the start, before anything runs.
fn starts(bed: &Bed, scratch: &Scratch, findings: &mut Findings) -> anyhow::Result<()> {
    let layout = bed.lab().layout();
    let good = read(&layout.config("agent-us-2"))?;
    let (run, data) = (scratch.directory("run")?, scratch.dir.path().join("data"));
    let old_data = scratch.directory("old-data")?;
    scratch.file("old-data/PG_VERSION", "12\n", 0o600)?;
    let of_its_own = vec![
        ("/regent/run_dir", Some(json!(run))),
        ("/postgresql/data_dir", Some(json!(data))),
        ("/postgresql/pgpass", Some(json!(run.join("pgpass")))),
    ];
    let rest = good["restapi"]["listen"].as_str().context("restapi.listen")?.to_owned();
    let postgres = good["postgresql"]["listen"].as_str().context("postgresql.listen")?.to_owned();
    let old = scratch.postgres("12.9")?;
    let (old_text, old_data_text) = (old.display().to_string(), old_data.display().to_string());
    let free = json!("127.0.0.1:0");
    let cases: Vec<(&str, Edits, Vec<&str>)> = vec![
        (
            "the REST port in use",
            vec![("/postgresql/listen", Some(free.clone()))],
            vec![&rest, "in use"],
        ),
        (
            "PostgreSQL's port in use",
            vec![("/restapi/listen", Some(free.clone()))],
            vec!["postgresql.listen", &postgres, "in use"],
        ),
        (
            "no PostgreSQL",
            vec![("/postgresql/bin_dir", Some(json!("/nonexistent")))],
            vec!["postgresql.bin_dir", "/nonexistent"],
        ),
        (
            "PostgreSQL 12",
            vec![("/postgresql/bin_dir", Some(json!(old)))],
            vec!["postgresql.bin_dir", &old_text, "PostgreSQL 12", "13 or newer"],
        ),
        (
            "a data directory of another major",
            vec![
                ("/postgresql/data_dir", Some(json!(old_data))),
                ("/restapi/listen", Some(free.clone())),
            ],
            vec!["postgresql.data_dir", &old_data_text, "PostgreSQL 12", "bin_dir"],
        ),
    ];
    for (name, edits, words) in cases {
        let mut all = of_its_own.clone();
        all.extend(edits);
        let file = scratch.file("start.yml", &edited(&good, &all), 0o600)?;
        let agent = layout.dir.join("bin/regent-agent");
        let done = scratch.run(&agent, &[&file.display().to_string()])?;
        findings.note(&format!("regent-agent: {name}"), wrong(&done, None, &words));
        ensure!(!data.exists(), "{name}: {} was made", data.display());
    }
    as_root(scratch, &edited(&good, &of_its_own), &layout.dir.join("bin/regent-agent"), findings)?;
    let coordinator = layout.dir.join("bin/regent-coordinator");
    let config = layout.config("coordinator-us");
    let listen = read(&config)?["listen"].as_str().context("listen")?.to_owned();
    let done = scratch.run(&coordinator, &[&config.display().to_string()])?;
    findings.note("regent-coordinator: a port in use", wrong(&done, None, &[&listen, "listen"]));
    Ok(())
}

/// What root made in the run directory would keep the right user out.
fn as_root(
    scratch: &Scratch,
    text: &str,
    agent: &Path,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    if !scratch.owner.dropped {
        return Ok(());
    }
    let mut file: Value = serde_json::from_str(text)?;
    let run_dir = scratch.dir.path().join("run-of-root");
    file["regent"]["run_dir"] = json!(run_dir);
    let file = scratch.file("root.yml", &file.to_string(), 0o600)?.display().to_string();
    let done = process::run(agent, &[&file], Path::new("/"), None, AT_ONCE)?;
    let done = Finished { code: done.status.code(), stdout: done.stdout, stderr: done.stderr };
    findings.note(
        "regent-agent: as root",
        wrong(&done, Some(1), &["started as root", "data directory"]),
    );
    ensure!(!run_dir.exists(), "root made {}", run_dir.display());
    let done = process::run(agent, &["--check", &file], Path::new("/"), None, AT_ONCE)?;
    ensure!(done.status.success(), "--check as root: {}", done.stderr);
    Ok(())
}

/// Another database's data directory in a member's place: the agent ends, and touches nothing.
async fn foreign_data(bed: &Bed, scratch: &Scratch) -> anyhow::Result<Option<String>> {
    let layout = bed.lab().layout();
    let node = layout.node("us-2").context("us-2")?;
    let (data, agent) = (layout.data_dir(node), node.agent());
    bed.lab().kill_node(&node.name).await?;
    bed.kill(std::slice::from_ref(&agent)).await?;
    let aside = data.with_extension("aside");
    std::fs::rename(&data, &aside)?;
    let initdb = layout.postgres_bin.join("initdb");
    let shown = data.display().to_string();
    let owner = Some(&scratch.owner);
    let made = process::run(&initdb, &["-N", "-D", &shown], Path::new("/"), owner, LIMIT)?;
    ensure!(made.status.success(), "{}", made.stderr);
    let control = data.join("global/pg_control");
    let before = std::fs::read(&control)?;
    bed.lab().start(&agent).await?;
    until("the agent to end", LIMIT, async || {
        let states = bed.lab().processes().await.map_err(|e| e.to_string())?;
        let state = states.into_iter().find(|state| state.name == agent);
        let state = state.ok_or("it is not there")?;
        if state.pid.is_none() && state.ended.is_some() {
            Ok(())
        } else {
            Err(format!("{state:?}"))
        }
    })
    .await?;
    ensure!(std::fs::read(&control)? == before, "its data directory was changed");
    let said = process::tail(&layout.log(&agent), 3);
    let words = ["system identifier", "another database", "postgresql.data_dir"];
    let missing = words.iter().find(|word| !said.contains(**word));
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(&aside, &data)?;
    bed.lab().start(&agent).await?;
    bed.healthy().await?;
    Ok(missing.map(|word| format!("does not say {word:?}: {said}")))
}

// --- requests to a federation that runs -------------------------------------------------------

/// What a request that is refused must leave alone.
fn records(bed: &Bed) -> BTreeMap<String, u64> {
    let keys = [bed.keys.primary(), bed.keys.running_operation(), bed.keys.topology()];
    let found = bed.records.now();
    let mut revisions: BTreeMap<String, u64> = keys
        .into_iter()
        .filter_map(|key| Some((key.clone(), found.get(&key)?.modified.0)))
        .collect();
    let operations = found.keys().filter(|key| key.starts_with(&bed.keys.operations()));
    revisions.extend(operations.map(|key| (key.clone(), 0)));
    revisions
}

async fn asked(
    bed: &Bed,
    findings: &mut Findings,
    name: &str,
    arguments: &[&str],
    code: Exit,
    words: &[&str],
) -> anyhow::Result<()> {
    let lab = bed.lab().layout().dir.display().to_string();
    let mut all = vec!["--lab".to_owned(), lab];
    all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    let before = records(bed);
    let run = move || {
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        regentctl(&all, &[])
    };
    let done = tokio::task::spawn_blocking(run).await??;
    ensure!(records(bed) == before, "{name}: something was changed");
    findings.note(name, wrong(&done, Some(code.code()), words));
    Ok(())
}

async fn requests(bed: &Bed, scratch: &Scratch, findings: &mut Findings) -> anyhow::Result<()> {
    let to = |site| ["switchover", "--yes", "--to", site];
    asked(bed, findings, "to the primary", &to("eu"), Exit::Refused, &["eu", "primary"]).await?;
    asked(bed, findings, "to the witness", &to("witness"), Exit::Refused, &["witness"]).await?;
    asked(bed, findings, "to nowhere", &to("mars"), Exit::Refused, &["mars", "us"]).await?;
    asked(bed, findings, "to no name", &to("M a r s"), Exit::Refused, &["M a r s"]).await?;
    let without = "federation: two-sites\nprimary: us\nsites:\n  - {name: us, kind: data, dcs: \
                   embedded, nodes: [{name: us-1}, {name: us-2}]}\nquorum: {store: embedded, \
                   voters: [us]}\n";
    let file = scratch.file("without.yaml", without, 0o644)?.display().to_string();
    let apply = ["topology", "apply", &file];
    let words = ["eu", "primary"];
    asked(bed, findings, "a topology without the primary", &apply, Exit::Refused, &words).await?;
    let other = TWO_SITES.replace("federation: two-sites", "federation: others");
    let file = scratch.file("other.yaml", &other, 0o644)?.display().to_string();
    let apply = ["topology", "apply", &file];
    asked(bed, findings, "another federation", &apply, Exit::Refused, &["others"]).await?;
    let again = ["topology", "apply", "--create", "topologies/two-sites-and-witness.yaml"];
    asked(bed, findings, "a federation twice", &again, Exit::Refused, &["two-sites"]).await?;
    let show = ["operation", "show", "nothing-of-that-name"];
    asked(bed, findings, "no such operation", &show, Exit::Refused, &["nothing-of-that"]).await?;
    Ok(())
}

/// A plan that is not the present one.
async fn stale_plan(bed: &Bed) -> anyhow::Result<Option<String>> {
    let coordinators = bed.lab().coordinators();
    bed.unblocked(&coordinators, &"us".parse()?).await?;
    let before = records(bed);
    let request = ExecuteSwitchoverRequest {
        federation: coordinators.name(),
        to: "us".to_owned(),
        plan_hash: "0123abcd".to_owned(),
        accept_unprotected: false,
        requested_by: "test".to_owned(),
        reason: String::new(),
    };
    let answer = coordinators.write("execute", |mut client: Client| {
        let request = request.clone();
        async move { client.execute_switchover(request).await }
    });
    let refusal = answer.await.err().context("a stale plan was executed")?;
    ensure!(records(bed) == before, "something was changed");
    let fine = refusal.exit == Exit::Refused
        && ["0123abcd", "stale", "--dry-run"].iter().all(|word| refusal.message.contains(word));
    Ok((!fine).then(|| refusal.to_string()))
}

/// While an operation runs no other begins, and no topology is applied.
async fn beside_another(bed: &Bed, scratch: &Scratch, f: &mut Findings) -> anyhow::Result<()> {
    let gate = Gate::close(&bed.quorum_file()?, regent_proto::record::SwitchoverStep::Handover)?;
    let whom = bed.lab().coordinators();
    let id = bed.begin(&whom, &"us".parse()?).await?;
    // From now on its record changes only in its notes.
    let switchover = ["switchover", "--yes", "--to", "us"];
    let id_text = id.to_string();
    asked(bed, f, "beside another operation", &switchover, Exit::Refused, &[&id_text]).await?;
    let slower = TWO_SITES.replace("prepare_timeout: 60s", "prepare_timeout: 61s");
    let file = scratch.file("slower.yaml", &slower, 0o644)?.display().to_string();
    let apply = ["topology", "apply", &file];
    asked(bed, f, "a topology beside an operation", &apply, Exit::Refused, &[&id_text]).await?;
    drop(gate);
    bed.see("the outcome", LIMIT, |global| global.operation(&id)?.outcome).await?;
    bed.healthy().await?;
    Ok(())
}

/// A site whose nodes are dead does not become primary.
async fn unreachable(bed: &Bed, findings: &mut Findings) -> anyhow::Result<()> {
    let roles = bed.healthy().await?;
    let layout = bed.lab().layout();
    for node in layout.nodes.iter().filter(|node| node.site == roles.b) {
        bed.lab().kill_node(&node.name).await?;
    }
    let lab = bed.lab().coordinators();
    until("its report to be old", LIMIT, async || {
        let federation = lab.federation().await.map_err(|e| e.to_string())?;
        let site = federation.sites.iter().find(|site| site.name == roles.b.as_str());
        let age = site.and_then(|site| site.report_age_ms);
        if age.is_some_and(|age| age > 15_500) { Ok(()) } else { Err(format!("{age:?}")) }
    })
    .await?;
    let to = ["switchover", "--yes", "--to", roles.b.as_str()];
    let words = [roles.b.as_str(), "report"];
    asked(bed, findings, "to a dead site", &to, Exit::Refused, &words).await?;
    bed.start_missing().await?;
    bed.healthy().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_files_and_requests_change_nothing_in_a_running_federation() {
    let bed = Bed::start("bad-input", TWO_SITES, None).await.unwrap();
    bed.healthy().await.unwrap();
    let scratch = Scratch::new().unwrap();
    let mut findings = Findings::default();
    let before = bed.lab().processes().await.unwrap();
    files(&bed, &scratch, &mut findings).unwrap();
    starts(&bed, &scratch, &mut findings).unwrap();
    requests(&bed, &scratch, &mut findings).await.unwrap();
    findings.note("a stale plan", stale_plan(&bed).await.unwrap());
    assert_eq!(bed.lab().processes().await.unwrap(), before, "a process ended");
    beside_another(&bed, &scratch, &mut findings).await.unwrap();
    findings.note("data of another database", foreign_data(&bed, &scratch).await.unwrap());
    unreachable(&bed, &mut findings).await.unwrap();
    let (history, judgement) = bed.finish().await.unwrap();
    say(explain(&judgement, &history));
    assert!(judgement.is_clean(), "{}", explain(&judgement, &history));
    assert!(findings.0.is_empty(), "{:#?}", findings.0);
}
