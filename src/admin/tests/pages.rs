//! JSON of snapshots and pools, and the reasons of readiness.

use super::super::view;
use super::{count_everything, fixture, snapshot, without_primary};
use serde_json::json;
use std::time::Instant;

#[test]
fn a_snapshot_is_told_with_what_is_known_and_null_for_the_rest() {
    let now = Instant::now();
    let snapshot = snapshot(now);
    let found = serde_json::to_value(view::cluster("main", &snapshot, now)).expect("plain values");
    let expected = json!({
        "name": "main",
        "epoch": 3,
        "snapshot_version": 42,
        "primary": "pg-a",
        "no_primary_because": null,
        "held": null,
        "drained": false,
        "last_change": { "age_ms": 5000.0, "what": "pg-a took over from pg-c" },
        "nodes": [
            {
                "name": "pg-a", "address": "10.0.0.0:5432", "zone": null, "weight": 1,
                "role": "primary", "health": "healthy", "unhealthy_because": null,
                "in_read_set": false, "out_because": null,
                "timeline": 2, "position": "1/3000060", "lag_ms": null, "lag_bytes": null,
                "applied_age_ms": 0.0, "round_trip_ms": 0.25, "incarnation": 1, "drained": false, "paused": false,
            },
            {
                "name": "pg-b", "address": "10.0.0.1:5432", "zone": "east", "weight": 1,
                "role": "replica", "health": "healthy", "unhealthy_because": null,
                "in_read_set": true, "out_because": null,
                "timeline": 2, "position": "1/2FFF000", "lag_ms": 12.5, "lag_bytes": 4192,
                "applied_age_ms": 20.0, "round_trip_ms": 0.25, "incarnation": 7, "drained": false, "paused": false,
            },
            {
                "name": "pg-c", "address": "10.0.0.2:5432", "zone": null, "weight": 1,
                "role": "unknown", "health": "unhealthy",
                "unhealthy_because": "connection refused",
                "in_read_set": false, "out_because": "not healthy",
                "timeline": null, "position": null, "lag_ms": null, "lag_bytes": null,
                "applied_age_ms": null, "round_trip_ms": 0.25, "incarnation": 1, "drained": false, "paused": false,
            },
        ],
    });
    assert_eq!(found, expected);
}

#[test]
fn a_cluster_without_a_primary_says_why() {
    let now = Instant::now();
    let snapshot = without_primary(now);
    let found = serde_json::to_value(view::cluster("main", &snapshot, now)).expect("plain values");
    assert_eq!(found["primary"], json!(null));
    assert_eq!(found["no_primary_because"], "no node says that it is one");
}

#[test]
fn readiness_tells_every_reason() {
    let now = Instant::now();
    let (with, without) = (snapshot(now), without_primary(now));
    let mut silent = without_primary(now);
    silent.no_primary_because = "".into();
    let told = "the proxy was told to end and takes no new clients";
    let why = "cluster b has no primary: no node says that it is one";
    let cases: &[(bool, &[_], &[&str])] = &[
        (false, &[("a", &with)], &[]),
        (false, &[], &[]),
        (true, &[("a", &with)], &[told]),
        (false, &[("a", &with), ("b", &without)], &[why]),
        (true, &[("b", &without), ("c", &silent)], &[told, why, "cluster c has no primary"]),
    ];
    for (draining, clusters, expected) in cases {
        let found = view::not_ready_because(*draining, clusters.iter().copied());
        assert_eq!(found, *expected);
    }
}

#[test]
fn pools_are_listed_and_filtered_by_cluster() {
    let fixture = fixture();
    count_everything(&fixture);
    let numbers = fixture.state.pools.numbers();
    let found = serde_json::to_value(view::pools(&numbers, None)).expect("plain values");
    let expected = json!([{
        "cluster": "main", "node": "pg-b", "user": "o\"brien", "database": "shop",
        "idle": 0, "active": 1, "waiting": 0,
        "opened_total": 1, "waits_total": 1, "waited_ms_total": 5.0,
    }]);
    assert_eq!(found, expected);
    assert_eq!(view::pools(&numbers, Some("main")).len(), 1);
    assert_eq!(view::pools(&numbers, Some("other")).len(), 0);
}
