//! One site on one screen, as its agents tell it: who leads, is it fenced, how do the others follow.
//! For sites without coordinators, and for the hour in which none answers.
//!
//! Pure: the agents' answers in, lines out.

use regent_proto::record::ReportedFence;
use regent_proto::wire::{Federation, Node, Site};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::fence;
use crate::json::node as node_json;
use crate::screen::{Cell, Line, Tone, bytes, cell, columns, labelled, span};

/// `GET /cluster` of one agent: what Patroni's API says of a site.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Cluster {
    /// The site's name.
    pub scope: String,
    /// Maintenance.
    #[serde(default)]
    pub pause: bool,
    /// The nodes that its DCS has.
    pub members: Vec<Member>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Name.
    pub name: String,
    /// Patroni's word.
    pub role: String,
    /// Patroni's word.
    pub state: String,
    /// Where its agent answers.
    pub api_url: String,
    /// PostgreSQL's host.
    #[serde(default)]
    pub host: String,
    /// PostgreSQL's port.
    #[serde(default)]
    pub port: u32,
    /// Timeline.
    #[serde(default)]
    pub timeline: Option<u32>,
    /// Bytes behind the leader, or `unknown`.
    #[serde(default)]
    pub lag: Value,
}

/// What was learnt of a site.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    cluster: Cluster,
    federation: Federation,
    silent: Vec<String>,
}

impl Told {
    /// From the site's picture and each member's own word on its fence, in the members' order.
    #[must_use]
    pub fn new(cluster: Cluster, fences: Vec<Result<ReportedFence, String>>) -> Self {
        let mut silent = Vec::new();
        let mut nodes = Vec::new();
        for (member, told) in cluster.members.iter().zip(fences) {
            if let Err(problem) = &told {
                silent.push(format!("{}: {problem}", member.name));
            }
            nodes.push(Node {
                name: member.name.clone(),
                role: member.role.clone(),
                state: member.state.clone(),
                host: member.host.clone(),
                port: member.port,
                api_url: member.api_url.clone(),
                timeline: member.timeline,
                lag_bytes: member.lag.as_u64(),
                fence: told.as_ref().ok().map(Into::into),
                ..Node::default()
            });
        }
        let site = Site { name: cluster.scope.clone(), nodes, ..Site::default() };
        let federation = Federation { sites: vec![site], ..Federation::default() };
        Self { cluster, federation, silent }
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.federation.sites.iter().flat_map(|site| &site.nodes)
    }

    /// What is to be looked at.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = fence::warnings(&self.federation);
        warnings.extend(self.silent.iter().cloned());
        warnings
    }

    /// For `-o json`.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "scope": self.cluster.scope,
            "pause": self.cluster.pause,
            "nodes": self.nodes().map(node_json).collect::<Vec<_>>(),
            "warnings": self.warnings(),
        })
    }

    /// The screen.
    #[must_use]
    pub fn screen(&self, fences: bool, width: usize) -> Vec<Line> {
        let mut lines = labelled("SITE", Tone::Plain, &self.cluster.scope, width);
        let (tone, leader) = self.leader();
        lines.extend(labelled("LEADER", tone, &leader, width));
        let (tone, fenced) = self.fenced();
        lines.extend(labelled("FENCED", tone, &fenced, width));
        lines.push(Line::new());
        let head = ["NODE", "ROLE", "STATE", "TIMELINE", "LAG"];
        let mut rows: Vec<Vec<Cell>> =
            vec![head.iter().map(|text| (Tone::Dim, (*text).to_owned())).collect()];
        rows.extend(self.nodes().map(row));
        lines.extend(columns(&rows));
        lines.push(Line::new());
        if fences {
            lines.extend(fence::section(&self.federation, width));
        }
        for warning in self.warnings() {
            lines.extend(labelled("WARNING", Tone::Warn, &warning, width));
        }
        lines
    }

    fn leader(&self) -> (Tone, String) {
        let leads = |node: &&Node| node.role == "leader" || node.role == "standby_leader";
        let Some(node) = self.nodes().find(leads) else {
            return (Tone::Bad, "nobody holds the leader key".to_owned());
        };
        let writes = match &node.fence {
            _ if node.role == "standby_leader" => {
                ", of a standby site: it takes no writes".to_owned()
            }
            Some(fence) if fence.suspended => ", which writes without a deadline".to_owned(),
            Some(fence) if fence.deadline_left_ms > 0 => {
                format!(", may write for {}", span(fence.deadline_left_ms))
            }
            Some(_) => ", but without the right to write".to_owned(),
            None => ", whose agent does not answer".to_owned(),
        };
        let good = node.fence.as_ref().is_some_and(|fence| fence.deadline_left_ms > 0);
        let tone = if good { Tone::Strong } else { Tone::Warn };
        (tone, format!("{}{writes}", node.name))
    }

    fn fenced(&self) -> (Tone, String) {
        let of = |wanted: &dyn Fn(&Node) -> bool| -> Vec<&str> {
            self.nodes().filter(|node| wanted(node)).map(|node| node.name.as_str()).collect()
        };
        let suspended = of(&|node| node.fence.as_ref().is_some_and(|fence| fence.suspended));
        let silent = of(&|node| node.fence.is_none());
        if !suspended.is_empty() {
            return (Tone::Bad, format!("NOT FENCED: PAUSED ({})", suspended.join(", ")));
        }
        if !silent.is_empty() {
            return (Tone::Warn, format!("unknown of {}", silent.join(", ")));
        }
        (Tone::Good, if self.cluster.pause { "yes, though paused" } else { "yes" }.to_owned())
    }
}

