//! SQL on the local server, and on a source before a rewind. Every call is bounded: a connection
//! to a stopped server hangs for ever otherwise (stack.md section 1, 5).

use std::time::Duration;

use tokio_postgres::{Client, Config as Connect, NoTls};

use crate::config::{Config, User};

/// The longest wait for a connection.
const CONNECT_BOUND: Duration = Duration::from_secs(2);
/// The longest wait for an answer.
pub const ANSWER_BOUND: Duration = Duration::from_secs(2);

/// Why SQL gave no result.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The server said no, or the connection broke.
    #[error("{doing}: {problem}")]
    Failed {
        /// What was being done.
        doing: String,
        /// The server's or library's words, with the cause.
        problem: String,
    },
    /// No answer in time.
    #[error("{doing}: no answer within {bound:?}")]
    TooLong {
        /// What was being done.
        doing: String,
        /// The bound.
        bound: Duration,
    },
}

fn failed(doing: &str, error: &tokio_postgres::Error) -> SqlError {
    // Its Display carries no cause since 0.7.15.
    let mut problem = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        problem.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    SqlError::Failed { doing: doing.to_owned(), problem }
}

/// Connects to one server.
pub async fn connect(host: &str, port: u16, user: &User) -> Result<Client, SqlError> {
    connect_to(host, port, user, "postgres").await
}

async fn connect_to(
    host: &str,
    port: u16,
    user: &User,
    database: &str,
) -> Result<Client, SqlError> {
    let doing = format!("connecting to PostgreSQL at {host}:{port} as {}", user.username);
    let mut connect = Connect::new();
    connect
        .host(host)
        .port(port)
        .user(&user.username)
        .password(user.password.reveal())
        .dbname(database)
        .application_name("Regent")
        .options("-c statement_timeout=2000 -c search_path=pg_catalog -c synchronous_commit=local")
        .connect_timeout(CONNECT_BOUND);
    match tokio::time::timeout(CONNECT_BOUND, connect.connect(NoTls)).await {
        Err(_elapsed) => Err(SqlError::TooLong { doing, bound: CONNECT_BOUND }),
        Ok(Err(error)) => Err(failed(&doing, &error)),
        Ok(Ok((client, connection))) => {
            // Ends with the client.
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to PostgreSQL ended");
                }
            });
            Ok(client)
        }
    }
}

/// Which of these writes; where none does, the first that answers.
pub async fn writer_among(
    addresses: &[(String, u16)],
    user: &User,
) -> Result<Option<(String, u16)>, SqlError> {
    let mut answered = None;
    let mut failed = None;
    for address in addresses {
        let asked = async {
            let client = connect(&address.0, address.1, user).await?;
            text(&client, "SELECT pg_is_in_recovery()::text").await
        };
        match asked.await {
            Ok(recovers) if recovers == "false" => return Ok(Some(address.clone())),
            Ok(_) => answered = answered.or_else(|| Some(address.clone())),
            Err(error) => failed = Some(error),
        }
    }
    match (answered, failed) {
        (None, Some(error)) => Err(error),
        (answered, _) => Ok(answered),
    }
}

/// Connects to the local server.
pub async fn connect_local(config: &Config) -> Result<Client, SqlError> {
    connect_database(config, "postgres").await
}

/// Connects to one database of the local server.
pub async fn connect_database(config: &Config, database: &str) -> Result<Client, SqlError> {
    let (host, port) = config.postgres.listen_host_port();
    let host = match host {
        "*" | "0.0.0.0" | "" => "127.0.0.1",
        other => other.split(',').next().unwrap_or("127.0.0.1"),
    };
    connect_to(host, port, &config.postgres.authentication.superuser, database).await
}

/// Runs statements without results.
pub async fn execute(client: &Client, statements: &str, bound: Duration) -> Result<(), SqlError> {
    let doing = "running a statement";
    match tokio::time::timeout(bound, client.batch_execute(statements)).await {
        Err(_elapsed) => Err(SqlError::TooLong { doing: doing.to_owned(), bound }),
        Ok(result) => result.map_err(|error| failed(doing, &error)),
    }
}

/// One text value.
pub async fn text(client: &Client, query: &str) -> Result<String, SqlError> {
    text_within(client, query, ANSWER_BOUND).await
}

/// One text value that may take longer.
pub async fn text_within(
    client: &Client,
    query: &str,
    bound: Duration,
) -> Result<String, SqlError> {
    let doing = "asking PostgreSQL";
    match tokio::time::timeout(bound, client.simple_query(query)).await {
        Err(_elapsed) => Err(SqlError::TooLong { doing: doing.to_owned(), bound }),
        Ok(Err(error)) => Err(failed(doing, &error)),
        Ok(Ok(messages)) => messages
            .iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .ok_or_else(|| SqlError::Failed {
                doing: doing.to_owned(),
                problem: "no row came back".to_owned(),
            }),
    }
}

