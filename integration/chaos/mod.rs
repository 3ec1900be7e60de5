//! Primaries are killed, frozen, cut off and handed over while clients write, and the books are checked
//! afterwards: nothing acknowledged is lost, nothing is there twice, nothing that was reported as
//! failed is there, sums stay, no session reads backward.
//!
//! `make test` plays one round of each fault on each engine, `make chaos` as many as `CHAOS_ROUNDS`
//! says, and prints the table of figures. [`history`] is the checker, with faults planted into sound
//! histories; [`clients`] are the players.

mod clients;
mod history;

use crate::maintenance::{said, tiffin};
use crate::promotion::{made, wait_confirmed, wait_done};
use crate::support::mysql::{Engine, Server as MysqlServer, on_mysql_and_mariadb};
use crate::support::relay::{Behaviour, Relay};
use crate::support::{Server, Stage, Stand, Which};
use clients::{Play, SESSIONS, START};
use serde_json::Value;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// What is done to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    /// It stops answering and keeps its connections; it comes to life again after the promotion.
    Freeze,
    /// Its links are cut, those of the proxy and of the replicas; it runs on, and is back afterwards.
    Cut,
    Switchover,
}

impl Fault {
    fn word(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Freeze => "freeze",
            Fault::Cut => "cut",
            Fault::Switchover => "switchover",
        }
    }
}

/// How a kind of fault went.
#[derive(Default)]
struct Figures {
    held_ms: Vec<f64>,
    /// Between the last write before and the first one after that was acknowledged to a client.
    gaps_ms: Vec<f64>,
    errors: usize,
    without_errors: usize,
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

mod postgres {
    use super::{Fault, on_postgres};

    #[test]
    fn the_books_balance_through_kills() {
        on_postgres(Fault::Kill);
    }

    #[test]
    fn the_books_balance_through_freezes() {
        on_postgres(Fault::Freeze);
    }

    #[test]
    fn the_books_balance_through_cut_links() {
        on_postgres(Fault::Cut);
    }

    #[test]
    fn the_books_balance_through_switchovers() {
        on_postgres(Fault::Switchover);
    }
}

on_mysql_and_mariadb! {
    the_books_balance_through_kills,
    the_books_balance_through_freezes,
    the_books_balance_through_cut_links,
    the_books_balance_through_switchovers,
}

fn the_books_balance_through_kills(engine: Engine) {
    on_mysql(engine, Fault::Kill);
}

fn the_books_balance_through_freezes(engine: Engine) {
    on_mysql(engine, Fault::Freeze);
}

fn the_books_balance_through_cut_links(engine: Engine) {
    on_mysql(engine, Fault::Cut);
}

fn the_books_balance_through_switchovers(engine: Engine) {
    on_mysql(engine, Fault::Switchover);
}

fn on_postgres(fault: Fault) {
    on::<Server>(Which::Postgres, fault);
}

fn on_mysql(engine: Engine, fault: Fault) {
    let which = match engine {
        Engine::MySql => Which::MySql,
        Engine::MariaDb => Which::MariaDb,
    };
    on::<MysqlServer>(which, fault);
}

fn on<S: Stand>(which: Which, fault: Fault) {
    let cables = Rc::new(OnceCell::new());
    let kept = cables.clone();
    let fixture = S::promoting(which, move |config| {
        let failover = &mut config["clusters"]["main"]["failover"];
        failover["resolve_commits"] = "on".into();
        failover["replay"] = "on".into();
        let links = Links::lay(&mut config["clusters"]["main"]["nodes"]);
        assert!(kept.set(links).is_ok(), "once");
    });
    let cables = cables.get().expect("the configuration was made");
    for replica in fixture.cluster.replicas() {
        replica.lead(cables.of(fixture.cluster.primary()).port);
    }
    wait_confirmed(fixture.cluster.primary());
    play(&Arena { which, fault, fixture: &fixture, cables });
}

/// Where is played, and what is done.
struct Arena<'a, S: Stand> {
    which: Which,
    fault: Fault,
    fixture: &'a Stage<S>,
    cables: &'a Links,
}

