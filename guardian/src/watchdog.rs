//! The watchdog device over the kernel's ioctls (Documentation/watchdog/watchdog-api.rst).
//!
//! Opening it starts it, so it is opened only to arm it; from then on this process has to ping it.
//! It need not be a character device: a FUSE file answers the same ioctls.

use std::ffi::CString;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use rustix::fs::{CWD, Mode, OFlags};

use crate::page::WatchdogStep;
use crate::tend::{Device, Failure, Terms};

/// `struct watchdog_info` of linux/watchdog.h.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct Info {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

/// WDIOF_SETTIMEOUT: its timeout can be set.
const CAN_SET_TIMEOUT: u32 = 0x0080;
/// WDIOF_MAGICCLOSE: it goes on counting when its process dies, and stops when told.
const HAS_MAGIC_CLOSE: u32 = 0x0100;

mod ioctl {
    //! The calls of linux/watchdog.h.
    nix::ioctl_read!(get_support, b'W', 0, super::Info);
    nix::ioctl_read!(keep_alive, b'W', 5, libc::c_int);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, libc::c_int);
    nix::ioctl_read!(get_timeout, b'W', 7, libc::c_int);
}

/// An open device, which counts.
#[derive(Debug)]
pub struct Watchdog {
    fd: OwnedFd,
    granted: Duration,
    magic_close: bool,
    settable: bool,
}

/// The path as the system takes it, made before memory is locked.
#[must_use]
pub fn device(path: &std::path::Path) -> Option<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).ok()
}

fn failure(step: WatchdogStep, errno: i32) -> Failure {
    Failure { step, errno, granted: Duration::ZERO }
}

impl Watchdog {
    /// Opens it, sets its timeout and pings it. What is refused is stopped again.
    ///
    /// # Errors
    /// With the step that failed.
    pub fn arm(device: &CString, terms: &Terms) -> Result<Self, Failure> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, device, flags, Mode::empty())
            .map_err(|errno| failure(WatchdogStep::Open, errno.raw_os_error()))?;
        let mut watchdog =
            Self { fd, granted: Duration::ZERO, magic_close: false, settable: false };
        match watchdog.set_up(terms) {
            Ok(()) => Ok(watchdog),
            // A file that knows no ioctl of ours is none of ours to write to.
            Err(refused) if refused.errno == libc::ENOTTY => Err(refused),
            Err(refused) => {
                // What went wrong first is what is told.
                watchdog.disarm().ok();
                Err(refused)
            }
        }
    }

    fn set_up(&mut self, terms: &Terms) -> Result<(), Failure> {
        let mut info = Info::default();
        // SAFETY: GETSUPPORT writes one `watchdog_info`, whose layout `Info` has.
        unsafe { ioctl::get_support(self.fd.as_raw_fd(), &raw mut info) }
            .map_err(|errno| failure(WatchdogStep::Support, errno as i32))?;
        self.magic_close = info.options & HAS_MAGIC_CLOSE != 0;
        self.settable = info.options & CAN_SET_TIMEOUT != 0;
        self.set(terms.timeout)?;
        terms.accept(self.granted, self.magic_close)?;
        self.ping()
    }
}

impl Device for Watchdog {
    fn granted(&self) -> Duration {
        self.granted
    }

    fn magic_close(&self) -> bool {
        self.magic_close
    }

    fn set(&mut self, timeout: Duration) -> Result<(), Failure> {
        let at = |errno: Errno| failure(WatchdogStep::SetTimeout, errno as i32);
        let mut seconds = libc::c_int::try_from(timeout.as_secs()).unwrap_or(libc::c_int::MAX);
        if self.settable {
            // SAFETY: SETTIMEOUT reads and writes one int.
            unsafe { ioctl::set_timeout(self.fd.as_raw_fd(), &raw mut seconds) }.map_err(at)?;
        }
        // A device may set another one than it was asked for, and not say so in its answer.
        // SAFETY: GETTIMEOUT writes one int.
        unsafe { ioctl::get_timeout(self.fd.as_raw_fd(), &raw mut seconds) }.map_err(at)?;
        match u64::try_from(seconds) {
            Ok(seconds @ 1..) => {
                self.granted = Duration::from_secs(seconds);
                Ok(())
            }
            Ok(0) | Err(_) => Err(failure(WatchdogStep::SetTimeout, 0)),
        }
    }

    fn ping(&self) -> Result<(), Failure> {
        let mut ignored = 0;
        // SAFETY: KEEPALIVE is declared to write an int; most devices don't.
        unsafe { ioctl::keep_alive(self.fd.as_raw_fd(), &raw mut ignored) }
            .map(|_| ())
            .map_err(|errno| failure(WatchdogStep::Ping, errno as i32))
    }

    fn disarm(self) -> Result<(), Failure> {
        let written = rustix::io::write(&self.fd, b"V");
        // SAFETY: the descriptor is ours, and given up here. Closing reports errors; dropping does not.
        let closed = unsafe { libc::close(self.fd.into_raw_fd()) };
        match written {
            Ok(1) if closed == 0 => Ok(()),
            Ok(_) => Err(failure(WatchdogStep::Close, Errno::last_raw())),
            Err(errno) => Err(failure(WatchdogStep::Close, errno.raw_os_error())),
        }
    }
}
