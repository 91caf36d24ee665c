//! Starting the postmaster: fork and exec, with everything prepared before, as nothing may be
//! allocated between them.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::prepare::IGNORED;

/// A program with what its start needs.
pub(super) struct Command {
    /// Ends with null; points into `arguments`.
    argv: Vec<*const libc::c_char>,
    _arguments: Vec<CString>,
    null: File,
    oom_score: Vec<u8>,
    report: (OwnedFd, OwnedFd),
}

impl Command {
    pub(super) fn new(command: &[OsString], oom_score: Vec<u8>) -> io::Result<Self> {
        let arguments = command.iter().map(|part| CString::new(part.clone().into_vec()));
        let arguments: Vec<CString> = arguments.collect::<Result<_, _>>()?;
        let argv = arguments.iter().map(|argument| argument.as_ptr());
        Ok(Self {
            argv: argv.chain([std::ptr::null()]).collect(),
            _arguments: arguments,
            null: File::open("/dev/null")?,
            oom_score,
            report: pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?,
        })
    }

    /// Starts it. Its number, and where it says why it could not be run.
    pub(super) fn start(self) -> io::Result<(i32, File)> {
        // SAFETY: this program has one thread, and the child makes system calls only.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => self.become_it(),
            pid => Ok((pid, File::from(self.report.0))),
        }
    }

    /// The child: gives up what is the guardian's, then becomes the program.
    fn become_it(&self) -> ! {
        // SAFETY: a process group of its own; it is no session leader.
        unsafe { libc::setpgid(0, 0) };
        let ordinary = libc::sched_param { sched_priority: 0 };
        // SAFETY: reads `ordinary`. Where the reset on fork was not permitted, this is it.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const ordinary) };
        // SAFETY: a static path, no creation.
        let score = unsafe { libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY) };
        if score >= 0 {
            // SAFETY: `oom_score` outlives the call.
            unsafe { libc::write(score, self.oom_score.as_ptr().cast(), self.oom_score.len()) };
            // SAFETY: opened above.
            unsafe { libc::close(score) };
        }
        // SAFETY: both open. The page, which may be standard input, is the guardian's.
        if unsafe { libc::dup2(self.null.as_raw_fd(), 0) } < 0 {
            self.give_up();
        }
        for signal in IGNORED {
            // SAFETY: the default action; ignored signals would stay ignored through exec.
            unsafe { libc::signal(*signal as libc::c_int, libc::SIG_DFL) };
        }
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: initialises `none`.
        unsafe { libc::sigemptyset(none.as_mut_ptr()) };
        // SAFETY: `none` was initialised.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
        if let Some(program) = self.argv.first() {
            // SAFETY: `argv` ends with null, its strings live in `self`.
            unsafe { libc::execvp(*program, self.argv.as_ptr()) };
        }
        self.give_up()
    }

    fn give_up(&self) -> ! {
        let errno = Errno::last_raw().to_ne_bytes();
        // SAFETY: four bytes that live on this stack; a pipe takes them at once.
        unsafe { libc::write(self.report.1.as_raw_fd(), errno.as_ptr().cast(), errno.len()) };
        // SAFETY: ends this process without running anything of the parent's.
        unsafe { libc::_exit(127) }
    }
}

/// Why the program could not be run; asked once it has ended.
pub(super) fn failure(mut report: &File) -> Option<Errno> {
    let mut errno = [0; 4];
    report.read_exact(&mut errno).ok()?;
    Some(Errno::from_raw(i32::from_ne_bytes(errno)))
}
