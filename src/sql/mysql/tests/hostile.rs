//! Input that is meant to hurt: depth, size, garbage, mutations.

use crate::sql::mysql::{Engine, Reading};
use crate::sql::{
    Catalog, Classifier, ClassifierLimits as Limits, Dialect, Effect, FunctionRules, Pin,
    SessionEffect, Statement, classify, fuzz_one,
};
use proptest::prelude::*;
use std::time::{Duration, Instant};

const PARSE_BYTES_MAX: usize = 1 << 20;
/// Far above what any of these takes, far below what a quadratic or exponential one would.
const PATIENCE: Duration = Duration::from_secs(120);
const DIALECT: Dialect = Dialect::MySql(Reading::new(Engine::MySql));

fn catalog() -> Catalog {
    Catalog::empty_of(Engine::MySql, FunctionRules::default())
}

fn of(sql: &str, parse_bytes_max: usize) -> Statement {
    classify(sql.as_bytes(), DIALECT, &catalog(), parse_bytes_max)
}

/// Each shape of text that grows a deep tree or makes a parser try again and again.
#[test]
fn deep_and_long_statements_neither_crash_nor_take_long() {
    let shapes: &[(&str, &str, &str, &str)] = &[
        ("select ", "1+", "1", ""),
        ("select ", "(", "1", ")"),
        ("select ", "-", "1", ""),
        ("select ", "!", "1", ""),
        ("select ", "~ ", "1", ""),
        ("select ", "not ", "true", ""),
        ("select ", "binary ", "1", ""),
        ("select a", " div 2", "", ""),
        ("select a", " mod 2", "", ""),
        ("select a", " xor b", "", ""),
        ("select a", " rlike b", "", ""),
        ("select a", " sounds like b", "", ""),
        ("select a", "->'$.b'", "", ""),
        ("select a", ".b", "", ""),
        ("select a", " is null", "", ""),
        ("select a", " collate utf8mb4_bin", "", ""),
        ("select a", " in (1)", "", ""),
        ("select a", " and b", "", ""),
        ("select a", " && b", "", ""),
        ("select a", " between 1 and 2", "", ""),
        ("select ", "case when ", "1", " then 1 end"),
        ("select ", "if(", "1", ",1,1)"),
        ("select ", "row(", "1", ")"),
        ("select ", "(select ", "1", ")"),
        ("select ", "interval ", "1", " day"),
        ("select ", "cast(", "1", " as signed)"),
        ("select * from ", "(", "t", ")"),
        ("select * from ", "(select * from ", "t", ") x"),
        ("select * from a", " join b", "", " on true"),
        ("select * from a", " straight_join b", "", " on true"),
        ("select * from a", " natural join b", "", ""),
        ("", "select 1 union ", "select 1", ""),
        ("", "(", "select 1", ")"),
        ("", "with a as (", "select 1", ") select 1"),
        ("with a as (select 1)", ", b as (select 1)", " select 1", ""),
        ("", "explain ", "select 1", ""),
        ("", "prepare a from 'select 1'; ", "select 1", ""),
        ("", "select 1;", "", ""),
        ("", "begin;", "", ""),
        ("", "set a = 1;", "", ""),
        ("set ", "a = 1, ", "b = 2", ""),
        ("set ", "@a = (select 1), ", "b = 2", ""),
        ("set a = ", "(", "1", ")"),
        ("", "set statement a = 1 for ", "select 1", ""),
        ("insert into t values (1)", ",(1)", "", ""),
        ("select 1 in (1", ",1", ")", ""),
        ("select 1", ",1", "", ""),
        ("select ", "'a' ", "", ""),
        ("select ", "@a,", "@b", ""),
        ("select 1 into ", "@a,", "@b", ""),
        ("select ", "@a := ", "1", ""),
        ("", "/*", "", "*/"),
        ("", "/*! ", "select 1", " */"),
        ("select 1 ", "/*!99999 + 1 */", "", ""),
        ("select 1 ", "/*!", "", ""),
        ("", "#\n", "", ""),
        ("", "'", "", ""),
        ("", "\"", "", ""),
        ("", "`", "", ""),
        ("", "@", "", ""),
        ("", "\\", "", ""),
        ("", "a.", "", ""),
        ("", "set ", "", ""),
        ("do ", "sleep(", "1", ")"),
        ("create procedure p() begin ", "if a then ", "", "end if; "),
    ];
    for (head, open, middle, close) in shapes {
        for times in [49, 51, 1_990, 30_000] {
            let sql = [*head, &open.repeat(times), middle, &close.repeat(times)].concat();
            let one = Instant::now();
            of(&sql, PARSE_BYTES_MAX);
            assert!(one.elapsed() < PATIENCE, "{head}{open} × {times}");
        }
    }
    // A million levels, below and above the limit of what is parsed.
    for (limit, code) in [(1 << 30, "too_deep"), (PARSE_BYTES_MAX, "too_large")] {
        let statement = of(&format!("select {}1", "1+".repeat(1_000_000)), limit);
        assert_eq!((statement.effect, statement.reason_code), (Effect::Unknown, code));
    }
}

