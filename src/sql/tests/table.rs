//! The statements of `integration/data/classify/*.txt` and what they are expected to be.

use super::fixture;
use crate::sql::lex::{Kind, Lexer};
use crate::sql::scan;
use crate::sql::{
    Catalog, Classifier, ClassifierLimits as Limits, Discard, Effect, HintTarget, Isolation,
    SessionEffect, Statement, TransactionModes, classify,
};
use std::path::Path;

/// Long enough for every statement of the table.
const PARSE_BYTES_MAX: usize = 1 << 16;
/// The table never shrinks below this.
const CASES_MIN: usize = 500;

struct Case {
    place: String,
    expected: String,
    sql: String,
}

/// Lines are described at the head of `reads.txt`.
fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/data/classify");
    let mut cases = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder of cases")
        .map(|entry| entry.expect("a folder entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    for path in files {
        let name = path.file_name().expect("a file name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a file of cases");
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let mut columns = line.splitn(3, " | ");
            let mut column = || columns.next().expect("three columns").trim();
            let head: Vec<&str> = column().split(' ').filter(|word| *word != "norun").collect();
            let expected = format!("{} | {}", head.join(" "), column());
            let sql = column().replace('⏎', "\n");
            cases.push(Case { place: format!("{name}:{}", number + 1), expected, sql });
        }
    }
    cases
}

/// The first two columns of a line.
fn render(statement: &Statement) -> String {
    let effect = match statement.effect {
        Effect::Read => "read",
        Effect::Write => "write",
        Effect::Session => "session",
        Effect::Transaction => "transaction",
        Effect::Unknown => "unknown",
    };
    let to_primary =
        statement.hint.as_ref().is_some_and(|hint| hint.target == Some(HintTarget::Primary));
    let target = match statement.effect {
        Effect::Read if !to_primary => "replica",
        _ => "primary",
    };
    let effects: Vec<String> = statement.session.iter().map(render_effect).collect();
    let effects = if effects.is_empty() { "-".to_owned() } else { effects.join("; ") };
    format!("{effect} {target} {} | {effects}", statement.reason_code)
}

fn render_effect(effect: &SessionEffect) -> String {
    use SessionEffect::*;
    match effect {
        Begin(modes) => format!("begin{}", render_modes(modes)),
        Commit { chain } => format!("commit{}", if *chain { " chain" } else { "" }),
        Rollback { chain } => format!("rollback{}", if *chain { " chain" } else { "" }),
        Savepoint(name) => format!("savepoint {name}"),
        RollbackTo(name) => format!("rollback to {name}"),
        Release(name) => format!("release {name}"),
        SetTransaction(modes) => format!("transaction{}", render_modes(modes)),
        SetCharacteristics(modes) => format!("characteristics{}", render_modes(modes)),
        PrepareTransaction => "prepare transaction".to_owned(),
        Set { name, value, local } => format!(
            "set{} {name}={}",
            if *local { " local" } else { "" },
            value.as_deref().unwrap_or("DEFAULT")
        ),
        Reset(name) => format!("reset {name}"),
        ResetAll => "reset all".to_owned(),
        SetTiffin { key, value } => {
            format!("set tiffin {key}={}", value.as_deref().unwrap_or("DEFAULT"))
        }
        ShowTiffin { key } => format!("show tiffin {key}"),
        Discard(what) => match what {
            self::Discard::All => "discard all",
            self::Discard::Plans => "discard plans",
            self::Discard::Sequences => "discard sequences",
            self::Discard::Temp => "discard temp",
        }
        .to_owned(),
        Prepare { name, body } => {
            format!("prepare {name} ({})", render(body).replace(" | ", " / "))
        }
        Execute { name } => format!("execute {name}"),
        Deallocate(name) => format!("deallocate {}", name.as_deref().unwrap_or("ALL")),
        Pin(pin) => format!("pin {}", pin.as_str()),
        Unpin(pin) => format!("unpin {}", pin.as_str()),
        Doubt(pin) => format!("doubt {}", pin.as_str()),
        Learn(name) => format!("learn {name}"),
    }
}

fn render_modes(modes: &TransactionModes) -> String {
    let mut out = String::new();
    if let Some(isolation) = modes.isolation {
        out.push_str(match isolation {
            Isolation::ReadUncommitted => " read uncommitted",
            Isolation::ReadCommitted => " read committed",
            Isolation::RepeatableRead => " repeatable read",
            Isolation::Serializable => " serializable",
        });
    }
    if let Some(read_only) = modes.read_only {
        out.push_str(if read_only { " read only" } else { " read write" });
    }
    if let Some(deferrable) = modes.deferrable {
        out.push_str(if deferrable { " deferrable" } else { " not deferrable" });
    }
    out
}

#[test]
fn statements_are_what_the_table_says() {
    let catalog = fixture::catalog();
    let cases = cases();
    let mut wrong = Vec::new();
    for case in &cases {
        let statement = classify(case.sql.as_bytes(), true, &catalog, PARSE_BYTES_MAX);
        let got = render(&statement);
        // The code may be left out of a line.
        let short = got.replacen(&format!(" {}", statement.reason_code), "", 1);
        if case.expected != got && case.expected != short {
            wrong.push(format!(
                "{}: {}\n  expected {}\n  got      {got}\n  because  {}",
                case.place, case.sql, case.expected, statement.reason
            ));
        }
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
    for case in cases().iter().chain(&cases()) {
        for catalog in [&catalog, &empty, &catalog] {
            for standard in [true, false] {
                let sql = case.sql.as_bytes();
                let cached = classifier.classify(sql, standard, catalog);
                let pure = classify(sql, standard, catalog, PARSE_BYTES_MAX);
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
    let digest = |sql: &str| scan::digest(sql.as_bytes(), true, &mut Vec::new()).to_vec();
    let mut same = 0;
    for case in cases() {
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
            let class = |sql: &str| classify(sql.as_bytes(), true, &catalog, PARSE_BYTES_MAX);
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
        let got = render(&classify(sql.as_bytes(), true, &Catalog::empty(), PARSE_BYTES_MAX));
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
        let got = render(&classify(sql.as_bytes(), true, &catalog, PARSE_BYTES_MAX));
        assert_eq!(got, format!("{expected} | -"), "{sql}");
    }
}

/// A backslash ends no string while `standard_conforming_strings` is off.
#[test]
fn strings_end_where_the_session_says() {
    let catalog = fixture::catalog();
    let sql = br"select 'a\'; delete from users; --'";
    let off = classify(sql, false, &catalog, PARSE_BYTES_MAX);
    assert_eq!((off.effect, off.count), (Effect::Read, 1));
    let on = classify(sql, true, &catalog, PARSE_BYTES_MAX);
    assert_eq!((on.effect, on.count), (Effect::Write, 2));
}
