//! The same clients and books where Patroni promotes: its leader is killed, or frozen and woken when
//! another one leads.

use super::clients::{self, Door, Play, START};
use super::{Figures, history, is_wanted, number, spread, tell};
use crate::patroni::{PROBE_INTERVAL, promoted, reads, start_proxy, wait_node};
use crate::support::patroni::{Patroni, PatroniMember};
use crate::support::{Proxy, Server, Session};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

const REPLICAS: usize = 2;
/// A member that Patroni rewinds receives again within this.
const REJOIN_TIMEOUT: Duration = Duration::from_secs(40);
const FREEZE: &str = "patroni-freeze";
const KILL: &str = "patroni-kill";

#[test]
fn the_books_balance_when_patroni_promotes() {
    if !is_wanted("patroni") {
        return;
    }
    let patroni = Patroni::start(REPLICAS + 1);
    let proxy = start_proxy(&patroni, |main| {
        main["failover"]["resolve_commits"] = "on".into();
        main["failover"]["replay"] = "on".into();
        main["gate"]["hold"] = "2min".into();
    });
    proxy.wait_ready().unwrap();
    wait_replicas(&patroni, &proxy, "p0");
    let door = Door { port: proxy.port, app: patroni.app.clone() };
    let play = Play::new(false);
    clients::make_tables::<Server>(&play.connect::<Server>(&door));
    session(&patroni, "p0").query("CREATE TABLE direct (n int)").unwrap();
    let (history, (figures, last)) = play.around::<Server, _>(&door, || {
        let mut figures: BTreeMap<&str, (Figures, Late)> = BTreeMap::new();
        let mut leader = "p0".to_owned();
        // By default the kill only: a leader that wakes may leave Patroni without anybody healthy
        // enough, for minutes.
        let rounds = std::env::var("CHAOS_ROUNDS").ok().map(|_| number("CHAOS_ROUNDS", 1));
        let faults = if rounds.is_some() { &[KILL, FREEZE][..] } else { &[KILL] };
        for _ in 0..rounds.unwrap_or(1) {
            for fault in faults.iter().copied() {
                play.go_on(5);
                let (figures, late) = figures.entry(fault).or_default();
                let round = Round { patroni: &patroni, proxy: &proxy, play: &play };
                leader = round.play(fault, &leader, figures, late);
            }
        }
        play.go_on(5);
        (figures, leader)
    });
    let books = clients::books(&session(&patroni, &last));
    let found = history::contradictions(&history, &books, START);
    for (fault, (figures, late)) in &figures {
        tell(("postgres", fault), figures, history.len(), found.len());
        println!(
            "measured: {fault}: after the promotion nothing was acknowledged {} (probe interval {} ms); \
             to a client of the new leader itself {}",
            spread(&late.proxied_ms),
            PROBE_INTERVAL.as_millis(),
            spread(&late.direct_ms),
        );
    }
    assert!(found.is_empty(), "{found:#?}");
}

fn member<'a>(patroni: &'a Patroni, name: &str) -> &'a PatroniMember {
    patroni.members.iter().find(|member| member.name == name).expect("a member")
}

fn session(patroni: &Patroni, name: &str) -> Session {
    patroni.session(member(patroni, name), "app")
}

/// Waits until all others confirm what the leader writes, and are read.
fn wait_replicas(patroni: &Patroni, proxy: &Proxy, leader: &str) {
    patroni.wait_leader(leader);
    patroni.wait_streaming(REPLICAS);
    let others = patroni.members.iter().filter(|member| member.name != leader);
    others.for_each(|member| wait_node(proxy, &member.name, reads));
}

/// How long after the promotion the first write was acknowledged.
#[derive(Default)]
struct Late {
    proxied_ms: Vec<f64>,
    /// To a client that is connected to the new leader at once: the leader itself waits for the
    /// replica that is to confirm.
    direct_ms: Vec<f64>,
}

struct Round<'a> {
    patroni: &'a Patroni,
    proxy: &'a Proxy,
    play: &'a Play,
}

impl Round<'_> {
    /// Strikes the leader, and waits until it is a replica of the next one; that one.
    fn play(&self, fault: &str, leader: &str, figures: &mut Figures, late: &mut Late) -> String {
        let Round { patroni, proxy, play } = *self;
        let old = member(patroni, leader);
        let errors = play.errors();
        let logged = proxy.log().len();
        play.longest_gap();
        let (new, at) = std::thread::scope(|scope| {
            let seen = scope.spawn(|| promoted(patroni, leader));
            match fault {
                KILL => old.kill9(),
                _ => old.signal("STOP"),
            }
            seen.join().unwrap()
        });
        session(patroni, new).query("INSERT INTO direct VALUES (1)").unwrap();
        late.direct_ms.push(at.elapsed().as_secs_f64() * 1000.0);
        play.go_on(5);
        late.proxied_ms.extend(play.until_a_write(at).map(|late| late.as_secs_f64() * 1000.0));
        figures.gaps_ms.push(play.longest_gap().as_secs_f64() * 1000.0);
        match fault {
            KILL => patroni.run(old),
            _ => old.signal("CONT"),
        }
        if !patroni.stream_within(REPLICAS, REJOIN_TIMEOUT) {
            // Patroni may leave it with a timeline of its own: an operator has it made anew.
            let said = patroni.ask(old, "reinitialize", Some(json!({ "force": true })));
            println!("{leader} is made anew: {said}");
        }
        wait_replicas(patroni, proxy, new);
        play.go_on(5);
        let seen = play.errors() - errors;
        if seen > 0 {
            println!("what the proxy has to say of that:\n{}", &proxy.log()[logged..]);
        }
        figures.rounds += 1;
        figures.errors += seen;
        figures.without_errors += usize::from(seen == 0);
        new.to_owned()
    }
}
