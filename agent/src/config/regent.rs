//! The section `regent`: our own settings of one agent.

use std::path::PathBuf;
use std::time::Duration;

use regent_proto::log::LogConfig;
use regent_proto::topology::{Size, Span};
use serde::Deserialize;

/// Our own settings of one agent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegentConfig {
    /// Private directory of this agent: lock, password file, sockets.
    pub run_dir: PathBuf,
    /// Highest epoch seen (rung 4). It must outlive a reboot and the data directory's content, so
    /// by default it lies beside the data directory: `DATA_DIR.regent-epoch`.
    pub epoch_file: Option<PathBuf>,
    /// G: the longest a stop may take before what is left is killed.
    pub stop_budget: Span,
    /// κ: reserved for the kill itself.
    pub kill_budget: Span,
    /// The guardian's program; without it `regent-guardian` beside this one.
    pub guardian: Option<PathBuf>,
    /// How late the guard thread may wake before the server is frozen until both leases were
    /// renewed: a suspend, a paused machine, a starved node.
    pub pause_threshold: Span,
    /// Allows listeners off loopback without TLS; `status` then says so.
    pub insecure: bool,
    /// Logging.
    pub log: LogConfig,
    /// The most WAL that is kept of a server before it is rewound or copied anew; with more it is left
    /// as it is.
    pub salvage_limit: Size,
    /// Where that is kept; `DATA_DIR.regent-salvage` by default, on the same file system.
    pub salvage_dir: Option<PathBuf>,
}

impl Default for RegentConfig {
    fn default() -> Self {
        Self {
            run_dir: PathBuf::from("/run/regent"),
            epoch_file: None,
            stop_budget: Span(Duration::from_secs(5)),
            kill_budget: Span(Duration::from_millis(250)),
            guardian: None,
            pause_threshold: Span(Duration::from_secs(1)),
            insecure: false,
            log: LogConfig::default(),
            salvage_limit: Size(16 << 30),
            salvage_dir: None,
        }
    }
}
