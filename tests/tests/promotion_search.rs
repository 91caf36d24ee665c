//! Looking through a real server's WAL for the id of its promotion, which is what the promotion
//! itself wrote, or a message where that is gone: what stands in `pg_wal` beside it, or cannot be
//! read for a moment, hides it from nobody (I14).
//!
//! Whoever does not find its own id follows nobody new and confirms no token.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regent_agent::act::postgres::control;
use regent_agent::act::postgres::programs::Programs;
use regent_agent::act::postgres::promotions::{Found, Place, find};
use regent_agent::observe::clock::boot_time;
use regent_agent::observe::promotions::{Search, Server};
use regent_proto::lsn::Lsn;
use regent_proto::name::PromotionId;
use regent_proto::timeline::{Ancestry, TimelineId};
use regent_test_sys::boot;
use regent_test_sys::tools::{Owned, command};
use regent_tests::wait::until;
use regentctl::lab::owner::{Owner, base};
use regentctl::lab::programs;

const SOON: Duration = Duration::from_secs(30);
const TWO: TimelineId = TimelineId(2);
const ID: &str = "0123456789abcdef";
const SEGMENT: u64 = 16 << 20;

/// The data directory of a server that promoted itself, let others write messages of their own,
/// named its timeline in its second segment, wrote some more, and was stopped.
struct Promoted {
    data: PathBuf,
    /// Where timeline 2 began.
    begin: Lsn,
    /// Where the messages of others ended.
    others: Lsn,
    /// Where the id was about to be written.
    named: Lsn,
    /// Where its WAL ended.
    end: Lsn,
    bin: PathBuf,
    owner: Owner,
    dir: tempfile::TempDir,
}

impl Promoted {
    fn make() -> anyhow::Result<Self> {
        let owner = Owner::choose()?;
        let bin = programs::postgres(&owner)?.bin;
        let dir = tempfile::Builder::new().prefix("search").tempdir_in(base(&owner))?;
        owner.hand_over(dir.path())?;
        let data = dir.path().join("data");
        let [begin, others, named, end] = [Lsn::default(); 4];
        let mut this = Self { data, begin, others, named, end, bin, owner, dir };
        let mut initdb = this.command("initdb");
        initdb.args(["-N", "-A", "trust", "-U", "postgres", "-D"]).arg(&this.data);
        ensure!(initdb.status()?.success(), "initdb");
        std::fs::write(this.data.join("standby.signal"), "")?;
        let mut server = this.command("postgres");
        server.arg("-D").arg(&this.data).arg("-k").arg(this.dir.path());
        server.args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "wal_keep_size=1GB"]);
        let mut server = Owned(server.spawn().context("start PostgreSQL")?);
        let promote = || this.sql("SELECT pg_promote(true, 30)").ok();
        boot::until(SOON, promote).context("not promoted")?;
        let others = "SELECT count(pg_logical_emit_message(false, 'regents', 'promotion 0b')) \
                      FROM generate_series(1, 1500)";
        this.sql(others)?;
        this.others = this.sql("SELECT pg_current_wal_insert_lsn()")?.parse()?;
        this.sql("SELECT pg_switch_wal()")?;
        this.named = this.sql("SELECT pg_current_wal_insert_lsn()")?.parse()?;
        this.sql(&format!("SELECT pg_logical_emit_message(false, 'regent', 'promotion {ID}')"))?;
        this.sql("CREATE TABLE t AS SELECT n, repeat('x', 1000) FROM generate_series(1, 4000) n")?;
        this.end = this.sql("SELECT pg_current_wal_flush_lsn()")?.parse()?;
        kill(Pid::from_raw(server.0.id().cast_signed()), Signal::SIGINT)?;
        boot::until(SOON, || server.0.try_wait().ok().flatten()).context("not stopped")?;
        this.begin = this.ancestry().begin(TWO).context("a history file")?;
        Ok(this)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = command(self.bin.join(program));
        command.current_dir(self.dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
        if self.owner.dropped {
            command.uid(self.owner.uid.as_raw()).gid(self.owner.gid.as_raw());
        }
        command
    }

    fn sql(&self, statement: &str) -> anyhow::Result<String> {
        let mut psql = self.command("psql");
        psql.arg("-h").arg(self.dir.path()).args(["-U", "postgres", "-XAtqc", statement]);
        let output = psql.stdout(Stdio::piped()).output()?;
        ensure!(output.status.success(), "{statement}: {}", output.status);
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    fn ancestry(&self) -> Ancestry {
        control::ancestry(&self.data, TWO)
    }

    fn wal(&self) -> PathBuf {
        self.data.join("pg_wal")
    }

    fn segment(&self, at: Lsn) -> PathBuf {
        self.wal().join(format!("00000002{:016X}", at.get() / SEGMENT))
    }

    /// From behind the begin only messages are looked for.
    async fn find(&self, from: Lsn, end: Lsn) -> Found {
        let place = Place { timeline: TWO, begin: self.begin, from, end: Some(end) };
        find(&Programs::new(&self.bin), &self.data, place).await
    }
}

