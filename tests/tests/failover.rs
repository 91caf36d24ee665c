//! Death of the primary inside its site: SIGKILL of agent and PostgreSQL at once, on each store.
//! Writes are back within the site's TTL and two seconds, nothing is lost, the node comes back.

use std::time::Duration;

use regent_proto::topology::StoreKind;
use regent_tests::bed::{Bed, HEALTHY, TWO_SITES, explain};
use regent_tests::{report, say};
use regentctl::lab::programs;
use regentctl::report::{Case, passed};

/// What a failover may take beyond the site's TTL.
const BEYOND_TTL: Duration = Duration::from_secs(2);
/// Deaths in a row: each node of the site leads and dies.
const DEATHS: usize = 2;

async fn failover(name: &str, dcs: Option<StoreKind>) -> anyhow::Result<Vec<Case>> {
    let bed = Bed::start(name, TWO_SITES, dcs).await?;
    let limit = bed.lab().topology().policy.site_ttl.0 + BEYOND_TTL;
    let mut cases = Vec::new();
    for death in 1..=DEATHS {
        let roles = bed.healthy().await?;
        let from = bed.writer.now();
        let killed = bed.lab().kill_node(&roles.a_leader).await?;
        let next = bed.see("another node with the primary lease", HEALTHY, |global| {
            let lease = global.lease()?;
            (lease.node != roles.a_leader && !lease.released).then_some(lease)
        });
        let next = next.await?;
        bed.progress().await?;
        let to = bed.writer.now();
        let outage = bed.outage(from, to);
        say(format!(
            "{name}: {killed} processes of {} killed, {} leads; outage {} ms, {} rows/s before",
            roles.a_leader,
            next.node,
            outage.as_millis(),
            bed.rate(from),
        ));
        bed.lab().start_agent(&roles.a_leader).await?;
        let back = bed.healthy().await?;
        say(format!(
            "{name}: {} streams again, {} rows/s",
            roles.a_leader,
            bed.rate(bed.writer.now())
        ));
        let case = Case::new(format!("{name} death {death}"))
            .figure("outage", outage.as_secs_f64() * 1e3, "ms")
            .figure("limit", limit.as_secs_f64() * 1e3, "ms")
            .require(outage <= limit, || format!("outage {outage:?}, limit {limit:?}"))
            .require(next.site == roles.a, || format!("{} leads, of site {}", next.node, next.site))
            .require(back.a == roles.a, || format!("primacy moved to {}", back.a));
        cases.push(case);
    }
    let (history, judgement) = bed.finish().await?;
    say(format!("{name}: {}", explain(&judgement, &history)));
    let rows = Case::new(format!("{name} rows"));
    cases.push(rows.require(judgement.is_clean(), || explain(&judgement, &history)));
    Ok(cases)
}

fn judge(name: &str, cases: &[Case]) {
    regentctl::report::write(&report::file(name), cases).expect("the report is written");
    assert!(passed(cases), "{cases:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_primary_is_replaced_within_ttl_and_two_seconds_on_sqlite() {
    judge("failover-sqlite", &failover("failover-sqlite", None).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_primary_is_replaced_within_ttl_and_two_seconds_on_etcd() {
    if let Err(missing) = programs::etcd() {
        return regent_tests::skip(&missing.to_string());
    }
    judge("failover-etcd", &failover("failover-etcd", Some(StoreKind::Etcd)).await.unwrap());
}
