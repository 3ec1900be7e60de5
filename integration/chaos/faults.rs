//! What is done to the primary, and to others with it: one round of the chaos.

use super::clients::Play;
use super::{Arena, Figures};
use crate::maintenance::{said, tiffin};
use crate::promotion::{actions, wait_confirmed};
use crate::support::relay::Behaviour;
use crate::support::{PATIENCE, Sql, Stand, Which, wait_until};
use serde_json::Value;
use std::time::{Duration, Instant};

/// A replica that has nothing too much receives again well within this.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(10);

/// What a slow disk takes for each write; a commit has some of them.
const SLOW_WRITE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Kill,
    /// It stops answering and keeps its connections; it comes to life again after the promotion.
    Freeze,
    /// Its links are cut, those of the proxy and of the replicas; it runs on, and is back afterwards.
    Cut,
    Switchover,
    /// Killed while every second client copies, sends statements together, commits in two phases or
    /// reads for long.
    Longer,
    /// Killed and started again at once. Whether it is given up before it is back is chance.
    Crash,
    /// Frozen, and alive again as soon as it is given up, while a replica is chosen.
    WakeEarly,
    /// Frozen, and alive again the moment another one has been promoted, before the others are
    /// told to follow that one.
    WakeLate,
    /// Killed together with the replica that would be promoted. Two must have confirmed each write.
    Two,
    /// Killed, and another one promoted by hand; the proxy only observes.
    ByHand,
    /// An operator's change with the cluster paused: stopped in order, another one promoted by hand.
    Paused,
    /// None of its files can grow any more, for which all of these servers end.
    DiskFull,
    /// Each write of a file takes its time, for a while; nobody is to be promoted for that.
    SlowDisk,
}

use Fault::*;

impl Fault {
    /// As `CHAOS_FAULT` names it.
    pub fn word(self) -> &'static str {
        match self {
            Kill => "kill",
            Freeze => "freeze",
            Cut => "cut",
            Switchover => "switchover",
            Longer => "longer",
            Crash => "crash",
            WakeEarly => "wake-early",
            WakeLate => "wake-late",
            Two => "two",
            ByHand => "by-hand",
            Paused => "paused",
            DiskFull => "disk-full",
            SlowDisk => "slow-disk",
        }
    }

    /// Whether it can be done to these servers.
    pub fn suits(self, which: Which) -> bool {
        match self {
            // MariaDB's primaries wait for one replica, and no more.
            Two => which != Which::MariaDb,
            _ => true,
        }
    }

    /// Whether no client may see an error, whatever it does.
    pub fn is_unseen(self) -> bool {
        matches!(self, Switchover | Paused | SlowDisk)
    }
}

/// One change of the primary under way.
struct Round<'a, 'p, S: Stand> {
    arena: &'p Arena<'a, S>,
    play: &'p Play,
    old: &'a S,
    /// The number of the last record of the audit before.
    before: u64,
}

/// Strikes the primary, waits until clients write again, and puts everything in order; the new
/// primary.
pub fn one_round<'a, S: Stand>(
    arena: &Arena<'a, S>,
    fault: Fault,
    play: &Play,
    old: &'a S,
    figures: &mut Figures,
) -> &'a S {
    let errors = play.errors();
    let logged = arena.fixture.proxy.log().len();
    let before = actions(arena.fixture).iter().filter_map(|action| action["id"].as_u64()).max();
    let round = Round { arena, play, old, before: before.unwrap_or(0) };
    play.longest_gap();
    let new = round.strike(fault);
    let held = round.records().first().and_then(|action| action["held_ms"].as_f64());
    figures.held_ms.extend(held);
    play.go_on(5);
    figures.gaps_ms.push(play.longest_gap().as_secs_f64() * 1000.0);
    round.let_return(fault);
    let seen = play.errors() - errors;
    if seen > 0 || std::env::var_os("CHAOS_LOG").is_some() {
        println!("what the proxy has to say of that:\n{}", &arena.fixture.proxy.log()[logged..]);
    }
    figures.rounds += 1;
    figures.errors += seen;
    figures.without_errors += usize::from(seen == 0);
    round.restore(fault, new);
    wait_confirmed(new);
    let servers = arena.fixture.cluster.servers();
    arena.fixture.wait_in_read_set(servers.iter().filter(|server| server.name != new.name));
    new
}

