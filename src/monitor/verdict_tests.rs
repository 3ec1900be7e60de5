use super::super::handover::FORGOTTEN;
use super::super::probe::ProbeError;
use super::super::report::{Identity, Receiver, State};
use super::*;
use crate::config::fixture;
use crate::topology::{Hold, Orders};

const ROUND: Duration = Duration::from_millis(100);

/// What a node answers in one round.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// A primary: timeline, offset.
    P(u32, u64),
    /// A replica that streams: timeline, offset.
    R(u32, u64),
    /// The same, by a receiver that was not there before.
    Anew(u32, u64),
    /// A replica that receives from nobody.
    Cut(u32, u64),
    /// A replica that its upstream does not let in.
    Waits(u32, u64),
    /// A primary of another system.
    Foreign(u32, u64),
    /// The connection failed.
    Down,
    Hangs,
    /// Not probed in this round.
    Silent,
}
use Answer::*;

struct World {
    judge: Judge,
    start: Instant,
    rounds: u32,
    connections: [u64; 3],
    /// What the first node says.
    handover: bool,
}

impl World {
    fn new() -> World {
        let cluster = fixture::cluster(["a", "b", "c"].map(fixture::node));
        let judge = Judge::new(&cluster, Memory::default());
        World { judge, start: Instant::now(), rounds: 0, connections: [1; 3], handover: false }
    }

    fn now(&self) -> Instant {
        self.start + ROUND * self.rounds
    }

    fn round(&mut self, answers: [Answer; 3]) -> Snapshot {
        self.rounds += 1;
        // The primary is asked first.
        let mut order: Vec<usize> = (0..3).collect();
        order.sort_by_key(|&node| !matches!(answers[node], P(..)));
        for node in order {
            self.answer(node, answers[node]);
        }
        self.judge.snapshot(self.now())
    }

    fn answer(&mut self, node: usize, answer: Answer) {
        let system = if matches!(answer, Foreign(..)) { 8 } else { 7 };
        let streaming = |pid| {
            let status = Some(Arc::from("streaming"));
            Some(Receiver { status, upstream: None, pid: Some(pid) })
        };
        let replica = |offset, receiver| State::Replica {
            replayed: Some(offset),
            received: Some(offset),
            replay_paused: false,
            waits_for_log: None,
            receiver,
        };
        let (timeline, state) = match answer {
            P(timeline, offset) | Foreign(timeline, offset) => {
                (timeline, Ok(State::Primary { insert: offset, flush: offset, recovered: None }))
            }
            R(timeline, offset) => (timeline, Ok(replica(offset, streaming(1)))),
            Anew(timeline, offset) => (timeline, Ok(replica(offset, streaming(2)))),
            Cut(timeline, offset) => (timeline, Ok(replica(offset, None))),
            Waits(timeline, offset) => {
                let status = Some(Arc::from(super::super::report::CONNECTING));
                (
                    timeline,
                    Ok(replica(offset, Some(Receiver { status, upstream: None, pid: None }))),
                )
            }
            Down => {
                self.connections[node] += 1;
                (0, Err(ProbeError::Connection(Arc::from("connection refused"))))
            }
            Hangs => (0, Err(ProbeError::Timeout { after: ROUND })),
            Silent => return,
        };
        let identity = Arc::new(Identity {
            system,
            instance: node as u64,
            life: None,
            id: Arc::from(""),
            version: Arc::from("15.4"),
        });
        let result = state.map(|state| Report {
            identity,
            timeline: Some(Timeline(timeline)),
            handover: self.handover && node == 0,
            state,
        });
        self.judge.note(Outcome {
            node: NodeId(node as u16),
            started_at: self.now(),
            finished_at: self.now(),
            connection: self.connections[node],
            connected_anew: false,
            result,
        });
    }
}

