//! Signals that a process ignores while it becomes another program: execve(2) takes its handlers away and
//! leaves what is ignored, so none of them ends it before the new program has its own.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// These signals are ignored until it is dropped.
#[derive(Debug)]
pub struct Ignored(Vec<(Signal, SigAction)>);

impl Ignored {
    /// Ignores them.
    ///
    /// # Errors
    /// For one that can't be ignored (signal(7)).
    pub fn these(signals: &[Signal]) -> nix::Result<Self> {
        let mut ignored = Self(Vec::new());
        let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        for signal in signals {
            // SAFETY: no function is installed.
            let before = unsafe { sigaction(*signal, &action) }?;
            ignored.0.push((*signal, before));
        }
        Ok(ignored)
    }
}

impl Drop for Ignored {
    fn drop(&mut self) {
        for (signal, before) in &self.0 {
            // SAFETY: what was installed before, by whoever answers for it. It worked once.
            unsafe { sigaction(*signal, before) }.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether this process ignores it (proc(5), SigIgn).
    fn ignores(signal: Signal) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").expect("own status");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
        let mask = u64::from_str_radix(mask.trim(), 16).expect("a number");
        mask & (1 << (signal as i32 - 1)) != 0
    }

    #[test]
    fn what_is_ignored_is_so_until_the_end_and_then_as_before() {
        let (signals, other) = ([Signal::SIGUSR2, Signal::SIGHUP], Signal::SIGUSR1);
        let before = signals.map(ignores);
        let ignored = Ignored::these(&signals).expect("they can be");
        assert_eq!(signals.map(ignores), [true, true]);
        assert!(!ignores(other));
        drop(ignored);
        assert_eq!(signals.map(ignores), before);
        assert!(Ignored::these(&[Signal::SIGKILL]).is_err());
    }
}
