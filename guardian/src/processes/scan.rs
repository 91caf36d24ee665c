//! One pass over /proc (proc(5)) without allocation. Links are read, never followed: following one
//! would wait for the disk behind it.

use std::ffi::CStr;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use super::title::{Kind, kind};

/// PF_EXITING of include/linux/sched.h: it runs no instruction of its program any more.
const EXITING: u64 = 0x4;
/// Room for names of one getdents64(2).
const NAMES: usize = 16 * 1024;
/// Room for a path; longer than any that a server can work in (PATH_MAX).
const PATH: usize = 4096;

/// What makes a process one of the data directory.
#[derive(Debug, Clone, Copy)]
pub struct Family<'a> {
    /// True path of the data directory.
    pub data_dir: &'a [u8],
    /// The postmaster, while it lives: a number may be another's afterwards.
    pub postmaster: Option<i32>,
    /// Who adopts its orphans.
    pub reaper: Option<i32>,
}

/// A process, as /proc/PID/stat shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Number.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Letter of its state.
    pub state: u8,
    /// Kernel flags.
    pub flags: u64,
    /// Start time in clock ticks since boot.
    pub start: u64,
}

impl Process {
    /// A zombie, or about to leave no trace.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// On its way out: it may still hold on to something, but acknowledges nothing.
    #[must_use]
    pub fn is_exiting(&self) -> bool {
        self.flags & EXITING != 0
    }
}

/// An open /proc with the buffers that a scan needs.
#[derive(Debug)]
pub struct Scanner {
    proc: OwnedFd,
    names: Box<[MaybeUninit<u8>]>,
    path: Box<[u8]>,
}

impl Scanner {
    /// Opens /proc.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn open() -> std::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            proc: rustix::fs::openat(CWD, c"/proc", flags, Mode::empty())?,
            names: vec![MaybeUninit::uninit(); NAMES].into_boxed_slice(),
            path: vec![0; PATH].into_boxed_slice(),
        })
    }

    /// Tells `found` every process of the family that is no zombie.
    ///
    /// # Errors
    /// When /proc or a process in it can't be read for want of something: then the pass is not
    /// complete, and "none found" means nothing.
    pub fn scan(
        &mut self,
        family: &Family<'_>,
        mut found: impl FnMut(&Process),
    ) -> std::io::Result<()> {
        self.walk(family, |_, _, process| found(process))
    }

    /// The same, with what each is by its title. Reading titles can wait for a disk that swaps, so
    /// nobody does it on the way to a deadline.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn scan_kinds(
        &mut self,
        family: &Family<'_>,
        mut found: impl FnMut(&Process, Kind),
    ) -> std::io::Result<()> {
        self.walk(family, |proc, room, process| {
            let server = Some(process.pid) == family.postmaster;
            let kind = if server { Kind::Harmless } else { kind_of(proc, room, process) };
            found(process, kind);
        })
    }

    fn walk(
        &mut self,
        family: &Family<'_>,
        mut found: impl FnMut(&OwnedFd, &mut [u8], &Process),
    ) -> std::io::Result<()> {
        rustix::fs::seek(&self.proc, SeekFrom::Start(0))?;
        let mut directory = RawDir::new(self.proc.as_fd(), &mut self.names);
        while let Some(entry) = directory.next() {
            let Some(pid) = number(entry?.file_name()) else { continue };
            let Some(process) = stat(&self.proc, pid)? else { continue };
            if !process.is_dead() && belongs(&self.proc, &mut self.path, family, &process)? {
                found(&self.proc, &mut self.path, &process);
            }
        }
        Ok(())
    }

    /// One process; `None` when there is none of that number.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn process(&mut self, pid: i32) -> std::io::Result<Option<Process>> {
        if pid <= 0 { Ok(None) } else { Ok(stat(&self.proc, pid)?) }
    }
}

/// What kind of server process it is, by its title. What can't be read is a client backend.
fn kind_of(proc: &OwnedFd, room: &mut [u8], process: &Process) -> Kind {
    if process.is_exiting() {
        return Kind::Harmless;
    }
    let seen = match read(proc, process.pid, "cmdline", room) {
        Ok(Some(title)) => kind(title),
        Ok(None) | Err(_) => Kind::Client,
    };
    if seen == Kind::Harmless {
        return seen;
    }
    // One that ended since has no title any more: that it had none says nothing, that it ended does.
    match stat(proc, process.pid) {
        Ok(None) => Kind::Harmless,
        Ok(Some(now)) if now.start != process.start || now.is_dead() || now.is_exiting() => {
            Kind::Harmless
        }
        Ok(Some(_)) | Err(_) => Kind::Client,
    }
}

