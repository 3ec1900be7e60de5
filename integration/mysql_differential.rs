//! The same packets from the server and through the proxy, byte for byte. The cases are data: see
//! `integration/data/differential_mysql/README.md`.

use crate::support::mysql::{
    Cluster, Engine, Fixture, Options, Session, client_opts, on_mysql_and_mariadb, options,
};
use crate::support::mysql_script::Player;
use crate::support::mysql_wire::Wire;
use std::path::{Path, PathBuf};

on_mysql_and_mariadb! { packets_are_the_servers_own }

/// What differs, and why: the beginning of a case's name, and the reason.
const DIFFERS: &[(&str, &str)] = &[
    ("prepared: closed and unknown", "an error names the session's own id of a statement"),
    ("commands: too short", "1835 is told in the proxy's own words"),
    ("several statements: not allowed", "COM_SET_OPTION tells of no warnings"),
    ("statement: SELECT @@hostname", "it is asked in order to see which server answers"),
    ("statement: SELECT NOW()", "time goes on"),
    ("statement: SELECT DATE_FORMAT(NOW()", "time goes on"),
    ("statement: SELECT FOUND_ROWS()", NOTHING_BEFORE),
    ("statement: SELECT ROW_COUNT()", NOTHING_BEFORE),
    ("statement: SET @n = ROW_COUNT()", NOTHING_BEFORE),
    ("statement: SHOW GLOBAL STATUS", "it counts connections"),
    ("statement: SHOW FUNCTION STATUS", OF_THE_SERVER),
    ("statement: SHOW PROCEDURE STATUS", OF_THE_SERVER),
    ("statement: SHOW TABLE STATUS", OF_THE_SERVER),
    ("statement: SHOW TRIGGERS", OF_THE_SERVER),
    ("statement: SHOW INDEX", OF_THE_SERVER),
    ("statement: SHOW KEYS", OF_THE_SERVER),
    ("statement: EXPLAIN", OF_THE_SERVER),
    ("statement: ANALYZE", OF_THE_SERVER),
    ("statement: SELECT * FROM INFORMATION_SCHEMA", OF_THE_DICTIONARY),
    ("statement: SELECT table_name FROM information_schema", OF_THE_DICTIONARY),
];

const OF_THE_SERVER: &str = "times and estimates are each server's own";
const OF_THE_DICTIONARY: &str = "whether an index was used, and the order, depend on a cache";
const NOTHING_BEFORE: &str = "as the first statement of a session it is refused";

struct Case {
    name: String,
    writes: bool,
    lines: Vec<String>,
}

fn packets_are_the_servers_own(engine: Engine) {
    let settings = vec![
        ("log_bin_trust_function_creators".to_owned(), "ON".to_owned()),
        ("local_infile".to_owned(), "ON".to_owned()),
    ];
    let cluster = Cluster::start(Options { settings, ..options(engine) }).expect("the servers");
    make_schema(&cluster);
    let fixture = Fixture::with(cluster, |_| {});
    let wanted = std::env::var("TIFFIN_CASES").unwrap_or_default();
    let cases: Vec<Case> = cases(engine).into_iter().chain(statements(engine)).collect();
    let (mut same, mut loose, mut wrong) = (0, 0, Vec::new());
    let compared = |case: &&Case| {
        let differs = DIFFERS.iter().any(|(name, _)| case.name.starts_with(name));
        case.name.contains(&wanted) && !differs
    };
    for case in cases.iter().filter(compared) {
        for deprecates_eof in [true, false] {
            let primary = fixture.cluster.primary().port;
            let play = |port| play(case, &fixture.cluster, port, deprecates_eof);
            // The proxy's between the other two: what goes by the clock may differ from both.
            let before = play(primary);
            let proxied = play(fixture.proxy.port);
            let direct = play(primary);
            if before != direct {
                loose += 1;
                continue;
            }
            same += usize::from(proxied == direct);
            wrong.extend(difference(case, &direct, &proxied));
        }
    }
    println!(
        "measured: {engine:?}: {same} runs the same, {loose} that differ from one to the next"
    );
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(!wanted.is_empty() || same >= 400, "only {same}");
}

fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/data").join(folder)
}

const W: &str = "INSERT INTO w (v, n) VALUES ('one', 1), ('two', 2), ('three', 3)";

