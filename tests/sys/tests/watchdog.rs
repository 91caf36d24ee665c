//! The emulated watchdog against a client that uses it as programs use /dev/watchdog.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;
use regent_test_sys::cgroup::Node;
use regent_test_sys::process::lives;
use regent_test_sys::tools::{Owned, command};
use regent_test_sys::watchdog::{Device, Event, NEEDS, Quirk, Reset};
use regent_test_sys::{Need, boot, lacks};

const SOON: Duration = Duration::from_secs(10);

/// linux/watchdog.h
mod calls {
    #![expect(unsafe_code, reason = "ioctl(2) is; each number goes with the size it names")]

    #[repr(C)]
    #[derive(Debug, Default)]
    pub(super) struct Info {
        pub(super) options: u32,
        firmware: u32,
        pub(super) identity: [u8; 32],
    }

    nix::ioctl_read!(get_support, b'W', 0, Info);
    nix::ioctl_read!(keepalive, b'W', 5, i32);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, i32);
    nix::ioctl_read!(get_timeout, b'W', 7, i32);
    nix::ioctl_read!(get_timeleft, b'W', 10, i32);
    nix::ioctl_read!(unknown, b'W', 99, i32);

    /// A call with an argument that it may write to.
    pub(super) fn call<T>(
        f: unsafe fn(i32, *mut T) -> nix::Result<i32>,
        fd: i32,
        mut argument: T,
    ) -> nix::Result<T> {
        // SAFETY: the pointer is valid for the call, and `f` names the type it points to.
        unsafe { f(fd, &raw mut argument) }.map(|_| argument)
    }

    /// A ping with no argument at all, as most programs send it.
    pub(super) fn ping(fd: i32) -> nix::Result<i32> {
        // SAFETY: the device takes KEEPALIVE without looking at the argument.
        unsafe { keepalive(fd, std::ptr::null_mut()) }
    }
}
use calls::call;

struct Place {
    dir: tempfile::TempDir,
    device: Device,
}

/// A device, or `None` where none can be.
fn place(reset: Reset, quirks: &[Quirk]) -> Option<Place> {
    if lacks(NEEDS) {
        return None;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let quirks = quirks.iter().copied();
    let device =
        Device::with(&dir.path().join("watchdog"), &dir.path().join("data"), reset, quirks);
    Some(Place { dir, device: device.expect("a device") })
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

fn error<T: std::fmt::Debug>(result: std::io::Result<T>) -> Option<Errno> {
    result.expect_err("it must fail").raw_os_error().map(Errno::from_raw)
}

#[test]
fn it_takes_the_calls_of_a_watchdog_and_disarms_by_magic_close() {
    let Some(Place { device, .. }) = place(Reset::nothing(), &[]) else { return };
    let mut file = open(device.path()).expect("it opens");
    assert_eq!(error(open(device.path())), Some(Errno::EBUSY));
    let fd = file.as_raw_fd();
    let info = call(calls::get_support, fd, calls::Info::default()).expect("support");
    assert_eq!(info.options, 0x8000 | 0x0100 | 0x0080);
    assert!(info.identity.starts_with(b"regent test watchdog\0"));
    assert_eq!(call(calls::get_timeout, fd, 0), Ok(60));
    assert_eq!(call(calls::set_timeout, fd, 7), Ok(7));
    assert_eq!(call(calls::get_timeout, fd, 0), Ok(7));
    assert_eq!(call(calls::set_timeout, fd, 0), Err(Errno::EINVAL));
    assert!((6..=7).contains(&call(calls::get_timeleft, fd, 0).expect("time left")));
    assert_eq!(calls::ping(fd), Ok(0));
    assert_eq!(call(calls::unknown, fd, 0), Err(Errno::ENOTTY));
    file.write_all(b"x").expect("a ping too");
    assert!(device.armed());
    file.write_all(b"V").expect("the magic");
    drop(file);
    let trace = device.trace();
    trace.first(SOON, |e| matches!(e, Event::Closed { disarmed: true, .. })).expect("disarmed");
    assert!(!device.armed());
    assert_eq!(trace.pings(), 3);
    let stamps: Vec<_> = trace.all().into_iter().map(|happened| happened.at).collect();
    assert!(stamps.is_sorted() && stamps.last() < Some(&boot::now()));
}

#[test]
fn closed_without_the_magic_it_expires_and_resets_the_node() {
    if lacks(&[Need::Root, Need::Fuse, Need::Cgroups]) {
        return;
    }
    let child = Owned(command("sleep").arg("600").spawn().expect("sleep starts"));
    let pid = Pid::from_raw(child.0.id().try_into().expect("a pid"));
    let node = Node::of([pid]).expect("a group");
    let reset = Reset::cgroup(node.group().dir().to_owned());
    let Some(Place { device, .. }) = place(reset, &[]) else { return };
    let mut file = open(device.path()).expect("it opens");
    call(calls::set_timeout, file.as_raw_fd(), 1).expect("one second");
    file.write_all(b"V").expect("the magic");
    // Any other byte after it takes it back.
    file.write_all(b"x").expect("a ping");
    let pinged = device.trace().all().last().expect("the ping").at;
    drop(file);
    assert!(lives(pid));
    let trace = device.trace();
    let expired = trace.first(SOON, |e| *e == Event::Expired).expect("it expires");
    let late = expired.since(pinged.plus(Duration::from_secs(1)));
    assert!(
        expired >= pinged.plus(Duration::from_secs(1)) && late < Duration::from_millis(200),
        "{late:?} late"
    );
    trace.first(SOON, |e| *e == Event::Reset { killed: Ok(1) }).expect("one killed");
    assert!(!lives(pid));
}

#[test]
fn a_pinged_device_does_not_expire_and_a_killed_holder_leaves_it_armed() {
    let Some(Place { device, .. }) = place(Reset::nothing(), &[]) else { return };
    let mut file = open(device.path()).expect("it opens");
    call(calls::set_timeout, file.as_raw_fd(), 1).expect("one second");
    for _ in 0..15 {
        boot::pause(Duration::from_millis(100));
        file.write_all(b"x").expect("a ping");
    }
    assert!(device.trace().first(Duration::ZERO, |e| *e == Event::Expired).is_none());
    drop(file);
    device
        .trace()
        .first(SOON, |e| matches!(e, Event::Closed { disarmed: false, .. }))
        .expect("closed");
    device.trace().first(SOON, |e| *e == Event::Expired).expect("it expires");
    // Another program, killed while it holds the device.
    let line = format!("exec 3>{}; exec sleep 600", device.path().display());
    let mut holder = Owned(command("sh").args(["-c", &line]).spawn().expect("sh starts"));
    let by_other = |e: &Event| matches!(e, Event::Opened { by, .. } if *by != Pid::this());
    let opened = device.trace().first(SOON, by_other).expect("it opens");
    holder.0.kill().expect("it is ours");
    let closed = device.trace().wait(SOON, |events| {
        let mut later = events.iter().filter(|happened| happened.at > opened);
        later.find_map(|happened| match happened.event {
            Event::Closed { disarmed, .. } => Some(disarmed),
            _ => None,
        })
    });
    assert_eq!(closed, Some(false));
    assert!(device.armed());
}

#[test]
fn an_unprivileged_user_may_open_it() {
    let Some(Place { device, dir }) = place(Reset::nothing(), &[]) else { return };
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), all).expect("the directory can be entered");
    let line = format!("printf V >{}", device.path().display());
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", &line];
    assert!(command("setpriv").args(user).status().expect("setpriv runs").success());
    device
        .trace()
        .first(SOON, |e| matches!(e, Event::Closed { disarmed: true, .. }))
        .expect("used");
}