fn number(name: &CStr) -> Option<i32> {
    name.to_str().ok()?.parse().ok().filter(|pid| *pid > 0)
}

/// "PID/NAME" with its terminating zero, in `room`.
fn path_of<'a>(pid: i32, name: &str, room: &'a mut [u8; 32]) -> &'a CStr {
    let mut rest: &mut [u8] = room;
    let written = write!(rest, "{pid}/{name}\0");
    debug_assert!(written.is_ok(), "ten digits and a short name fit");
    CStr::from_bytes_until_nul(room).unwrap_or(c"self")
}

/// The process has gone, or is another user's: not one of ours.
fn absent(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::SRCH | Errno::ACCESS | Errno::PERM)
}

fn read<'a>(
    proc: &OwnedFd,
    pid: i32,
    name: &str,
    room: &'a mut [u8],
) -> Result<Option<&'a [u8]>, Errno> {
    let mut path = [0; 32];
    let path = path_of(pid, name, &mut path);
    let file = match rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    {
        Ok(file) => file,
        Err(errno) if absent(errno) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    match rustix::io::read(&file, &mut *room) {
        Ok(length) => Ok(room.get(..length)),
        Err(errno) if absent(errno) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn stat(proc: &OwnedFd, pid: i32) -> Result<Option<Process>, Errno> {
    let mut room = [0; 1024];
    let Some(text) = read(proc, pid, "stat", &mut room)? else { return Ok(None) };
    // A line that is no line of proc(5) can't be judged: the pass is not complete.
    parse(pid, text).map(Some).ok_or(Errno::INVAL)
}

/// Fields of /proc/PID/stat after the command, which may itself contain anything.
fn parse(pid: i32, stat: &[u8]) -> Option<Process> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    // Fields 5 to 8: group, session, terminal, its group.
    let flags = fields.nth(4)?.parse().ok()?;
    // Fields 10 to 21.
    let start = fields.nth(12)?.parse().ok()?;
    Some(Process { pid, parent, state, flags, start })
}

fn belongs(
    proc: &OwnedFd,
    room: &mut [u8],
    family: &Family<'_>,
    process: &Process,
) -> Result<bool, Errno> {
    let parent = Some(process.parent);
    if Some(process.pid) == family.postmaster
        || parent == family.postmaster
        || parent == family.reaper
    {
        return Ok(true);
    }
    let Some(cwd) = link(proc, process.pid, "cwd", room)? else { return Ok(false) };
    if living(cwd) != family.data_dir {
        return Ok(false);
    }
    Ok(link(proc, process.pid, "exe", room)?.is_some_and(is_postgres))
}

fn link<'a>(
    proc: &OwnedFd,
    pid: i32,
    name: &str,
    room: &'a mut [u8],
) -> Result<Option<&'a [u8]>, Errno> {
    let mut path = [0; 32];
    let path = path_of(pid, name, &mut path);
    match rustix::fs::readlinkat_raw(proc, path, &mut *room) {
        Ok(length) => Ok(room.get(..length)),
        Err(errno) if absent(errno) => Ok(None),
        // A path longer than PATH_MAX is not one that we resolved.
        Err(Errno::NAMETOOLONG) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A file or directory that was removed or replaced shows with this at its end.
fn living(path: &[u8]) -> &[u8] {
    path.strip_suffix(b" (deleted)").unwrap_or(path)
}

/// An operator's shell that stands in the directory is no server process.
fn is_postgres(exe: &[u8]) -> bool {
    let exe = living(exe);
    let name = exe.rsplit(|byte| *byte == b'/').next().unwrap_or(exe);
    [b"postgres".as_slice(), b"postmaster", b"edb-postgres", b".postgres-wrapped"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_command_is() {
        let line = b"123 (a ) S 9 (x) R 77 1 2 0 -1 4194308 0 0 0 0 0 0 0 0 20 0 1 0 98765 0 0\n";
        let process = parse(123, line).expect("parsed");
        let wanted = Process { pid: 123, parent: 77, state: b'R', flags: 4_194_308, start: 98_765 };
        assert_eq!(process, wanted);
        assert!(process.is_exiting() && !process.is_dead());
        assert!(parse(1, b"1 (x) S 1").is_none());
        assert!(parse(1, b"").is_none());
    }

    #[test]
    fn servers_are_known_by_their_program() {
        for exe in ["/usr/lib/postgresql/15/bin/postgres", "/x/postgres (deleted)", "/y/postmaster"]
        {
            assert!(is_postgres(exe.as_bytes()), "{exe}");
        }
        for exe in ["/bin/bash", "/usr/bin/postgres_exporter", "/usr/bin/psql", "/postgres/vi", ""]
        {
            assert!(!is_postgres(exe.as_bytes()), "{exe}");
        }
    }
}
