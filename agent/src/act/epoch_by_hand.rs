//! `regent-agent CONFIG --show-epoch` and `--accept-epoch N`: the way out when what a node or its
//! site has seen is not known (rung 4). A person vouches for what no record can say: that nothing
//! newer was lost. Never against a record that can be read and says more.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::Context as _;
use regent_dcs::{Change, Compare, Entry, Txn};
use regent_proto::Epoch;
use regent_proto::keys::{GlobalKeys, SiteKey, SiteKeys};
use regent_proto::record::{Primary, Record as _, SeenEpoch};

use super::epoch_file::EpochFile;
use super::store;
use crate::config::Config;
use crate::decide::epoch::record;
use crate::decide::view::DiskEpoch;

/// The longest wait for a store.
const BOUND: Duration = Duration::from_secs(5);

/// What the three places say.
struct Found {
    primary: Option<Primary>,
    site: Option<Entry>,
    disk: DiskEpoch,
}

async fn look(config: &Config) -> anyhow::Result<Found> {
    let federation = config
        .federation
        .as_ref()
        .context("this cluster belongs to no federation: there is no epoch")?;
    let quorum = store::open(&federation.quorum)?;
    let key = GlobalKeys::new(&federation.name).primary();
    let entry = quorum
        .get(&key, BOUND)
        .await
        .context("the global quorum does not answer; without it nothing is accepted")?;
    let primary = entry.map(|entry| Primary::decode(&key, &entry.value)).transpose()?;
    let key = SiteKeys::new(&config.namespace, &config.scope).key(SiteKey::Epoch);
    let site =
        store::open(&config.dcs)?.get(&key, BOUND).await.context("the site DCS does not answer")?;
    Ok(Found { primary, site, disk: EpochFile::new(config).read() })
}

fn site_record(config: &Config, site: Option<&Entry>) -> DiskEpoch {
    let key = SiteKeys::new(&config.namespace, &config.scope).key(SiteKey::Epoch);
    match site.map(|entry| SeenEpoch::decode(&key, &entry.value)) {
        None => DiskEpoch::Absent,
        Some(Ok(seen)) => DiskEpoch::Seen(seen),
        Some(Err(error)) => DiskEpoch::Unreadable(error.to_string()),
    }
}

fn line(seen: &DiskEpoch) -> String {
    match seen {
        DiskEpoch::Absent => "none".to_owned(),
        DiskEpoch::Unreadable(problem) => format!("unreadable ({problem})"),
        DiskEpoch::Seen(seen) => {
            format!("epoch {} of {}, federation {}", seen.epoch, seen.holder, seen.federation)
        }
    }
}

/// The three places, one line each.
///
/// # Errors
/// When one does not answer.
pub async fn show(config: &Config) -> anyhow::Result<String> {
    let found = look(config).await?;
    let quorum = found.primary.as_ref().map(record).map_or(DiskEpoch::Absent, DiskEpoch::Seen);
    let mut text = String::new();
    for (place, seen) in [
        ("global quorum".to_owned(), &quorum),
        ("site DCS".to_owned(), &site_record(config, found.site.as_ref())),
        (format!("this node, {}", EpochFile::new(config).path().display()), &found.disk),
    ] {
        writeln!(text, "{place}: {}", line(seen)).expect("writing to a String does not fail");
    }
    Ok(text)
}

/// Puts the quorum's present epoch into the site DCS and onto this node's disk.
///
/// # Errors
/// When it is not the present epoch, or a record that can be read says more.
pub async fn accept(config: &Config, epoch: Epoch) -> anyhow::Result<String> {
    let owner = std::fs::metadata(&config.postgres.data_dir)
        .with_context(|| format!("looking at {}", config.postgres.data_dir.display()))?
        .uid();
    anyhow::ensure!(
        owner == nix::unistd::geteuid().as_raw(),
        "this user is {}, but the data directory belongs to user {owner}; run this as that one, or \
         the agent could not read the file",
        nix::unistd::geteuid()
    );
    let found = look(config).await?;
    let seen = found.primary.as_ref().map(record).context(
        "the global quorum has no `primary` record: where the federation was never made, make it \
         first; where the record was removed, see the runbook the-primary-record-is-gone",
    )?;
    anyhow::ensure!(
        seen.epoch == epoch,
        "the global quorum is at epoch {}, held by {}; want just that one: if it is right, \
         --accept-epoch {}",
        seen.epoch,
        seen.holder,
        seen.epoch
    );
    for (place, other) in [
        ("the site DCS", site_record(config, found.site.as_ref())),
        ("this node's disk", found.disk.clone()),
    ] {
        refuse_more(place, &other, &seen)?;
    }
    let key = SiteKeys::new(&config.namespace, &config.scope).key(SiteKey::Epoch);
    let txn = Txn::new()
        .when(Compare::as_read(key.clone(), found.site.as_ref()))
        .then(Change::put(key, seen.encode()));
    EpochFile::new(config).write(&seen).context("writing the epoch to disk")?;
    let outcome = store::open(&config.dcs)?.txn(txn, BOUND).await?;
    anyhow::ensure!(
        outcome.applied().is_some(),
        "regent/epoch in the site DCS has changed meanwhile; look again with --show-epoch"
    );
    Ok(format!("epoch {} of {} stands on this node's disk and in the site DCS", epoch, seen.holder))
}

/// What can be read and says more is not overruled by hand.
fn refuse_more(place: &str, other: &DiskEpoch, seen: &SeenEpoch) -> anyhow::Result<()> {
    let DiskEpoch::Seen(other) = other else { return Ok(()) };
    anyhow::ensure!(
        other.federation == seen.federation,
        "{place} is of federation {}, the global quorum is of {}; point federation.quorum at the \
         right one, or make this cluster anew",
        other.federation,
        seen.federation
    );
    anyhow::ensure!(
        other.epoch < seen.epoch || (other.epoch == seen.epoch && other.holder == seen.holder),
        "{place} has seen epoch {} of {}, the global quorum shows {} of {}: the quorum is older than \
         that (restored?); it has to be brought to an epoch above {}",
        other.epoch,
        other.holder,
        seen.epoch,
        seen.holder,
        other.epoch
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use regent_proto::record::{Unknown, VERSION};

    use super::*;

    fn seen(epoch: u64, holder: &str) -> SeenEpoch {
        SeenEpoch {
            version: VERSION,
            federation: uuid::Uuid::nil(),
            epoch: Epoch::new(epoch),
            holder: holder.parse().expect("a site"),
            unknown: Unknown::new(),
        }
    }

    #[test]
    fn a_record_that_says_more_is_not_overruled() {
        let quorum = seen(5, "eu");
        for (other, fine) in [
            (DiskEpoch::Absent, true),
            (DiskEpoch::Unreadable("x".to_owned()), true),
            (DiskEpoch::Seen(seen(4, "us")), true),
            (DiskEpoch::Seen(seen(5, "eu")), true),
            (DiskEpoch::Seen(seen(5, "us")), false),
            (DiskEpoch::Seen(seen(6, "eu")), false),
            (DiskEpoch::Seen(SeenEpoch { federation: uuid::Uuid::max(), ..seen(1, "eu") }), false),
        ] {
            assert_eq!(refuse_more("here", &other, &quorum).is_ok(), fine, "{other:?}");
        }
    }
}
