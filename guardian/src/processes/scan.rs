//! One pass over /proc (proc(5)) without allocation. Links are read, never followed: following one
//! would wait for the disk behind it.
//!
//! A process's parent stands in a file, which takes a descriptor to read, and the system may have
//! none left. What takes none: the list of processes, their links, and lists of children that are open
//! already. A pass goes on with these, tells whom it knows, and says that it was not complete.

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
const ROOM: usize = 4096;
/// Room for a list of children: what the kernel gives at once.
const LIST: usize = 4096;
/// Room for "PID/task/PID/children".
const NAME: usize = 48;

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

/// A process of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Number.
    pub pid: i32,
    /// What it is, unless that could not be read.
    pub stat: Option<Process>,
}

/// An open /proc with the buffers that a scan needs.
#[derive(Debug)]
pub struct Scanner {
    proc: OwnedFd,
    children: [Option<OwnedFd>; 2],
    names: Box<[MaybeUninit<u8>]>,
    room: Box<[u8]>,
    list: Box<[u8]>,
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
            children: [None, None],
            names: vec![MaybeUninit::uninit(); NAMES].into_boxed_slice(),
            room: vec![0; ROOM].into_boxed_slice(),
            list: vec![0; LIST].into_boxed_slice(),
        })
    }

    /// Opens the lists of their children (proc(5), `children`): what a later pass that can open
    /// nothing knows them by. They list the children of one thread: a postmaster and a guardian have
    /// only one. A kernel without such lists leaves the links.
    pub fn follow(&mut self, parents: [Option<i32>; 2]) {
        self.children = parents.map(|parent| {
            let mut name = [0; 24];
            let mut rest: &mut [u8] = &mut name;
            write!(rest, "task/{}/children", parent?).ok()?;
            let left = rest.len();
            let name = std::str::from_utf8(name.get(..name.len() - left)?).ok()?;
            open(&self.proc, parent?, name).ok()
        });
    }

    /// Tells `found` every process of the family that is no zombie, also those that come after one
    /// that could not be read; one can be told twice then.
    ///
    /// # Errors
    /// When /proc or a process in it can't be read for want of something: then the pass is not
    /// complete, and "none found" means nothing.
    pub fn scan(
        &mut self,
        family: &Family<'_>,
        mut found: impl FnMut(&Member),
    ) -> std::io::Result<()> {
        self.walk(family, |_, _, member| found(member))
    }

    /// The same, with what each is by its title. Reading titles can wait for a disk that swaps, so
    /// nobody does it on the way to a deadline.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn scan_kinds(
        &mut self,
        family: &Family<'_>,
        mut found: impl FnMut(&Member, Kind),
    ) -> std::io::Result<()> {
        self.walk(family, |proc, room, member| {
            let server = Some(member.pid) == family.postmaster;
            let kind = match &member.stat {
                _ if server => Kind::Harmless,
                Some(process) => kind_of(proc, room, process),
                None => Kind::Client,
            };
            found(member, kind);
        })
    }

    fn walk(
        &mut self,
        family: &Family<'_>,
        mut found: impl FnMut(&OwnedFd, &mut [u8], &Member),
    ) -> std::io::Result<()> {
        let mut whole = rustix::fs::seek(&self.proc, SeekFrom::Start(0)).map(drop);
        let mut directory = RawDir::new(self.proc.as_fd(), &mut self.names);
        while let Some(entry) = directory.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(errno) => {
                    whole = Err(errno);
                    break;
                }
            };
            let Some(pid) = number(entry.file_name()) else { continue };
            // Whoever can't be read may be anybody's: the others still are who they are.
            let stat = match stat(&self.proc, pid) {
                Ok(None) => continue,
                Ok(Some(process)) if process.is_dead() => continue,
                Ok(Some(process)) => Some(process),
                Err(errno) => {
                    whole = Err(errno);
                    None
                }
            };
            let member = Member { pid, stat };
            match belongs(&self.proc, &mut self.room, family, &member) {
                Ok(true) => found(&self.proc, &mut self.room, &member),
                Ok(false) => {}
                Err(errno) => whole = Err(errno),
            }
        }
        if whole.is_err() {
            for list in self.children.iter().flatten() {
                // The list of one that has ended is empty, or an error.
                let length = rustix::io::pread(list, &mut *self.list, 0).unwrap_or(0);
                for pid in children(self.list.get(..length).unwrap_or_default()) {
                    found(&self.proc, &mut self.room, &Member { pid, stat: None });
                }
            }
        }
        Ok(whole?)
    }

    /// One process; `None` when there is none of that number.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn process(&mut self, pid: i32) -> std::io::Result<Option<Process>> {
        if pid <= 0 { Ok(None) } else { Ok(stat(&self.proc, pid)?) }
    }
}