fn row(node: &Node) -> Vec<Cell> {
    let good = node.state == "running" || node.state == "streaming";
    let tone = if good { Tone::Plain } else { Tone::Warn };
    vec![
        cell(&node.name),
        cell(&node.role),
        (tone, node.state.clone()),
        node.timeline.map_or_else(|| cell("-"), |timeline| cell(timeline.to_string())),
        node.lag_bytes.map_or_else(|| cell("-"), |lag| cell(bytes(lag))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(pause: bool) -> Cluster {
        let text = format!(
            r#"{{"scope": "home", "pause": {pause}, "members": [
              {{"name": "h1", "role": "leader", "state": "running", "timeline": 3,
                "api_url": "http://10.0.0.1:8008/patroni", "host": "10.0.0.1", "port": 5432}},
              {{"name": "h2", "role": "replica", "state": "streaming", "timeline": 3, "lag": 2048,
                "api_url": "http://10.0.0.2:8008/patroni", "host": "10.0.0.2", "port": 5432}},
              {{"name": "h3", "role": "replica", "state": "stopped", "lag": "unknown",
                "api_url": "http://10.0.0.3:8008/patroni"}}]}}"#
        );
        serde_json::from_str(&text).expect("what an agent answers")
    }

    fn fence(deadline_left_ms: u64, suspended: bool) -> Result<ReportedFence, String> {
        let watchdog = "off".to_owned();
        let told = ReportedFence { deadline_left_ms, suspended, watchdog, ..Default::default() };
        Ok(ReportedFence { guardian: true, ..told })
    }

    fn text(told: &Told, fences: bool) -> String {
        told.screen(fences, 100).iter().map(|line| line.text() + "\n").collect()
    }

    #[test]
    fn a_site_says_who_leads_and_until_when() {
        let told =
            Told::new(cluster(false), vec![fence(3900, false), fence(0, false), fence(0, false)]);
        let shown = text(&told, true);
        for part in ["home", "h1, may write for 3.900 s", "FENCED     yes\n", "2.0 kB", "GUARDIAN"]
        {
            assert!(shown.contains(part), "{part:?} is not in\n{shown}");
        }
        assert_eq!(told.warnings(), [] as [&str; 0]);
        assert!(!text(&told, false).contains("GUARDIAN"));
        assert_eq!(told.json()["nodes"][0]["fence"]["deadline_left_ms"], 3900);
    }

    #[test]
    fn a_paused_site_without_federation_is_not_fenced() {
        let told = Told::new(cluster(true), vec![fence(0, true), fence(0, false), fence(0, false)]);
        let shown = text(&told, false);
        assert!(shown.contains("NOT FENCED: PAUSED (h1)"), "{shown}");
        assert!(shown.contains("h1, which writes without a deadline"), "{shown}");
        assert_eq!(told.warnings(), ["h1: NOT FENCED: PAUSED"]);
        assert_eq!(told.json()["warnings"], json!(["h1: NOT FENCED: PAUSED"]));
        // One of a federation keeps its fence.
        let told =
            Told::new(cluster(true), vec![fence(900, false), fence(0, false), fence(0, false)]);
        assert!(text(&told, false).contains("yes, though paused"));
    }

    #[test]
    fn whoever_does_not_answer_is_named() {
        let silent = || Err("no answer from 10.0.0.1:8008".to_owned());
        let told = Told::new(cluster(false), vec![silent(), fence(0, false), fence(0, false)]);
        let shown = text(&told, false);
        assert!(shown.contains("h1, whose agent does not answer"), "{shown}");
        assert!(shown.contains("unknown of h1"), "{shown}");
        assert_eq!(told.warnings(), ["h1: no answer from 10.0.0.1:8008"]);
        let mut nobody = cluster(false);
        nobody.members.remove(0);
        let told = Told::new(nobody, vec![fence(0, false), fence(0, false)]);
        assert!(text(&told, false).contains("nobody holds the leader key"));
    }
}
