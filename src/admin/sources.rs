//! What the monitor keeps, as JSON: the journal of changes and the history of lag.

use super::JsonSource;
use super::view::milliseconds;
use crate::failover::audit::{Audit, Record};
use crate::monitor::journal::{Change, Entry, Journal};
use crate::monitor::lags::{Lags, Point};
use crate::topology::{Lag, NodeId, Position, Snapshot, Topology};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// `/api/v1/failovers` of a cluster: what changed, oldest first.
pub fn failovers(journal: &Arc<Journal>, topology: &Arc<Topology>) -> JsonSource {
    let (journal, topology) = (Arc::clone(journal), Arc::clone(topology));
    Arc::new(move || changes(&journal.entries(), &topology.load(), Instant::now()))
}

/// Also `/api/v1/failovers` of a cluster: what was done to change the primary, oldest first.
pub fn actions(audit: &Arc<Audit>) -> JsonSource {
    let audit = Arc::clone(audit);
    Arc::new(move || audit.records().iter().map(action).collect())
}

fn action(record: &Record) -> Value {
    let (state, error) = match &record.outcome {
        None => ("running", None),
        Some(Ok(())) => ("done", None),
        Some(Err(error)) => ("failed", Some(&**error)),
    };
    let steps = record.steps.iter().map(|step| {
        let (ok, told) = match &step.outcome {
            Ok(told) => (true, told),
            Err(error) => (false, error),
        };
        json!({
            "what": *step.what,
            "began_ms": milliseconds(step.began),
            "took_ms": milliseconds(step.took),
            "ok": ok,
            "told": **told,
        })
    });
    json!({
        "id": record.id,
        "kind": record.kind.word(),
        "at_ms": since_1970(record.began_wall),
        "from": *record.from,
        "to": record.to.as_deref(),
        "state": state,
        "error": error,
        "held_ms": record.held.map(milliseconds),
        "steps": steps.collect::<Vec<_>>(),
    })
}

/// `/api/v1/lag` of a cluster: each node's lag over the last minutes, oldest first.
pub fn lag_history(lags: &Arc<Lags>, topology: &Arc<Topology>) -> JsonSource {
    let (lags, topology) = (Arc::clone(lags), Arc::clone(topology));
    Arc::new(move || {
        let snapshot = topology.load();
        let nodes = snapshot.nodes.iter();
        nodes
            .map(|node| json!({ "node": *node.name, "points": points(&lags.of(node.id)) }))
            .collect()
    })
}

fn changes(entries: &[Entry], snapshot: &Snapshot, now: Instant) -> Value {
    let name = |id: NodeId| snapshot.nodes.get(usize::from(id.0)).map(|node| &*node.name);
    let entries = entries.iter().map(|entry| {
        let (change, node) = change_words(entry.change);
        json!({
            "at_ms": since_1970(entry.wall),
            "age_ms": milliseconds(now.saturating_duration_since(entry.at)),
            "change": change,
            "node": node.and_then(name),
            "what": *entry.text,
        })
    });
    entries.collect()
}

fn change_words(change: Change) -> (&'static str, Option<NodeId>) {
    match change {
        Change::PrimaryFound { node } => ("primary_found", Some(node)),
        Change::PrimaryLost { node } => ("primary_lost", Some(node)),
        Change::StillNoPrimary => ("still_no_primary", None),
        Change::RoleChanged { node } => ("role_changed", Some(node)),
        Change::Healthy { node } => ("healthy", Some(node)),
        Change::Unhealthy { node } => ("unhealthy", Some(node)),
        Change::JoinedReads { node } => ("joined_reads", Some(node)),
        Change::LeftReads { node } => ("left_reads", Some(node)),
        Change::Drained { node } => ("drained", Some(node)),
        Change::Undrained { node } => ("undrained", Some(node)),
        Change::Held => ("held", None),
        Change::Released => ("released", None),
        Change::Closed => ("closed", None),
        Change::Reopened => ("reopened", None),
    }
}

