//! Superuser sessions at one node's server, whatever its role: what a DBA types there, behind
//! Regent's back.

use std::time::Duration;

use anyhow::Context as _;
use regent_proto::name::NodeName;
use regentctl::lab::Lab;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

const RESTLESS: &str =
    "DO $$ BEGIN LOOP INSERT INTO restless VALUES (now()); COMMIT; END LOOP; END $$";

/// Opens one. It ends with the returned client.
///
/// # Errors
/// When the server does not let it in.
pub async fn session(lab: &Lab, node: &NodeName) -> anyhow::Result<Client> {
    let mut config = Config::new();
    config
        .host("127.0.0.1")
        .port(lab.postgres_port(node)?)
        .user("postgres")
        .password(&lab.secrets().superuser)
        .dbname("postgres")
        .connect_timeout(Duration::from_secs(2));
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A backend that writes all the while and waits for nobody, so that it does not notice that its
/// postmaster is gone: only a signal ends it.
///
/// # Errors
/// When the server does not let it in.
pub async fn restless(
    lab: &Lab,
    node: &NodeName,
) -> anyhow::Result<JoinHandle<Result<(), tokio_postgres::Error>>> {
    let client = session(lab, node).await?;
    client.batch_execute("CREATE TABLE IF NOT EXISTS restless (at timestamptz)").await?;
    client.batch_execute("SET synchronous_commit = local").await?;
    Ok(tokio::spawn(async move { client.batch_execute(RESTLESS).await }))
}

/// The first value that one statement gives, in a session of its own. Empty for no row.
///
/// # Errors
/// When the server does not let it in, or refuses the statement.
pub async fn value(lab: &Lab, node: &NodeName, statement: &str) -> anyhow::Result<String> {
    let rows = session(lab, node).await?.simple_query(statement).await;
    let rows = rows.with_context(|| format!("{node}: {statement}"))?;
    let value = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(value.unwrap_or_default())
}