#[test]
fn closing_tells_who_still_lives_in_the_data_directory() {
    let Some(Place { device, dir }) = place(Reset::nothing(), &[]) else { return };
    let data = dir.path().join("data");
    std::fs::create_dir(&data).expect("a directory");
    let child = command("sleep").arg("600").current_dir(&data).spawn().expect("sleep starts");
    let child = Owned(child);
    let pid = Pid::from_raw(child.0.id().try_into().expect("a pid"));
    open(device.path()).expect("it opens").write_all(b"V").expect("the magic");
    let processes = vec![pid];
    let wanted = Event::Closed { disarmed: true, processes };
    device.trace().first(SOON, |e| *e == wanted).expect("it is told");
}

/// What a program meets with each quirk: the call that fails, and how.
#[test]
fn every_quirk_is_met_where_it_should_be() {
    for quirk in Quirk::EACH {
        let Some(Place { device, .. }) = place(Reset::nothing(), &[quirk]) else { return };
        let opened = open(device.path());
        if let Quirk::Open(wanted) = quirk {
            assert_eq!(error(opened), Some(wanted));
            assert!(!device.armed());
            continue;
        }
        let mut file = opened.expect("it opens");
        let fd = file.as_raw_fd();
        let options = call(calls::get_support, fd, calls::Info::default()).map(|i| i.options);
        let set = call(calls::set_timeout, fd, 7);
        let pinged = calls::ping(fd).map(|_| ());
        let armed = device.armed();
        // One that knows magic close would go on without it.
        if quirk != Quirk::NoMagicClose {
            file.write_all(b"V").ok();
        }
        drop(file);
        let closed = device.trace().wait(SOON, |events| match events.last()?.event {
            Event::Closed { disarmed, .. } => Some(disarmed),
            _ => None,
        });
        let seen = (options, set, pinged, closed.expect("closed"));
        assert_eq!(armed, quirk != Quirk::NoSupport, "{}", quirk.name());
        let all = 0x8180;
        let wanted = match quirk {
            Quirk::Open(_) => unreachable!("met above"),
            Quirk::NoSupport => (Err(Errno::ENOTTY), Ok(7), Ok(()), true),
            Quirk::FixedTimeout => (Ok(0x8100), Err(Errno::EOPNOTSUPP), Ok(()), true),
            Quirk::SetTimeout(error) => (Ok(all), Err(error), Ok(()), true),
            Quirk::Grants(seconds) => {
                (Ok(all), Ok(i32::try_from(seconds).expect("small")), Ok(()), true)
            }
            Quirk::Ping(error) => (Ok(all), Ok(7), Err(error), true),
            Quirk::NoMagicClose => (Ok(0x8080), Ok(7), Ok(()), true),
            Quirk::NoWayOut => (Ok(all), Ok(7), Ok(()), false),
        };
        assert_eq!(seen, wanted, "{}", quirk.name());
    }
}
