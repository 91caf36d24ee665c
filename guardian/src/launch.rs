//! How a guardian is started: the arguments, made by the agent and read by the program.
//!
//! The page is best handed over as standard input (`page_fd` 0), which needs no inherited
//! descriptor beside the three; the guardian gives PostgreSQL /dev/null instead. It makes its own
//! session, so it must not be started as the leader of a process group.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What a guardian guards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// It starts PostgreSQL as its child: the program and its arguments.
    Start(Vec<OsString>),
    /// It guards a postmaster that lives already.
    Adopt {
        /// Its process number.
        pid: i32,
        /// Its start time in clock ticks since boot.
        start: u64,
    },
}

/// Everything that a guardian is told before it starts. The rest stands in the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Descriptor of the page.
    pub page_fd: i32,
    /// The data directory.
    pub data_dir: PathBuf,
    /// File that it holds a lock on for its life: one guardian a run directory.
    pub lock: PathBuf,
    /// Watchdog device.
    pub watchdog: Option<PathBuf>,
    /// What it guards.
    pub server: Server,
}

/// Arguments that make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// An option that there is not.
    #[error(
        "unknown argument {0:?}; it takes --page-fd N --data-dir DIR --lock FILE [--watchdog DEVICE] \
         and either --adopt PID,STARTTIME or -- PROGRAM ARGUMENT…"
    )]
    Unknown(OsString),
    /// An option without its value.
    #[error("{0} needs a value")]
    NoValue(&'static str),
    /// A value that is none.
    #[error("{option} {value:?}: wanted {wanted}")]
    Value {
        /// The option.
        option: &'static str,
        /// What was given.
        value: OsString,
        /// What is accepted.
        wanted: &'static str,
    },
    /// Something that must be there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Both at once.
    #[error("--adopt and a program to start exclude each other")]
    Both,
}

/// Why a guardian did not begin to guard: its exit code. Codes below and above belong to PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum StartFailure {
    /// Its arguments make no sense.
    Usage = 64,
    /// The page is none.
    Page = 65,
    /// Another guardian holds the lock, or there is no lock to be had.
    Lock = 66,
    /// The data directory, /proc or another thing that it opens first.
    Open = 67,
    /// Signals, timer, or another thing of the kernel's.
    System = 68,
    /// The process to adopt is not there, or it is another one of the same number.
    Adopt = 69,
    /// A watchdog is required and can't be armed: the page says which step failed.
    Watchdog = 70,
    /// No process could be made for PostgreSQL.
    Fork = 71,
    /// The program could not be run.
    Exec = 72,
}

impl StartFailure {
    /// Every one.
    pub const ALL: &[Self] = &[
        Self::Usage,
        Self::Page,
        Self::Lock,
        Self::Open,
        Self::System,
        Self::Adopt,
        Self::Watchdog,
        Self::Fork,
        Self::Exec,
    ];

    /// The exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Which one an exit code means, if any.
    #[must_use]
    pub fn of_code(code: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|failure| i32::from(failure.code()) == code)
    }
}