/// A text as SQL has it.
#[must_use]
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn identifier(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// A checkpoint; a restartpoint on a standby. Without a statement timeout: it may be long.
pub async fn checkpoint(config: &Config) -> Result<(), SqlError> {
    let client = connect_local(config).await?;
    execute(&client, "SET statement_timeout = 0; CHECKPOINT", Duration::from_secs(600)).await
}

/// Asks the running standby to promote itself; does not wait for it.
pub async fn promote(client: &Client) -> Result<(), SqlError> {
    text(client, "SELECT pg_promote(false)::text").await.map(|_| ())
}

/// Writes a message into WAL, on disk when this returns: a transaction with an id of its own is
/// flushed at its end, and the message with it (the connection commits locally).
pub async fn write_message(client: &Client, message: &str) -> Result<(), SqlError> {
    let query = format!(
        "SELECT pg_logical_emit_message(false, 'regent', {})::text || pg_current_xact_id()::text",
        literal(message)
    );
    text(client, &query).await.map(|_| ())
}

/// Takes a parameter out of postgresql.auto.conf, as its server does itself: also in recovery.
pub async fn alter_system_reset(client: &Client, name: &'static str) -> Result<(), SqlError> {
    execute(client, &format!("ALTER SYSTEM RESET {name}"), ANSWER_BOUND).await
}

/// Makes the server read its configuration again.
pub async fn reload(client: &Client) -> Result<(), SqlError> {
    text(client, "SELECT pg_reload_conf()::text").await.map(|_| ())
}

/// What the server would say to pg_hba.conf as it is on disk; empty where it takes it.
pub async fn hba_problems(client: &Client) -> Result<String, SqlError> {
    let query = "SELECT coalesce(string_agg(format('line %s: %s', line_number, error), '; '), '') \
                 FROM pg_hba_file_rules WHERE error IS NOT NULL";
    text(client, query).await
}

/// Keeps what follows on this connection out of the server's log. A message of its own: the server looks
/// whether it logs a message before it runs the first statement in it.
async fn unlogged(client: &Client) -> Result<(), SqlError> {
    let statements = "SET log_statement = 'none'; SET log_min_duration_statement = -1; \
         SET log_min_duration_sample = -1; SET log_transaction_sample_rate = 0; \
         SET log_min_error_statement = 'panic'; SET password_encryption = 'scram-sha-256'";
    execute(client, statements, Duration::from_secs(10)).await
}

/// Creates the replication and rewind users with what they need, or brings their passwords up to
/// date. Statements with passwords are kept out of the server's log.
pub async fn create_users(config: &Config) -> Result<(), SqlError> {
    let client = connect_local(config).await?;
    unlogged(&client).await?;
    let users = &config.postgres.authentication;
    let mut statements = String::new();
    let create = |user: &User, attributes: &str| {
        let name = identifier(&user.username);
        let exists = literal(&user.username);
        let password = literal(user.password.reveal());
        format!(
            "DO $regent$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {exists}) THEN \
             CREATE ROLE {name} LOGIN {attributes} PASSWORD {password}; ELSE ALTER ROLE {name} \
             LOGIN {attributes} PASSWORD {password}; END IF; END $regent$;"
        )
    };
    statements.push_str(&create(&users.replication, "REPLICATION"));
    if let Some(rewind) = &users.rewind {
        statements.push_str(&create(rewind, ""));
        let name = identifier(&rewind.username);
        for function in [
            "pg_ls_dir(text, boolean, boolean)",
            "pg_stat_file(text, boolean)",
            "pg_read_binary_file(text)",
            "pg_read_binary_file(text, bigint, bigint, boolean)",
        ] {
            statements.push_str(&format!("GRANT EXECUTE ON FUNCTION {function} TO {name};"));
        }
    }
    execute(&client, &statements, Duration::from_secs(10)).await
}

/// The superuser's password as the configuration has it, in no log.
pub async fn set_password(client: &Client, user: &User) -> Result<(), SqlError> {
    unlogged(client).await?;
    let (name, password) = (identifier(&user.username), literal(user.password.reveal()));
    let statement = format!("ALTER ROLE {name} PASSWORD {password}");
    execute(client, &statement, Duration::from_secs(10)).await
}

/// Waits until a source's pg_control is on the timeline that it writes or replays: before
/// PostgreSQL 16 `pg_rewind` looks only there (hazards.md section 4, fact 27).
pub async fn wait_for_checkpoint(
    address: &(String, u16),
    user: &User,
    bound: Duration,
) -> Result<(), SqlError> {
    let client = connect(&address.0, address.1, user).await?;
    let query = "SELECT (c.timeline_id = CASE WHEN pg_is_in_recovery() \
                 THEN greatest(c.timeline_id, r.min_recovery_end_timeline, \
                               (SELECT received_tli FROM pg_stat_wal_receiver)) \
                 ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int \
                 END)::text FROM pg_control_checkpoint() c, pg_control_recovery() r";
    let wait = async {
        while text(&client, query).await? != "true" {
            // PostgreSQL tells nobody when a checkpoint ends.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    tokio::time::timeout(bound, wait).await.unwrap_or_else(|_elapsed| {
        Err(SqlError::TooLong {
            doing: format!(
                "waiting for {}:{} to checkpoint on its present timeline",
                address.0, address.1
            ),
            bound,
        })
    })
}
