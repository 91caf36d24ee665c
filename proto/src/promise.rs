//! What one site asks of another when the global quorum is silent (protocol.md rule 11): the body of
//! `POST /regent/promise`, between agents.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Epoch;
use crate::name::{NodeName, SiteName, Tenure};

/// `POST /regent/promise`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromiseRequest {
    /// Who asks: the primary site.
    pub site: SiteName,
    /// Its writer.
    pub node: NodeName,
    /// The tenure of the primary lease it holds.
    pub tenure: Tenure,
    /// The epoch of that tenure.
    pub epoch: Epoch,
    /// How long it asks for.
    pub span_ms: u64,
}

impl PromiseRequest {
    /// How long it asks for.
    #[must_use]
    pub fn span(&self) -> Duration {
        Duration::from_millis(self.span_ms)
    }
}