impl<'a, S: Stand> Round<'a, '_, S> {
    fn strike(&self, fault: Fault) -> &'a S {
        let cables = self.arena.cables;
        let old = self.old;
        match fault {
            Kill | Longer => old.kill9().unwrap(),
            Freeze => old.sigstop().unwrap(),
            Cut => cables.of(old).set(Behaviour::Silence),
            DiskFull => old.fill_disk().unwrap(),
            Switchover => {
                self.run(&["switchover", "--to", &self.others()[0].name, "--timeout", "60"])
            }
            Crash => return self.crash(),
            WakeEarly | WakeLate => {
                old.sigstop().unwrap();
                self.wait("a promotion", |action| {
                    let steps = action["steps"].as_array().into_iter().flatten();
                    let mut done = steps.filter(|step| step["ok"] == true);
                    fault == WakeEarly
                        || done.any(|step| step["what"].to_string().contains("takes writes"))
                });
                old.sigcont().unwrap();
            }
            Two => self.confirm_by_two_and_kill(),
            ByHand => return self.by_hand(),
            Paused => return self.by_hand_while_paused(),
            SlowDisk => return self.slow_disk(),
        }
        self.promoted()
    }

    /// The server that the proxy has promoted.
    fn promoted(&self) -> &'a S {
        self.wait("somebody was promoted", |action| action["state"] == "done");
        let done = self.records().into_iter().find(|action| action["state"] == "done");
        let name = done.and_then(|action| Some(action["to"].as_str()?.to_owned()));
        self.arena.by_name(&name.expect("somebody was promoted"))
    }

    /// The records of this round, oldest first.
    fn records(&self) -> Vec<Value> {
        let mut records = actions(self.arena.fixture);
        records.retain(|action| action["id"].as_u64() > Some(self.before));
        records
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        let fixture = self.arena.fixture;
        wait_until(PATIENCE, || self.records().iter().any(&is_so))
            .unwrap_or_else(|_| panic!("{what}: {:#?}\n{}", actions(fixture), fixture.proxy.log()));
    }

    fn run(&self, command: &[&str]) {
        let done = tiffin(self.arena.fixture, command);
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    }

    fn others(&self) -> Vec<&'a S> {
        let servers = self.arena.fixture.cluster.servers().iter();
        servers.filter(|server| server.name != self.old.name).collect()
    }

    fn crash(&self) -> &'a S {
        let fixture = self.arena.fixture;
        self.old.kill9().unwrap();
        self.old.start_again();
        self.play.go_on(5);
        let is_over = || self.records().iter().all(|action| action["state"] != "running");
        wait_until(PATIENCE, is_over).expect("the promotion ends");
        let labels = [("role", "primary")];
        let mut name = String::new();
        wait_until(PATIENCE, || {
            let metrics = fixture.metrics();
            let primaries = metrics.with("tiffin_node_role", &labels);
            let mut primaries = primaries.iter().filter(|sample| sample.value == 1.0);
            name =
                primaries.next().map(|sample| sample.label("node").to_owned()).unwrap_or_default();
            !name.is_empty()
        })
        .expect("there is a primary");
        self.arena.by_name(&name)
    }

    fn confirm_by_two_and_kill(&self) {
        let servers = self.arena.fixture.cluster.servers();
        servers.iter().for_each(|server| server.set_confirmations(2));
        wait_confirmed(self.old);
        self.play.go_on(5);
        let best = self.others()[0];
        std::thread::scope(|scope| {
            scope.spawn(|| best.kill9().unwrap());
            scope.spawn(|| self.old.kill9().unwrap());
        });
        let new = self.promoted();
        servers
            .iter()
            .filter(|server| server.is_running())
            .for_each(|server| server.set_confirmations(1));
        best.start_again();
        best.set_confirmations(1);
        // The proxy lets it follow the new primary, unless it had received more than that one: then
        // it has to be made anew.
        if !self.play.goes_on(1, FOLLOW_TIMEOUT) {
            S::remake(self.arena.fixture, best, new, self.arena.cables.of(new).port);
        }
    }

    /// Promotes the one that has most, and lets the other follow.
    fn promote_by_hand(&self) -> &'a S {
        let [one, two] = self.others()[..] else { panic!("two replicas") };
        // What was on its way to one of them may still have come after the primary has gone.
        let [by_one, by_two] = [one, two].map(Stand::stop_receiving);
        let (new, other) = if by_two > by_one { (two, one) } else { (one, two) };
        new.take_over().unwrap();
        new.confirm();
        other.follow_at(&self.arena.fixture.cluster, new, self.arena.cables.of(new).port);
        self.arena.fixture.wait_primary(new);
        new
    }

    fn by_hand(&self) -> &'a S {
        let fixture = self.arena.fixture;
        let mut config = fixture.config.clone();
        config["clusters"]["main"]["failover"]["mode"] = "observe".into();
        fixture.reload(&config);
        self.old.kill9().unwrap();
        self.promote_by_hand()
    }

    fn by_hand_while_paused(&self) -> &'a S {
        self.run(&["pause", "--timeout", "60"]);
        self.old.wait_caught_up(&self.arena.fixture.cluster).unwrap();
        self.old.stop_in_order().unwrap();
        let new = self.promote_by_hand();
        self.run(&["resume"]);
        new
    }

    fn slow_disk(&self) -> &'a S {
        let session = self.arena.fixture.direct(self.old);
        session.query("CREATE TABLE IF NOT EXISTS slow (n int)").unwrap();
        self.old.slow_disk(SLOW_WRITE).unwrap();
        let begun = Instant::now();
        session.query("INSERT INTO slow VALUES (1)").unwrap();
        assert!(begun.elapsed() >= SLOW_WRITE, "it is slow");
        self.play.go_on(2);
        self.old.slow_disk(Duration::ZERO).unwrap();
        assert_eq!(self.records(), Vec::<Value>::new(), "nobody is promoted");
        self.old
    }

    /// Who was frozen or cut off comes to life, and answers those whom it has kept waiting.
    fn let_return(&self, fault: Fault) {
        match fault {
            Freeze => self.old.sigcont().unwrap(),
            Cut => self.arena.cables.of(self.old).set(Behaviour::Forward(self.old.port)),
            WakeEarly | WakeLate => {}
            _ => return,
        }
        let fixture = self.arena.fixture;
        let done = || self.records().iter().filter(|action| action["state"] == "done").count();
        wait_until(PATIENCE, || done() >= 2)
            .unwrap_or_else(|_| panic!("{:#?}\n{}", self.records(), fixture.proxy.log()));
        self.play.go_on(5);
    }

    /// Makes a replica of the old primary, if it is none.
    fn restore(&self, fault: Fault, new: &S) {
        let Arena { fixture, cables, .. } = *self.arena;
        if new.name == self.old.name {
            // A crash leaves nothing of what was set at run time.
            new.confirm();
            return;
        }
        match fault {
            // The proxy did not promote, and does not look after it.
            ByHand | Paused => {
                // The replica that is copied for it is stopped, which MySQL and MariaDB may not do
                // while they begin to receive.
                self.play.go_on(2);
                S::remake(fixture, self.old, new, cables.of(new).port);
            }
            _ => S::restore(fixture, self.old, new, cables.of(new).port),
        }
        if fault == ByHand {
            fixture.reload(&fixture.config);
        }
    }
}
