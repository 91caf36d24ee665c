//! I21: timings are checked and a bad document is refused whole (hazards.md section 6); whatever is
//! written, a healthy leader that can reach its store is not demoted by it. Once a changed `ttl` did.

use crate::time::{MIN, SEC};
use crate::world::World;

/// So long before the change nothing has gone wrong.
const CALM: u64 = 30 * SEC;
/// So long after it nothing may.
const AFTER: u64 = 2 * MIN;

impl World {
    /// A fault begins or ends.
    pub(crate) fn disturbed(&mut self) {
        let since = self.now.saturating_sub(self.checks.disturbed);
        self.checks.calm = self.struck.is_empty() && since > CALM;
        self.checks.disturbed = self.now;
        self.checks.steady = None;
    }

    /// A site's timing is changed: if nothing else happens, its leader goes on.
    pub(crate) fn expect_no_demotion(&mut self, site: usize) {
        // In a federation an operator may switch over.
        let calm = self.checks.calm && self.federation.is_none() && !self.healing;
        let Some((n, life)) = self.checks.acknowledger.filter(|_| calm) else { return };
        let lately = self.now.saturating_sub(self.checks.last_acknowledgement) < 20 * SEC;
        let server = &self.nodes[n].server;
        if lately && self.nodes[n].site == site && server.life == life && server.writable() {
            self.counters.count("configuration: changed beneath a healthy leader");
            self.checks.steady = Some((n, life, self.now + AFTER));
        }
    }
}

/// A server ends, or is told to.
pub(super) fn check(world: &mut World, n: usize) {
    let Some((steady, life, until)) = world.checks.steady else { return };
    if steady == n && world.nodes[n].server.life == life && world.now < until {
        let what = format!("{} is demoted because its timing changed", world.nodes[n].name);
        world.broken("I21", what);
    }
}
