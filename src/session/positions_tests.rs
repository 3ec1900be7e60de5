use super::*;
use crate::topology::{Health, Lag, Role};
use std::time::Duration;

const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

fn set(text: &str) -> Gtids {
    Gtids::parse_set(&text.replace('A', A)).unwrap()
}

/// A node that has applied these, and the primary's sample of that instant.
fn node(id: u16, gtids: Gtids, applied_at: Instant) -> Node {
    Node {
        id: NodeId(id),
        name: "n".into(),
        address: "x".into(),
        zone: None,
        weight: 1,
        role: Role::Replica,
        health: Health::Healthy,
        in_read_set: true,
        out_because: "".into(),
        position: Some(Position::Gtids(Arc::new(gtids))),
        lag: Lag::Unknown,
        applied_at: Some(applied_at),
        in_order: true,
        incarnation: 1,
        life: 1,
        version: None,
        session_defaults: None,
        round_trip: Duration::ZERO,
        drained: false,
        paused: false,
        handover: false,
    }
}

fn at(start: Instant, ms: u64) -> Instant {
    start + Duration::from_millis(ms)
}

#[test]
fn a_replica_with_the_transaction_has_the_write_before_the_next_sample() {
    let start = Instant::now();
    let mut positions = Positions::default();
    positions.committed(at(start, 10), &set("A:7"), Epoch(1), true);
    let table = [
        ("A:1-7", Ok(())),
        ("A:1-20", Ok(())),
        ("A:1-6", Err(Behind::Writes)),
        // Something from before it is still missing.
        ("A:1-5:7", Err(Behind::Writes)),
        ("", Err(Behind::Writes)),
    ];
    for (there, expected) in table {
        assert_eq!(positions.check(&node(1, set(there), start)), expected, "{there}");
    }
    let mut unknown = node(1, set("A:1-7"), start);
    unknown.applied_at = None;
    assert_eq!(positions.check(&unknown), Err(Behind::Writes), "nothing of this primary");
    positions.wrote(at(start, 20));
    assert_eq!(positions.check(&node(1, set("A:1-7"), start)), Err(Behind::Writes), "not told");
    positions.committed(at(start, 30), &set("A:9"), Epoch(1), false);
    assert_eq!(positions.check(&node(1, set("A:1-9"), start)), Err(Behind::Writes), "shown later");
    positions.committed(at(start, 40), &set("A:12"), Epoch(1), true);
    assert_eq!(positions.check(&node(1, set("A:1-11"), start)), Err(Behind::Writes));
    assert_eq!(positions.check(&node(1, set("A:1-12"), start)), Ok(()), "all before it as well");
}

#[test]
fn what_was_seen_before_the_write_is_there_with_it() {
    let start = Instant::now();
    let mut positions = Positions::default();
    positions.read(NodeId(0), 1, at(start, 10), true);
    let there = || node(1, set("A:1-7"), start);
    assert_eq!(positions.check(&there()), Err(Behind::Reads));
    positions.committed(at(start, 20), &set("A:7"), Epoch(1), true);
    assert_eq!(positions.check(&there()), Ok(()));
    let mut of_two_orders = there();
    of_two_orders.in_order = false;
    assert_eq!(positions.check(&of_two_orders), Err(Behind::Reads));
    positions.read(NodeId(0), 1, at(start, 30), true);
    assert_eq!(positions.check(&there()), Err(Behind::Reads), "seen after it");
}

#[test]
fn what_a_replica_has_shown_is_kept_until_the_primary_shows_it() {
    let start = Instant::now();
    let mut positions = Positions::default();
    let [primary, replica] = [0, 1].map(NodeId);
    positions.read(replica, 1, at(start, 10), true);
    positions.wrote(at(start, 20));
    positions.read(primary, 1, at(start, 20), false);
    assert_eq!(positions.ahead_of(primary), Some((replica, at(start, 10))), "a write's answer");
    assert_eq!(positions.ahead_of(replica), None, "promoted");
    positions.settled();
    assert_eq!(positions.ahead_of(primary), None);
}

#[test]
fn a_token_has_a_bound() {
    let start = Instant::now();
    let mut positions = Positions::default();
    for domain in 0..=TOKEN_SOURCES_MAX as u32 {
        let gtids = Gtids::parse_heads(&format!("{domain}-1-1")).unwrap();
        positions.committed(at(start, 10), &gtids, Epoch(1), true);
    }
    assert!(positions.token.is_none());
    let all: Vec<String> = (0..50).map(|domain| format!("{domain}-1-1")).collect();
    let all = Gtids::parse_heads(&all.join(",")).unwrap();
    assert_eq!(positions.check(&node(1, all, start)), Err(Behind::Writes), "by instants again");
}

#[test]
fn a_lost_write_is_told_once() {
    let start = Instant::now();
    let mut positions = Positions::default();
    positions.committed(at(start, 10), &set("A:7"), Epoch(1), true);
    let with = |gtids: &str, ms| node(0, set(gtids), at(start, ms));
    assert_eq!(positions.lost_on(&with("", 20), Epoch(1)), None, "the same primary");
    assert_eq!(positions.lost_on(&with("", 5), Epoch(2)), None, "its sample is too old to tell");
    let mut kept = positions.clone();
    assert_eq!(kept.lost_on(&with("A:1-7", 20), Epoch(2)), None);
    assert_eq!(kept.lost_on(&with("", 20), Epoch(2)), None, "asked once for each epoch");
    assert!(kept.lost_on(&with("A:1-6", 20), Epoch(3)).is_some());
    assert_eq!(positions.lost_on(&with("A:1-6", 20), Epoch(2)).as_deref(), Some(&set("A:1-7")));
    assert_eq!(positions.lost_on(&with("A:1-6", 20), Epoch(3)), None);
}

#[test]
fn who_reads_without_a_pause_asks_for_samples_and_waits_at_last() {
    use crate::metrics::RouteReason::{CatalogUnknown, LeastLag, Monotonic, ReadYourWrites};
    let mut positions = Positions::default();
    let due = |positions: &mut Positions, reads: u32| -> (Vec<u32>, Vec<u32>) {
        let (mut samples, mut waits) = (Vec::new(), Vec::new());
        for read in 1..=reads {
            waits.extend(positions.is_overdue().then_some(read));
            positions.routed(if read == 1 { ReadYourWrites } else { Monotonic });
            samples.extend(positions.take_sample_due().then_some(read));
            assert!(!positions.take_sample_due(), "once");
            // What runs there for other reasons counts for nothing.
            positions.routed(CatalogUnknown);
        }
        (samples, waits)
    };
    assert_eq!(due(&mut positions, 130), (vec![2, 4, 8, 16, 32, 64, 128], vec![33, 65, 129]));
    positions.wrote(Instant::now());
    assert_eq!(due(&mut positions, 5), (vec![2, 4], vec![]));
    positions.routed(LeastLag);
    assert_eq!(due(&mut positions, 33), (vec![2, 4, 8, 16, 32], vec![33]));
}