fn points(points: &[Point]) -> Value {
    let points = points.iter().map(|point| {
        let (lag_ms, lag_bytes) = match point.lag {
            Lag::Unknown => (None, None),
            Lag::Known { age, bytes } => (Some(milliseconds(age)), bytes),
        };
        let position = point.position.as_ref().map(Position::to_string);
        json!({
            "at_ms": since_1970(point.wall),
            "lag_ms": lag_ms,
            "lag_bytes": lag_bytes,
            "position": position,
        })
    });
    points.collect()
}

/// Milliseconds since 1970, as JavaScript counts; 0 for a clock that is set before.
fn since_1970(at: SystemTime) -> f64 {
    milliseconds(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::tests::snapshot;
    use super::*;
    use crate::topology::Timeline;
    use std::time::Duration;

    const WALL: u64 = 1_700_000_000_250;

    fn wall() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(WALL)
    }

    #[test]
    fn changes_name_their_node() {
        let at = Instant::now();
        let entry = |change, text: &str| Entry { at, wall: wall(), change, text: text.into() };
        let entries = [
            entry(Change::PrimaryLost { node: NodeId(2) }, "no primary: gone"),
            entry(Change::StillNoPrimary, "still no primary: split"),
            // Of a configuration that had more nodes.
            entry(Change::Healthy { node: NodeId(9) }, "pg-z is healthy"),
        ];
        let found = changes(&entries, &snapshot(at), at + Duration::from_millis(1500));
        let row = |change: &str, node: Value, what: &str| {
            json!({
                "at_ms": WALL as f64, "age_ms": 1500.0,
                "change": change, "node": node, "what": what,
            })
        };
        let expected = json!([
            row("primary_lost", json!("pg-c"), "no primary: gone"),
            row("still_no_primary", json!(null), "still no primary: split"),
            row("healthy", json!(null), "pg-z is healthy"),
        ]);
        assert_eq!(found, expected);
    }

    #[test]
    fn points_tell_what_is_known() {
        let at = Instant::now();
        let position = Some(Position::Log { timeline: Timeline(1), offset: 0x1_0000_00A0 });
        let lag = Lag::Known { age: Duration::from_micros(1_250), bytes: Some(64) };
        let known = Point { at, wall: wall(), lag, position };
        let unknown = Point { lag: Lag::Unknown, position: None, ..known };
        let at_ms = WALL as f64;
        let expected = json!([
            { "at_ms": at_ms, "lag_ms": 1.25, "lag_bytes": 64, "position": "1/A0" },
            { "at_ms": at_ms, "lag_ms": null, "lag_bytes": null, "position": null },
        ]);
        assert_eq!(points(&[known, unknown]), expected);
    }

    #[test]
    fn sources_read_the_present_state() {
        let (topology, _evidence) = Topology::new(snapshot(Instant::now()));
        assert_eq!(failovers(&Arc::default(), &topology)(), json!([]));
        let lag = lag_history(&Arc::default(), &topology)();
        assert_eq!(lag[1], json!({ "node": "pg-b", "points": [] }));
    }

    #[test]
    fn the_documentation_tells_every_word() {
        let page = include_str!("../../docs/http.md");
        let node = NodeId(0);
        let changes = [
            Change::PrimaryFound { node },
            Change::PrimaryLost { node },
            Change::StillNoPrimary,
            Change::RoleChanged { node },
            Change::Healthy { node },
            Change::Unhealthy { node },
            Change::JoinedReads { node },
            Change::LeftReads { node },
            Change::Drained { node },
            Change::Undrained { node },
            Change::Held,
            Change::Released,
            Change::Closed,
            Change::Reopened,
        ];
        for change in changes {
            let word = format!("`{}`", change_words(change).0);
            assert!(page.contains(&word), "docs/http.md lacks {word}");
        }
    }
}
