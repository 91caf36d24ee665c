//! What a former life of this agent left: a page whose guardian lives, or nothing.
//!
//! The run directory's link leads to the page through the guardian's own descriptor, so it works
//! exactly as long as that guardian does. Taking it over grants nothing: what the former life was
//! granted counts as carried, and this life's own deadlines begin at zero (docs/adr/0013).

use std::path::{Path, PathBuf};

use nix::unistd::getpid;
use regent_guardian::page::{Page, Side};

use super::processes;

/// Name of the link in the run directory.
#[must_use]
pub fn link(run_dir: &Path) -> PathBuf {
    run_dir.join("guardian.page")
}

/// The page that a former life left: of this very process, or of a guardian that lives and guards a
/// server.
#[must_use]
pub fn left(run_dir: &Path, inherited: Option<i32>) -> Option<Page> {
    inherited.and_then(inherit).or_else(|| found(run_dir))
}

/// That page, taken over; otherwise a new one.
///
/// # Errors
/// When there is none to take over and the kernel gives none.
pub fn page(left: Option<Page>) -> std::io::Result<Page> {
    let page = match left {
        Some(page) => {
            page.enter(Side::Agent);
            page.carry();
            page
        }
        None => Page::create()?,
    };
    let own = getpid().as_raw();
    page.set_agent_start(processes::start_time(own).unwrap_or_default());
    page.set_agent_pid(own);
    Ok(page)
}

fn found(run_dir: &Path) -> Option<Page> {
    Page::open(link(run_dir)).ok().filter(guards)
}

/// The page of the life before in this very process ([`crate::upgrade`]). Its deadlines hold even if
/// the guardian died meanwhile.
fn inherit(fd: i32) -> Option<Page> {
    let page = Page::open(format!("/proc/self/fd/{fd}")).ok();
    // The copy has served; programs that are started later must not get it.
    nix::unistd::close(fd).ok();
    page
}

/// Whether the processes that the page names are the ones that live: a number alone may be
/// somebody else's by now (hazards.md row 78).
#[must_use]
pub fn guards(page: &Page) -> bool {
    let is = |pid: i32, started: u64| {
        pid > 0 && processes::alive(pid) && processes::start_time(pid) == Some(started)
    };
    is(page.guardian_pid(), page.guardian_start())
        && is(page.postmaster_pid(), page.postmaster_start())
}

#[cfg(test)]
mod tests {
    use super::*;
    use regent_guardian::page::Guard;
    use regent_proto::time::{BootTime, Deadline};

    /// A page as a guardian leaves it that is this test, guarding this test.
    fn left(run_dir: &Path) -> Page {
        let page = Page::create().expect("a page");
        page.enter(Side::Guardian);
        let own = getpid().as_raw();
        let started = processes::start_time(own).expect("this process");
        page.set_guardian_pid(own);
        page.set_guardian_start(started);
        page.set_postmaster_pid(own);
        page.set_postmaster_start(started);
        page.set_site_deadline(Deadline::at(BootTime::from_nanos(77)));
        page.set_guard(Guard::ByDeadline);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&page.fd());
        std::os::unix::fs::symlink(format!("/proc/{own}/fd/{fd}"), link(run_dir)).expect("a link");
        page
    }

    #[test]
    fn a_page_whose_guardian_lives_is_carried_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let before = left(dir.path());
        let page = page(super::left(dir.path(), None)).expect("its page");
        assert_eq!(page.writing(), Deadline::at(BootTime::from_nanos(77)));
        assert_eq!(page.carried(), page.writing());
        assert_eq!((page.site_deadline(), page.guard()), (Deadline::NEVER, Guard::ByDeadline));
        assert_eq!(before.agent_pid(), getpid().as_raw(), "it is the same page");
    }

    #[test]
    fn a_page_of_others_is_left_alone() {
        type Bend = fn(&Page);
        let cases: [(&str, Bend); 4] = [
            ("another guardian", |page| page.set_guardian_start(1)),
            ("no guardian", |page| page.set_guardian_pid(0)),
            ("another postmaster", |page| page.set_postmaster_start(1)),
            ("no postmaster", |page| page.set_postmaster_pid(0)),
        ];
        for (what, bend) in cases {
            let dir = tempfile::tempdir().expect("a directory");
            let before = left(dir.path());
            bend(&before);
            let page = page(super::left(dir.path(), None)).expect("a new page");
            assert_eq!((page.writing(), page.guard()), (Deadline::NEVER, Guard::Off), "{what}");
        }
        let empty = tempfile::tempdir().expect("a directory");
        assert_eq!(page(super::left(empty.path(), None)).expect("a new page").guard(), Guard::Off);
    }
}
