//! The file that is the device: FUSE requests in, the device's answers out.
//!
//! The kernel passes an ioctl's argument by the size and direction that its number says
//! (restricted ioctls, Documentation/filesystems/fuse/fuse.rst): enough for all of WDIOC_*, except
//! SETOPTIONS, whose number claims that it only reads. Disarming is by 'V' then.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, IoctlFlags, LockOwner,
    OpenFlags, ReplyAttr, ReplyEmpty, ReplyIoctl, ReplyOpen, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use nix::errno::Errno;
use nix::unistd::Pid;

use super::device::Shared;

// linux/watchdog.h: _IOR('W', 0, struct watchdog_info), and _IOR or _IOWR of int for the others.
const GETSUPPORT: u32 = 0x8028_5700;
const GETSTATUS: u32 = 0x8004_5701;
const GETBOOTSTATUS: u32 = 0x8004_5702;
const KEEPALIVE: u32 = 0x8004_5705;
const SETTIMEOUT: u32 = 0xc004_5706;
const GETTIMEOUT: u32 = 0x8004_5707;
const GETTIMELEFT: u32 = 0x8004_570a;

/// How long the kernel may keep the attributes, which never change.
const KEEP: Duration = Duration::from_secs(3600);

pub(super) struct WatchdogFile(pub(super) Arc<Shared>);

fn attributes() -> FileAttr {
    FileAttr {
        ino: INodeNo::ROOT,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0o666,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        blksize: 512,
    }
}

fn fuse(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error as i32)
}

fn number(data: &[u8]) -> Result<u32, Errno> {
    let bytes = data.try_into().map_err(|_| Errno::EINVAL)?;
    u32::try_from(i32::from_ne_bytes(bytes)).map_err(|_| Errno::EINVAL)
}

impl WatchdogFile {
    fn control(&self, command: u32, data: &[u8]) -> Result<Vec<u8>, Errno> {
        let device = &self.0;
        let int = |value: u32| value.to_ne_bytes().to_vec();
        match command {
            GETSUPPORT => {
                let options = device.support()?;
                let mut info = [options.to_ne_bytes(), 1_u32.to_ne_bytes()].concat();
                info.extend_from_slice(b"regent test watchdog");
                info.resize(40, 0);
                Ok(info)
            }
            GETSTATUS | GETBOOTSTATUS => Ok(int(0)),
            // Drivers take it with any argument, also none: nothing is copied back.
            KEEPALIVE => device.ping().map(|()| Vec::new()),
            SETTIMEOUT => device.set_timeout(number(data)?).map(int),
            GETTIMEOUT => Ok(int(device.timeout())),
            GETTIMELEFT => Ok(int(device.seconds_left())),
            unknown => Err(device.unknown(unknown)),
        }
    }
}

impl Filesystem for WatchdogFile {
    fn getattr(&self, _: &Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&KEEP, &attributes());
    }

    // Opening with O_TRUNC, or chmod and chown by whoever prepares a lab: taken, without effect.
    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&KEEP, &attributes());
    }

    fn open(&self, request: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.0.open(Pid::from_raw(i32::try_from(request.pid()).unwrap_or(0))) {
            Ok(()) => reply
                .opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NONSEEKABLE),
            Err(error) => reply.error(fuse(error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.0.write(data) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(fuse(error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.0.close();
        reply.ok();
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        command: u32,
        data: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        match self.control(command, data) {
            Ok(answer) => reply.ioctl(0, &answer),
            Err(error) => reply.error(fuse(error)),
        }
    }
}
