//! Primaries are killed, frozen, cut off and handed over while clients write, and the books are checked
//! afterwards: nothing acknowledged is lost, nothing is there twice, nothing that was reported as
//! failed is there, sums stay, no session reads backward.
//!
//! `make test` plays one round of each fault on each engine (links are cut on PostgreSQL alone), `make
//! chaos` as many as `CHAOS_ROUNDS` says, and prints the table of figures. [`history`] is the checker, with faults planted into sound
//! histories; [`clients`] are the players.

mod clients;
mod history;

use crate::maintenance::{said, tiffin};
use crate::promotion::{confirm_writes, made, promoting, wait_confirmed, wait_done};
use crate::support::mysql::{Engine, Server as MysqlServer, on_mysql_and_mariadb};
use crate::support::relay::{Behaviour, Relay};
use crate::support::{Fixture, Server, Stage, Stand, Which};
use clients::{Play, SESSIONS, START};
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
    the_books_balance_through_switchovers,
}

fn the_books_balance_through_kills(engine: Engine) {
    on_mysql(engine, Fault::Kill);
}

fn the_books_balance_through_freezes(engine: Engine) {
    on_mysql(engine, Fault::Freeze);
}

fn the_books_balance_through_switchovers(engine: Engine) {
    on_mysql(engine, Fault::Switchover);
}

fn on_postgres(fault: Fault) {
    let links = Links::default();
    let fixture = links.start();
    for server in fixture.cluster.servers() {
        // Whoever becomes the primary waits for a replica to confirm.
        server.set("synchronous_standby_names", "'ANY 1 (pg0, pg1, pg2)'").unwrap();
    }
    confirm_writes(fixture.cluster.primary());
    let restore = |old: &Server, new: &Server| {
        Server::restore(&fixture, old, new);
        links.lead(old, new);
        wait_confirmed(new);
    };
    let (which, cables) = (Which::Postgres, Some(&links));
    play(&Arena { which, fault, fixture: &fixture, cables, restore: &restore });
}

fn on_mysql(engine: Engine, fault: Fault) {
    let which = match engine {
        Engine::MySql => Which::MySql,
        Engine::MariaDb => Which::MariaDb,
    };
    let fixture = MysqlServer::promoting(which, |_| {});
    let restore = |old: &MysqlServer, new: &MysqlServer| MysqlServer::restore(&fixture, old, new);
    play(&Arena { which, fault, fixture: &fixture, cables: None, restore: &restore });
}

/// Where is played, and what is done.
struct Arena<'a, S: Stand> {
    which: Which,
    fault: Fault,
    fixture: &'a Stage<S>,
    cables: Option<&'a Links>,
    /// Makes a former primary a replica of the new one.
    restore: &'a dyn Fn(&S, &S),
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
    let cable = || cables.expect("cables").of(&old.name);
    let (before, errors) = (made(fixture).len(), play.errors.load(Ordering::Relaxed));
    match fault {
        Fault::Kill => old.kill9().unwrap(),
        Fault::Freeze => old.sigstop().unwrap(),
        Fault::Cut => cable().set(Behaviour::Silence),
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
    if matches!(fault, Fault::Freeze | Fault::Cut) {
        // It comes to life and answers those whom it has kept waiting.
        match fault {
            Fault::Freeze => old.sigcont().unwrap(),
            _ => cable().set(Behaviour::Forward(old.port)),
        }
        wait_done(fixture, before + 2);
        play.go_on(5);
    }
    let seen = play.errors.load(Ordering::Relaxed) - errors;
    figures.errors += seen;
    figures.without_errors += usize::from(seen == 0);
    (arena.restore)(old, new);
    fixture.wait_in_read_set(
        fixture.cluster.servers().iter().filter(|server| server.name != new.name),
    );
    new
}

/// A cable in front of each server: the proxy and the replicas reach it by that.
struct Links(Vec<Relay>);

impl Default for Links {
    fn default() -> Links {
        Links((0..3).map(|_| Relay::start(Behaviour::Refuse)).collect())
    }
}

impl Links {
    fn start(&self) -> Fixture {
        let ports: Vec<u16> = self.0.iter().map(|relay| relay.port).collect();
        let fixture = promoting()
            .key("failover.resolve_commits", "on")
            .unready()
            .config_with(move |_, config| {
                for (number, port) in ports.into_iter().enumerate() {
                    let node = &mut config["clusters"]["main"]["nodes"][format!("pg{number}")];
                    *node = format!("127.0.0.1:{port}").into();
                }
            })
            .start();
        for server in fixture.cluster.servers() {
            self.of(&server.name).set(Behaviour::Forward(server.port));
        }
        for server in fixture.cluster.replicas() {
            self.lead(server, fixture.cluster.primary());
        }
        fixture.proxy.wait_ready().unwrap();
        fixture.wait_in_read_set(fixture.cluster.replicas());
        fixture
    }

    fn of(&self, name: &str) -> &Relay {
        let number: usize = name.trim_start_matches("pg").parse().unwrap();
        &self.0[number]
    }

    /// Makes a replica reach its upstream by its cable.
    fn lead(&self, replica: &Server, upstream: &Server) {
        let port = self.of(&upstream.name).port;
        let conninfo = replica.value("SHOW primary_conninfo").unwrap();
        let words = conninfo.split(' ').filter(|word| !word.starts_with("port="));
        let words = words.map(str::to_owned).chain([format!("port={port}")]);
        let conninfo = words.collect::<Vec<_>>().join(" ").replace('\'', "''");
        replica.set("primary_conninfo", &format!("'{conninfo}'")).unwrap();
    }
}

fn tell(
    (which, fault): (Which, Fault),
    figures: &Figures,
    rounds: u64,
    events: usize,
    contradictions: usize,
) {
    let mut held = figures.held_ms.clone();
    held.sort_by(f64::total_cmp);
    println!(
        "measured: {:<8} {:<10} {rounds:>3} rounds, {events:>6} events, {contradictions} contradictions, \
         {} errors seen by clients, {} rounds without any; no writes for {:.0} ms (median), {:.0} \
         ms (longest)",
        which.word(),
        fault.word(),
        figures.errors,
        figures.without_errors,
        held[held.len() / 2],
        held[held.len() - 1],
    );
}
