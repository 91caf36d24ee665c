//! Where the primary is, for applications and load balancers at every site: `/regent/primary` and
//! `/regent/replica` are checks, `/regent/site` tells what this node knows of its federation.
//!
//! Answered from the last picture, as every check. Unlike Patroni's `/primary`, no pause makes a node
//! without a right to write the primary (I17).

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::health::{Facts, code, lags};
use crate::act::publish::{self, Picture};
use crate::config::Config;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Whether this node is the federation's writable primary now.
    Primary,
    /// Whether reads may go to it, in whichever site.
    Replica,
    /// What it knows of its site and of the federation.
    Site,
}

impl Place {
    /// The place of a path without its first `/`.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path.trim_end_matches('/') {
            "regent/primary" => Some(Self::Primary),
            "regent/replica" => Some(Self::Replica),
            "regent/site" => Some(Self::Site),
            _ => None,
        }
    }

    /// The code for a load balancer.
    pub(super) fn code(
        self,
        facts: &Facts,
        picture: &Picture,
        query: &BTreeMap<String, String>,
    ) -> StatusCode {
        code(match self {
            Self::Primary => facts.is_primary(),
            Self::Replica => facts.reads() && !lags(query, behind(picture)),
            Self::Site => knows(picture),
        })
    }
}

/// Bytes that this node has not replayed of what is known to be written, by its site's leader or by the
/// primary site's last report.
fn behind(picture: &Picture) -> Option<u64> {
    let view = &picture.view;
    let replayed = view.postgres.status.as_ref()?.replayed;
    let leader = view.site.as_ref().and_then(|site| site.optime);
    let primary = view.federation.as_ref().and_then(|federation| {
        let holder = &federation.primary.as_ref()?.value.holder;
        federation.reports.get(holder)?.position
    });
    let written = leader.into_iter().chain(primary).max()?;
    Some(written.bytes_since(replayed))
}

/// Whether it knows who is primary: outside a federation its own site is.
fn knows(picture: &Picture) -> bool {
    match &picture.view.federation {
        None => picture.view.site.is_some(),
        Some(federation) => {
            let young = federation.age.is_some_and(|age| age <= picture.dynamic.ttl * 2);
            federation.primary.is_some() && young
        }
    }
}

/// The body of all three.
pub(super) fn body(facts: &Facts, config: &Config, picture: &Picture) -> Value {
    let view = &picture.view;
    let mut body = json!({
        "node": config.name.as_str(),
        "role": publish::role(picture, &config.name),
        "primary": facts.is_primary(),
    });
    if let Some(federation) = &view.federation {
        body["site"] = json!(federation.site.as_str());
        if let Some(primary) = federation.primary.as_ref().map(|primary| &primary.value) {
            body["epoch"] = json!(primary.epoch.get());
            body["primary_site"] = json!(primary.holder.as_str());
            body["primary_state"] = json!(primary.state.name());
        }
    }
    let leader = view.site.as_ref().and_then(|site| {
        let name = &site.leader.as_ref()?.name;
        Some((name, site.members.get(name)?))
    });
    if let Some((name, member)) = leader {
        // Where clients of this site connect: to write at the primary site, to read elsewhere.
        body["leader"] = json!({"name": name.as_str(), "host": member.host, "port": member.port});
    }
    body
}
