use std::collections::BTreeSet;

use regent_proto::time::BootTime;

use super::*;

fn at(seconds: u64) -> Deadline {
    Deadline::at(BootTime::from_nanos(seconds * 1_000_000_000))
}

fn page() -> Page {
    Page::create().expect("memfd_create")
}

/// The same memory through a second mapping, as the other process has it.
fn other(page: &Page) -> Page {
    Page::from_fd(page.fd().try_clone_to_owned().expect("dup")).expect("a page")
}

fn set_length(page: &Page, side: Side, length: usize) {
    page.store(head(side).1, u64::try_from(length).expect("small"));
}

#[test]
fn words_stand_where_they_stood_in_version_1() {
    // Whoever changes a line here breaks a guardian that runs while its agent is upgraded.
    let known = include_str!("version_1.txt");
    let now: Vec<String> =
        WORDS.iter().map(|w| format!("{:4} {:?} {}", w.offset, w.side, w.name)).collect();
    for (line, word) in known.lines().zip(&now) {
        assert_eq!(line, word);
    }
    assert_eq!(known.lines().count(), now.len(), "new words: bump VERSION and add version_2.txt");
}

#[test]
fn every_word_is_documented() {
    let page = include_str!("../../../docs/guardian.md");
    for word in WORDS {
        let side = format!("{:?}", word.side).to_lowercase();
        let row = format!("| {} | {side} | `{}` | ", word.offset, word.name);
        assert!(page.contains(&row), "docs/guardian.md lacks {row}");
    }
}

#[test]
fn words_do_not_overlap_and_fit() {
    let offsets: BTreeSet<usize> = WORDS.iter().map(|word| word.offset).collect();
    assert_eq!(offsets.len(), WORDS.len());
    for word in WORDS {
        assert!(word.offset % 8 == 0 && word.offset >= layout::HEAD, "{word:?}");
        assert!(word.offset + 8 <= LENGTH, "{word:?}");
    }
    const { assert!(LENGTH <= SIZE) };
}

#[test]
fn every_word_is_seen_by_the_other_process_and_is_no_other_word() {
    let (mine, theirs) = {
        let page = page();
        let theirs = other(&page);
        theirs.enter(Side::Guardian);
        (page, theirs)
    };
    for (index, word) in WORDS.iter().enumerate() {
        mine.store(word.offset, 1000 + u64::try_from(index).expect("small"));
    }
    for (index, word) in WORDS.iter().enumerate() {
        let seen = theirs.word(word.side, word.offset);
        assert_eq!(seen, 1000 + u64::try_from(index).expect("small"), "{word:?}");
    }
}

#[test]
fn typed_values_come_back() {
    let page = page();
    page.enter(Side::Guardian);
    page.set_agent_pid(4711);
    page.set_site_deadline(at(7));
    page.set_kill_budget(Duration::from_millis(250));
    page.set_wait_status(-1);
    page.set_flags(Flags::REALTIME.with(Flags::SUBREAPER));
    assert_eq!(page.agent_pid(), 4711);
    assert_eq!(page.site_deadline(), at(7));
    assert_eq!(page.kill_budget(), Duration::from_millis(250));
    assert_eq!(page.wait_status(), -1);
    assert!(page.flags().has(Flags::SUBREAPER) && !page.flags().has(Flags::MEMORY_LOCKED));
    for guard in Guard::KNOWN {
        page.set_guard(*guard);
        assert_eq!(page.guard(), *guard);
    }
    page.store(120, 99);
    assert_eq!(page.guard(), Guard::Unknown(99));
    page.store(64, u64::MAX);
    assert_eq!(page.agent_pid(), -1, "no process number");
}

#[test]
fn a_new_page_allows_nothing() {
    let page = page();
    assert_eq!(page.writing(), Deadline::NEVER);
    assert_eq!(page.guard(), Guard::Off);
    assert_eq!(page.phase(), Phase::None);
}

#[test]
fn writing_is_the_earlier_deadline_or_what_was_carried() {
    let page = page();
    page.set_site_deadline(at(10));
    page.set_primary_deadline(at(8));
    assert_eq!(page.writing(), at(10), "no federation: the primary lease does not count");
    page.set_federated(true);
    assert_eq!(page.writing(), at(8));
    page.set_primary_deadline(at(12));
    assert_eq!(page.writing(), at(10));
    page.carry();
    assert_eq!((page.writing(), page.carried()), (at(10), at(10)));
    assert_eq!(page.site_deadline(), Deadline::NEVER);
    page.set_site_deadline(at(13));
    assert_eq!(page.writing(), at(10), "one of the two renewed is not enough");
    page.set_primary_deadline(at(14));
    assert_eq!(page.writing(), at(13));
    page.set_carried(Deadline::NEVER);
    assert_eq!(page.writing(), at(13));
}

