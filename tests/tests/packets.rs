//! Rung 0: what leaves PostgreSQL's port after the right to write is refused by the kernel, also while
//! everything that could say so is stopped; and nothing is refused before, or afterwards.
//!
//! The server is an echo on a port of its own, the agent is the test, which writes the page.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regent_guardian::page::{Guard, Page};
use regent_proto::time::Deadline;
use regent_test_sys::process::Stopped;
use regent_test_sys::tools::{self, Owned, command};
use regent_test_sys::{Need, boot, lacks};
use regent_tests::{program, say};

const NEEDS: &[Need] = &[Need::Root, Need::Program("nft")];
const KAPPA: Duration = Duration::from_millis(250);
const TTL: Duration = Duration::from_secs(2);
/// An answer that takes longer is none.
const ANSWER: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(10);

struct Bed {
    page: Page,
    packets: Owned,
    port: u16,
    client: TcpStream,
    _place: tempfile::TempDir,
}

impl Bed {
    fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || echo(stream));
            }
        });
        let page = Page::create()?;
        page.set_kill_budget(KAPPA);
        let place = tempfile::tempdir()?;
        let shown: PathBuf = place.path().join("guardian.page");
        let own = format!("/proc/{}/fd/{}", std::process::id(), page.fd().as_raw_fd());
        std::os::unix::fs::symlink(own, &shown)?;
        let mut packets = command(program::path("regent-packets")?);
        packets.arg("--page").arg(&shown).args(["--port", &port.to_string()]);
        packets.arg("--nft").arg(tools::program("nft")?);
        let packets = Owned(packets.spawn()?);
        let client = TcpStream::connect(("127.0.0.1", port))?;
        client.set_nodelay(true)?;
        client.set_read_timeout(Some(ANSWER))?;
        let bed = Self { page, packets, port, client, _place: place };
        let table = || tables().contains(&bed.table()).then_some(());
        boot::until(SOON, table).ok_or_else(|| anyhow::anyhow!("no table"))?;
        Ok(bed)
    }

    fn table(&self) -> String {
        format!("regent_packets_{}", self.port)
    }

    /// A session of its own: the last one's socket may have been reset.
    fn answers_anew(&mut self) -> bool {
        let connected = TcpStream::connect_timeout(&([127, 0, 0, 1], self.port).into(), ANSWER);
        let Ok(client) = connected else { return false };
        client.set_nodelay(true).ok();
        client.set_read_timeout(Some(ANSWER)).ok();
        self.client = client;
        self.answers()
    }

    /// Whether a byte comes back.
    fn answers(&mut self) -> bool {
        let mut byte = [0];
        let sent = self.client.write_all(b"x").is_ok();
        let came = sent && self.client.read(&mut byte).is_ok_and(|count| count == 1);
        // Only the newest question counts.
        self.client.set_nonblocking(true).ok();
        let mut late = [0; 256];
        while self.client.read(&mut late).is_ok_and(|count| count > 0) {}
        self.client.set_nonblocking(false).ok();
        came
    }

    fn pid(&self) -> anyhow::Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.packets.0.id())?))
    }

    fn renew(&self) -> Deadline {
        let deadline = Deadline::at(boot::now().plus(TTL));
        self.page.set_site_deadline(deadline);
        deadline
    }
}

fn echo(mut stream: TcpStream) {
    stream.set_nodelay(true).ok();
    let mut bytes = [0; 256];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

fn tables() -> String {
    tools::run("nft", &["list", "tables"]).unwrap_or_default()
}

#[test]
fn what_is_sent_after_the_deadline_is_refused_while_everything_is_stopped() {
    if lacks(NEEDS) {
        return;
    }
    let mut bed = Bed::start().expect("a server with its packet filter");
    assert!(bed.answers(), "nothing writable runs, so nothing is refused");

    // Renewed for twice the TTL: every answer comes.
    bed.renew();
    bed.page.set_guard(Guard::ByDeadline);
    let begun = boot::now();
    let mut answers = 0;
    while boot::now().since(begun) < TTL * 2 {
        bed.renew();
        assert!(bed.answers(), "answer {answers} was refused in the middle of a right");
        answers += 1;
        boot::pause(Duration::from_millis(100));
    }

    // Stopped with a right that goes on for a moment: the kernel ends it alone.
    let deadline = bed.renew();
    boot::pause(Duration::from_millis(300));
    let stopped = Stopped::these([bed.pid().expect("it runs")]).expect("it stops");
    assert!(bed.answers(), "the right goes on");
    let mut last = boot::now();
    while boot::now() < deadline.instant().plus(TTL) {
        if bed.answers() {
            last = boot::now();
        }
    }
    assert!(last <= deadline.instant(), "answered {:?} after D", last.since(deadline.instant()));
    let early = deadline.instant().since(last);
    assert!(early < KAPPA + ANSWER * 2, "refused {early:?} before D");
    say(format!("{answers} answers within rights; the last one {early:?} before D"));

    // It goes on with the old deadline: still closed. A new right opens, and so does the end of all.
    stopped.go_on();
    boot::pause(Duration::from_millis(300));
    assert!(!bed.answers_anew(), "no right, no answer");
    bed.renew();
    boot::until(SOON, || bed.answers_anew().then_some(())).expect("a new right");
    let over = boot::until(SOON, || (!bed.answers()).then_some(()));
    over.expect("the end of it");
    bed.page.set_guard(Guard::Off);
    // What was refused never comes later, not even from the session that it was sent in.
    let mut late = [0; 16];
    let of_before = bed.client.try_clone().expect("the session of before");
    boot::until(SOON, || bed.answers_anew().then_some(())).expect("reads, once nothing writes");
    let came = (&of_before).read(&mut late);
    assert!(!matches!(came, Ok(1..)), "a refused answer came after all: {came:?}");

    let table = bed.table();
    kill(bed.pid().expect("it runs"), Signal::SIGTERM).expect("it is told to end");
    let gone = || (!tables().contains(&table)).then_some(());
    boot::until(SOON, gone).expect("it takes its table away");
}