fn id() -> PromotionId {
    ID.parse().expect("an identifier")
}

/// Whether the first segment that a program finds in the directory was never written to.
fn begins_with_zeros(wal: &Path) -> anyhow::Result<bool> {
    let first = std::fs::read_dir(wal)?.flatten().find(|entry| entry.file_name().len() == 24);
    let mut header = [1u8; 40];
    std::fs::File::open(first.context("a segment")?.path())?.read_exact(&mut header)?;
    Ok(header.iter().all(|byte| *byte == 0))
}

#[tokio::test]
async fn a_message_is_found_behind_what_others_wrote() {
    let server = Promoted::make().unwrap();
    // The first look ends with the messages of somebody else's.
    let from = Lsn::new(server.begin.get() + 8);
    let Found::Nothing { next, all: false } = server.find(from, server.end).await else {
        panic!("1500 messages in one look");
    };
    assert!(server.begin < next && next < server.named, "{next}");
    assert_eq!(server.find(next, server.end).await, Found::Promotion(id()));
    // What was read to its end without a find says so, and where to go on.
    let found = server.find(next, server.others).await;
    let overlap = Lsn::new(server.others.get() - (1 << 20)).max(next);
    assert_eq!(found, Found::Nothing { next: overlap, all: true });
}

#[tokio::test]
async fn a_segment_of_zeros_hides_nothing() {
    let server = Promoted::make().unwrap();
    let Found::Promotion(born) = server.find(server.begin, server.end).await else {
        panic!("the promotion's own record");
    };
    assert_ne!(born, id());
    // Segments made for later, as by a checkpoint that comes late in a segment: pg_waldump takes
    // the segment size from whichever file comes first.
    let mut later = server.end.get() / SEGMENT + 1;
    while !begins_with_zeros(&server.wal()).unwrap() {
        let file = server.segment(Lsn::new(later * SEGMENT));
        std::fs::File::create(&file).unwrap().set_len(SEGMENT).unwrap();
        later += 1;
        assert!(later < 500, "no order of files begins with a segment of zeros");
    }
    assert_eq!(server.find(server.begin, server.end).await, Found::Promotion(born));
}

/// Looks until the id is found, or `looks` times in vain.
async fn search(server: &Promoted, search: &mut Search, looks: u32) -> Option<PromotionId> {
    let mut ancestry = Ancestry { promotion: None, ..server.ancestry() };
    let mut now = boot_time();
    let mut looked = 0;
    until("the id", SOON, async || {
        now = now.plus(Duration::from_secs(60));
        search.go_on(&mut ancestry, server.end, Server::Recovers, now);
        looked += 1;
        match &ancestry.promotion {
            Some(found) => Ok(Some(found.clone())),
            None if looked >= looks => Ok(None),
            None => Err(format!("{looked} looks")),
        }
    })
    .await
    .expect("an end of the looks")
}

#[tokio::test]
async fn what_could_not_be_read_is_read_later_and_what_is_gone_is_passed_over() {
    let server = Promoted::make().unwrap();
    let Found::Promotion(born) = server.find(server.begin, server.end).await else {
        panic!("the promotion's own record");
    };
    // It cannot be read for a while; the WAL goes on for more than one look's overlap.
    let first = server.segment(server.begin);
    let whole = std::fs::read(&first).unwrap();
    let mut damaged = whole.clone();
    let at = usize::try_from(server.begin.get() % SEGMENT).unwrap();
    damaged[at..at + 64].fill(0);
    std::fs::write(&first, &damaged).unwrap();
    let mut looks = Search::new(Programs::new(&server.bin), &server.data);
    assert_eq!(search(&server, &mut looks, 60).await, None);
    std::fs::write(&first, &whole).unwrap();
    assert_eq!(search(&server, &mut looks, 1000).await, Some(born.clone()));
    assert_eq!(server.ancestry().promotion, Some(born), "it is noted");

    std::fs::remove_file(&first).unwrap();
    let second = Lsn::new(server.begin.get().next_multiple_of(SEGMENT));
    assert_eq!(server.find(server.begin, server.end).await, Found::GoneUpTo(second));
    let mut looks = Search::new(Programs::new(&server.bin), &server.data);
    assert_eq!(search(&server, &mut looks, 1000).await, Some(id()), "the message behind it");
}
