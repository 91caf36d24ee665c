//! The fence on trial: real PostgreSQL and real stores under a fault, with clients that hold their
//! sessions from before it, and the question whether anybody acknowledged a write that nobody was
//! allowed to take.
//!
//! One repetition ([`trial`]) on a cluster ([`cluster`]): clients write ([`clients`]), deadlines are
//! watched ([`deadline`]), a fault comes ([`faults`]), somebody else leads or the holder goes on,
//! the fault goes, everything heals; then the acknowledgements are judged ([`checker`]) and told
//! ([`report`]). The other half is what must not cost a healthy holder anything ([`strain`]).

pub mod checker;
pub mod clients;
pub mod cluster;
pub mod deadline;
pub mod faults;
pub mod ground;
pub mod packets;
pub mod proxy;
pub mod report;
pub mod session;
pub mod stale;
pub mod stores;
pub mod strain;
pub mod trial;
pub mod wall;
