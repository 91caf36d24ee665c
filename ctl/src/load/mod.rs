//! A client that writes numbered rows through everything, and the judgement of what became of
//! them. Used by the demo, the benchmark and the tests.

pub mod checker;
pub mod table;
pub mod writer;

pub use checker::{Judgement, Outage, judge, outage};
pub use table::Contents;
pub use writer::{Ack, History, Target, Writer};
