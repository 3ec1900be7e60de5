//! The tables of statements of `integration/data`, and a statement as they write it.

use crate::sql::{
    Discard, Effect, HintTarget, Isolation, SessionEffect, Statement, TransactionModes,
};
use std::path::Path;

/// A line of a table.
pub(in crate::sql) struct Case {
    pub place: String,
    pub expected: String,
    pub sql: String,
    /// The words of the first column that are marks of the line.
    pub marks: Vec<String>,
}

/// Words that say something of the line, not of the statement.
const MARKS: [&str; 3] = ["norun", "mysql", "mariadb"];

/// Lines are described at the head of `reads.txt` of the folder.
pub(in crate::sql) fn cases(folder: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/data").join(folder);
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
            let (marks, head): (Vec<&str>, Vec<&str>) =
                column().split(' ').partition(|word| MARKS.contains(word));
            let marks = marks.into_iter().map(str::to_owned).collect();
            let expected = format!("{} | {}", head.join(" "), column());
            let sql = column().replace('⏎', "\n");
            cases.push(Case { place: format!("{name}:{}", number + 1), expected, sql, marks });
        }
    }
    cases
}

/// The first two columns of a line.
pub(in crate::sql) fn render(statement: &Statement) -> String {
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
        Use(schema) => format!("use {schema}"),
        SetNext(modes) => format!("next{}", render_modes(modes)),
        Disconnect(true) => "disconnect".to_owned(),
        Disconnect(false) => "stay".to_owned(),
        Counts => "counts".to_owned(),
        SetsOnce => "once".to_owned(),
        Recall(what) => format!("recall {}", what.as_str()),
        Kill { id, query } => format!("kill{} {id}", if *query { " query" } else { "" }),
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

/// What is wrong with a statement, if it is not what its line says.
pub(in crate::sql) fn mistake(case: &Case, statement: &Statement) -> Option<String> {
    let got = render(statement);
    // The code may be left out of a line.
    let short = got.replacen(&format!(" {}", statement.reason_code), "", 1);
    let wrong = case.expected != got && case.expected != short;
    wrong.then(|| {
        format!(
            "{}: {}\n  expected {}\n  got      {got}\n  because  {}",
            case.place, case.sql, case.expected, statement.reason
        )
    })
}
