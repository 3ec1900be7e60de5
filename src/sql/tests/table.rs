//! The statements of `integration/data/classify/*.txt` and what they are expected to be.

use super::cases::{cases, mistake, render};
use super::fixture;
use crate::sql::lex::{Kind, Lexer};
use crate::sql::scan;
use crate::sql::{Catalog, Classifier, ClassifierLimits as Limits, Dialect, Effect, classify};

/// Long enough for every statement of the table.
const PARSE_BYTES_MAX: usize = 1 << 16;
/// Under `integration/data`.
const FOLDER: &str = "classify";
/// The table never shrinks below this.
const CASES_MIN: usize = 500;

#[test]
fn statements_are_what_the_table_says() {
    let catalog = fixture::catalog();
    let cases = cases(FOLDER);
    let mut wrong = Vec::new();
    for case in &cases {
        let statement = classify(case.sql.as_bytes(), Dialect::STANDARD, &catalog, PARSE_BYTES_MAX);
        wrong.extend(mistake(case, &statement));
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= CASES_MIN, "only {} cases", cases.len());
}

#[test]
fn the_cache_gives_the_same_classes_as_the_pure_function() {
    let catalog = fixture::catalog();
    let empty = Catalog::empty();
    let limits = Limits { cache_max: 200, parse_bytes_max: PARSE_BYTES_MAX };
    let mut classifier = Classifier::new(limits);
    // Twice, and with two catalogs in turn: hits, evictions and versions mix.
    for case in cases(FOLDER).iter().chain(&cases(FOLDER)) {
        for catalog in [&catalog, &empty, &catalog] {
            for standard_strings in [true, false] {
                let dialect = Dialect::Postgres { standard_strings };
                let sql = case.sql.as_bytes();
                let cached = classifier.classify(sql, dialect, catalog);
                let pure = classify(sql, dialect, catalog, PARSE_BYTES_MAX);
                assert_eq!(*cached, pure, "{}: {}", case.place, case.sql);
            }
        }
    }
    let (hits, misses) = classifier.hits_and_misses();
    assert!(hits > 0 && misses > 0);
}

/// The cache stands on this: texts of one digest are classified alike. Each statement is tried
/// with other literals and other white space.
#[test]
fn texts_of_one_digest_have_one_class() {
    let catalog = fixture::catalog();
    let digest = |sql: &str| {
        scan::digest(sql.as_bytes(), Dialect::STANDARD, &mut scan::Room::default()).to_vec()
    };
    let mut same = 0;
    for case in cases(FOLDER) {
        let mut other = String::new();
        for token in Lexer::new(case.sql.as_bytes(), true) {
            other.push_str(match token.kind {
                Kind::Text => "'z;--\n'",
                Kind::Number => "7e1",
                _ => &case.sql[token.start..token.end],
            });
            other.push_str(" /* for update */\n");
        }
        if digest(&case.sql) == digest(&other) {
            same += 1;
            let class =
                |sql: &str| classify(sql.as_bytes(), Dialect::STANDARD, &catalog, PARSE_BYTES_MAX);
            assert_eq!(class(&case.sql), class(&other), "{}: {other}", case.place);
        }
    }
    assert!(same > CASES_MIN, "only {same} digests do without literals");
}

/// Before the catalog is loaded, nothing of a user's is a read on a replica.
#[test]
fn an_empty_catalog_knows_only_what_is_built_in() {
    let cases = [
        ("select 1", "read replica select"),
        ("select lower('A') from pg_class", "read replica select"),
        ("select * from information_schema.tables", "read replica select"),
        ("select * from users", "unknown primary catalog_unknown"),
        ("select add_up(1, 2)", "write primary unknown_function"),
        ("select 'ok'::mood", "unknown primary catalog_unknown"),
        ("insert into users values (1)", "write primary dml"),
        ("explain insert into users select 1", "unknown primary catalog_unknown"),
        ("explain select random()", "read replica explain"),
    ];
    for (sql, expected) in cases {
        let got = render(&classify(
            sql.as_bytes(),
            Dialect::STANDARD,
            &Catalog::empty(),
            PARSE_BYTES_MAX,
        ));
        assert_eq!(got, format!("{expected} | -"), "{sql}");
    }
}

#[test]
fn the_operators_word_on_functions_wins() {
    let rules = crate::sql::FunctionRules {
        read: ["log_event", "app.initcap"].map(String::from).into(),
        write: ["app.lookup", "add_up", "lower"].map(String::from).into(),
    };
    let catalog = Catalog::build(fixture::rows(), rules);
    let cases = [
        ("select log_event('x')", "read replica select"),
        ("select app.initcap('x')", "read replica select"),
        ("select initcap('x')", "write primary function"),
        ("select lookup(1)", "write primary function"),
        ("select app.lookup(1)", "write primary function"),
        ("select add_up(1, 2)", "write primary function"),
        ("select lower('x')", "write primary function"),
        ("select upper('x')", "read replica select"),
        ("select * from noisy_view", "read replica select"),
    ];
    for (sql, expected) in cases {
        let got = render(&classify(sql.as_bytes(), Dialect::STANDARD, &catalog, PARSE_BYTES_MAX));
        assert_eq!(got, format!("{expected} | -"), "{sql}");
    }
}

/// A backslash ends no string while `standard_conforming_strings` is off.
#[test]
fn strings_end_where_the_session_says() {
    let catalog = fixture::catalog();
    let sql = br"select 'a\'; delete from users; --'";
    let off =
        classify(sql, Dialect::Postgres { standard_strings: false }, &catalog, PARSE_BYTES_MAX);
    assert_eq!((off.effect, off.count), (Effect::Read, 1));
    let on = classify(sql, Dialect::STANDARD, &catalog, PARSE_BYTES_MAX);
    assert_eq!((on.effect, on.count), (Effect::Write, 2));
}