/// `aP bR+ cR e1`: a is the primary, b a replica in the read set, c one out of it, epoch 1.
/// `-` is an unknown role, `!` an unhealthy node.
fn summary(snapshot: &Snapshot) -> String {
    let nodes = snapshot.nodes.iter().map(|node| {
        let role = match (&node.role, &node.health) {
            (_, Health::Unhealthy { .. }) => "!",
            (Role::Primary, _) => "P",
            (Role::Replica, _) if node.in_read_set => "R+",
            (Role::Replica, _) => "R",
            (Role::Unknown, _) => "-",
        };
        assert_eq!(node.role == Role::Primary, snapshot.primary == Some(node.id));
        assert_eq!(node.in_read_set, node.out_because.is_empty());
        format!("{}{role} ", node.name)
    });
    let nodes: String = nodes.collect();
    assert_eq!(snapshot.primary.is_some(), snapshot.no_primary_because.is_empty());
    format!("{nodes}e{}", snapshot.epoch.0)
}

/// Rounds of answers, what is to be seen after each, and words that must be in the reason of
/// the last round for which there is no primary.
fn check(name: &str, rounds: &[([Answer; 3], &str)], because: &str) {
    let mut world = World::new();
    let mut reason = String::new();
    for (index, (answers, expected)) in rounds.iter().enumerate() {
        let snapshot = world.round(*answers);
        assert_eq!(snapshot.version, index as u64 + 1);
        let seen = summary(&snapshot);
        assert_eq!(seen, *expected, "{name}, round {index}: {snapshot:#?}");
        if snapshot.primary.is_none() {
            reason = snapshot.no_primary_because.to_string();
        }
    }
    assert!(reason.contains(because), "{name}: {reason}");
}

const START: [([Answer; 3], &str); 2] = [
    ([P(1, 10), R(1, 10), R(1, 10)], "aP bR+ cR+ e1"),
    ([P(1, 10), R(1, 10), R(1, 10)], "aP bR+ cR+ e1"),
];

fn after_start(name: &str, rounds: &[([Answer; 3], &str)], because: &str) {
    check(name, &[&START, rounds].concat(), because);
}

/// Another proxy's, as long as that lives; this one decides for itself when requests wait.
#[test]
fn requests_wait_while_a_proxy_hands_over() {
    let mut world = World::new();
    let begins = [P(1, 10), R(1, 10), R(1, 10)];
    let hold = |world: &mut World, answers, orders: &Orders| {
        let mut snapshot = world.round(answers);
        orders.mark(&mut snapshot);
        snapshot.hold
    };
    let (others, own) = (Orders::default(), Orders { hands_over: true, ..Orders::default() });
    assert_eq!(hold(&mut world, begins, &others), Hold::Nothing);
    world.handover = true;
    assert_eq!(hold(&mut world, begins, &others), Hold::Writes);
    assert_eq!(hold(&mut world, begins, &own), Hold::Nothing);
    let own = Orders { switching: true, ..own };
    assert_eq!(hold(&mut world, begins, &own), Hold::Writes);
    // It is promoted: what the old one still says is of no interest.
    assert_eq!(hold(&mut world, [P(1, 10), P(2, 10), R(1, 10)], &others), Hold::Nothing);

    let mut world = World { handover: true, ..World::new() };
    let begun = world.now();
    while world.now() < begun + FORGOTTEN {
        assert_eq!(hold(&mut world, begins, &others), Hold::Writes, "round {}", world.rounds);
    }
    assert_eq!(hold(&mut world, begins, &others), Hold::Nothing, "it is forgotten");
    world.handover = false;
    world.round(begins);
    world.handover = true;
    assert_eq!(hold(&mut world, begins, &others), Hold::Writes, "another one");
}

/// By the fixture, 5 s of silence are 50 rounds.
#[test]
fn a_primary_that_answers_nobody_is_frozen() {
    let mut cluster = fixture::cluster(["a", "b", "c"].map(fixture::node));
    cluster.failover.mode = FailoverMode::Promote;
    let mut world = World { judge: Judge::new(&cluster, Memory::default()), ..World::new() };
    world.round([P(1, 10), R(1, 10), R(1, 10)]);
    for _ in 0..49 {
        assert_eq!(world.round([Silent, Waits(1, 10), Waits(1, 10)]).primary, Some(NodeId(0)));
    }
    // One that is let in proves that it lives.
    assert_eq!(world.round([Silent, Waits(1, 10), R(1, 10)]).primary, Some(NodeId(0)));
    let snapshot = world.round([Silent, Waits(1, 10), Waits(1, 10)]);
    let lost = snapshot.lost.expect("it is lost");
    assert_eq!(
        (snapshot.primary, lost.silent, lost.frozen, lost.followed),
        (None, true, true, false)
    );
    assert!(snapshot.no_primary_because.contains("neither probes nor replicas"));
    // Or one that is made to end its session there, and should have been able to by now.
    let mut orders = Orders::default();
    for (due, expected) in
        [(world.now() + Duration::from_secs(1), Some(NodeId(0))), (world.now(), None)]
    {
        orders.parting.insert(Arc::from("c"), due);
        world.judge.heed(&orders);
        assert_eq!(world.round([Silent, Waits(1, 10), R(1, 10)]).primary, expected);
    }
    world.judge.heed(&Orders::default());
    let epoch = snapshot.epoch;
    // It comes to life.
    let snapshot = world.round([P(1, 11), R(1, 11), R(1, 11)]);
    assert_eq!((snapshot.primary, snapshot.epoch), (Some(NodeId(0)), epoch));
}

