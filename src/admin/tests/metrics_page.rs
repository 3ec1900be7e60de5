//! The metrics page as a whole.

use super::super::page;
use super::exposition::{self, Families};
use super::{Fixture, count_everything, fixture, snapshot};
use crate::metrics::{TABLE, labels};
use crate::sql::Pin;
use crate::topology::Lag;

fn families(fixture: &Fixture) -> Families {
    let text = page::metrics(&fixture.state, fixture.now);
    exposition::read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The value of the sample with these labels.
fn value(families: &Families, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let samples = &families.get(name)?.samples;
    let matches = |found: &std::collections::BTreeMap<String, String>| {
        labels.iter().all(|(label, value)| found.get(*label).is_some_and(|found| found == value))
    };
    samples.iter().find(|(_, found, _)| matches(found)).map(|(_, _, value)| *value)
}

#[test]
fn a_page_of_a_busy_proxy_is_valid_and_has_every_metric() {
    let fixture = fixture();
    count_everything(&fixture);
    let families = families(&fixture);
    for metric in TABLE {
        assert!(families.contains_key(metric.name), "{} is not on the page", metric.name);
    }
}

#[test]
fn a_page_of_an_idle_proxy_is_valid() {
    let families = families(&fixture());
    let labels = [("cluster", "main"), ("node", "pg-b"), ("reason", "least_lag")];
    assert_eq!(value(&families, "tiffin_routed_total", &labels), Some(0.0));
    assert!(!families.contains_key("tiffin_errors_total"));
}

/// Name of a metric, some of its labels, and the value that it must have.
type Case = (&'static str, &'static [(&'static str, &'static str)], f64);

#[test]
fn what_was_counted_is_on_the_page() {
    let fixture = fixture();
    count_everything(&fixture);
    let families = families(&fixture);
    let cases: &[Case] = &[
        ("tiffin_routed_total", &[("node", "pg-b"), ("reason", "least_lag")], 2.0),
        ("tiffin_routed_total", &[("node", "pg-a"), ("reason", "write")], 1.0),
        ("tiffin_routed_total", &[("node", "pg-a"), ("reason", "least_lag")], 0.0),
        ("tiffin_clients", &[], 1.0),
        ("tiffin_clients_opened_total", &[], 2.0),
        ("tiffin_gate_waiting", &[("cluster", "main")], 1.0),
        ("tiffin_gate_waits_total", &[("outcome", "opened")], 1.0),
        ("tiffin_pinned_sessions", &[("pin", "listen")], 1.0),
        ("tiffin_pins_total", &[("pin", "listen")], 2.0),
        ("tiffin_errors_total", &[("origin", "server"), ("class", "23")], 1.0),
        ("tiffin_errors_total", &[("origin", "proxy"), ("class", "57")], 1.0),
        ("tiffin_unsafe_statements_total", &[("reason", "parse_error")], 1.0),
        ("tiffin_server_connections_closed_total", &[("node", "pg-b"), ("reason", "epoch")], 1.0),
        ("tiffin_pool_connections", &[("user", "o\"brien"), ("state", "active")], 1.0),
        ("tiffin_pool_waited_seconds_total", &[("database", "shop")], 0.005),
        ("tiffin_probes_total", &[("node", "pg-c"), ("outcome", "failed")], 1.0),
        ("tiffin_draining", &[], 0.0),
    ];
    for (name, labels, expected) in cases {
        assert_eq!(value(&families, name, labels), Some(*expected), "{name} {labels:?}");
    }
}

#[test]
fn unknown_lag_is_infinite_and_unknown_positions_are_absent() {
    let fixture = fixture();
    let families = families(&fixture);
    let lag = |node| value(&families, "tiffin_node_lag_seconds", &[("node", node)]);
    assert_eq!(lag("pg-a"), None, "a primary has no lag");
    assert_eq!(lag("pg-b"), Some(0.0125));
    assert_eq!(lag("pg-c"), Some(f64::INFINITY));
    let position = |node| value(&families, "tiffin_node_position_bytes", &[("node", node)]);
    assert_eq!(position("pg-b"), Some(f64::from(0x02FF_F000) + 4_294_967_296.0));
    assert_eq!(position("pg-c"), None);
}

#[test]
fn the_page_follows_the_snapshot_and_the_configuration() {
    let fixture = fixture();
    let mut next = snapshot(fixture.now);
    next.version = 43;
    next.nodes[1].lag = Lag::Unknown;
    fixture.topology.publish(next);
    let after = families(&fixture);
    assert_eq!(value(&after, "tiffin_snapshot_version", &[]), Some(43.0));
    let lag = value(&after, "tiffin_node_lag_seconds", &[("node", "pg-b")]);
    assert_eq!(lag, Some(f64::INFINITY));

    fixture.state.clusters.store(std::sync::Arc::new(Vec::new()));
    assert!(!families(&fixture).contains_key("tiffin_snapshot_version"));
}

/// The table of metrics must not know the session's pins, so that they agree is seen here.
#[test]
fn every_pin_of_a_session_has_a_counter_of_its_own() {
    let pins = [
        Pin::TemporaryTable,
        Pin::AdvisoryLock,
        Pin::Listen,
        Pin::HoldCursor,
        Pin::Sequence,
        Pin::PreparedStatement,
        Pin::Setting,
        Pin::Variable,
        Pin::TableLock,
        Pin::DistributedTransaction,
        Pin::FoundRows,
        Pin::Unknown,
    ];
    for pin in pins {
        assert_eq!(labels::PINS[labels::pin_index(pin.as_str())], pin.as_str());
    }
}

/// The text itself, so that a change of names, order or format is seen for what it is: dashboards
/// and alerts depend on it. `metrics.golden.txt` is the page of a proxy that has counted something
/// of everything, less the control plane's part, which comes in no fixed order.
#[test]
fn the_text_is_as_it_was() {
    let fixture = fixture();
    count_everything(&fixture);
    let text = page::counted_here(&fixture.state, fixture.now).into_text();
    let expected = include_str!("metrics.golden.txt");
    for (found, expected) in text.lines().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(text.lines().count(), expected.lines().count(), "{text}");
}
