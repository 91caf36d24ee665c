//! Failsafe: who may go on without a store because everybody who could replace it agrees (I19).
//!
//! [`site`] is Patroni's `failsafe_mode`, [`quorum`] protocol.md rule 11. Pure: who is asked, what a
//! set of answers gives, what a promise binds its giver to. One silent, refusing or unreadable
//! answer, and nothing is raised.

pub mod quorum;
pub mod site;
