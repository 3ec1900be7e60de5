//! What Patroni says of a cluster: its members, and who has the leader's key.
//!
//! `GET /cluster` of Patroni's REST API, of any member (api.py: it reads the store for each such
//! request). Whether the leader really is the primary is not decided here: the monitor's probes
//! prove that.

use super::http::{Http, Request};
use crate::config::{NODES_MAX, NodeConfig, Patroni};
use crate::topology::{Leader, Timeline};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A member that does not answer is left for the next one after this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// One answer, with what is remembered of those before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// In the order in which they were first told of.
    pub nodes: Vec<NodeConfig>,
    pub leader: Option<Leader>,
    /// Nodes with the tag `noloadbalance`.
    pub no_reads: BTreeSet<Arc<str>>,
}

/// What a watcher has found out for which cluster.
#[derive(Debug)]
pub struct News {
    pub cluster: Arc<str>,
    pub found: Found,
}

/// Asks once.
///
/// # Errors
/// What the last member that was asked has said, or why none could be.
pub async fn ask(patroni: &Patroni) -> Result<Found, String> {
    parse(&Asker::new(patroni).ask().await?)
}

/// Asks again and again, and sends each answer, until nobody listens any more.
pub async fn watch(cluster: Arc<str>, patroni: Patroni, news: mpsc::Sender<News>) {
    let asker = Asker::new(&patroni);
    let mut tick = tokio::time::interval(patroni.interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut members, mut failing) = (Members::default(), false);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = news.closed() => return,
        }
        match asker.ask().await.and_then(|body| parse(&body)) {
            Ok(found) => {
                if std::mem::take(&mut failing) {
                    tracing::info!(%cluster, "Patroni answers again");
                }
                let found = members.merge(found, Instant::now(), patroni.forget_after);
                let cluster = cluster.clone();
                if news.send(News { cluster, found }).await.is_err() {
                    return;
                }
            }
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%cluster, "Patroni does not answer, what it said last counts: {error}");
            }
            Err(_) => {}
        }
    }
}

struct Asker {
    http: Http,
    authorization: Option<String>,
}

impl Asker {
    fn new(patroni: &Patroni) -> Asker {
        let authorization = patroni.remote.login.as_ref().map(|login| {
            let password = login.password.as_ref().map(ExposeSecret::expose_secret);
            let both = format!("{}:{}", login.user, password.unwrap_or_default());
            format!("Basic {}", STANDARD.encode(both))
        });
        let http = Http { remote: patroni.remote.clone(), timeout: ANSWER_TIMEOUT };
        Asker { http, authorization }
    }

    async fn ask(&self) -> Result<Value, String> {
        let authorization = self.authorization.as_deref();
        let request = Request { method: "GET", path: "/cluster", authorization, body: None };
        self.http.ask(&request).await
    }
}

/// The members of one answer (`cluster_as_json`, utils.py of Patroni). Those without an address
/// have not begun yet.
fn parse(body: &Value) -> Result<Found, String> {
    let members = body["members"].as_array().ok_or("Patroni's answer has no `members`")?;
    let mut found = Found::default();
    for member in members {
        let (Some(name), Some(host)) = (member["name"].as_str(), member["host"].as_str()) else {
            continue;
        };
        let port = match &member["port"] {
            Value::Null => Some(5432),
            port => port.as_u64().and_then(|port| u16::try_from(port).ok()),
        };
        let port = port.ok_or_else(|| format!("Patroni's member {name} has no port"))?;
        let node = NodeConfig::discovered(name, host, port)
            .map_err(|error| format!("Patroni's member {name}: {error}"))?;
        if member["role"] == "leader" || member["role"] == "master" {
            let timeline = member["timeline"].as_u64().and_then(|it| u32::try_from(it).ok());
            let timeline = timeline.map(Timeline);
            found.leader = Some(Leader { name: node.name.clone(), timeline });
        }
        if member["tags"]["noloadbalance"] == true {
            found.no_reads.insert(node.name.clone());
        }
        if found.nodes.iter().any(|other| other.address == node.address) {
            return Err(format!("Patroni gives {} to two members", node.address));
        }
        found.nodes.push(node);
    }
    if found.nodes.len() > NODES_MAX {
        return Err(format!("Patroni has {} members; at most {NODES_MAX}", found.nodes.len()));
    }
    Ok(found)
}

