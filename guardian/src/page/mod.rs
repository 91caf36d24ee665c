//! The page: 4096 bytes of memory that an agent and its guardian share.
//!
//! A sealed memfd, created by the agent, inherited by the guardian, and opened by a later agent
//! through the guardian's `/proc/PID/fd/N`. Every word is one 64-bit little-endian atomic with one
//! writer ([`Side`]), so neither side waits for the other and a killed writer leaves no half word.
//! What a whole needs several words, [`Page::writing`] and [`Page::orders`], is read and written in
//! an order in which no reader sees less than was granted.
//!
//! Neighbouring versions work together: each side says what it knows (version and length), and a word
//! beyond the other's length is absent and reads as zero, whatever stands there.

mod layout;
mod word;

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use regent_proto::time::Deadline;
use rustix::fs::{MemfdFlags, SealFlags};

pub use layout::{LENGTH, MAGIC, Place, SIZE, Side, VERSION, WORDS};
pub use word::{Because, Flags, Guard, Phase, WatchdogState, WatchdogStep, WatchdogWanted, Word};

/// A page, mapped. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Page {
    mapped: Arc<Mapped>,
}

/// The mapping and the descriptor it came from.
#[derive(Debug)]
struct Mapped {
    at: NonNull<AtomicU64>,
    fd: OwnedFd,
}

// SAFETY: the memory is only ever reached through `AtomicU64`, whose users may be anywhere.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped once with this length in `map`, and nothing borrows from it any more.
        let unmapped = unsafe { munmap(self.at.cast(), SIZE) };
        debug_assert!(unmapped.is_ok(), "a whole mapping of ours can be unmapped: {unmapped:?}");
    }
}

/// Why something is no page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The system refused.
    #[error("guardian page: {doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Another size: touching what lies beyond it would kill the process.
    #[error("guardian page: it has {0} bytes and needs {SIZE}")]
    Size(u64),
    /// It could be shrunk while mapped.
    #[error("guardian page: it is not sealed against shrinking, so it was not made by an agent")]
    NotSealed,
    /// It begins with something else.
    #[error("guardian page: it begins with {0:#018x} and not with {MAGIC:#018x}")]
    Magic(u64),
    /// A length that no version can have.
    #[error("guardian page: a length of {0} bytes is none of {HEAD}..={SIZE} in steps of 8", HEAD = layout::HEAD)]
    Length(u64),
}

/// What the guardian is to watch, read as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orders {
    /// What is watched.
    pub guard: Guard,
    /// The deadline, [`Page::writing`].
    pub writing: Deadline,
    /// Planned stop: by when the last client backend must be gone.
    pub bound: Deadline,
    /// Planned stop: when everything must be gone; never before [`Self::bound`].
    pub stop_until: Deadline,
    /// κ.
    pub kill_budget: Duration,
}

fn system(doing: &'static str) -> impl FnOnce(rustix::io::Errno) -> PageError {
    move |errno| PageError::System { doing, source: errno.into() }
}

