//! A member's word to the leader of its site, in memory and in a file beside the data directory: an
//! agent, or a machine, that is restarted the moment after it agreed must not race for the leader key.
//!
//! The file names the leader and the span, and carries no time: whoever finds it counts the promise
//! as given at that moment. So it is written once for a leader, not at every question.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use regent_proto::name::NodeName;
use regent_proto::time::BootTime;

use crate::act::postgres::files::write_atomically;
use crate::decide::failsafe::site::{MemberWord, PromisedLeader};

/// Where a word outlives this process, and this machine's boot.
pub trait Slip: std::fmt::Debug + Send + Sync {
    /// What stands there.
    fn read(&self) -> std::io::Result<Option<String>>;
    /// Writes it whole, or not at all.
    fn write(&self, text: &str) -> std::io::Result<()>;
    /// Nothing stands there any more.
    fn remove(&self) -> std::io::Result<()>;
}

impl Slip for PathBuf {
    fn read(&self) -> std::io::Result<Option<String>> {
        match std::fs::read_to_string(self) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        write_atomically(self, text.as_bytes())
    }

    fn remove(&self) -> std::io::Result<()> {
        match std::fs::remove_file(self) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Why a promise is not given.
#[derive(Debug, thiserror::Error)]
pub enum NoWord {
    /// Patroni's words for it.
    #[error("Running as a leader")]
    Leader,
    /// It could not be written down.
    #[error("the promise cannot be kept on disk: {0}")]
    Disk(#[from] std::io::Error),
}

#[derive(Debug, Default)]
struct Kept {
    word: MemberWord,
    on_disk: Option<(NodeName, Duration)>,
}

fn read(text: &str) -> Option<(NodeName, Duration)> {
    let (leader, millis) = text.trim().split_once(' ')?;
    Some((leader.parse().ok()?, Duration::from_millis(millis.parse().ok()?)))
}

/// The word, shared between the REST API and the main loop.
#[derive(Debug)]
pub struct Word {
    kept: Mutex<Kept>,
    slip: Box<dyn Slip>,
}

impl Word {
    /// Reads what an earlier life of this agent promised, counted from now. A file that cannot be
    /// read is an error: nobody knows what was promised.
    pub fn open(slip: impl Slip + 'static, now: BootTime) -> std::io::Result<Self> {
        let mut kept = Kept::default();
        if let Some(text) = slip.read()? {
            let (leader, span) = read(&text).ok_or_else(|| {
                let problem = format!("{text:?}: want MEMBER MILLISECONDS");
                std::io::Error::new(std::io::ErrorKind::InvalidData, problem)
            })?;
            kept.word.accept(&leader, now, span);
            kept.on_disk = Some((leader, span));
        }
        Ok(Self { kept: Mutex::new(kept), slip: Box::new(slip) })
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Promises `leader` the key for `span`. Blocks on a file the first time it is this leader.
    pub fn accept(&self, leader: &NodeName, now: BootTime, span: Duration) -> Result<(), NoWord> {
        let mut kept = self.lock();
        if !kept.word.accept(leader, now, span) {
            return Err(NoWord::Leader);
        }
        let wanted = Some((leader.clone(), span));
        if kept.on_disk != wanted {
            self.slip.write(&format!("{leader} {}\n", span.as_millis()))?;
            kept.on_disk = wanted;
        }
        Ok(())
    }

    /// The promise that stands; one that has ended is taken from disk.
    pub fn standing(&self, now: BootTime) -> Option<PromisedLeader> {
        let mut kept = self.lock();
        let standing = kept.word.standing(now);
        if standing.is_none() {
            self.forget(&mut kept);
        }
        standing
    }

    /// Takes the leader key, or opens.
    pub fn enter(&self, now: BootTime) -> Result<(), PromisedLeader> {
        let mut kept = self.lock();
        kept.word.enter(now)?;
        self.forget(&mut kept);
        Ok(())
    }

    /// It neither leads nor writes.
    pub fn leave(&self) {
        self.lock().word.leave();
    }

    fn forget(&self, kept: &mut Kept) {
        if kept.on_disk.is_some() {
            if let Err(error) = self.slip.remove() {
                // Left behind it costs the next life of this agent one TTL of waiting.
                tracing::debug!(%error, "removing {:?}", self.slip);
            }
            kept.on_disk = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> BootTime {
        BootTime::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_promise_outlives_the_agent_that_gave_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("promised");
        let leader: NodeName = "a1".parse().expect("a name");
        let word = Word::open(file.clone(), at(1)).expect("nothing there");
        word.accept(&leader, at(1), SPAN).expect("accepted");
        let again = Word::open(file.clone(), at(20)).expect("readable");
        assert!(again.enter(at(24)).is_err(), "counted from the moment it is read");
        assert!(again.enter(at(25)).is_ok());
        assert!(Word::open(file, at(26)).expect("gone").standing(at(26)).is_none());
    }

    #[test]
    fn what_cannot_be_written_down_is_not_promised_and_what_cannot_be_read_is_an_error() {
        let leader: NodeName = "a1".parse().expect("a name");
        let nowhere = PathBuf::from("/nonexistent/promised");
        let word = Word::open(nowhere, at(1)).expect("nothing there");
        assert!(matches!(word.accept(&leader, at(1), SPAN), Err(NoWord::Disk(_))));
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("promised");
        std::fs::write(&file, "not a name!").expect("written");
        assert!(Word::open(file, at(1)).is_err());
    }
}