/// Who was told of, in order, and when last.
#[derive(Debug, Default)]
struct Members(Vec<(NodeConfig, Instant)>);

impl Members {
    /// An answer with those that were told of not long ago: a member that is being restarted is
    /// missing for a moment.
    fn merge(&mut self, found: Found, now: Instant, forget_after: Duration) -> Found {
        for node in found.nodes {
            match self.0.iter_mut().find(|(known, _)| known.name == node.name) {
                Some(known) => *known = (node, now),
                None => self.0.push((node, now)),
            }
        }
        let told: Vec<_> = self.0.iter().filter(|(_, at)| *at == now).map(|(n, _)| n).collect();
        // Its address may be another member's by now.
        let taken: Vec<_> = told.iter().map(|node| node.address.clone()).collect();
        self.0.retain(|(node, at)| {
            *at == now || (*at + forget_after > now && !taken.contains(&node.address))
        });
        let nodes = self.0.iter().map(|(node, _)| node.clone()).collect();
        Found { nodes, ..found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn member(name: &str, role: &str, port: u16) -> Value {
        json!({ "name": name, "role": role, "state": "running", "host": "10.0.0.1", "port": port,
            "api_url": "http://10.0.0.1:8008/patroni", "timeline": 3 })
    }

    fn answer(members: &[Value]) -> Found {
        parse(&json!({ "members": members })).unwrap()
    }

    fn names(found: &Found) -> Vec<&str> {
        found.nodes.iter().map(|node| &*node.name).collect()
    }

    #[test]
    fn members_leader_and_tags_are_read() {
        let mut b = member("b", "replica", 2);
        b["tags"] = json!({ "noloadbalance": true, "nofailover": true });
        let starting = json!({ "name": "c", "role": "replica", "state": "creating replica" });
        let found = answer(&[member("a", "leader", 1), b, starting]);
        assert_eq!(names(&found), ["a", "b"]);
        assert_eq!(found.nodes[1].address.to_string(), "10.0.0.1:2");
        let leader = Leader { name: "a".into(), timeline: Some(Timeline(3)) };
        assert_eq!(found.leader, Some(leader));
        assert_eq!(found.no_reads, BTreeSet::from(["b".into()]));
        // The leader of a standby cluster is a replica like the others.
        assert_eq!(answer(&[member("a", "standby_leader", 1)]).leader, None);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let table = [
            (json!({}), "no `members`"),
            (json!({ "members": [member("a b", "leader", 1)] }), "cannot be a name"),
            (
                json!({ "members": [member("a", "leader", 1), member("b", "replica", 1)] }),
                "to two members",
            ),
            (json!({ "members": [{ "name": "a", "host": "x", "port": 70_000 }] }), "has no port"),
        ];
        for (body, part) in table {
            let error = parse(&body).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_member_that_is_away_for_a_moment_stays() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let forget = Duration::from_secs(60);
        let mut members = Members::default();
        let (a, b, c) = (member("a", "leader", 1), member("b", "replica", 2), member("c", "x", 3));
        let mut merge = |answer_of: &[&Value], seconds| {
            let list: Vec<Value> = answer_of.iter().copied().cloned().collect();
            let found = members.merge(answer(&list), at(seconds), forget);
            names(&found).join(" ")
        };
        assert_eq!(merge(&[&b], 0), "b");
        // New ones come last: the others keep their place.
        assert_eq!(merge(&[&a, &b], 1), "b a");
        assert_eq!(merge(&[&a], 60), "b a");
        assert_eq!(merge(&[&a, &c], 61), "a c");
        // Another member at the address of one that is away.
        assert_eq!(merge(&[&c, &member("d", "x", 1)], 62), "c d");
    }
}