/// Plays the rounds of one fault and checks the books.
fn play<S: Stand>(arena: &Arena<'_, S>) {
    let rounds = number("CHAOS_ROUNDS", 1);
    let Arena { which, fault, fixture, .. } = *arena;
    clients::set_up(fixture);
    let play = Play::default();
    let seed = number("CHAOS_SEED", 1);
    let (history, figures, last) = std::thread::scope(|scope| {
        let players: Vec<_> = (0..SESSIONS)
            .map(|client| {
                let play = &play;
                scope.spawn(move || play.run(fixture, client, seed))
            })
            .collect();
        let mut figures = Figures::default();
        let mut primary = fixture.cluster.primary();
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..rounds {
                play.go_on(5);
                primary = one_round(arena, &play, primary, &mut figures);
            }
            play.go_on(5);
        }));
        play.stop.store(true, Ordering::Relaxed);
        let history: Vec<_> =
            players.into_iter().flat_map(|player| player.join().unwrap()).collect();
        played.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (history, figures, primary)
    });
    let books = clients::books(&fixture.direct(last));
    let found = history::contradictions(&history, &books, START);
    tell((which, fault), &figures, rounds, history.len(), found.len());
    assert!(found.is_empty(), "{found:#?}");
    if fault == Fault::Switchover {
        assert_eq!(figures.errors, 0, "errors that clients saw");
    }
}

/// One change of the primary, and everything in order again; the new one.
fn one_round<'a, S: Stand>(
    arena: &Arena<'a, S>,
    play: &Play,
    old: &S,
    figures: &mut Figures,
) -> &'a S {
    let Arena { fault, fixture, cables, .. } = *arena;
    let (before, errors) = (made(fixture).len(), play.errors.load(Ordering::Relaxed));
    play.longest_gap();
    match fault {
        Fault::Kill => old.kill9().unwrap(),
        Fault::Freeze => old.sigstop().unwrap(),
        Fault::Cut => cables.of(old).set(Behaviour::Silence),
        Fault::Switchover => {
            let replicas =
                fixture.cluster.servers().iter().filter(|server| server.name != old.name);
            let to = replicas.map(|server| server.name.as_str()).next().expect("a replica");
            let switched = tiffin(fixture, &["switchover", "--to", to, "--timeout", "60"]);
            assert_eq!(switched.status.code(), Some(0), "{}", said(&switched));
        }
    }
    let action = wait_done(fixture, before + 1);
    figures.held_ms.push(action["held_ms"].as_f64().expect("the gate was opened"));
    let name = action["to"].as_str().expect("somebody was promoted");
    let new = fixture.cluster.servers().iter().find(|server| server.name == name).unwrap();
    play.go_on(5);
    figures.gaps_ms.push(play.longest_gap().as_secs_f64() * 1000.0);
    if matches!(fault, Fault::Freeze | Fault::Cut) {
        // It comes to life and answers those whom it has kept waiting.
        match fault {
            Fault::Freeze => old.sigcont().unwrap(),
            _ => cables.of(old).set(Behaviour::Forward(old.port)),
        }
        wait_done(fixture, before + 2);
        play.go_on(5);
    }
    let seen = play.errors.load(Ordering::Relaxed) - errors;
    figures.errors += seen;
    figures.without_errors += usize::from(seen == 0);
    S::restore(fixture, old, new);
    old.lead(cables.of(new).port);
    wait_confirmed(new);
    fixture.wait_in_read_set(
        fixture.cluster.servers().iter().filter(|server| server.name != new.name),
    );
    new
}

/// A cable in front of each server: the proxy and the replicas reach it by that.
struct Links(BTreeMap<String, Relay>);

impl Links {
    /// Puts them between the servers and whoever reads these addresses.
    fn lay(nodes: &mut Value) -> Links {
        let nodes = nodes.as_object_mut().expect("nodes").iter_mut();
        let relays = nodes.map(|(name, address)| {
            let port = address.as_str().and_then(|text| text.rsplit(':').next()?.parse().ok());
            let relay = Relay::start(Behaviour::Forward(port.expect("a port")));
            *address = format!("127.0.0.1:{}", relay.port).into();
            (name.clone(), relay)
        });
        Links(relays.collect())
    }

    fn of<S: Stand>(&self, server: &S) -> &Relay {
        &self.0[&server.name]
    }
}

fn tell(
    (which, fault): (Which, Fault),
    figures: &Figures,
    rounds: u64,
    events: usize,
    contradictions: usize,
) {
    let sorted = |figures: &[f64]| {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted
    };
    let (held, gaps) = (sorted(&figures.held_ms), sorted(&figures.gaps_ms));
    println!(
        "measured: {:<8} {:<10} {rounds:>3} rounds, {events:>6} events, {contradictions} contradictions, \
         {} errors seen by clients, {} rounds without any; no writes for {:.0} ms (median), {:.0} \
         ms (longest); none acknowledged for {:.0} ms (median), {:.0} ms (longest)",
        which.word(),
        fault.word(),
        figures.errors,
        figures.without_errors,
        held[held.len() / 2],
        held[held.len() - 1],
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1],
    );
}
