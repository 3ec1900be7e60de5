//! Primaries are killed, frozen, cut off and handed over while clients write, and the books are checked
//! afterwards: nothing acknowledged is lost, nothing is there twice, nothing that was reported as
//! failed is there, sums stay, no session reads backward.
//!
//! `make test` plays one round of each fault on each engine, `make chaos` as many as `CHAOS_ROUNDS`
//! says (of the kind `CHAOS_FAULT`), and prints the table of figures. [`faults`] are the kinds,
//! [`clients`] the players, [`longer`] those whose work takes a while; [`history`] is the checker, with faults planted into sound histories.

mod clients;
mod faults;
mod history;
mod longer;
mod neighbour;
mod patroni;

use crate::promotion::wait_confirmed;
use crate::support::relay::{Behaviour, Relay};
use crate::support::{Stage, Stand, Which, on_every_engine};
use clients::{Door, Play, START};
use faults::Fault::{self, *};
use serde_json::Value;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// How a kind of fault went.
#[derive(Default)]
struct Figures {
    rounds: usize,
    held_ms: Vec<f64>,
    /// Between the last write before and the first one after that was acknowledged to a client.
    gaps_ms: Vec<f64>,
    errors: usize,
    without_errors: usize,
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Those that tests come less often to: played on the same servers, one after the other.
const RARER: &[Fault] = &[Crash, WakeEarly, WakeLate, Two, ByHand, Paused, DiskFull, SlowDisk];

on_every_engine! {
    the_books_balance_through_kills,
    the_books_balance_through_freezes,
    the_books_balance_through_cut_links,
    the_books_balance_through_switchovers,
    the_books_balance_through_kills_during_longer_work,
    the_books_balance_through_rarer_faults,
}

fn the_books_balance_through_kills<S: Stand>(which: Which) {
    on::<S>(which, &[Kill]);
}

fn the_books_balance_through_freezes<S: Stand>(which: Which) {
    on::<S>(which, &[Freeze]);
}

fn the_books_balance_through_cut_links<S: Stand>(which: Which) {
    on::<S>(which, &[Cut]);
}

fn the_books_balance_through_switchovers<S: Stand>(which: Which) {
    on::<S>(which, &[Switchover]);
}

fn the_books_balance_through_kills_during_longer_work<S: Stand>(which: Which) {
    on::<S>(which, &[Longer]);
}

fn the_books_balance_through_rarer_faults<S: Stand>(which: Which) {
    on::<S>(which, RARER);
}

/// Whether this kind of fault is asked for.
fn is_wanted(kind: &str) -> bool {
    let wanted = std::env::var("CHAOS_FAULT").unwrap_or_default();
    wanted.is_empty() || wanted.split(',').any(|word| word == kind)
}

/// Plays those of these faults that these servers can have and that are asked for.
fn on<S: Stand>(which: Which, faults: &[Fault]) {
    let suits = |fault: &Fault| fault.suits(which) && is_wanted(fault.word());
    let faults: Vec<Fault> = faults.iter().copied().filter(suits).collect();
    if faults.is_empty() {
        return;
    }
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
    play(&Arena { which, faults: &faults, fixture: &fixture, cables });
}

/// Where is played, and what is done.
struct Arena<'a, S: Stand> {
    which: Which,
    faults: &'a [Fault],
    fixture: &'a Stage<S>,
    cables: &'a Links,
}

impl<'a, S: Stand> Arena<'a, S> {
    fn by_name(&self, name: &str) -> &'a S {
        let found = self.fixture.cluster.servers().iter().find(|server| server.name == name);
        found.unwrap_or_else(|| panic!("no server {name}"))
    }
}

/// Plays the rounds of each fault and checks the books.
fn play<S: Stand>(arena: &Arena<'_, S>) {
    let rounds = number("CHAOS_ROUNDS", 1);
    let Arena { which, faults, fixture, .. } = *arena;
    clients::set_up(fixture);
    let play = Play::new(faults.contains(&Longer));
    let door = Door { port: fixture.proxy.port, app: fixture.cluster.app.clone() };
    let (history, (figures, last)) = play.around::<S, _>(&door, || {
        let mut figures: BTreeMap<Fault, Figures> = BTreeMap::new();
        let mut primary = fixture.cluster.primary();
        for (round, fault) in (0..rounds).flat_map(|n| faults.iter().map(move |f| (n, *f))) {
            println!("round {round}: {}", fault.word());
            play.go_on(5);
            let figures = figures.entry(fault).or_default();
            primary = faults::one_round(arena, fault, &play, primary, figures);
        }
        play.go_on(5);
        (figures, primary)
    });
    let books = clients::books(&fixture.direct(last));
    let found = history::contradictions(&history, &books, START);
    for (fault, figures) in &figures {
        tell((which.word(), fault.word()), figures, history.len(), found.len());
    }
    assert!(found.is_empty(), "{found:#?}");
    for (fault, figures) in figures.iter().filter(|(fault, _)| fault.is_unseen()) {
        assert_eq!(figures.errors, 0, "errors that clients saw: {}", fault.word());
    }
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

/// The median and the longest.
fn spread(figures: &[f64]) -> String {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.last() {
        Some(longest) => {
            format!("for {:.0} ms (median), {longest:.0} ms (longest)", sorted[sorted.len() / 2])
        }
        None => "never".to_owned(),
    }
}

fn tell((engine, fault): (&str, &str), figures: &Figures, events: usize, contradictions: usize) {
    println!(
        "measured: {:<8} {:<10} {:>3} rounds, {events:>6} events, {contradictions} contradictions, \
         {} errors seen by clients, {} rounds without any; no writes {}; none acknowledged {}",
        engine,
        fault,
        figures.rounds,
        figures.errors,
        figures.without_errors,
        spread(&figures.held_ms),
        spread(&figures.gaps_ms),
    );
}