#[test]
fn a_receiver_that_is_newer_than_the_last_answer_is_of_the_life_that_answered() {
    let received = |rounds: &[[Answer; 3]]| {
        let mut world = World::new();
        for answers in [[P(1, 10), R(1, 10), R(1, 10)]; 2].iter().chain(rounds) {
            world.round(*answers);
        }
        let known = world.judge.nodes[1].lineage.descent();
        known.map(|known| (known.node, known.up_to))
    };
    let known = |up_to| Some((NodeId(0), up_to));
    assert_eq!(received(&[]), known(10));
    assert_eq!(received(&[[Silent, Anew(1, 20), R(1, 10)]]), known(20));
    assert_eq!(received(&[[Down, Anew(1, 20), R(1, 10)]]), known(10), "it may have restarted");
}

#[test]
fn without_a_majority_in_sight_there_is_no_primary() {
    let mut cluster = fixture::cluster(["a", "b", "c"].map(fixture::node));
    cluster.failover.quorum = Quorum::Majority;
    let mut world = World::new();
    world.judge = Judge::new(&cluster, Memory::default());
    let all = [P(1, 10), R(1, 10), R(1, 10)];
    let mut seen = |answers| summary(&world.round(answers));
    seen(all);
    assert_eq!(seen(all), "aP bR+ cR+ e1");
    for _ in 0..3 {
        seen([P(1, 10), R(1, 10), Down]);
    }
    assert_eq!(seen([P(1, 10), R(1, 10), Down]), "aP bR+ c! e1");
    for _ in 0..3 {
        seen([P(1, 10), Down, Down]);
    }
    // Its connections are of an older epoch, also when the others are back.
    assert_eq!(seen([P(1, 10), Down, Down]), "a- b! c! e2");
    assert_eq!(seen([P(1, 10), R(1, 10), Down]), "aP bR+ c! e2");
}

#[test]
fn nothing_is_believed_before_every_node_had_its_chance() {
    let waits = "waiting for the first answer of c";
    check("waits", &[([P(1, 10), R(1, 10), Silent], "a- bR c- e0")], waits);
    let any_order = [
        ([R(1, 10), R(1, 10), P(1, 10)], "aR+ bR+ cP e1"),
        ([R(1, 10), R(1, 10), P(1, 10)], "aR+ bR+ cP e1"),
    ];
    check("any order", &any_order, "");
    let late = [
        ([P(1, 10), R(1, 10), Down], "aP bR+ c- e1"),
        ([P(1, 10), R(1, 10), R(1, 10)], "aP bR+ cR+ e1"),
    ];
    check("a node that is down holds up nobody", &late, "");
    let old_first = [
        ([P(1, 90), Silent, Silent], "a- b- c- e0"),
        ([P(1, 90), P(2, 80), R(2, 80)], "a! bP cR+ e1"),
    ];
    check("an old primary answers first", &old_first, "waiting");
    let nobody = [
        ([Down, Hangs, Down], "a- b- c- e0"),
        ([Down, Hangs, Down], "a- b- c- e0"),
        ([Down, Hangs, Down], "a! b! c! e0"),
    ];
    check("nobody answers", &nobody, "no node answers");
    let strangers = [([P(1, 10), Foreign(1, 10), Down], "a- b- c- e0")];
    check("two clusters", &strangers, "different clusters");
}

