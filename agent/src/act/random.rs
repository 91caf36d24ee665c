//! Random identities: tenures, requests. They tell a record's writer apart from its twins.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use regent_proto::name::{PromotionId, RequestId, Tenure};

/// Where identities come from. Clones are the same source.
#[derive(Debug, Clone)]
pub enum Ids {
    /// The kernel's randomness.
    Kernel,
    /// Counted from here on: the simulator's, which repeats itself.
    Counted(Arc<AtomicU64>),
}

impl Ids {
    fn draw(&self) -> Option<String> {
        match self {
            Self::Kernel => {
                let mut bytes = [0u8; 12];
                getrandom::fill(&mut bytes).ok()?;
                Some(hex::encode(bytes))
            }
            Self::Counted(next) => Some(format!("{:024x}", next.fetch_add(1, Ordering::Relaxed))),
        }
    }

    /// A new request id; `None` when the kernel gives no randomness, and then nothing is sent.
    #[must_use]
    pub fn request_id(&self) -> Option<RequestId> {
        self.draw()?.parse().ok()
    }

    /// A new tenure.
    #[must_use]
    pub fn tenure(&self) -> Option<Tenure> {
        self.draw()?.parse().ok()
    }
    /// A new promotion id, for a timeline whose WAL tells none.
    #[must_use]
    pub fn promotion_id(&self) -> Option<PromotionId> {
        self.draw()?.parse().ok()
    }
}
