//! The statements of `integration/data/classify_mysql/*.txt` and what they are expected to be.

use super::fixture;
use crate::sql::lex::{Kind, Token};
use crate::sql::mysql::lex::Lexer;
use crate::sql::mysql::{Engine, Reading};
use crate::sql::scan;
use crate::sql::tests::cases::{Case, cases, mistake, render};
use crate::sql::{Catalog, Classifier, ClassifierLimits as Limits, Dialect, Effect, classify};

/// Under `integration/data`.
const FOLDER: &str = "classify_mysql";
/// Long enough for every statement of the table.
const PARSE_BYTES_MAX: usize = 1 << 16;
/// The table never shrinks below this.
const CASES_MIN: usize = 400;

const ENGINES: [(Engine, &str); 2] = [(Engine::MySql, "mysql"), (Engine::MariaDb, "mariadb")];

fn dialect(engine: Engine) -> Dialect {
    Dialect::MySql(Reading::new(engine))
}

/// The lines that hold for the engine: one may say that it is of one engine only.
fn cases_of(name: &str) -> Vec<Case> {
    let of_other = |case: &Case| {
        let engines = ENGINES.map(|(_, name)| name);
        let named = case.marks.iter().any(|mark| engines.contains(&mark.as_str()));
        named && !case.marks.iter().any(|mark| mark == name)
    };
    cases(FOLDER).into_iter().filter(|case| !of_other(case)).collect()
}

#[test]
fn statements_are_what_the_table_says() {
    for (engine, name) in ENGINES {
        let catalog = fixture::catalog(engine);
        let cases = cases_of(name);
        let mut wrong = Vec::new();
        for case in &cases {
            let sql = case.sql.as_bytes();
            let statement = classify(sql, dialect(engine), &catalog, PARSE_BYTES_MAX);
            wrong.extend(mistake(case, &statement));
        }
        let count = cases.len();
        assert!(wrong.is_empty(), "{name}: {} of {count}:\n{}", wrong.len(), wrong.join("\n"));
        assert!(count >= CASES_MIN, "only {count} cases");
    }
}

#[test]
fn the_cache_gives_the_same_classes_as_the_pure_function() {
    let limits = Limits { cache_max: 200, parse_bytes_max: PARSE_BYTES_MAX };
    let mut classifier = Classifier::new(limits);
    let readings = ENGINES.map(|(engine, _)| {
        let plain = Reading::new(engine);
        let other = plain.with_sql_mode("ANSI_QUOTES,NO_BACKSLASH_ESCAPES");
        (fixture::catalog(engine), [plain, other])
    });
    // Twice, and with all ways to read in turn: hits, evictions and versions mix.
    for case in cases(FOLDER).iter().chain(&cases(FOLDER)) {
        for (catalog, readings) in &readings {
            for reading in readings {
                let (sql, dialect) = (case.sql.as_bytes(), Dialect::MySql(*reading));
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
    let engine = Engine::MySql;
    let catalog = fixture::catalog(engine);
    let digest = |sql: &str| {
        scan::digest(sql.as_bytes(), dialect(engine), &mut scan::Room::default()).to_vec()
    };
    let mut same = 0;
    for case in cases(FOLDER) {
        let mut other = String::new();
        let mut end = 0;
        let tokens: Vec<Token> = Lexer::new(case.sql.as_bytes(), Reading::new(engine)).collect();
        for token in tokens {
            // What touches what stands before it means something else apart from it.
            if token.start > end {
                other.push_str(" /* for update */\n# into x\n");
            }
            other.push_str(match token.kind {
                Kind::Text => "'z;--\\'\n'",
                Kind::Number => "7e1",
                _ => &case.sql[token.start..token.end],
            });
            end = token.end;
        }
        if digest(&case.sql) == digest(&other) {
            same += 1;
            let class =
                |sql: &str| classify(sql.as_bytes(), dialect(engine), &catalog, PARSE_BYTES_MAX);
            assert_eq!(class(&case.sql), class(&other), "{}: {other}", case.place);
        }
    }
    assert!(same > 200, "only {same} digests do without literals");
}

/// Before the catalog is loaded, nothing of a user's is a read on a replica.
#[test]
fn an_empty_catalog_knows_only_what_is_built_in() {
    let cases = [
        ("select 1", "read replica select | -"),
        ("select lower('A') from dual", "read replica select | -"),
        ("select * from information_schema.tables", "read replica select | -"),
        ("select * from users", "unknown primary catalog_unknown | -"),
        ("select add_up(1, 2)", "write primary unknown_function | -"),
        ("insert into users values (1)", "write primary dml | -"),
        ("call place_order(1)", "write primary procedure | pin unknown"),
        ("desc users", "unknown primary catalog_unknown | -"),
    ];
    for (engine, _) in ENGINES {
        let catalog = Catalog::empty_of(engine, crate::sql::FunctionRules::default());
        for (sql, expected) in cases {
            let statement = classify(sql.as_bytes(), dialect(engine), &catalog, PARSE_BYTES_MAX);
            assert_eq!(render(&statement), expected, "{sql}");
        }
    }
}

/// `sql_mode` decides where strings end and what is a name.
#[test]
fn strings_end_where_the_session_says() {
    let engine = Engine::MySql;
    let catalog = fixture::catalog(engine);
    let class = |sql: &str, mode: &str| {
        let reading = Reading::new(engine).with_sql_mode(mode);
        classify(sql.as_bytes(), Dialect::MySql(reading), &catalog, PARSE_BYTES_MAX)
    };
    let sql = r"select 'a\'; delete from users; -- '";
    assert_eq!((class(sql, "").effect, class(sql, "").count), (Effect::Read, 1));
    let plain = class(sql, "NO_BACKSLASH_ESCAPES");
    assert_eq!((plain.effect, plain.count), (Effect::Write, 2));
    let sql = r#"select "a\"; delete from users; -- ""#;
    assert_eq!((class(sql, "").effect, class(sql, "").count), (Effect::Read, 1));
    assert_eq!(class(sql, "ANSI_QUOTES").effect, Effect::Write);
    assert_eq!(class(r#"select * from "users""#, "ansi").tables_read.len(), 1);
    assert_eq!(class(r#"select * from "users""#, "").effect, Effect::Unknown);
}

#[test]
fn the_operators_word_on_functions_wins() {
    let rules = crate::sql::FunctionRules {
        read: ["log_event", "shop.lying"].map(String::from).into(),
        write: ["add_up", "lower"].map(String::from).into(),
    };
    let catalog = super::super::build(Engine::MariaDb, fixture::rows(), rules);
    let cases = [
        ("select log_event('x')", "read replica select"),
        ("select shop.lying()", "read replica select"),
        ("select lying()", "write primary function"),
        ("select add_up(1, 2)", "write primary function"),
        ("select lower('x')", "write primary function"),
        ("select upper('x')", "read replica select"),
    ];
    for (sql, expected) in cases {
        let statement =
            classify(sql.as_bytes(), dialect(Engine::MariaDb), &catalog, PARSE_BYTES_MAX);
        assert_eq!(render(&statement), format!("{expected} | -"), "{sql}");
    }
}
