//! Input that is meant to hurt: depth, size, garbage, mutations.

use super::fixture;
use crate::sql::{
    Catalog, Classifier, ClassifierLimits as Limits, Dialect, Effect, Pin, SessionEffect, classify,
    fuzz_one,
};
use proptest::prelude::*;
use std::time::{Duration, Instant};

const PARSE_BYTES_MAX: usize = 1 << 20;
/// Far above what any of these takes, far below what a quadratic or exponential one would.
const PATIENCE: Duration = Duration::from_secs(120);

fn effect(sql: &str) -> Effect {
    classify(sql.as_bytes(), Dialect::STANDARD, &Catalog::empty(), PARSE_BYTES_MAX).effect
}

/// Each shape of text that grows a deep tree or makes a parser try again and again.
#[test]
fn deep_and_long_statements_neither_crash_nor_take_long() {
    let shapes: &[(&str, &str, &str, &str)] = &[
        ("select ", "1+", "1", ""),
        ("select ", "(", "1", ")"),
        ("select ", "-", "1", ""),
        ("select ", "- ", "1", ""),
        ("select ", "not ", "true", ""),
        ("select 1", "::int", "", ""),
        ("select a", "[1]", "", ""),
        ("select a", ".b", "", ""),
        ("select a", " is null", "", ""),
        ("select a", " collate c", "", ""),
        ("select a", " at time zone 'x'", "", ""),
        ("select a", " like b", "", ""),
        ("select a", " in (1)", "", ""),
        ("select a", " and b", "", ""),
        ("select a", " between 1 and 2", "", ""),
        ("select a", " operator(pg_catalog.+) 1", "", ""),
        ("select ", "case when ", "1", " then 1 end"),
        ("select ", "f(", "1", ")"),
        ("select ", "array[", "1", "]"),
        ("select ", "row(", "1", ")"),
        ("select ", "(select ", "1", ")"),
        ("select * from ", "(", "t", ")"),
        ("select * from ", "(select * from ", "t", ") x"),
        ("select * from a", " join b", "", " on true"),
        ("select * from a", " join b on true", "", ""),
        ("select * from a", " natural join b", "", ""),
        ("select * from a", ", lateral (select 1) x", "", ""),
        ("", "select 1 union ", "select 1", ""),
        ("", "(", "select 1", ")"),
        ("", "with a as (", "select 1", ") select 1"),
        ("with a as (select 1)", ", b as (select 1)", " select 1", ""),
        ("select 1 from t where exists ", "(select 1 where exists ", "(select 1)", ")"),
        ("select cast(1 as int", "[]", ")", ""),
        ("explain ", "explain ", "select 1", ""),
        ("", "prepare a as ", "select 1", ""),
        ("", "declare c cursor for ", "select 1", ""),
        ("copy ", "(", "select 1", ") to stdout"),
        ("", "select 1;", "", ""),
        ("", "begin;", "", ""),
        ("", "set a = 1;", "", ""),
        ("insert into t values (1)", ",(1)", "", ""),
        ("select 1 in (1", ",1", ")", ""),
        ("select 1", ",1", "", ""),
        ("select 1 from a", ",a", "", ""),
        ("select ", "'a' ", "", ""),
        ("", "/*", "", "*/"),
        ("", "$a$", "", ""),
        ("", "$", "", ""),
        ("", "'", "", ""),
        ("", "\"", "", ""),
        ("", "e'\\", "", ""),
        ("", "a.", "", ""),
        ("", "set ", "", ""),
        ("create function f() returns int begin atomic ", "case ", "", "end "),
        ("select interval ", "interval ", "'1'", ""),
        ("select date ", "date ", "'1'", ""),
        ("select extract(", "extract(", "a", " from b)"),
        ("select f(a => ", "f(a => ", "1", ")"),
        ("select a -> ", "a -> ", "1", ""),
        ("select * from t tablesample ", "tablesample ", "", ""),
        ("select count(*) over ", "(partition by count(*) over ", "()", ")"),
    ];
    for (head, open, middle, close) in shapes {
        for times in [49, 51, 1_990, 30_000] {
            let sql = [*head, &open.repeat(times), middle, &close.repeat(times)].concat();
            let one = Instant::now();
            effect(&sql);
            assert!(one.elapsed() < PATIENCE, "{head}{open} × {times}");
        }
    }
    // A million levels, below and above the limit of what is parsed.
    for (limit, code) in [(1 << 30, "too_deep"), (PARSE_BYTES_MAX, "too_large")] {
        let sql = format!("select {}1", "1+".repeat(1_000_000));
        let statement = classify(sql.as_bytes(), Dialect::STANDARD, &Catalog::empty(), limit);
        assert_eq!((statement.effect, statement.reason_code), (Effect::Unknown, code));
    }
}

#[test]
fn texts_above_the_limit_are_not_parsed_and_pin_only_if_their_words_may() {
    let catalog = Catalog::empty();
    let pinned = |sql: &str| {
        let statement = classify(sql.as_bytes(), Dialect::STANDARD, &catalog, 100);
        assert_eq!((statement.effect, statement.reason_code), (Effect::Unknown, "too_large"));
        statement.session == [SessionEffect::Pin(Pin::Unknown)]
    };
    let pad = "x".repeat(200);
    assert!(!pinned(&format!("insert into t values ('{pad}')")));
    assert!(!pinned(&format!("select '{pad}; set a = 1'")));
    assert!(pinned(&format!("select set_config('a', '{pad}', false)")));
    assert!(pinned(&format!("select \"set_config\"('a', '{pad}', false)")));
    assert!(pinned(&format!("select pg_advisory_lock(1), '{pad}'")));
    assert!(pinned(&format!("select '{pad}'; set a = 1")));
    assert!(pinned(&format!("create temp table t as select '{pad}'")));
    assert!(pinned(&format!("do '{pad}'")));
}

