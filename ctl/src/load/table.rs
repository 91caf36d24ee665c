//! The table that the writer fills, and reading it back.
//!
//! A row's number is the primary key of `regent_load.rows`. A row whose outcome is unknown is sent
//! again with the same number, and the server must recognise it. Two traps lie there:
//!
//! * A second attempt that finds the row and writes nothing (`DO NOTHING`) is acknowledged at once,
//!   also when the first attempt's commit still waits for its synchronous standby, or had that wait
//!   cut off: the acknowledgement would promise what no standby has. So it counts the attempt in
//!   the row (`DO UPDATE`), which makes its own commit wait for everything before it.
//! * A key hides duplicates. So whoever makes the row also adds a line to `regent_load.journal`,
//!   in the same transaction; the journal has no key, and an identity column, drawn from a sequence
//!   when the line is made, gives the server's own order.

use std::time::Duration;

use tokio_postgres::NoTls;

use crate::exit::Failure;

/// Adds the row, or counts the attempt; makes a line in the journal only for a new row.
pub const WRITE: &str = "\
WITH put AS (
    INSERT INTO regent_load.rows AS r (n) VALUES ($1)
    ON CONFLICT (n) DO UPDATE SET attempts = r.attempts + 1
    RETURNING n, attempts
)
INSERT INTO regent_load.journal (n) SELECT n FROM put WHERE attempts = 1";

const MAKE: &str = "\
CREATE SCHEMA regent_load;
CREATE TABLE regent_load.rows (n bigint PRIMARY KEY, attempts integer NOT NULL DEFAULT 1);
CREATE TABLE regent_load.journal (line bigint GENERATED ALWAYS AS IDENTITY, n bigint NOT NULL);
GRANT USAGE ON SCHEMA regent_load TO app;
GRANT SELECT, INSERT, UPDATE ON regent_load.rows TO app;
GRANT SELECT, INSERT ON regent_load.journal TO app;";

/// Longest wait for anything here: on a busy machine also the table's full length.
const LIMIT: Duration = Duration::from_secs(30);

/// What is in the table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// Numbers of the rows, sorted.
    pub rows: Vec<u64>,
    /// Numbers in the journal, in the server's order.
    pub journal: Vec<u64>,
}

async fn connect(
    config: &tokio_postgres::Config,
    what: &str,
) -> Result<(tokio_postgres::Client, tokio::task::AbortHandle), Failure> {
    let connected = tokio::time::timeout(LIMIT, config.connect(NoTls)).await;
    let fail = |problem: String| Failure::error(format!("{what}: connect: {problem}"));
    let (client, connection) = connected
        .map_err(|_| fail(format!("no answer within {LIMIT:?}")))?
        .map_err(|e| fail(explain(&e)))?;
    let task = tokio::spawn(async move {
        // Its error comes back from the statement that meets it.
        connection.await.ok();
    });
    Ok((client, task.abort_handle()))
}

/// The server's words, which the driver's own text leaves out.
#[must_use]
pub fn explain(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(db), _) => format!("{}: {}", db.code().code(), db.message()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// Makes the role `app` and the empty table, as superuser.
pub async fn make(superuser: &tokio_postgres::Config, app_password: &str) -> Result<(), Failure> {
    let what = "make the table";
    let (client, task) = connect(superuser, what).await?;
    // The verifier, not the password: statements can end up in a log.
    let verifier = postgres_protocol::password::scram_sha_256(app_password.as_bytes());
    let statements = format!("CREATE ROLE app LOGIN PASSWORD '{verifier}';\n{MAKE}");
    let made = tokio::time::timeout(LIMIT, client.batch_execute(&statements)).await;
    task.abort();
    match made {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(Failure::error(format!("{what}: {}", explain(&e)))),
        Err(_) => Err(Failure::error(format!("{what}: no answer within {LIMIT:?}"))),
    }
}

/// Reads everything back.
pub async fn read(config: &tokio_postgres::Config) -> Result<Contents, Failure> {
    let what = "read the table back";
    let (client, task) = connect(config, what).await?;
    let rows = numbers(&client, "SELECT n FROM regent_load.rows ORDER BY n").await;
    let journal = numbers(&client, "SELECT n FROM regent_load.journal ORDER BY line").await;
    task.abort();
    Ok(Contents { rows: rows?, journal: journal? })
}

async fn numbers(client: &tokio_postgres::Client, query: &str) -> Result<Vec<u64>, Failure> {
    let fail = |problem: String| Failure::error(format!("{query}: {problem}"));
    let rows = tokio::time::timeout(LIMIT, client.query(query, &[]))
        .await
        .map_err(|_| fail(format!("no answer within {LIMIT:?}")))?
        .map_err(|e| fail(explain(&e)))?;
    rows.iter()
        .map(|row| {
            let number: i64 = row.try_get(0).map_err(|e| fail(explain(&e)))?;
            u64::try_from(number).map_err(|e| fail(format!("{number}: {e}")))
        })
        .collect()
}
