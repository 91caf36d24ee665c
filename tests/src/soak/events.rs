//! The events, each as it happens in life, and what makes a site whole again: nobody but its own
//! agents. What a service manager does is done here: an agent that has ended is started again.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regent_dcs::Store;
use regent_test_sys::cgroup;
use regent_test_sys::process::{Stopped, living_in};
use serde_json::{Value, json};

use super::clients::Clients;
use super::plan::{Deed, Event, Members, Request, Whom};
use crate::fence::checker::Node;
use crate::fence::cluster::{Cluster, TTL};
use crate::rest::{ask, ask_within, code};
use crate::wait::until;

/// From the end of an event until the site is whole again, at the longest.
pub const HEALS: Duration = Duration::from_secs(60);
/// Longest wait for writes after an event.
const NEXT: Duration = Duration::from_secs(40);
/// A row that is acknowledged so long after an event belongs to what comes after it.
const BEYOND: Duration = Duration::from_millis(1500);
/// A frozen node stays so for so long.
const FROZEN: Duration = Duration::from_secs(2 * TTL.as_secs());
/// Longest wait for processes that were told to end.
const ENDS: Duration = Duration::from_secs(20);
/// Longest wait for the answer to a request.
const ASKED: Duration = Duration::from_secs(60);
/// Longest wait for the DCS.
const CALL: Duration = Duration::from_secs(2);
/// The leader key of the fence's site.
const LEADER: &str = "/service/home/leader";

/// Who is who on a site that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// Who leads.
    pub leader: Node,
    /// For whom commits wait.
    pub synchronous: Node,
    /// The third.
    pub other: Node,
}

impl Roles {
    fn node(self, whom: Whom) -> Node {
        match whom {
            Whom::Leader => self.leader,
            Whom::Synchronous => self.synchronous,
            Whom::Other => self.other,
        }
    }
}

/// Waits until one node leads and says so, one is synchronous, all stream on one timeline and answer
/// their health checks, and the DCS names the leader.
///
/// # Errors
/// When it does not come to that.
pub async fn whole(cluster: &Cluster, store: &dyn Store) -> anyhow::Result<Roles> {
    until("a whole site", HEALS, async || {
        let leader = cluster.healthy().await.map_err(|e| format!("{e:#}"))?;
        roles(cluster, store, leader).await.map_err(|e| format!("{e:#}"))
    })
    .await
}

async fn roles(cluster: &Cluster, store: &dyn Store, leader: Node) -> anyhow::Result<Roles> {
    let nodes = &cluster.lab().layout().nodes;
    let name = &nodes[leader].name;
    let key = store.get(LEADER, CALL).await?;
    let holder = key.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
    ensure!(holder.as_deref() == Some(name.as_str()), "{name} leads, the key says {holder:?}");
    for (node, place) in nodes.iter().enumerate() {
        let path = if node == leader { "/primary" } else { "/replica" };
        let code = code(place.rest_port, path).await;
        ensure!(code == 200, "GET {path} of {}: {code}", place.name);
    }
    let shown = ask(nodes[leader].rest_port, "GET", "/cluster", "").await?.json();
    let names: Vec<&str> = nodes.iter().map(|place| place.name.as_str()).collect();
    let roles = read(&shown, &names).with_context(|| shown.to_string())?;
    ensure!(roles.leader == leader, "{name} leads, and says {shown}");
    Ok(roles)
}

/// What `GET /cluster` says of three nodes, where that is as it must be.
fn read(cluster: &Value, names: &[&str]) -> Option<Roles> {
    let members = cluster["members"].as_array()?;
    let one = |role: &str, state: &str| -> Option<Node> {
        let mut found = members.iter().filter(|m| m["role"] == role && m["state"] == state);
        let name = found.next()?["name"].as_str()?;
        let node = names.iter().position(|other| *other == name)?;
        found.next().is_none().then_some(node)
    };
    let timeline = members.first()?["timeline"].as_u64()?;
    let same = members.iter().all(|member| member["timeline"].as_u64() == Some(timeline));
    let roles = Roles {
        leader: one("leader", "running")?,
        synchronous: one("sync_standby", "streaming")?,
        other: one("replica", "streaming")?,
    };
    (same && members.len() == names.len()).then_some(roles)
}

/// Lets an event happen and come to its end, with writes; who must lead then, where that is known.
///
/// # Errors
/// When it can't be done, or writes do not come back.
pub async fn happen(
    cluster: &mut Cluster,
    clients: &Clients,
    roles: Roles,
    event: Event,
) -> anyhow::Result<Option<Node>> {
    let at = clients.now();
    match event {
        Event::Node(deed, whom) => {
            let node = roles.node(whom);
            let passed = Passed { clients, at, old: event.deposes().then_some(node) };
            to_node(cluster, node, deed, &passed).await?;
            cluster.start_missing().await?;
            Ok(None)
        }
        Event::Asked(request) => requested(cluster, roles, request).await.map(Some),
        Event::Dcs(members) => {
            match members {
                Members::All => cluster.stores.kill(),
                Members::OfLeader => cluster.stores.kill_own(roles.leader),
            }
            cluster.start_missing().await?;
            Passed { clients, at, old: None }.wait().await?;
            Ok(None)
        }
    }
}

/// What an event waits for before it is over: writes of after it.
struct Passed<'a> {
    clients: &'a Clients,
    at: Duration,
    /// Whom another node must have followed.
    old: Option<Node>,
}

impl Passed<'_> {
    async fn wait(&self) -> anyhow::Result<()> {
        let after = if self.old.is_some() { self.at } else { self.at + BEYOND };
        self.clients.told(after, self.old, NEXT).await
    }
}

