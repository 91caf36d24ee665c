//! What the standard health service says: serving while every federation's quorum answers.
//!
//! From the published views in memory; asks nobody.

use std::sync::Arc;

use futures::future::select_all;
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::decide::view::Quorum;
use crate::federation::Published;

/// The service's name in health checks; the empty name says that the process runs.
pub(crate) const SERVICE: &str = "regent.v1.Regent";

/// Keeps the status up to date until the federations' loops end.
pub(crate) async fn report(
    reporter: HealthReporter,
    mut federations: Vec<watch::Receiver<Arc<Published>>>,
) {
    loop {
        let reachable = federations
            .iter_mut()
            .all(|published| published.borrow_and_update().view.quorum == Quorum::Reachable);
        let status = if reachable { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status(SERVICE, status).await;
        let changes = federations.iter_mut().map(|published| Box::pin(published.changed()));
        if select_all(changes).await.0.is_err() {
            return;
        }
    }
}