/// The schema of the classifier's table, with some rows.
fn make_schema(cluster: &Cluster) {
    let primary = cluster.primary();
    let user = &cluster.app.user;
    primary.execute("CREATE DATABASE shop").unwrap();
    primary.execute(&format!("GRANT ALL ON shop.* TO `{user}`@'%'")).unwrap();
    let session = superuser(cluster);
    let schema = std::fs::read_to_string(data("classify_mysql").join("schema.sql")).unwrap();
    for line in schema.lines().filter(|line| !line.starts_with("--") && !line.is_empty()) {
        session.execute(line.trim_end_matches(';')).expect(line);
    }
    let users = "(1, 'Asha', 'a@x', 1, '2020-01-01'), (2, 'Bala', NULL, 0, NULL)";
    session.execute(&format!("INSERT INTO users VALUES {users}")).unwrap();
    let w = "CREATE TABLE w (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(50), n INT)";
    session.execute(w).unwrap();
    session.execute(W).unwrap();
    cluster.wait_caught_up(primary).unwrap();
    // A MySQL server has to be told the password once before it knows the short proof.
    let opts = |port| client_opts(port, &cluster.app).db_name(Some("shop"));
    Session::connect(&opts(primary.port).into()).unwrap();
}

fn superuser(cluster: &Cluster) -> Session {
    let opts = client_opts(cluster.primary().port, &cluster.superuser).db_name(Some("shop"));
    Session::connect(&opts.into()).unwrap()
}

fn other(engine: Engine) -> &'static str {
    match engine {
        Engine::MySql => "mariadb",
        Engine::MariaDb => "mysql",
    }
}

/// The cases of packets.txt.
fn cases(engine: Engine) -> Vec<Case> {
    let text = std::fs::read_to_string(data("differential_mysql").join("packets.txt")).unwrap();
    let mut cases: Vec<(bool, Case)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some(head) = line.strip_prefix("== ") {
            let writes = head.ends_with(" !");
            let head = head.trim_end_matches(" !");
            let (name, of) = match head.rsplit_once(' ') {
                Some((name, of @ ("mysql" | "mariadb"))) => (name, of),
                _ => (head, ""),
            };
            let case = Case { name: name.to_owned(), writes, lines: Vec::new() };
            cases.push((of != other(engine), case));
        } else {
            let (_, case) = cases.last_mut().expect("a case before its lines");
            case.lines.push(line.to_owned());
        }
    }
    cases.into_iter().filter_map(|(wanted, case)| wanted.then_some(case)).collect()
}

/// The statements of the classifier's table that change nothing of anybody else's.
fn statements(engine: Engine) -> Vec<Case> {
    let mut cases = Vec::new();
    for file in ["reads.txt", "session.txt"] {
        let text = std::fs::read_to_string(data("classify_mysql").join(file)).unwrap();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let mut columns = line.splitn(3, " | ");
            let words: Vec<&str> = columns.next().unwrap().split(' ').collect();
            let effects = columns.next().unwrap();
            let plain = matches!(words[0], "read" | "session" | "transaction");
            let skipped = words.contains(&"norun") || words.contains(&other(engine));
            if plain && !skipped && !effects.contains("tiffin") && !effects.contains("kill") {
                let sql = columns.next().unwrap().replace('⏎', "\n");
                let name = format!("statement: {sql}");
                cases.push(Case { name, writes: false, lines: vec![format!("Q {sql}")] });
            }
        }
    }
    cases
}

/// Plays a case by a connection of its own; what came back, in words.
fn play(case: &Case, cluster: &Cluster, port: u16, deprecates_eof: bool) -> Vec<String> {
    if case.writes {
        let session = superuser(cluster);
        session.execute("TRUNCATE w").unwrap();
        session.execute(W).unwrap();
        cluster.wait_caught_up(cluster.primary()).unwrap();
    }
    let mut player = Player::new(Wire::connect(port, &cluster.app, "shop", deprecates_eof));
    let mut told = Vec::new();
    for line in &case.lines {
        told.push(format!("> {line}"));
        told.extend(player.play(line));
    }
    told
}

/// Lines around the first that differs.
const LINES_SHOWN: usize = 3;

fn difference(case: &Case, direct: &[String], proxied: &[String]) -> Option<String> {
    let count = direct.len().max(proxied.len());
    let at = (0..count).find(|at| direct.get(*at) != proxied.get(*at))?;
    let show = |lines: &[String]| {
        let shown = lines.iter().skip(at.saturating_sub(1)).take(LINES_SHOWN);
        shown.map(|line| line.chars().take(300).collect::<String>()).collect::<Vec<_>>().join("\n")
    };
    let (direct, proxied) = (show(direct), show(proxied));
    Some(format!("== {}\n-- direct\n{direct}\n-- proxied\n{proxied}", case.name))
}