#[test]
fn what_is_carried_is_only_lowered() {
    let page = page();
    let place = WORDS.iter().find(|place| place.name == "carried").expect("a word");
    assert_eq!(place.offset, layout::CARRIED_AT);
    page.set_carried(at(10));
    page.lower_carried(at(12));
    assert_eq!(page.carried(), at(10));
    page.lower_carried(at(7));
    assert_eq!(page.carried(), at(7));
    page.lower_carried(Deadline::NEVER);
    page.lower_carried(at(7));
    assert_eq!(page.carried(), Deadline::NEVER);
}

#[test]
fn a_stop_span_never_ends_before_the_bound() {
    let page = page();
    page.plan_stop(at(10), Deadline::NEVER);
    let orders = page.orders();
    assert_eq!(
        (orders.guard, orders.bound, orders.stop_until),
        (Guard::PlannedStop, at(10), at(10))
    );
    page.plan_stop(at(10), at(30));
    assert_eq!(page.orders().stop_until, at(30));
}

/// While a successor takes over, no reader may see less than was granted: it would kill.
#[test]
fn taking_over_never_looks_like_an_end() {
    let page = page();
    page.set_site_deadline(at(10));
    let reader = other(&page);
    let fell = std::thread::spawn(move || {
        let mut last = at(10);
        let mut fell = None;
        while reader.agent_heartbeat() == BootTime::default() {
            let now = reader.writing();
            if now < last {
                fell = Some((last, now));
            }
            last = now;
        }
        fell
    });
    for granted in 11..200_000 {
        page.carry();
        page.set_site_deadline(at(granted));
    }
    page.set_agent_heartbeat(BootTime::from_nanos(1));
    assert_eq!(fell.join().expect("reader"), None);
}

#[test]
fn a_word_that_the_other_version_does_not_know_is_absent() {
    let page = page();
    page.set_agent_heartbeat(BootTime::from_nanos(5));
    page.set_frozen(true);
    // An agent of the version before: it ends before the heartbeat, whatever stands there.
    set_length(&page, Side::Agent, 176);
    let guardian = other(&page);
    assert_eq!(guardian.agent_heartbeat(), BootTime::default());
    assert!(guardian.frozen(), "what it does know is read");
    // A newer agent takes over: nobody answers for the word until it writes it.
    page.enter(Side::Agent);
    assert_eq!(guardian.agent_heartbeat(), BootTime::default());
    assert!(guardian.frozen(), "the words of its predecessor stay");
    page.set_agent_heartbeat(BootTime::from_nanos(6));
    assert_eq!(guardian.agent_heartbeat(), BootTime::from_nanos(6));
}

#[test]
fn a_page_of_a_later_version_is_accepted() {
    let page = page();
    set_length(&page, Side::Agent, LENGTH + 64);
    page.store(layout::AGENT_VERSION_AT, VERSION + 1);
    page.set_site_deadline(at(3));
    assert_eq!(other(&page).writing(), at(3));
    assert_eq!(other(&page).knows(Side::Agent).0, VERSION + 1);
}

#[test]
fn what_is_no_page_is_refused() {
    let again = |page: &Page| {
        Page::from_fd(page.fd().try_clone_to_owned().expect("dup"))
            .map(|_| ())
            .expect_err("refused")
    };
    let wrong = page();
    wrong.store(0, 1);
    assert!(matches!(again(&wrong), PageError::Magic(1)));
    for length in [8, 60, 65, SIZE + 8] {
        let wrong = page();
        set_length(&wrong, Side::Agent, length);
        assert!(matches!(again(&wrong), PageError::Length(_)), "{length}");
    }
    let memfd = |bytes: u64, seals: SealFlags| {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("x", flags).expect("memfd");
        rustix::fs::ftruncate(&fd, bytes).expect("size");
        rustix::fs::fcntl_add_seals(&fd, seals).expect("seal");
        Page::from_fd(fd).map(|_| ()).expect_err("refused")
    };
    assert!(matches!(memfd(8192, SealFlags::SHRINK), PageError::Size(8192)));
    assert!(matches!(memfd(4096, SealFlags::GROW), PageError::NotSealed));
    assert!(matches!(memfd(4096, SealFlags::SHRINK), PageError::Magic(0)));
    let file = tempfile::tempfile().expect("a file");
    file.set_len(4096).expect("size");
    assert!(matches!(Page::from_fd(file.into()), Err(PageError::NotSealed)));
    assert!(matches!(Page::open("/nowhere/page"), Err(PageError::System { .. })));
}

#[test]
fn a_page_is_found_through_proc() {
    use std::os::fd::AsRawFd;
    let page = page();
    page.set_agent_pid(5);
    let path = format!("/proc/{}/fd/{}", std::process::id(), page.fd().as_raw_fd());
    assert_eq!(Page::open(path).expect("a page").agent_pid(), 5);
}
