//! Regent's agent: it stands beside one PostgreSQL and runs its site's local high availability, in
//! Patroni's conventions; the agent that leads a site speaks for it in the global quorum.
//!
//! Rooms: `observe` gathers a view, `decide` judges it (pure), `act` performs, `fence` renews leases
//! and stops PostgreSQL before a deadline whatever the rest does, `api` answers REST from the last
//! view, `run` joins them.

pub mod act;
pub mod api;
pub mod config;
pub mod decide;
pub mod fence;
pub mod log;
pub mod observe;
pub mod run;
pub mod upgrade;