#[test]
fn a_promotion_is_followed_with_the_next_probe() {
    let promoted = ([P(1, 20), P(2, 20), R(1, 20)], "a! bP cR e2");
    let followed = ([P(1, 30), P(2, 30), R(2, 30)], "a! bP cR+ e2");
    after_start("beside the old primary", &[promoted, followed], "");
    let silent = [
        ([Silent, P(2, 20), R(1, 20)], "a! bP cR e2"),
        ([Hangs, P(2, 30), R(2, 30)], "a! bP cR+ e2"),
        ([Hangs, P(2, 30), R(2, 30)], "a! bP cR+ e2"),
    ];
    after_start("while the old one hangs", &silent, "");
    let rejoined = [promoted, followed, ([R(2, 30), P(2, 30), R(2, 30)], "aR+ bP cR+ e2")];
    after_start("the old one rejoins", &rejoined, "");
    let back = [
        promoted,
        followed,
        ([R(2, 40), P(2, 40), R(2, 40)], "aR+ bP cR+ e2"),
        ([P(3, 50), R(3, 50), R(3, 50)], "aP bR+ cR+ e3"),
    ];
    after_start("and is promoted again", &back, "");
}

#[test]
fn an_old_primary_never_gets_a_statement() {
    let lone = [
        ([P(1, 20), P(2, 20), R(2, 20)], "a! bP cR+ e2"),
        ([P(1, 30), Down, R(2, 20)], "a! bP cR+ e2"),
        ([P(1, 40), Down, R(2, 20)], "a! bP cR+ e2"),
        ([P(1, 50), Down, R(2, 20)], "a! b! cR+ e2"),
        ([P(1, 60), Down, R(2, 20)], "a! b! cR+ e2"),
        ([P(1, 70), P(2, 20), R(2, 20)], "a! bP cR+ e2"),
    ];
    after_start("alone", &lone, "timeline 2 is known");
    let told = [([P(1, 20), Down, R(2, 20)], "a! bR cR e1")];
    after_start("a standby of the new one tells", &told, "timeline 2 is known");
    let foreign = [([P(1, 20), R(1, 20), Foreign(9, 99)], "aP bR+ c! e1")];
    after_start("another system", &foreign, "");
    let only_foreign = [
        ([Down, R(1, 20), Foreign(9, 99)], "aP bR+ c! e1"),
        ([Down, R(1, 20), Foreign(9, 99)], "aP bR+ c! e1"),
        ([Down, R(1, 20), Foreign(9, 99)], "a! bR+ c! e1"),
    ];
    after_start("only another system", &only_foreign, "system identifier is 8");
}

#[test]
fn two_that_cannot_be_told_apart_stop_the_writes() {
    let split = ([P(1, 20), P(1, 20), R(1, 20)], "a! b! cR+ e1");
    after_start("split brain", &[split, split], "split brain: a and b both accept");
    let resolved = [
        split,
        ([Down, P(1, 30), R(1, 30)], "a! b! cR+ e1"),
        ([Down, P(1, 30), R(1, 30)], "a! b! cR+ e1"),
        ([Down, P(1, 30), R(1, 30)], "a! bP cR+ e2"),
    ];
    after_start("one is shut down", &resolved, "split brain");
    let higher = [split, ([P(1, 20), P(1, 20), P(2, 20)], "a! b! cP e2")];
    after_start("a third is promoted", &higher, "");
}

#[test]
fn a_primary_is_given_up_after_enough_failures() {
    let dies = [
        ([Down, R(1, 10), R(1, 10)], "aP bR+ cR+ e1"),
        ([Down, R(1, 10), R(1, 10)], "aP bR+ cR+ e1"),
        ([Down, R(1, 10), R(1, 10)], "a! bR+ cR+ e1"),
        ([P(1, 10), R(1, 10), R(1, 10)], "aP bR+ cR+ e1"),
    ];
    after_start("and found again", &dies, "b, c still receive");
    let demoted = [([R(1, 10), R(1, 10), R(1, 10)], "aR+ bR+ cR+ e1")];
    after_start("a demotion counts at once", &demoted, "no longer the primary");
}

