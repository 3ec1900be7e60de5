//! Random sessions of two or three clients, once each on a connection of its own to the primary,
//! once through the proxy over as few server connections as can be: the answers are the same,
//! message by message.
//!
//! `make soak` runs it for as long as `SOAK_SECONDS` says, from the seed `SOAK_SEED` on. A seed
//! that fails is shrunk to the few steps that still fail and printed as a script; put into a file
//! it runs again with `SOAK_SCRIPT=file`.
//!
//! [`generate`] makes a script of a seed out of [`vocabulary`]; [`run`] runs it on one side and
//! says what is not compared, and why.

mod arena;
mod client;
mod generate;
mod random;
mod run;
mod script;
mod shrink;
mod vocabulary;

use arena::{Side, World};
use run::{Compared, Difference, difference};
use script::Script;
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

/// What `make test` spends on it, and the last seed that it tries: always the same ones, so that
/// what it says is about the change that is tested.
const SHORT: Duration = Duration::from_secs(25);
const SHORT_SEED: u64 = 60;

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

fn compare(world: &World, script: &Script, patience: Duration) -> Outcome {
    let direct = run::run(world, Side::Direct, script, None, patience);
    if let Some(why) = direct.broken {
        return Outcome::Broken(why);
    }
    let side = Side::Proxied(script.arena);
    let proxied = run::run(world, side, script, Some(&direct), patience);
    Outcome::Compared(difference(script, &direct, &proxied))
}

#[test]
fn random_sessions_are_answered_as_on_connections_of_their_own() {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut world = World::start();
    if let Some(path) = variable("SOAK_SCRIPT") {
        let text = std::fs::read_to_string(&path).expect(&path);
        match compare(&world, &script::read(&text), PATIENCE) {
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
    let started = Instant::now();
    let (mut kinds, mut failed) = (HashSet::new(), 0);
    let mut parted = BTreeMap::new();
    let mut seed = first;
    let mut steps = 0;
    let last = seconds.map_or(SHORT_SEED, |_| u64::MAX);
    while started.elapsed() < duration && kinds.len() < KINDS_MAX && seed <= last {
        let script = generate::script(seed);
        steps += script.steps.len();
        match compare(&world, &script, PATIENCE) {
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
                println!("seed {seed} was not compared: {why}, without the proxy");
                world = World::start();
            }
        }
        seed += 1;
        if seconds.is_some() && (seed - first).is_multiple_of(500) {
            println!("measured: {} seeds in {:.0?}", seed - first, started.elapsed());
        }
    }
    println!(
        "measured: seeds {first} to {} with {steps} steps in {:.0?}, {failed} failed, \
         not compared to their end: {parted:?}",
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
    }
}
