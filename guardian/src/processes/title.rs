//! What a server process is, by its title (postmaster.c, ps_status.c: "postgres: " and, where
//! cluster_name is set, "NAME: " before it).
//!
//! Only needed at the bound of a planned stop, where auxiliary processes may finish and nobody else
//! may. So the question is "is it surely one that acknowledges nothing?", and every doubt is a no.
//! User and database names are chosen by clients, and stand in the title of their backends, which
//! ends with host and activity: an auxiliary process is known by its whole title to the end.

/// Whether a process can acknowledge a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It can't: an auxiliary process, or a walsender that streams.
    Harmless,
    /// It can, or nobody knows.
    Client,
}

/// Titles of auxiliary processes, PostgreSQL 13 to 18, without what follows an activity.
const AUXILIARY: &[&[u8]] = &[
    b"archiver",
    b"background writer",
    b"checkpointer",
    b"logger",
    b"logical replication launcher",
    b"stats collector",
    b"walreceiver",
    b"walsummarizer",
    b"walwriter",
    b"autovacuum launcher",
    b"startup",
    // update_checkpoint_display of xlog.c, from PostgreSQL 14. Whole: no activity of a backend is in
    // lower case and begins like its last word.
    b"checkpointer performing shutdown checkpoint",
    b"checkpointer performing shutdown restartpoint",
    b"checkpointer performing end-of-recovery checkpoint",
];

/// Activities of auxiliary processes that are followed by a file or position.
const ACTIVE: &[&[u8]] = &[
    b"archiver archiving ",
    b"archiver failed on ",
    b"archiver last was ",
    b"startup recovering ",
    b"startup waiting for ",
    b"walreceiver streaming ",
    b"io worker ",
];

/// Judges a command line from /proc/PID/cmdline.
#[must_use]
pub fn kind(cmdline: &[u8]) -> Kind {
    let end = cmdline.iter().rposition(|byte| !matches!(byte, 0 | b' ')).map_or(0, |last| last + 1);
    let line = cmdline.get(..end).unwrap_or_default();
    let Some(title) = line.strip_prefix(b"postgres: ") else { return Kind::Client };
    // Without cluster_name, or after it. A name that holds ": " itself is tried from each of them.
    let mut rest = Some(title);
    while let Some(title) = rest {
        if is_harmless(title) {
            return Kind::Harmless;
        }
        rest = title.windows(2).position(|two| two == b": ").and_then(|at| title.get(at + 2..));
    }
    Kind::Client
}

fn is_harmless(title: &[u8]) -> bool {
    AUXILIARY.contains(&title)
        || ACTIVE.iter().any(|begin| {
            title.strip_prefix(*begin).is_some_and(|rest| !rest.is_empty() && is_position(rest))
        })
        || is_streaming_walsender(title)
}

/// WAL file names, positions, numbers: nothing that holds a space, so nothing after which a host
/// could stand.
fn is_position(rest: &[u8]) -> bool {
    rest.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.'))
}

/// "walsender USER HOST streaming X/X": physical replication in its loop (XLogSendPhysical). A
/// logical walsender shows a command, and can run SQL.
fn is_streaming_walsender(title: &[u8]) -> bool {
    let Some(rest) = title.strip_prefix(b"walsender ") else { return false };
    let mut words = rest.rsplit(|byte| *byte == b' ');
    let (last, before) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut halves = last.split(|byte| *byte == b'/');
    let hex = |half: Option<&[u8]>| {
        half.is_some_and(|half| !half.is_empty() && half.iter().all(u8::is_ascii_hexdigit))
    };
    before == b"streaming" && hex(halves.next()) && hex(halves.next()) && halves.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_titles() {
        for title in [
            "postgres: checkpointer ",
            "postgres: eu-1: checkpointer \0\0\0",
            "postgres: eu-1: checkpointer performing shutdown checkpoint",
            "postgres: checkpointer performing shutdown restartpoint",
            "postgres: checkpointer performing end-of-recovery checkpoint\0",
            "postgres: main: eu: background writer",
            "postgres: walwriter",
            "postgres: logical replication launcher ",
            "postgres: archiver last was 000000010000000000000003",
            "postgres: archiver archiving 00000002.history",
            "postgres: startup recovering 000000010000000000000003",
            "postgres: walreceiver streaming 0/3000060",
            "postgres: io worker 0",
            "postgres: eu-1: walsender regent 127.0.0.1(40112) streaming 0/30001A8",
            "postgres: walsender regent [local] streaming 1F/0",
        ] {
            assert_eq!(kind(title.as_bytes()), Kind::Harmless, "{title}");
        }
    }

    #[test]
    fn everything_else_is_a_client() {
        for title in [
            "",
            "postgres",
            "/usr/lib/postgresql/15/bin/postgres\0-D\0/data\0",
            "postgres: app app [local] idle",
            "postgres: eu-1: app app 127.0.0.1(4000) INSERT waiting for 0/3000060",
            "postgres: app app 127.0.0.1(4000) COMMIT",
            "postgres: autovacuum worker app",
            "postgres: logical replication worker for subscription 16400",
            "postgres: parallel worker for PID 12",
            "postgres: walsender regent 127.0.0.1(40112) START_REPLICATION",
            "postgres: walsender regent 127.0.0.1(40112) idle",
            "postgres: walsender regent app [local] SELECT",
            "postgres: walsender regent 127.0.0.1(40112) streaming 0/",
            "postgres: walsender regent 127.0.0.1(40112) streaming x/y",
            // Names that clients chose.
            "postgres: checkpointer checkpointer [local] idle",
            "postgres: a: checkpointer b [local] idle",
            "postgres: checkpointer performing [local] CHECKPOINT",
            "postgres: checkpointer performing shutdown 127.0.0.1(1) CHECKPOINT",
            "postgres: startup recovering [local] idle",
            "postgres: startup recovering 127.0.0.1(1)",
            "postgres: archiver archiving [local] authentication",
            "postgres: walsender streaming [local] idle",
            "postgres: bob db [local] startup",
            "bash: checkpointer",
        ] {
            assert_eq!(kind(title.as_bytes()), Kind::Client, "{title}");
        }
    }
}