impl Launch {
    /// The arguments for the program.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            vec!["--page-fd".into(), self.page_fd.to_string().into()];
        let paths = [
            ("--data-dir", Some(&self.data_dir)),
            ("--lock", Some(&self.lock)),
            ("--watchdog", self.watchdog.as_ref()),
        ];
        for (option, path) in paths {
            if let Some(path) = path {
                arguments.extend([option.into(), path.into()]);
            }
        }
        match &self.server {
            Server::Start(command) => {
                arguments.push("--".into());
                arguments.extend(command.iter().cloned());
            }
            Server::Adopt { pid, start } => {
                arguments.extend(["--adopt".into(), format!("{pid},{start}").into()]);
            }
        }
        arguments
    }

    /// Reads the arguments, without the program's own name.
    ///
    /// # Errors
    /// When they are not what [`Self::arguments`] makes.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, LaunchError> {
        let mut arguments = arguments.into_iter();
        let (mut page_fd, mut data_dir, mut lock) = (None, None, None);
        let (mut watchdog, mut adopt, mut start) = (None, None, None);
        while let Some(argument) = arguments.next() {
            let mut value = |option| arguments.next().ok_or(LaunchError::NoValue(option));
            match argument.as_bytes() {
                b"--page-fd" => page_fd = Some(descriptor(value("--page-fd")?)?),
                b"--data-dir" => data_dir = Some(value("--data-dir")?.into()),
                b"--lock" => lock = Some(value("--lock")?.into()),
                b"--watchdog" => watchdog = Some(value("--watchdog")?.into()),
                b"--adopt" => adopt = Some(process(value("--adopt")?)?),
                b"--" => {
                    start = Some(arguments.by_ref().collect::<Vec<_>>());
                }
                _ => return Err(LaunchError::Unknown(argument)),
            }
        }
        let server = match (adopt, start) {
            (Some(_), Some(_)) => return Err(LaunchError::Both),
            (Some((pid, start)), None) => Server::Adopt { pid, start },
            (None, Some(command)) if !command.is_empty() => Server::Start(command),
            (None, _) => return Err(LaunchError::Missing("--adopt PID,STARTTIME or -- PROGRAM")),
        };
        Ok(Self {
            page_fd: page_fd.ok_or(LaunchError::Missing("--page-fd"))?,
            data_dir: data_dir.ok_or(LaunchError::Missing("--data-dir"))?,
            lock: lock.ok_or(LaunchError::Missing("--lock"))?,
            watchdog,
            server,
        })
    }
}

fn descriptor(value: OsString) -> Result<i32, LaunchError> {
    // 1 and 2 are PostgreSQL's log.
    let number = value.to_str().and_then(|text| text.parse().ok());
    number.filter(|fd| *fd == 0 || *fd > 2).ok_or(LaunchError::Value {
        option: "--page-fd",
        value,
        wanted: "the number of a descriptor, neither 1 nor 2",
    })
}

fn process(value: OsString) -> Result<(i32, u64), LaunchError> {
    let parse = |text: &OsStr| {
        let (pid, start) = text.to_str()?.split_once(',')?;
        Some((pid.parse().ok().filter(|pid| *pid > 1)?, start.parse().ok()?))
    };
    parse(&value).ok_or(LaunchError::Value {
        option: "--adopt",
        value,
        wanted: "PID,STARTTIME as in field 22 of /proc/PID/stat",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(server: Server) -> Launch {
        Launch {
            page_fd: 0,
            data_dir: "/data".into(),
            lock: "/run/guardian.lock".into(),
            watchdog: Some("/dev/watchdog".into()),
            server,
        }
    }

    #[test]
    fn what_is_made_is_read() {
        let start = Server::Start(vec!["/bin/postgres".into(), "--lock".into(), "--".into()]);
        for server in [start, Server::Adopt { pid: 77, start: 5 }] {
            let launch = launch(server);
            assert_eq!(Launch::parse(launch.arguments()), Ok(launch));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let full = launch(Server::Adopt { pid: 77, start: 5 }).arguments();
        let text =
            |arguments: Vec<OsString>| Launch::parse(arguments).expect_err("refused").to_string();
        let changed = |at: usize, to: &str| {
            let mut arguments = full.clone();
            arguments[at] = to.into();
            text(arguments)
        };
        for (at, to) in
            [(1, "2"), (1, "x"), (1, "-1"), (9, "77"), (9, "1,5"), (9, "0,5"), (9, "a,b")]
        {
            assert!(changed(at, to).contains("wanted"), "{to}");
        }
        assert!(changed(0, "--pagefd").contains("--page-fd N"));
        assert_eq!(text(full[..1].to_vec()), "--page-fd needs a value");
        assert_eq!(text(full[..2].to_vec()), "--adopt PID,STARTTIME or -- PROGRAM is missing");
        assert_eq!(text(full[2..].to_vec()), "--page-fd is missing");
        let both = [full.clone(), vec!["--".into(), "x".into()]].concat();
        assert!(text(both).contains("exclude"));
        let nothing = [full[..8].to_vec(), vec!["--".into()]].concat();
        assert!(text(nothing).contains("missing"));
    }
}
