//! Primaries are killed, frozen and handed over while clients write, and the books are checked
//! afterwards: nothing acknowledged is lost, nothing is there twice, nothing that was reported as
//! failed is there, sums stay, no session reads backward.
//!
//! `make test` plays one round of each fault, `make chaos` as many as `CHAOS_ROUNDS` says, and
//! prints the table of figures. [`history`] is the checker, with faults planted into sound
//! histories; [`clients`] are the players.

mod clients;
mod history;

use crate::maintenance::{said, tiffin};
use crate::promotion::{confirm_writes, made, promoting, wait_done};
use crate::support::{Fixture, PATIENCE, Server, wait_until};
use clients::{Play, SESSIONS, START};
use std::sync::atomic::Ordering;

/// What is done to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    /// It stops answering and keeps its connections; it comes to life again after the promotion.
    Freeze,
    Switchover,
}

impl Fault {
    fn word(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Freeze => "freeze",
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

#[test]
fn the_books_balance_through_kills() {
    play(Fault::Kill);
}

#[test]
fn the_books_balance_through_freezes() {
    play(Fault::Freeze);
}

#[test]
fn the_books_balance_through_switchovers() {
    let figures = play(Fault::Switchover);
    assert_eq!(figures.errors, 0, "errors that clients saw");
}

/// Plays the rounds of one fault and checks the books.
fn play(fault: Fault) -> Figures {
    let rounds = number("CHAOS_ROUNDS", 1);
    let fixture = promoting().start();
    clients::set_up(&fixture);
    for server in fixture.cluster.servers() {
        // Whoever becomes the primary waits for a replica to confirm.
        server.set("synchronous_standby_names", "'ANY 1 (pg0, pg1, pg2)'").unwrap();
    }
    confirm_writes(fixture.cluster.primary());
    let play = Play::default();
    let seed = number("CHAOS_SEED", 1);
    let (history, figures, last) = std::thread::scope(|scope| {
        let players: Vec<_> = (0..SESSIONS)
            .map(|client| {
                let (play, fixture) = (&play, &fixture);
                scope.spawn(move || play.run(fixture, client, seed))
            })
            .collect();
        let mut figures = Figures::default();
        let mut primary = fixture.cluster.primary();
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..rounds {
                play.go_on(5);
                primary = one_round(&fixture, &play, fault, primary, &mut figures);
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
    tell(fault, &figures, rounds, history.len(), found.len());
    assert!(found.is_empty(), "{found:#?}");
    figures
}

/// One change of the primary, and everything in order again; the new one.
fn one_round<'a>(
    fixture: &'a Fixture,
    play: &Play,
    fault: Fault,
    old: &Server,
    figures: &mut Figures,
) -> &'a Server {
    let (before, errors) = (made(fixture).len(), play.errors.load(Ordering::Relaxed));
    match fault {
        Fault::Kill => old.kill9().unwrap(),
        Fault::Freeze => old.sigstop().unwrap(),
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
    if fault == Fault::Freeze {
        // It comes to life and answers those whom it has kept waiting.
        old.sigcont().unwrap();
        wait_done(fixture, before + 2);
        play.go_on(5);
    }
    let seen = play.errors.load(Ordering::Relaxed) - errors;
    figures.errors += seen;
    figures.without_errors += usize::from(seen == 0);
    fixture.cluster.rewind(old, new).unwrap();
    fixture.wait_in_read_set(
        fixture.cluster.servers().iter().filter(|server| server.name != new.name),
    );
    let streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    wait_until(PATIENCE, || new.value(streams).is_ok_and(|count| count == "2"))
        .expect("both replicas follow");
    new
}

fn tell(fault: Fault, figures: &Figures, rounds: u64, events: usize, contradictions: usize) {
    let mut held = figures.held_ms.clone();
    held.sort_by(f64::total_cmp);
    println!(
        "measured: {:<10} {rounds:>3} rounds, {events:>6} events, {contradictions} contradictions, \
         {} errors seen by clients, {} rounds without any; no writes for {:.0} ms (median), {:.0} \
         ms (longest)",
        fault.word(),
        figures.errors,
        figures.without_errors,
        held[held.len() / 2],
        held[held.len() - 1],
    );
}
