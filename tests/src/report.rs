//! Where the tests' reports go: the workspace's `target/reports`.

use std::path::PathBuf;

/// `target/reports/NAME.json` of this workspace.
#[must_use]
pub fn file(name: &str) -> PathBuf {
    workspace().join("target/reports").join(format!("{name}.json"))
}

/// The workspace's root.
#[must_use]
pub fn workspace() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or(own.clone(), std::path::Path::to_owned)
}
