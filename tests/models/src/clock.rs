//! Time in the models: whole seconds, kept as ages. An age does not grow beyond [`OLD`], which is
//! longer than every span in use, so that time may go on for ever in finitely many states.

use std::time::Duration;

use regent_proto::time::BootTime;

/// Long ago: beyond every span of every model.
pub const OLD: u8 = 16;

/// The instant at which every judgement of a model is made; the past lies before it.
pub const NOW: BootTime = BootTime::from_nanos(1_000_000_000_000);

/// So many ticks.
#[must_use]
pub const fn ticks(count: u8) -> Duration {
    Duration::from_secs(count as u64)
}

/// The instant so many ticks ago.
#[must_use]
pub fn ago(age: u8) -> BootTime {
    NOW.minus(ticks(age))
}

/// One tick later.
#[must_use]
pub const fn older(age: u8) -> u8 {
    if age < OLD { age + 1 } else { OLD }
}