impl Page {
    /// Makes a page, as an agent. Guard is off and every deadline is [`Deadline::NEVER`].
    ///
    /// # Errors
    /// When the kernel has no memfd, or no memory.
    pub fn create() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("regent-guardian-page", flags)?;
        rustix::fs::ftruncate(&fd, u64::try_from(SIZE).unwrap_or_default())?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals)?;
        let page = map(fd).map_err(io::Error::other)?;
        page.store(layout::MAGIC_AT, MAGIC);
        page.enter(Side::Agent);
        Ok(page)
    }

    /// Opens a page by a path: a successor's way, through the guardian's `/proc/PID/fd/N`.
    ///
    /// # Errors
    /// When the guardian has gone (the path leads nowhere), or what is there is no page.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PageError> {
        let file = File::options().read(true).write(true).open(path);
        let file = file.map_err(|source| PageError::System { doing: "open it", source })?;
        Self::from_fd(file.into())
    }

    /// Maps the page behind an inherited descriptor.
    ///
    /// # Errors
    /// When it is no page.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, PageError> {
        let size = rustix::fs::fstat(&fd).map_err(system("ask its size"))?.st_size;
        let size = u64::try_from(size).unwrap_or(0);
        if u64::try_from(SIZE) != Ok(size) {
            return Err(PageError::Size(size));
        }
        // EINVAL: a kind of file without seals, so nothing that an agent made.
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| PageError::NotSealed)?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(PageError::NotSealed);
        }
        let page = map(fd)?;
        let magic = page.load(layout::MAGIC_AT);
        if magic != MAGIC {
            return Err(PageError::Magic(magic));
        }
        for at in [layout::AGENT_LENGTH_AT, layout::GUARDIAN_LENGTH_AT] {
            let length = page.load(at);
            // No guardian has entered yet.
            let absent = length == 0 && at == layout::GUARDIAN_LENGTH_AT;
            let fits = (layout::HEAD..=SIZE).any(|bytes| u64::try_from(bytes) == Ok(length));
            if !absent && (!fits || length % 8 != 0) {
                return Err(PageError::Length(length));
            }
        }
        Ok(page)
    }

    /// The descriptor, to hand it on. It is close-on-exec.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.mapped.fd.as_fd()
    }

    /// Says that this version writes the words of `side` from now on. [`Page::create`] does it for
    /// the agent; a successor does it after [`Page::open`], the guardian when it starts.
    ///
    /// What an earlier writer left beyond the previous writer's length becomes zero first: nobody
    /// answers for it.
    pub fn enter(&self, side: Side) {
        let (version_at, length_at) = head(side);
        let before = self.load(length_at);
        let known = u64::try_from(LENGTH).unwrap_or(u64::MAX);
        for place in WORDS.iter().filter(|place| place.side == side) {
            if ends(place.offset) > before {
                self.store(place.offset, 0);
            }
        }
        self.store(version_at, VERSION);
        self.store(length_at, known);
    }

    /// Zeroes the words of `side`: what an earlier one left there.
    pub fn forget(&self, side: Side) {
        for place in WORDS.iter().filter(|place| place.side == side) {
            self.store(place.offset, 0);
        }
    }

    /// Version and length that a side said it knows; zeros before it entered.
    #[must_use]
    pub fn knows(&self, side: Side) -> (u64, u64) {
        let (version_at, length_at) = head(side);
        (self.load(version_at), self.load(length_at))
    }

    /// Until when this node may write: the earlier of the two deadlines where both count, or what
    /// a previous life of the agent left, whichever is later (protocol.md rule 1).
    #[must_use]
    pub fn writing(&self) -> Deadline {
        agreed(|| self.read_writing())
    }

    fn read_writing(&self) -> Deadline {
        // `carry` writes `carried` first and lowers the others afterwards: a reader that sees them
        // lowered sees it, too, as it reads it last.
        let site = self.site_deadline();
        let own = if self.federated() { site.earlier(self.primary_deadline()) } else { site };
        own.raised(self.carried())
    }

    /// A successor takes the page over: what was granted stays, and counts as carried.
    pub fn carry(&self) {
        self.set_carried(self.writing());
        self.set_site_deadline(Deadline::NEVER);
        self.set_primary_deadline(Deadline::NEVER);
    }

    /// Lowers what is carried, whoever else writes it meanwhile: two threads that both lower it leave the
    /// lower one, and neither brings back what the other has ended.
    pub fn lower_carried(&self, to: Deadline) {
        let to = Word::into_word(to);
        let lower = |word: u64| (u64::from_le(word) > to).then(|| to.to_le());
        let word = self.mapped.word(layout::CARRIED_AT);
        // An error says that it was no later.
        word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lower).ok();
    }

    /// From now on a planned stop. Bounds first, so that nobody sees the guard without them.
    pub fn plan_stop(&self, bound: Deadline, stop_until: Deadline) {
        self.set_bound(bound);
        self.set_stop_until(stop_until);
        self.set_guard(Guard::PlannedStop);
    }

    /// What is to be watched, with no value of an earlier order beside one of a later.
    #[must_use]
    pub fn orders(&self) -> Orders {
        agreed(|| self.read_orders())
    }

    fn read_orders(&self) -> Orders {
        let guard = self.guard();
        let bound = self.bound();
        Orders {
            guard,
            writing: self.read_writing(),
            bound,
            stop_until: self.stop_until().raised(bound),
            kill_budget: self.kill_budget(),
        }
    }

    fn load(&self, offset: usize) -> u64 {
        u64::from_le(self.mapped.word(offset).load(Ordering::SeqCst))
    }

    fn store(&self, offset: usize, value: u64) {
        self.mapped.word(offset).store(value.to_le(), Ordering::SeqCst);
    }

    /// A word of `side`, zero when its writer does not know it.
    fn word(&self, side: Side, offset: usize) -> u64 {
        let (_, length_at) = head(side);
        if ends(offset) > self.load(length_at) { 0 } else { self.load(offset) }
    }
}

/// Reads until two readings agree: several words that are written while they are read. A few times at
/// most; a writer changes them seconds apart.
fn agreed<T: PartialEq>(read: impl Fn() -> T) -> T {
    let mut last = read();
    for _ in 0..8 {
        let again = read();
        if again == last {
            break;
        }
        last = again;
    }
    last
}

const fn head(side: Side) -> (usize, usize) {
    match side {
        Side::Agent => (layout::AGENT_VERSION_AT, layout::AGENT_LENGTH_AT),
        Side::Guardian => (layout::GUARDIAN_VERSION_AT, layout::GUARDIAN_LENGTH_AT),
    }
}

fn ends(offset: usize) -> u64 {
    u64::try_from(offset + 8).unwrap_or(u64::MAX)
}

fn map(fd: OwnedFd) -> Result<Page, PageError> {
    let length = NonZeroUsize::new(SIZE).expect("the page has bytes");
    let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses, of a descriptor that we own.
    let at = unsafe { mmap(None, length, rights, MapFlags::MAP_SHARED, &fd, 0) };
    let at = at.map_err(|errno| PageError::System { doing: "map it", source: errno.into() })?;
    Ok(Page { mapped: Arc::new(Mapped { at: at.cast(), fd }) })
}

impl Mapped {
    fn word(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset.is_multiple_of(8) && offset < SIZE, "a word's offset: {offset}");
        let word = (offset / 8).min(SIZE / 8 - 1);
        // SAFETY: within the mapping, which is sealed against shrinking and lives as long as `self`.
        let at = unsafe { self.at.add(word) };
        // SAFETY: aligned as the mapping is, never null, and every user of it is an atomic.
        unsafe { at.as_ref() }
    }
}

#[cfg(test)]
mod tests;
