//! Who answers where `standby_cluster` points: asked on the replication port with the replication role,
//! which is all that such a cluster need grant. Its history names no promotions.

use std::time::Duration;

use regent_proto::name::SystemIdentifier;
use regent_proto::timeline::{Ancestry, TimelineId};

use super::clock::boot_time;
use crate::act::postgres::{copy, files::Files, programs::Programs};
use crate::config::User;
use crate::decide::view::RemoteFound;

/// The longest wait for one answer, for each host: a dead one takes all of its `connect_timeout`.
const BOUND: Duration = Duration::from_secs(4);

/// What came of the last question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteAnswer {
    /// Who was asked.
    pub addresses: Vec<(String, u16)>,
    /// Who answered there last.
    pub found: Option<RemoteFound>,
    /// Why nobody answers now.
    pub problem: Option<String>,
}

/// Asks who is there: of several, the one that writes.
pub async fn ask(
    programs: &Programs,
    files: &Files,
    user: &User,
    addresses: &[(String, u16)],
) -> Result<RemoteFound, String> {
    let conninfo = files.conninfo_to_writer(user, addresses, "regent remote");
    let bound = BOUND.saturating_mul(u32::try_from(addresses.len()).unwrap_or(u32::MAX));
    let asked = boot_time();
    let identity = copy::identify(programs, &conninfo, bound).await.map_err(|e| e.to_string())?;
    let (system_identifier, timeline) = identity_in(&identity)
        .ok_or_else(|| format!("IDENTIFY_SYSTEM: {identity:?} is not of the expected form"))?;
    let first = Ancestry { timeline, promotion: None, switches: Vec::new() };
    let ancestry = if timeline.0 <= 1 {
        first
    } else {
        let command = format!("TIMELINE_HISTORY {timeline}");
        let told = copy::ask_walsender(programs, &conninfo, &command, bound).await;
        history_in(timeline, &told.map_err(|error| error.to_string())?)?
    };
    Ok(RemoteFound { system_identifier, ancestry, asked })
}

fn identity_in(answer: &str) -> Option<(SystemIdentifier, TimelineId)> {
    let mut fields = answer.trim().split('|');
    let identifier = fields.next()?.parse().ok()?;
    Some((identifier, TimelineId(fields.next()?.parse().ok()?)))
}

/// The file's name comes first. One without a line would pass for a timeline that began nowhere.
fn history_in(timeline: TimelineId, answer: &str) -> Result<Ancestry, String> {
    let (_, text) = answer
        .split_once('|')
        .ok_or_else(|| format!("TIMELINE_HISTORY: {answer:?} is not of the expected form"))?;
    let ancestry = Ancestry::parse(timeline, text).map_err(|error| error.to_string())?;
    if ancestry.switches.is_empty() {
        return Err(format!("TIMELINE_HISTORY: {answer:?} does not say where {timeline} began"));
    }
    Ok(ancestry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_from_the_walsenders_answer() {
        let found = identity_in("7000000000000000001|3|0/5000000|\n");
        let wanted = "7000000000000000001".parse().expect("a number");
        assert_eq!(found, Some((wanted, TimelineId(3))));
        for garbage in ["", "x|1|0/0|", "7000000000000000001|x|0/0|", "7000000000000000001"] {
            assert_eq!(identity_in(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn a_history_is_read_whole_or_not_at_all() {
        let text = "00000003.history|1\t0/5000000\tno recovery target specified\n\n\
                    2\t0/6000000\tno recovery target specified\n";
        let found = history_in(TimelineId(3), text).expect("two lines");
        assert_eq!(found.switches.len(), 2);
        for garbage in ["", "00000003.history", "00000003.history|", "00000003.history|x\ty"] {
            assert!(history_in(TimelineId(3), garbage).is_err(), "{garbage}");
        }
    }
}