/// A text of many executable comments is not read in every way that there is.
#[test]
fn executable_comments_are_read_in_a_bounded_number_of_ways() {
    let comments = |count: u32| {
        let all: Vec<String> = (0..count).map(|number| format!("/*!9{number:04} + 1 */")).collect();
        format!("select 1 {}", all.concat())
    };
    assert_eq!(of(&comments(3), PARSE_BYTES_MAX).effect, Effect::Read);
    assert_eq!(of(&comments(4), PARSE_BYTES_MAX).reason_code, "executable_comment");
    assert_eq!(of(&comments(4_000), PARSE_BYTES_MAX).reason_code, "executable_comment");
}

#[test]
fn texts_above_the_limit_are_not_parsed_and_pin_only_if_their_words_may() {
    let pinned = |sql: &str| {
        let statement = of(sql, 100);
        assert_eq!((statement.effect, statement.reason_code), (Effect::Unknown, "too_large"));
        statement.session == [SessionEffect::Pin(Pin::Unknown)]
    };
    let pad = "x".repeat(200);
    assert!(!pinned(&format!("insert into t values ('{pad}')")));
    assert!(!pinned(&format!("replace into t values (\"{pad}; set a = 1\")")));
    assert!(pinned(&format!("select get_lock('{pad}', 1)")));
    assert!(pinned(&format!("select `get_lock`('{pad}', 1)")));
    assert!(pinned(&format!("select @a := '{pad}'")));
    assert!(pinned(&format!("select '{pad}'; set a = 1")));
    assert!(pinned(&format!("create temporary table t as select '{pad}'")));
    assert!(pinned(&format!("select '{pad}' /*! into @a */")));
    assert!(pinned(&format!("call p('{pad}')")));
}

#[test]
fn sixty_four_mebibytes_are_looked_at_once() {
    let mut sql = b"insert into t values ('".to_vec();
    sql.resize((64 << 20) - 2, b'x');
    sql.extend_from_slice(b"')");
    let started = Instant::now();
    let limits = Limits { cache_max: 16, parse_bytes_max: PARSE_BYTES_MAX };
    let mut classifier = Classifier::new(limits);
    let statement = classifier.classify(&sql, DIALECT, &catalog());
    assert_eq!((statement.reason_code, statement.session.len()), ("too_large", 0));
    sql.push(b' ');
    let statement = classifier.classify(&sql, DIALECT, &catalog());
    assert_eq!(statement.session, [SessionEffect::Pin(Pin::Unknown)]);
    assert!(started.elapsed() < PATIENCE);
}

/// Statements to mutate: reads, so that a wrongly kept class would show.
const SEEDS: &[&str] = &[
    "select * from users where id = 1 and name = 'a\\'b'",
    "with a as (select id from users) select * from a straight_join orders o on o.user_id = a.id",
    "select sql_calc_found_rows `a``b`, \"x\", _utf8mb4'y', x'41', 0xff from users limit 1, 2",
    "explain format=json select 1",
    "/* tiffin: replica */ select /*+ max_execution_time(5) */ 1 /*! + 1 */ /*!90100 + 2 */",
    "set @a = 1, names utf8mb4, session sql_mode = 'ANSI_QUOTES', autocommit = 0",
    "start transaction read only, with consistent snapshot",
    "select @a := 1, @@session.sql_mode, found_rows()",
    "show full tables where get_lock('a', 1)",
    "prepare a from 'select 1'; execute a using @b",
];

/// What a mutation puts in.
const PIECES: &[&str] = &[
    "'",
    "\"",
    "`",
    "-- ",
    "--",
    "#",
    "/*",
    "*/",
    "/*!",
    "/*!80100 ",
    "/*M!",
    "(",
    ")",
    ";",
    ",",
    "\\",
    "@",
    "@@",
    ":=",
    "\n",
    " into @x ",
    "delete",
    " for update ",
    "get_lock('a')",
    "\u{0}",
    "é",
    "?",
    ".",
    "$",
    "0x",
    "1e",
    " lock in share mode",
    "n'",
    "x'",
    "{",
    "insert into t ",
    " union select ",
    "last_insert_id(1)",
    "log_event('a')",
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
fn mutated_statements_keep_what_must_hold() {
    let mut dice = Dice(0x5eed_0f71_ff19_0001);
    for round in 0..20_000 {
        let mut text = SEEDS[round % SEEDS.len()].as_bytes().to_vec();
        for _ in 0..=dice.roll(4) {
            let at = dice.roll(text.len() + 1);
            match dice.roll(4) {
                0 => text.truncate(at),
                1 if at < text.len() => {
                    text.remove(at);
                }
                2 if at < text.len() => text[at] = dice.roll(256) as u8,
                _ => {
                    let piece = PIECES[dice.roll(PIECES.len())].as_bytes();
                    text.splice(at..at, piece.iter().copied());
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
}