#[test]
fn reads_go_on_without_a_primary_only_if_nobody_can_write() {
    let mut cut = World::new();
    let mut unseen = World::new();
    for _ in 0..2 {
        cut.round(START[0].0);
        unseen.round(START[0].0);
    }
    for _ in 0..12 {
        cut.round([Down, Cut(1, 10), Cut(1, 10)]);
        let snapshot = unseen.round([Hangs, R(1, 10), Cut(1, 10)]);
        assert!(summary(&snapshot).ends_with("bR+ cR+ e1"), "{snapshot:#?}");
    }
    for _ in 0..10 {
        let snapshot = cut.round([Down, Cut(1, 10), Cut(1, 10)]);
        assert_eq!(summary(&snapshot), "a! bR+ cR+ e1");
        let snapshot = unseen.round([Hangs, R(1, 10), Cut(1, 10)]);
        assert_eq!(summary(&snapshot), "a! bR cR e1");
    }
    let growing = |snapshot: &Snapshot| match snapshot.nodes[1].lag {
        Lag::Known { age, .. } => age,
        Lag::Unknown => Duration::ZERO,
    };
    let first = growing(&unseen.round([Hangs, R(1, 10), R(1, 10)]));
    let second = growing(&unseen.round([Hangs, R(1, 10), R(1, 10)]));
    assert_eq!(second, first + ROUND);
}

#[test]
fn replicas_that_fail() {
    let hangs = [
        ([P(1, 20), Hangs, R(1, 20)], "aP bR+ cR+ e1"),
        ([P(1, 30), Hangs, R(1, 30)], "aP bR+ cR+ e1"),
        ([P(1, 40), Hangs, R(1, 40)], "aP b! cR+ e1"),
        ([P(1, 50), R(1, 50), R(1, 50)], "aP bR+ cR+ e1"),
    ];
    after_start("one that hangs is unhealthy in the end", &hangs, "");
    let restarts = [
        ([P(1, 10), Down, R(1, 10)], "aP bR cR+ e1"),
        ([P(1, 10), R(1, 9), R(1, 10)], "aP bR cR+ e1"),
        ([P(1, 10), R(1, 10), R(1, 10)], "aP bR+ cR+ e1"),
    ];
    after_start("one that restarted may be behind itself", &restarts, "");
}

#[test]
fn an_accusation_needs_the_next_probe_to_agree() {
    let mut world = World::new();
    START.iter().for_each(|(answers, _)| drop(world.round(*answers)));
    world.judge.accuse(NodeId(0));
    assert_eq!(summary(&world.round([P(1, 10), R(1, 10), R(1, 10)])), "aP bR+ cR+ e1");
    assert_eq!(summary(&world.round([Down, R(1, 10), R(1, 10)])), "aP bR+ cR+ e1");
    assert_eq!(summary(&world.round([P(1, 10), R(1, 10), R(1, 10)])), "aP bR+ cR+ e1");
    world.judge.accuse(NodeId(0));
    assert_eq!(summary(&world.round([Down, R(1, 10), R(1, 10)])), "a! bR+ cR+ e1");
}

#[test]
fn freshness_and_incarnation() {
    let mut world = World::new();
    START.iter().for_each(|(answers, _)| drop(world.round(*answers)));
    let second = world.now();
    let snapshot = world.round([P(1, 20), R(1, 19), R(1, 20)]);
    let applied: Vec<_> = snapshot.nodes.iter().map(|node| node.applied_at).collect();
    assert_eq!(applied, [Some(world.now()), Some(second), Some(world.now())]);
    world.round([P(1, 20), Down, R(1, 20)]);
    let snapshot = world.round([P(1, 20), R(1, 20), R(1, 20)]);
    let incarnations: Vec<_> = snapshot.nodes.iter().map(|node| node.incarnation).collect();
    assert_eq!(incarnations, [1, 2, 1]);
}

#[test]
fn a_reload_forgets_no_fence() {
    let mut world = World::new();
    world.round([P(1, 10), P(2, 10), R(2, 10)]);
    let memory = world.judge.memory();
    let cluster = fixture::cluster(["a", "b", "c"].map(fixture::node));
    world.judge = Judge::new(&cluster, memory);
    let snapshot = world.round([P(1, 20), Down, Down]);
    assert_eq!(summary(&snapshot), "a! b- c- e1");
    assert_eq!(snapshot.version, 2);
    // The same primary as before the reload: its connections are as good as they were.
    assert_eq!(summary(&world.round([P(1, 20), P(2, 20), Down])), "a! bP c- e1");
}
