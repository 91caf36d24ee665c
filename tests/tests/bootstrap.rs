//! A cluster made by a method of the operator's, which fails the first time, with `post_bootstrap`, and
//! a replica by a list of methods of which the first fails (spec/patroni-compat.md 3.2, 5.4).

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use regent_tests::alone::topology;
use regent_tests::rest::code;
use regent_tests::say;
use regent_tests::wait::until;
use regentctl::lab::{Lab, Options};
use serde_json::{Value, json};
use tokio_postgres::NoTls;

const READY: Duration = Duration::from_secs(120);

fn script(dir: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let file = dir.join(name);
    std::fs::write(&file, format!("#!/bin/sh\n{text}\n"))?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
    Ok(file)
}

/// What the scripts of one run have written down.
fn lines(dir: &Path, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn sections(dir: &Path, bin: &Path) -> anyhow::Result<(Value, Value)> {
    let (dir_shown, bin) = (dir.display(), bin.display());
    // Fails once, having begun a directory; then makes a cluster as a restore would.
    let restore = script(
        dir,
        "restore",
        &format!(
            "echo \"$@\" >> {dir_shown}/restored\n\
             for a in \"$@\"; do case \"$a\" in --datadir=*) d=\"${{a#--datadir=}}\";; esac; done\n\
             if [ ! -e {dir_shown}/failed ]; then\n\
               touch {dir_shown}/failed \"$d/half\"; echo 'no backup is there'; exit 1\n\
             fi\n\
             exec {bin}/initdb -D \"$d\" --username=postgres --auth=trust"
        ),
    )?;
    let post = script(
        dir,
        "post",
        &format!(
            "echo \"$@\" >> {dir_shown}/posted\n\
             exec {bin}/psql -v ON_ERROR_STOP=1 -XAt \"$1\" -c 'CREATE TABLE made_by_hand ()'"
        ),
    )?;
    let broken =
        script(dir, "broken", &format!("echo \"$@\" >> {dir_shown}/broken-calls; exit 1"))?;
    let bootstrap = json!({
        "method": "restore", "post_bootstrap": post, "restore": {"command": restore, "stanza": "main"},
    });
    let postgresql = json!({
        "create_replica_methods": ["broken", "basebackup"], "broken": {"command": broken},
    });
    Ok((bootstrap, postgresql))
}

fn merge(into: &mut Value, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

async fn made() -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("regent-made-").tempdir_in("/tmp")?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777))?;
    let options = Options { dir: None, dcs: None, bare: true };
    let lab = Lab::up(&topology(true), &options, &mut |_| {}).await?;
    let nodes = lab.layout().nodes.clone();
    let (bootstrap, postgresql) = sections(dir.path(), &lab.layout().postgres_bin)?;
    for node in &nodes {
        lab.kill_agent(&node.name, Signal::SIGKILL).await?;
        let file = lab.layout().config(&node.agent());
        let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(&file)?)?;
        config.as_object_mut().context("a mapping")?.shift_remove("federation");
        merge(&mut config["bootstrap"], &bootstrap);
        merge(&mut config["postgresql"], &postgresql);
        std::fs::write(&file, config.to_string())?;
    }
    for node in &nodes {
        lab.start_agent(&node.name).await?;
    }
    until("a primary and a replica", READY, async || {
        let mut codes = Vec::new();
        for node in &nodes {
            let roles = ["/primary", "/replica"];
            for role in roles {
                codes.push(code(node.rest_port, role).await);
            }
        }
        let ready = matches!(codes[..], [200, _, _, 200] | [_, 200, 200, _]);
        ready.then_some(()).ok_or_else(|| format!("{codes:?}"))
    })
    .await?;

    let restored = lines(dir.path(), "restored");
    ensure!(restored.len() == 2, "{restored:?}");
    let told = |line: &String, word: &str| line.split(' ').any(|given| given.starts_with(word));
    for word in ["--scope=home", "--datadir=/", "--stanza=main"] {
        ensure!(restored.iter().all(|line| told(line, word)), "{word}: {restored:?}");
    }
    let aside = nodes.iter().filter(|node| {
        let mut name = lab.layout().data_dir(node).into_os_string();
        name.push(".failed");
        Path::new(&name).join("half").exists()
    });
    ensure!(aside.count() == 1, "what failed was not put aside");
    let posted = lines(dir.path(), "posted");
    ensure!(posted.len() == 1 && posted[0].starts_with("postgres:///"), "{posted:?}");
    let broken = lines(dir.path(), "broken-calls");
    let connects = broken.iter().all(|line| told(line, "--connstring=postgres://replicator@"));
    ensure!(!broken.is_empty() && connects, "{broken:?}");

    let config = lab.client_config(&lab.data_sites())?;
    let (client, connection) = config.connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    let query = "SELECT count(*) FROM pg_class WHERE relname = 'made_by_hand'";
    let tables: i64 = client.query_one(query, &[]).await?.get(0);
    ensure!(tables == 1, "post_bootstrap left {tables} tables");
    drop(client);
    connection.await??;
    say("a cluster by a method, a replica by the second of its methods");
    lab.down().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_and_its_replica_are_made_by_the_operator_s_methods() {
    made().await.unwrap();
}
