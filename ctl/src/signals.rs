//! Ctrl-C and its kin, for verbs that must clean up.

use tokio::signal::unix::{SignalKind, signal};

/// Returns when the person, the system or a closing terminal asks this process to end.
pub async fn interrupted() {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let waits = kinds.into_iter().map(|kind| {
        Box::pin(async move {
            match signal(kind) {
                Ok(mut signal) => {
                    signal.recv().await;
                }
                // Not listening is not being asked.
                Err(_) => std::future::pending().await,
            }
        })
    });
    futures::future::select_all(waits).await;
}
