//! Random sessions of two or three clients, once each on a connection of its own to the primary,
//! once through the proxy over as few server connections as can be: the answers are the same,
//! message by message. [`Play`] is what differs between the protocols.
//!
//! `make soak` runs it for as long as `SOAK_SECONDS` says, from the seed `SOAK_SEED` on. A seed
//! that fails is shrunk to the few steps that still fail and printed as a script; put into a file
//! it runs again with `SOAK_SCRIPT=file`.
//!
//! PostgreSQL: [`generate`] makes a script of a seed out of [`vocabulary`]; [`run`] runs it on one
//! side and says what is not compared, and why. MySQL and MariaDB: [`mysql_generate`],
//! [`mysql_vocabulary`] and [`mysql_run`].

mod arena;
mod client;
mod found;
mod generate;
mod mysql_found;
mod mysql_generate;
mod mysql_run;
mod mysql_script;
mod mysql_vocabulary;
mod random;
mod run;
mod script;
mod shrink;
mod vocabulary;

use crate::support::mysql::{Engine, on_mysql_and_mariadb};
use arena::World;
use mysql_run::MysqlWorld;
use run::{Compared, Difference};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::ops::Range;
use std::time::{Duration, Instant};

/// What `make test` spends on it at most.
const SHORT: Duration = Duration::from_secs(25);

/// A reply that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(20);

/// Kinds of difference that are shrunk and shown, which takes a minute each.
const KINDS_MAX: usize = 5;

/// What came of a script on both sides.
enum Outcome {
    Compared(Compared),
    /// It does not run directly either: a server may have crashed over it.
    Broken(String),
}

impl Outcome {
    fn difference(self) -> Option<Difference> {
        match self {
            Outcome::Compared(Compared::Differs(difference)) => Some(difference),
            Outcome::Compared(_) | Outcome::Broken(_) => None,
        }
    }
}

/// Servers with the proxy in front, and the scripts that are run on them.
trait Play: Sized {
    type Script: Clone + Display;

    /// The last seed that `make test` tries: always the same ones, so that what it says is about
    /// the change that is tested.
    const SHORT_SEED: u64;

    /// Scripts that are tried before.
    const FOUND: &[&str];

    /// The same servers anew.
    fn again(&self) -> Self;

    /// The script of a seed; always the same one.
    fn script(&self, seed: u64) -> Self::Script;

    /// Reads what `Display` writes. Panics on anything else, with the line.
    fn read(text: &str) -> Self::Script;

    /// Runs a script on both sides.
    fn compare(&self, script: &Self::Script, patience: Duration) -> Outcome;

    fn steps(script: &Self::Script) -> usize;

    /// The script without these steps.
    fn without(script: &Self::Script, steps: Range<usize>) -> Self::Script;

    /// The script without one of the messages of a step, if that has so many and more than one.
    fn without_message(script: &Self::Script, step: usize, message: usize) -> Option<Self::Script>;
}

on_mysql_and_mariadb! { random_sessions }

#[test]
fn random_sessions_are_answered_as_on_connections_of_their_own() {
    search(World::start());
}

fn random_sessions(engine: Engine) {
    search(MysqlWorld::start(engine));
}

fn search<P: Play>(mut world: P) {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(path) = variable("SOAK_SCRIPT") {
        let text = std::fs::read_to_string(&path).expect(&path);
        match world.compare(&P::read(&text), PATIENCE) {
            Outcome::Compared(Compared::Same) => {}
            Outcome::Compared(Compared::Parted(why, at)) => println!("{why} {}", at.text()),
            Outcome::Compared(Compared::Differs(found)) => panic!("{}", found.text()),
            Outcome::Broken(why) => panic!("{why}, without the proxy"),
        }
        return;
    }
    let seconds = variable("SOAK_SECONDS").map(|text| text.parse().expect("SOAK_SECONDS"));
    let duration = seconds.map_or(SHORT, Duration::from_secs);
    let first: u64 = variable("SOAK_SEED").map_or(1, |text| text.parse().expect("SOAK_SEED"));
    for text in P::FOUND {
        match world.compare(&P::read(text), PATIENCE) {
            Outcome::Compared(Compared::Differs(found) | Compared::Parted(_, found)) => {
                panic!("{text}\n{}", found.text());
            }
            Outcome::Compared(Compared::Same) | Outcome::Broken(_) => {}
        }
    }
    let started = Instant::now();
    let (mut kinds, mut failed, mut broken) = (HashSet::new(), 0, 0);
    let mut parted = BTreeMap::new();
    let mut seed = first;
    let mut steps = 0;
    let last = seconds.map_or(P::SHORT_SEED, |_| u64::MAX);
    while started.elapsed() < duration && kinds.len() < KINDS_MAX && seed <= last {
        let script = world.script(seed);
        steps += P::steps(&script);
        match world.compare(&script, PATIENCE) {
            Outcome::Compared(Compared::Same) => {}
            Outcome::Compared(Compared::Parted(why, at)) => {
                *parted.entry(why).or_insert(0) += 1;
                if seconds.is_some() {
                    println!("seed {seed} is compared up to here: {why}, {}", at.text());
                }
            }
            Outcome::Compared(Compared::Differs(found)) if !kinds.insert(found.kind()) => {
                failed += 1;
                println!("seed {seed} fails in the same way as one before");
            }
            Outcome::Compared(Compared::Differs(found)) => {
                failed += 1;
                println!("{}", shrink::report(&world, seed, script, &found));
            }
            Outcome::Broken(why) => {
                broken += 1;
                println!("seed {seed} was not compared: {why}, without the proxy");
                world = world.again();
            }
        }
        seed += 1;
        if seconds.is_some() && (seed - first).is_multiple_of(500) {
            println!("measured: {} seeds in {:.0?}", seed - first, started.elapsed());
        }
    }
    let ended = seed - first - parted.values().sum::<u64>() - failed - broken;
    println!(
        "measured: seeds {first} to {} with {steps} steps in {:.0?}, {failed} failed, {ended} \
         compared to their end, not: {parted:?} and {broken} without the proxy",
        seed - 1,
        started.elapsed(),
    );
    assert!(failed == 0, "{failed} seeds failed, see above");
}

/// A script is the same after it was written down and read.
#[test]
fn a_script_survives_paper() {
    for seed in 1..200 {
        let script = generate::script(seed);
        assert_eq!(script::read(&script.to_string()), script, "seed {seed}");
        for engine in [Engine::MySql, Engine::MariaDb] {
            let script = mysql_generate::script(engine, seed);
            assert_eq!(mysql_script::read(&script.to_string()), script, "seed {seed}");
        }
    }
}
