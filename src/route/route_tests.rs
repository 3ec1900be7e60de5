use super::*;
use crate::session::Positions;
use crate::topology::{Epoch, Snapshot};
use std::time::Instant;

fn routing(balance: Balance, on_lag: OnLag) -> Routing {
    Routing { balance, on_lag, ..crate::config::fixture::routing() }
}

fn node(id: u16, role: Role, lag_ms: u64, applied_at: Instant) -> Node {
    Node {
        id: NodeId(id),
        name: format!("n{id}").into(),
        address: "x".into(),
        zone: None,
        weight: u32::from(id),
        role,
        health: Health::Healthy,
        in_read_set: lag_ms <= 1000,
        out_because: "".into(),
        position: None,
        lag: Lag::Known { age: Duration::from_millis(lag_ms), bytes: None },
        applied_at: Some(applied_at),
        in_order: true,
        incarnation: 1,
        life: 1,
        version: None,
        session_defaults: None,
        round_trip: Duration::from_millis(1),
        drained: false,
        paused: false,
        handover: false,
    }
}

fn snapshot(nodes: Vec<Node>) -> Snapshot {
    let primary = nodes.iter().find(|node| node.role == Role::Primary).map(|node| node.id);
    Snapshot {
        version: 1,
        epoch: Epoch(1),
        primary,
        no_primary_because: "".into(),
        hold: Hold::Nothing,
        closed: false,
        lost: None,
        branch: None,
        timeline: None,
        nodes,
        last_change: None,
    }
}

fn need(positions: Positions) -> ReplicaNeed {
    ReplicaNeed {
        consistency: Consistency::Session,
        lag_max: Some(Duration::from_secs(1)),
        positions,
        wish: Wish::None,
        transaction: false,
    }
}

/// How often each node is chosen in 600 draws, and the last reason.
fn spread(need: &ReplicaNeed, snapshot: &Snapshot, routing: &Routing) -> (Vec<u32>, Choice) {
    let mut counts = vec![0; snapshot.nodes.len()];
    let mut last = Choice::NoPrimary;
    for draw in 0..600 {
        let policy =
            Policy { routing, probe_interval: Duration::from_millis(100), busy: &[0; 4], draw };
        last = choose(&Need::Replica(need.clone()), snapshot, &policy, true);
        if let Choice::Node(id, _) = last {
            counts[usize::from(id.0)] += 1;
        }
    }
    (counts, last)
}

#[test]
fn equal_lag_shares_the_load_and_more_lag_gets_none() {
    let now = Instant::now();
    let nodes = vec![
        node(0, Role::Primary, 0, now),
        node(1, Role::Replica, 0, now),
        node(2, Role::Replica, 60, now),
        node(3, Role::Replica, 400, now),
    ];
    let (counts, last) = spread(
        &need(Positions::default()),
        &snapshot(nodes),
        &routing(Balance::LeastLag, OnLag::Primary),
    );
    assert_eq!((counts[0], counts[3]), (0, 0));
    assert!(counts[1] > 200 && counts[2] > 200, "{counts:?}");
    assert!(matches!(last, Choice::Node(_, RouteReason::LeastLag)));
}

#[test]
fn weights_are_proportions() {
    let now = Instant::now();
    let nodes = vec![
        node(0, Role::Primary, 0, now),
        node(1, Role::Replica, 0, now),
        node(2, Role::Replica, 0, now),
    ];
    let (counts, _) = spread(
        &need(Positions::default()),
        &snapshot(nodes),
        &routing(Balance::Weighted, OnLag::Primary),
    );
    assert!((150..250).contains(&counts[1]) && (350..450).contains(&counts[2]), "{counts:?}");
}

#[test]
fn a_session_reads_its_own_writes() {
    let start = Instant::now();
    let later = start + Duration::from_millis(50);
    let mut positions = Positions::default();
    positions.wrote(start + Duration::from_millis(10));
    let routing = routing(Balance::LeastLag, OnLag::Primary);
    let behind = snapshot(vec![node(0, Role::Primary, 0, later), node(1, Role::Replica, 0, start)]);
    assert_eq!(
        spread(&need(positions.clone()), &behind, &routing).1,
        Choice::Node(NodeId(0), RouteReason::ReadYourWrites)
    );
    let fresh = snapshot(vec![node(0, Role::Primary, 0, later), node(1, Role::Replica, 0, later)]);
    assert_eq!(
        spread(&need(positions), &fresh, &routing).1,
        Choice::Node(NodeId(1), RouteReason::LeastLag)
    );
}