/// The numbers of a list of children, each with a space behind it. A last one without was cut.
fn children(list: &[u8]) -> impl Iterator<Item = i32> {
    let whole = list.iter().rposition(|byte| *byte == b' ').map_or(0, |space| space + 1);
    let numbers = list.get(..whole).unwrap_or_default().split(|byte| *byte == b' ');
    numbers.filter_map(|text| std::str::from_utf8(text).ok()?.parse().ok()).filter(|pid| *pid > 0)
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
fn path_of<'a>(pid: i32, name: &str, room: &'a mut [u8; NAME]) -> &'a CStr {
    let mut rest: &mut [u8] = room;
    let written = write!(rest, "{pid}/{name}\0");
    debug_assert!(written.is_ok(), "two numbers and a short name fit");
    CStr::from_bytes_until_nul(room).unwrap_or(c"self")
}

/// The process has gone, or is another user's: not one of ours.
fn absent(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::SRCH | Errno::ACCESS | Errno::PERM)
}

fn open(proc: &OwnedFd, pid: i32, name: &str) -> Result<OwnedFd, Errno> {
    let mut path = [0; NAME];
    let path = path_of(pid, name, &mut path);
    rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn read<'a>(
    proc: &OwnedFd,
    pid: i32,
    name: &str,
    room: &'a mut [u8],
) -> Result<Option<&'a [u8]>, Errno> {
    let file = match open(proc, pid, name) {
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
    member: &Member,
) -> Result<bool, Errno> {
    let child = member.stat.is_some_and(|process| {
        let parent = Some(process.parent);
        parent == family.postmaster || parent == family.reaper
    });
    if child || Some(member.pid) == family.postmaster {
        return Ok(true);
    }
    let Some(cwd) = link(proc, member.pid, "cwd", room)? else { return Ok(false) };
    if living(cwd) != family.data_dir {
        return Ok(false);
    }
    Ok(link(proc, member.pid, "exe", room)?.is_some_and(is_postgres))
}

fn link<'a>(
    proc: &OwnedFd,
    pid: i32,
    name: &str,
    room: &'a mut [u8],
) -> Result<Option<&'a [u8]>, Errno> {
    let mut path = [0; NAME];
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
    fn a_list_of_children_is_read_up_to_where_it_was_cut() {
        let read = |list: &[u8]| children(list).collect::<Vec<_>>();
        assert_eq!(read(b"12 345 6 "), [12, 345, 6]);
        assert_eq!(read(b"12 345 6"), [12, 345], "it may be 67");
        assert!(read(b"12").is_empty());
        assert!(read(b"").is_empty());
    }

    /// hazards.md row 78: a postmaster can outlive its directory, and is of it all the same.
    #[test]
    fn a_directory_that_was_removed_is_still_the_one_that_it_was() {
        assert_eq!(living(b"/data (deleted)"), b"/data");
        assert_eq!(living(b"/data"), b"/data");
        assert_ne!(living(b"/data-2 (deleted)"), b"/data");
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
