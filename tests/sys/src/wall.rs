//! The wall clock stepped, and put back.
//!
//! The step is the whole machine's (CLOCK_REALTIME has no namespace): keep it short, and run
//! nothing beside it that looks at file times. The boot and monotonic clocks do not move.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

use crate::tools;

/// Which way the clock is stepped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Into the future.
    Forward,
    /// Into the past.
    Back,
}

/// A stepped wall clock; dropping it steps back by the same span.
#[derive(Debug)]
pub struct Stepped {
    by: TimeSpec,
    /// Steps back should this process be killed: then its input ends without a word.
    rescuer: Child,
}

impl Stepped {
    /// Steps the clock.
    ///
    /// # Errors
    /// Without `CAP_SYS_TIME`.
    pub fn by(span: Duration, direction: Direction) -> anyhow::Result<Self> {
        let span = TimeSpec::from_duration(span);
        let by = match direction {
            Direction::Forward => span,
            Direction::Back => TimeSpec::new(0, 0) - span,
        };
        let back = -by.tv_sec();
        let line = format!(
            "read said; [ \"$said\" = done ] || date -s @$(($(date +%s) + {back})) >/dev/null"
        );
        let rescuer = tools::command("sh")
            .args(["-c", &line])
            .stdin(Stdio::piped())
            .process_group(0) // a Ctrl-C for the tests is not for it
            .spawn()
            .context("start the shell that would put the clock back")?;
        let mut stepped = Self { by: TimeSpec::new(0, 0), rescuer };
        step(by).context("step the wall clock")?;
        stepped.by = by;
        Ok(stepped)
    }
}

fn step(by: TimeSpec) -> nix::Result<()> {
    clock_settime(ClockId::CLOCK_REALTIME, clock_gettime(ClockId::CLOCK_REALTIME)? + by)
}

impl Drop for Stepped {
    fn drop(&mut self) {
        // If this fails the rescuer does it.
        if step(TimeSpec::new(0, 0) - self.by).is_ok()
            && let Some(mut input) = self.rescuer.stdin.take()
        {
            input.write_all(b"done\n").ok();
        }
        drop(self.rescuer.stdin.take());
        self.rescuer.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot;

    fn wall() -> i64 {
        clock_gettime(ClockId::CLOCK_REALTIME).expect("the wall clock").tv_sec()
    }

    #[test]
    fn the_wall_clock_steps_and_comes_back_and_the_boot_clock_does_not_move() {
        if crate::lacks(&[crate::Need::Root]) {
            return;
        }
        // Two seconds: the tests of other crates may run beside this one.
        for (direction, shift) in [(Direction::Forward, 2), (Direction::Back, -2)] {
            let (before, boot_before) = (wall(), boot::now());
            let stepped = Stepped::by(Duration::from_secs(2), direction).expect("it steps");
            let moved = wall() - before;
            drop(stepped);
            let (back, passed) = (wall() - before, boot::now().since(boot_before));
            assert!((shift..=shift + 1).contains(&moved), "{direction:?}: moved by {moved} s");
            assert!((0..=1).contains(&back), "{direction:?}: back at {back} s");
            assert!(passed < Duration::from_secs(1), "the boot clock moved by {passed:?}");
        }
    }
}