#[test]
fn reads_do_not_go_backward() {
    let start = Instant::now();
    let mut positions = Positions::default();
    positions.read(NodeId(1), 1, start + Duration::from_millis(10), true);
    let routing = routing(Balance::LeastLag, OnLag::Primary);
    let mut nodes = vec![
        node(0, Role::Primary, 0, start),
        node(1, Role::Replica, 0, start),
        node(2, Role::Replica, 0, start),
    ];
    let (counts, _) = spread(&need(positions.clone()), &snapshot(nodes.clone()), &routing);
    assert_eq!(counts, [0, 600, 0], "the replica of the last answer cannot go backward");
    nodes[1].incarnation = 2;
    let (_, last) = spread(&need(positions), &snapshot(nodes), &routing);
    assert_eq!(last, Choice::Node(NodeId(0), RouteReason::Monotonic), "unless it was restarted");
}

#[test]
fn a_session_that_reads_on_and_on_waits_for_a_replica() {
    let read_at = Instant::now();
    let mut nodes: Vec<_> = (0..3).map(|id| node(id, Role::Replica, 5, read_at)).collect();
    nodes[0].role = Role::Primary;
    let mut positions = Positions::default();
    positions.read(NodeId(0), 1, read_at + Duration::from_millis(1), false);
    let snapshot = snapshot(nodes);
    let mut waits = |reads: u32, on_lag| {
        for _ in 0..reads {
            positions.routed(RouteReason::Monotonic);
        }
        spread(&need(positions.clone()), &snapshot, &routing(Balance::LeastLag, on_lag)).1
    };
    let primary = Choice::Node(NodeId(0), RouteReason::Monotonic);
    assert_eq!(waits(31, OnLag::Primary), primary);
    assert_eq!(waits(1, OnLag::Primary), Choice::CatchUp(RouteReason::Monotonic));
    assert_eq!(waits(1, OnLag::Error), primary, "not each one");
}

#[test]
fn what_happens_when_every_replica_lags() {
    let now = Instant::now();
    let nodes = vec![
        node(0, Role::Primary, 0, now),
        node(1, Role::Replica, 9000, now),
        node(2, Role::Replica, 5000, now),
    ];
    let table = [
        (OnLag::Primary, Choice::Node(NodeId(0), RouteReason::Lag)),
        (OnLag::Wait, Choice::CatchUp(RouteReason::Lag)),
        (OnLag::Error, Choice::Refuse(RouteReason::Lag)),
        (OnLag::Stale, Choice::Node(NodeId(2), RouteReason::Stale)),
    ];
    for (on_lag, expected) in table {
        let routing = routing(Balance::LeastLag, on_lag);
        let (_, last) = spread(&need(Positions::default()), &snapshot(nodes.clone()), &routing);
        assert_eq!(last, expected);
    }
}

/// An operator who prefers stale reads to the primary's load does not ask for lost writes.
#[test]
fn stale_reads_show_what_the_session_has_written() {
    let now = Instant::now();
    let nodes = vec![
        node(0, Role::Primary, 0, now),
        node(1, Role::Replica, 9000, now + Duration::from_secs(1)),
        node(2, Role::Replica, 5000, now),
    ];
    let routing = routing(Balance::LeastLag, OnLag::Stale);
    let mut written = need(Positions::default());
    written.positions.wrote(now);
    let (_, last) = spread(&written, &snapshot(nodes.clone()), &routing);
    assert_eq!(last, Choice::Node(NodeId(1), RouteReason::Stale), "the older one has it");
    written.positions.wrote(now + Duration::from_secs(2));
    let (_, last) = spread(&written, &snapshot(nodes.clone()), &routing);
    assert_eq!(last, Choice::Node(NodeId(0), RouteReason::Lag), "none has it");
    let mut drained = nodes;
    drained[2].drained = true;
    let (_, last) = spread(&need(Positions::default()), &snapshot(drained), &routing);
    assert_eq!(last, Choice::Node(NodeId(1), RouteReason::Stale), "the other one is drained");
}

#[test]
fn eventual_reads_take_any_healthy_replica() {
    let now = Instant::now();
    let nodes = vec![node(0, Role::Primary, 0, now), node(1, Role::Replica, 9000, now)];
    let mut eventual = need(Positions::default());
    eventual.consistency = Consistency::Eventual;
    eventual.lag_max = None;
    eventual.positions.wrote(now + Duration::from_secs(1));
    let routing = routing(Balance::LeastLag, OnLag::Primary);
    let (counts, _) = spread(&eventual, &snapshot(nodes), &routing);
    assert_eq!(counts, [0, 600]);
}

#[test]
fn without_a_primary_writes_wait_and_sessions_go_on() {
    let now = Instant::now();
    let snapshot = snapshot(vec![node(0, Role::Unknown, 0, now), node(1, Role::Replica, 0, now)]);
    let routing = routing(Balance::LeastLag, OnLag::Primary);
    let policy = Policy { routing: &routing, probe_interval: Duration::ZERO, busy: &[], draw: 0 };
    assert_eq!(
        choose(&Need::Primary(RouteReason::Write), &snapshot, &policy, true),
        Choice::NoPrimary
    );
    assert!(matches!(choose(&Need::Any, &snapshot, &policy, true), Choice::Node(NodeId(1), _)));
}