async fn to_node(
    cluster: &Cluster,
    node: Node,
    deed: Deed,
    passed: &Passed<'_>,
) -> anyhow::Result<()> {
    let lab = cluster.lab();
    let name = &lab.layout().nodes[node].name;
    let agent = cluster.agent(node);
    match deed {
        Deed::AgentKilled => {
            lab.signal(&agent, Signal::SIGKILL).await?;
            passed.wait().await
        }
        Deed::AgentRestarted => {
            lab.signal(&agent, Signal::SIGKILL).await?;
            lab.start(&agent).await?;
            passed.wait().await
        }
        Deed::AgentStopped => {
            lab.signal(&agent, Signal::SIGTERM).await?;
            passed.wait().await?;
            until("the agent to end", ENDS, async || match lab.pid(&agent).await {
                Ok(None) => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await
        }
        Deed::AgentFrozen => {
            let frozen = Stopped::these([cluster.agent_pid(node).await?])?;
            passed.wait().await?;
            frozen.go_on();
            Ok(())
        }
        Deed::GuardianKilled => {
            lab.signal_guardian(name, Signal::SIGKILL).await?;
            passed.wait().await
        }
        Deed::PostmasterKilled => {
            kill(cluster.postmaster(node)?, Signal::SIGKILL)?;
            passed.wait().await
        }
        Deed::ServerStopped => {
            kill(cluster.postmaster(node)?, Signal::SIGINT)?;
            passed.wait().await
        }
        Deed::NodeKilled => {
            lab.kill_node(name).await?;
            passed.wait().await
        }
        Deed::NodeFrozen => frozen(cluster, node, passed).await,
        Deed::NodeRemoved => {
            lab.kill_node(name).await?;
            remove(cluster, node).await?;
            passed.wait().await
        }
    }
}

/// All its processes stand still for twice the TTL, and until writes are back.
async fn frozen(cluster: &Cluster, node: Node, passed: &Passed<'_>) -> anyhow::Result<()> {
    let mut roots: Vec<Pid> = vec![cluster.agent_pid(node).await?, cluster.postmaster(node)?];
    roots.extend(cluster.guardians(node));
    let group = cgroup::Node::of_families(&roots)?;
    let frozen = group.freeze()?;
    passed.wait().await?;
    let clients = passed.clients;
    until("the freeze to have lasted", FROZEN * 2, async || {
        let lasted = clients.now() - passed.at;
        if lasted >= FROZEN { Ok(()) } else { Err(format!("{lasted:?}")) }
    })
    .await?;
    drop(frozen);
    Ok(())
}

/// The disk of a node that was killed is gone: data, what was salvaged from it, everything beside it.
async fn remove(cluster: &Cluster, node: Node) -> anyhow::Result<()> {
    let data_dir = cluster.directories(node).1;
    until("the killed node to be gone", ENDS, async || {
        let left = (living_in(&data_dir), cluster.guardians(node));
        let agent = cluster.lab().pid(&cluster.agent(node)).await;
        match agent {
            Ok(None) if left.0.is_empty() && left.1.is_empty() => Ok(()),
            agent => Err(format!("agent {agent:?}, {left:?}")),
        }
    })
    .await?;
    let disk = data_dir.parent().context("a data directory lies in a directory")?;
    for entry in fs::read_dir(disk)? {
        let path = entry?.path();
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Asks the leader over REST, which must say that it was done; who leads then.
async fn requested(cluster: &Cluster, roles: Roles, request: Request) -> anyhow::Result<Node> {
    let nodes = &cluster.lab().layout().nodes;
    let name = |node: Node| nodes[node].name.as_str();
    let leader = name(roles.leader);
    let (path, body, to) = match request {
        Request::ToSynchronous => {
            let body = json!({"leader": leader, "candidate": name(roles.synchronous)});
            ("/switchover", body, roles.synchronous)
        }
        // Only one may lead, so it is known who will.
        Request::ToAnybody => ("/switchover", json!({"leader": leader}), roles.synchronous),
        Request::FailoverToOther => {
            ("/failover", json!({"candidate": name(roles.other)}), roles.other)
        }
    };
    let port = nodes[roles.leader].rest_port;
    let answer = ask_within(ASKED, port, "POST", path, &body.to_string()).await?;
    ensure!(answer.code == 200, "POST {path} {body}: {} {}", answer.code, answer.body);
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(members: &[(&str, &str, &str, u64)]) -> Value {
        let members = members.iter().map(|(name, role, state, timeline)| {
            json!({"name": name, "role": role, "state": state, "timeline": timeline})
        });
        json!({"members": members.collect::<Vec<_>>()})
    }

    #[test]
    fn only_a_leader_with_two_streaming_standbys_of_one_timeline_is_a_whole_site() {
        const LEADER: (&str, &str, &str, u64) = ("b", "leader", "running", 3);
        const SYNC: (&str, &str, &str, u64) = ("c", "sync_standby", "streaming", 3);
        const OTHER: (&str, &str, &str, u64) = ("a", "replica", "streaming", 3);
        let names = ["a", "b", "c"];
        let roles = Roles { leader: 1, synchronous: 2, other: 0 };
        assert_eq!(read(&cluster(&[OTHER, LEADER, SYNC]), &names), Some(roles));
        for members in [
            vec![LEADER, SYNC],
            vec![LEADER, OTHER, ("c", "replica", "streaming", 3)],
            vec![LEADER, SYNC, ("a", "replica", "running", 3)],
            vec![LEADER, SYNC, ("a", "replica", "streaming", 2)],
            vec![LEADER, SYNC, OTHER, ("d", "replica", "streaming", 3)],
            vec![SYNC, OTHER, ("b", "replica", "streaming", 3)],
        ] {
            assert_eq!(read(&cluster(&members), &names), None, "{members:?}");
        }
    }
}