#[test]
fn a_statement_with_too_many_effects_pins_the_session() {
    let calls: Vec<String> =
        (0..20_000).map(|number| format!("set_config('a.b', '{number}', false)")).collect();
    let sql = format!("select {}", calls.join(","));
    let statement = classify(sql.as_bytes(), Dialect::STANDARD, &Catalog::empty(), PARSE_BYTES_MAX);
    assert_eq!(statement.session.last(), Some(&SessionEffect::Pin(Pin::Unknown)));
    assert!(statement.session.len() < 100);
}

#[test]
fn sixty_four_mebibytes_are_looked_at_once() {
    let mut sql = b"insert into t values ('".to_vec();
    sql.resize(64 << 20, b'x');
    sql.truncate((64 << 20) - 2);
    sql.extend_from_slice(b"')");
    let started = Instant::now();
    let limits = Limits { cache_max: 16, parse_bytes_max: PARSE_BYTES_MAX };
    let mut classifier = Classifier::new(limits);
    let statement = classifier.classify(&sql, Dialect::STANDARD, &Catalog::empty());
    assert_eq!(statement.reason_code, "too_large");
    assert_eq!(statement.session, []);
    sql.push(b' ');
    let statement = classifier.classify(&sql, Dialect::STANDARD, &Catalog::empty());
    assert_eq!(statement.session, [SessionEffect::Pin(Pin::Unknown)]);
    assert!(started.elapsed() < PATIENCE);
}

/// Statements to mutate: reads, so that a wrongly kept class would show.
const SEEDS: &[&str] = &[
    "select * from users where id = 1 and name = 'a'",
    "with a as (select id from users) select * from a join orders o on o.user_id = a.id",
    "select count(*) filter (where active), max(created_at) over (order by id) from users",
    "explain (analyze, buffers) select 1",
    "copy (select 1) to stdout",
    "/* tiffin: replica */ select e'a\\'b', $$x$$, u&'x', b'1', \"q\"\"r\" from users",
    "select set_config('a.b', 'c', false), current_setting('x')",
    "begin isolation level serializable, read only; select 1; commit and chain",
    "set local search_path to a, \"B\"",
    "declare c cursor with hold for select 1 from users for update",
];

/// What a mutation puts in.
const PIECES: &[&str] = &[
    "'",
    "\"",
    "$$",
    "--",
    "/*",
    "*/",
    "(",
    ")",
    ";",
    ",",
    "\\",
    "e'",
    "\n",
    " into x ",
    "delete",
    " for update ",
    "nextval('a')",
    "log_event('a')",
    " union select ",
    "\u{0}",
    "é",
    "[",
    "::",
    "insert into t ",
    "$1",
    "$a$",
    " as materialized ",
    "set_config(",
    "1e9",
    ".",
    "scratch",
];

/// A small deterministic generator: the same mutations on each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides.max(1) as u64) as usize
    }
}

/// The fuzz target's function on the stable toolchain.
#[test]
fn mutated_statements_keep_the_promises_of_the_fuzz_target() {
    let mut dice = Dice(0x7155_1f1e_5eed_0001);
    for _ in 0..4_000 {
        let mut text = SEEDS[dice.roll(SEEDS.len())].as_bytes().to_vec();
        for _ in 0..=dice.roll(4) {
            let at = dice.roll(text.len() + 1);
            match dice.roll(4) {
                0 => {
                    let end = (at + dice.roll(12)).min(text.len());
                    text.drain(at..end);
                }
                1 => text.insert(at, dice.roll(256) as u8),
                _ => {
                    let piece = PIECES[dice.roll(PIECES.len())].bytes();
                    text.splice(at..at, piece);
                }
            }
        }
        fuzz_one(&text);
    }
}

proptest! {
    // A failure prints its text; nothing is written into the tree.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz_one(&bytes);
    }

    /// Words in any order are a read only if no word of a write is among them.
    #[test]
    fn words_in_any_order_are_no_false_reads(words in proptest::collection::vec(
        prop::sample::select(vec![
            "select", "1", "from", "users", "insert", "into", "update", "set", "delete", "for",
            "share", "with", "a", "as", "(", ")", "returning", "*", "union", "values", ",",
            "nextval", "('x')", "where", "exists", "key", "no", "join", "on", "true", "lateral",
        ]), 1..25))
    {
        let sql = words.join(" ");
        let catalog = fixture::catalog();
        let statement = classify(sql.as_bytes(), Dialect::STANDARD, &catalog, PARSE_BYTES_MAX);
        let writes = ["insert", "update", "delete", "into", "share", "nextval"];
        if statement.effect == Effect::Read {
            for pair in words.windows(2) {
                prop_assert!(
                    pair[0] == "." || !writes.contains(&pair[1]) || pair[1] == "nextval"
                        || pair[1] == "share" && pair[0] != "for",
                    "{}", sql
                );
            }
        }
    }
}
