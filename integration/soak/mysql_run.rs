//! The servers of MySQL or MariaDB for random sessions, one script on one side of them, and how
//! the answers of two sides differ.

use super::arena::{CLIENTS_MAX, Side};
use super::mysql_found::FOUND;
use super::mysql_generate;
use super::mysql_script::{self, Script, Step};
use super::run::{Compared, Difference};
use super::script::Arena;
use super::{Outcome, Play};
use crate::support::mysql::{Cluster, Engine, Fixture, Options, Session, client_opts, options};
use crate::support::mysql_script::Player;
use crate::support::mysql_wire::Wire;
use crate::support::proxy::Proxy;
use crate::support::wait_until;
use serde_json::{Value, json};
use std::ops::Range;
use std::time::Duration;

const SETUP: &str = include_str!("mysql_setup.sql");

/// What a script leaves is gone within this: connections are being closed.
const SETTLE: Duration = Duration::from_secs(10);

pub struct MysqlWorld {
    engine: Engine,
    fixture: Fixture,
    /// With one connection per node; the fixture's has one for each client.
    narrow: Proxy,
    admin: Session,
}

/// Replies of each step; those of one that was not answered are the last.
type Transcript = Vec<Vec<String>>;

impl MysqlWorld {
    pub fn start(engine: Engine) -> MysqlWorld {
        let settings = vec![
            ("log_bin_trust_function_creators".to_owned(), "ON".to_owned()),
            ("local_infile".to_owned(), "ON".to_owned()),
        ];
        let cluster = Cluster::start(Options { settings, ..options(engine) }).expect("the servers");
        let opts = client_opts(cluster.primary().port, &cluster.superuser);
        let admin = Session::connect(&opts.into()).unwrap();
        let run = |sql: &str| admin.execute(sql).unwrap_or_else(|error| panic!("{error:#}"));
        run("CREATE ROLE soak_role");
        run("GRANT soak_role TO app@'%'");
        let lines = SETUP.lines().filter(|line| !line.starts_with("--"));
        lines.for_each(run);
        for client in 0..CLIENTS_MAX {
            own(engine, client).iter().for_each(|sql| run(sql));
        }
        let primary = cluster.primary();
        cluster.wait_caught_up(primary).unwrap();
        // A MySQL server has to be told the password once before it knows the short proof.
        Session::connect(&client_opts(primary.port, &cluster.app).into()).unwrap();
        let fixture =
            Fixture::with(cluster, |config| share(config, json!({ "size_max": CLIENTS_MAX })));
        let mut config = crate::support::mysql::proxy_config(&fixture.cluster);
        share(&mut config, json!({ "size_max": 1, "wait_timeout": "10s" }));
        let narrow = Proxy::start(crate::support::binary(), &fixture.cluster, &config);
        let narrow = narrow.expect("the second proxy");
        fixture.wait_in_read_set(fixture.cluster.replicas());
        MysqlWorld { engine, fixture, narrow, admin }
    }

    fn port(&self, side: Side) -> u16 {
        match side {
            Side::Direct => self.fixture.cluster.primary().port,
            Side::Proxied(Arena::Wide) => self.fixture.proxy.port,
            Side::Proxied(Arena::Narrow) => self.narrow.port,
        }
    }

    /// Makes everything as it was at the start, on all servers. An error: a server has crashed over
    /// what was run before.
    fn reset(&self) -> anyhow::Result<()> {
        self.wait_locks("1,1");
        for row in self.admin.query("XA RECOVER")? {
            let name = row[3].as_deref().unwrap_or_default();
            self.admin.execute(&format!("XA ROLLBACK '{name}'"))?;
        }
        for client in 0..CLIENTS_MAX {
            self.admin.execute(&format!(
                "DROP TABLE IF EXISTS made{client}, made_again{client}, other.made{client}, \
                 other.t{client}; \
                 DROP VIEW IF EXISTS made_view{client}, other.made_view{client}; \
                 DELETE FROM t{client}; DELETE FROM trg{client}; \
                 INSERT INTO t{client} VALUES (1, 'v1', 0), (2, 'v2', 0), (3, 'v3', 0), \
                 (4, 'v4', 0), (5, 'v5', 0); ALTER TABLE t{client} AUTO_INCREMENT = 10, COMMENT = ''"
            ))?;
            if self.engine == Engine::MariaDb {
                self.admin.execute(&format!("ALTER SEQUENCE sq{client} RESTART 1"))?;
            }
        }
        let primary = self.fixture.cluster.primary();
        self.fixture.cluster.wait_caught_up(primary)
    }

    /// Which of the locks that all clients can feel are free.
    fn locks(&self) -> Option<String> {
        let sql = "SELECT CONCAT_WS(',', IS_FREE_LOCK('gl'), IS_FREE_LOCK('fl'))";
        self.admin.value(sql).ok()
    }

    /// A server notices only after a while that a connection was closed.
    fn wait_locks(&self, wanted: &str) {
        let settled = || self.locks().is_none_or(|locks| locks == wanted);
        // Whoever holds one still is found by what the scripts say of it.
        let _ = wait_until(SETTLE, settled);
    }

    fn connect(&self, side: Side, deprecates_eof: bool, patience: Duration) -> Player {
        let login = &self.fixture.cluster.app;
        let wire = Wire::connect(self.port(side), login, "app", deprecates_eof);
        wire.set_patience(patience);
        Player::new(wire)
    }

    fn run(&self, side: Side, script: &Script, patience: Duration) -> anyhow::Result<Transcript> {
        self.reset()?;
        let mut clients: Vec<_> =
            (0..script.clients).map(|_| self.connect(side, true, patience)).collect();
        let mut transcript = Vec::new();
        for step in &script.steps {
            let replies = self.step(side, &mut clients[step.client], step, patience);
            let is_silent = replies.last().is_some_and(|line| line.contains("<nothing came>"));
            transcript.push(replies);
            if is_silent {
                break;
            }
        }
        clients.iter_mut().for_each(|client| client.wire.leave());
        Ok(transcript)
    }

    fn step(
        &self,
        side: Side,
        player: &mut Player,
        step: &Step,
        patience: Duration,
    ) -> Vec<String> {
        let (letter, rest) = (&step.line[..1], step.line.get(2..).unwrap_or_default());
        match letter {
            "G" | "B" => {
                if letter == "G" {
                    player.wire.leave();
                }
                *player = self.connect(side, rest != "eof", patience);
                Vec::new()
            }
            "N" => {
                let packet = player.wire.change_user(&self.fixture.cluster.app, rest);
                player.forget();
                vec![line(packet.payload.escape_ascii().to_string())]
            }
            _ => {
                let replies = player.play(&step.line);
                if letter == "X" {
                    player.forget();
                }
                replies.into_iter().map(line).collect()
            }
        }
    }
}

/// What belongs to one client.
fn own(engine: Engine, c: usize) -> Vec<String> {
    let mut sql = vec![
        format!(
            "CREATE TABLE t{c} (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(40), n INT DEFAULT 0)"
        ),
        format!("CREATE TABLE trg{c} (n INT)"),
        format!("CREATE TRIGGER set{c} BEFORE INSERT ON trg{c} FOR EACH ROW SET @tv = NEW.n"),
        format!(
            "CREATE FUNCTION f_write{c}(i INT) RETURNS INT MODIFIES SQL DATA BEGIN \
             UPDATE app.t{c} SET n = n + 1 WHERE id = i; RETURN i; END"
        ),
        format!("CREATE PROCEDURE p_write{c}(i INT) UPDATE app.t{c} SET n = n + 1 WHERE id <= i"),
        format!(
            "CREATE PROCEDURE p_rows{c}() BEGIN UPDATE app.t{c} SET n = n + 1 WHERE id < 3; \
             SELECT id FROM app.t{c} ORDER BY id LIMIT 2; SELECT 5; END"
        ),
    ];
    if engine == Engine::MariaDb {
        sql.push(format!("CREATE SEQUENCE sq{c}"));
    }
    sql
}

/// All clients meet on the same connections.
fn share(config: &mut Value, pool: Value) {
    config["workers"] = 1.into();
    let main = &mut config["clusters"]["main"];
    main["monitor"] = json!({ "interval": "20ms" });
    main["pool"] = pool;
}

/// Errors are told apart from what else there is, as in [`Difference::kind`].
fn line(words: String) -> String {
    let is_error = words.trim_start().split(": ").any(|part| part.starts_with("\\xff"));
    let words = without_state_change(without_id(&words));
    if is_error { format!("E {}", without_row(words.trim_start())) } else { words }
}

/// MariaDB counts rows from where an earlier statement has ended.
fn without_row(line: &str) -> String {
    let Some((before, after)) = line.rsplit_once(" at row ") else { return line.to_owned() };
    before.to_owned() + " at a row" + after.trim_start_matches(|digit: char| digit.is_ascii_digit())
}

/// MariaDB's EOF packets go on telling, behind COM_INIT_DB, that the session has changed
/// (SERVER_SESSION_STATE_CHANGED, 0x4000); there is nothing in them that could say how.
fn without_state_change(line: String) -> String {
    match line.strip_suffix('@') {
        Some(rest) if rest.contains(": \\xfe\\x00\\x00") => format!("{rest}\\x00"),
        _ => line,
    }
}

/// Errors that name a statement by its id: number, the same in a binary row, words.
const OF_STATEMENTS: &[(&str, &str, &str)] = &[
    ("1243", "\\xdb\\x04\\x00\\x00", "Unknown prepared statement handler ("),
    ("1421", "\\x8d\\x05\\x00\\x00", "The statement ("),
];

/// A line without the id of a statement that is not there, or has no cursor: the proxy's sessions
/// count their own, SQL's PREPARE uses up those of a connection, and what a server remembers of the
/// error has no client's id (`docs/limits.md`). Nor has it the text's length, which stands before.
fn without_id(line: &str) -> String {
    let found = OF_STATEMENTS.iter().find_map(|(errno, binary, words)| {
        let (front, rest) = line.split_once(words)?;
        let (id, rest) = rest.split_once(')')?;
        let number = front.rfind(errno).or_else(|| front.rfind(binary));
        let front = number.map_or(without_length(front), |at| &front[..at]);
        id.bytes().all(|byte| byte.is_ascii_digit()).then(|| format!("{front}{words}){rest}"))
    });
    found.unwrap_or_else(|| line.to_owned())
}

/// The front of a row's value without the length, which is one byte: a character or `\xhh`.
fn without_length(front: &str) -> &str {
    let escape = front.len().checked_sub(4).and_then(|at| front.split_at_checked(at));
    match escape {
        Some((rest, byte)) if byte.starts_with("\\x") => rest,
        _ => front.char_indices().next_back().map_or(front, |(at, _)| &front[..at]),
    }
}

impl Play for MysqlWorld {
    type Script = Script;

    const SHORT_SEED: u64 = 20;
    const FOUND: &[&str] = FOUND;

    fn again(&self) -> MysqlWorld {
        MysqlWorld::start(self.engine)
    }

    fn script(&self, seed: u64) -> Script {
        mysql_generate::script(self.engine, seed)
    }

    fn read(text: &str) -> Script {
        mysql_script::read(text)
    }

    fn compare(&self, script: &Script, patience: Duration) -> Outcome {
        let direct = match self.run(Side::Direct, script, patience) {
            Ok(direct) => direct,
            Err(error) => return Outcome::Broken(format!("{error:#}")),
        };
        if direct.len() < script.steps.len() {
            return Outcome::Broken(format!("no answer to {}", script.steps[direct.len() - 1]));
        }
        let proxied = match self.run(Side::Proxied(script.arena), script, patience) {
            Ok(proxied) => proxied,
            Err(error) => return Outcome::Broken(format!("{error:#}")),
        };
        Outcome::Compared(difference(script, &direct, &proxied))
    }

    fn steps(script: &Script) -> usize {
        script.steps.len()
    }

    fn without(script: &Script, steps: Range<usize>) -> Script {
        let mut script = script.clone();
        script.steps.drain(steps);
        script
    }

    fn without_message(_: &Script, _: usize, _: usize) -> Option<Script> {
        None
    }
}

/// The number of an error in a line.
fn has(line: &str, errno: u16) -> bool {
    let [low, high] = errno.to_le_bytes();
    let number = [0xff, low, high].escape_ascii().to_string();
    line.starts_with("E ") && line.contains(&number)
}

/// The statement before is asked about, and another session has used its connection since
/// (`docs/limits.md`).
fn is_forgotten(line: &str) -> bool {
    has(line, 1105) && line.contains("serves others now")
}

/// Refused either way: by a replica in a read-only transaction.
fn is_refused_alike(direct: &str, proxied: &str) -> bool {
    has(direct, 1792) && (has(proxied, 1290) || has(proxied, 1836))
}

/// The EOF behind columns, for a client that gets one: servers do not tell the proxy there that
/// OUT parameters follow (SERVER_PS_OUT_PARAMS), only at their end.
fn is_head_of_out_parameters(direct: &str, proxied: &str) -> bool {
    let flag = |line: &str, flag| line.strip_suffix(flag).map(str::to_owned);
    let (told, untold) = (flag(direct, "\\x10"), flag(proxied, "\\x00"));
    told == untold && told.is_some_and(|rest| rest.contains(": \\xfe\\x00\\x00"))
}

/// The EOF behind the rows of OUT parameters, for the same client: MySQL does not tell there what
/// it tells others, that they were OUT parameters and that an OK follows.
fn is_end_of_out_parameters(direct: &str, proxied: &str) -> bool {
    const MARKED: [(&str, &str); 4] = [
        ("\\x00\\x00", "\\x08\\x10"),
        ("\\x01\\x00", "\\t\\x10"),
        ("\\x02\\x00", "\\n\\x10"),
        ("\\x03\\x00", "\\x0b\\x10"),
    ];
    MARKED.iter().any(|(untold, told)| {
        let (one, other) = (direct.strip_suffix(untold), proxied.strip_suffix(told));
        one == other && one.is_some_and(|rest| rest.ends_with(": \\xfe\\x00\\x00"))
    })
}

/// A text that begins in a read-only transaction, and ends it behind other statements, runs where
/// that has begun (`docs/limits.md`).
fn ends_late_on_replica(step: &Step, proxied: &str) -> bool {
    step.line.contains("; ") && (has(proxied, 1290) || has(proxied, 1836) || has(proxied, 1792))
}

/// What keeps its connection, in a read-only transaction that has read on a replica
/// (`docs/limits.md`).
fn would_stay(proxied: &str) -> bool {
    has(proxied, 1213) && proxied.contains("this keeps its connection")
        || has(proxied, 1792) && proxied.contains("a lock belongs to the primary")
}

/// What the proxy answers itself, without the number of warnings that the statement before has
/// left: commands other than those that run something.
fn is_own_ok(step: &Step) -> bool {
    step.line.starts_with(['I', 'O', 'U', 'X'])
}

/// An OK without its number of warnings, which is its last two bytes. In an EOF, which is shorter
/// also where it has the same first byte, the status stands behind them.
fn without_warnings(line: &str) -> &str {
    const EOF_BYTES: usize = 5;
    let without_last = |line| str::rsplit_once(line, "\\x").map_or(line, |(rest, _)| rest);
    let packet = line.split_once(": ").map_or(line, |(_, packet)| packet);
    let is_eof = packet.starts_with("\\xfe") && packet.matches("\\x").count() == EOF_BYTES;
    match packet.char_indices().nth("\\xfe\\x00\\x00".len()) {
        Some((status, _)) if is_eof => &packet[status..],
        _ => without_last(without_last(line)),
    }
}

/// The front of a proxy's own OK. MariaDB goes on to say that ANSI_QUOTES is in force behind a
/// procedure that has set it, although it has taken that back.
fn own_ok(line: &str) -> String {
    let front = without_warnings(line);
    front.strip_suffix("\\x80").map_or(front.to_owned(), |rest| format!("{rest}\\x00"))
}

fn is_alike(step: &Step, direct: &[String], proxied: &[String]) -> bool {
    if proxied.last().is_some_and(|line| is_forgotten(line)) {
        return true;
    }
    direct.len() == proxied.len()
        && direct.iter().zip(proxied).all(|(one, other)| {
            one == other
                || is_refused_alike(one, other)
                || is_head_of_out_parameters(one, other)
                || is_end_of_out_parameters(one, other)
                || is_own_ok(step) && own_ok(one) == own_ok(other)
        })
}

/// FOUND_ROWS() of a session that has shown no rows: servers differ in what it is then, and from
/// one reset to the next.
fn is_about_nothing(script: &Script, direct: &Transcript, at: usize) -> bool {
    let client = &script.steps[at].client;
    let asks = direct[at].iter().any(|line| line.contains("FOUND_ROWS()"));
    let before = script.steps[..at].iter().zip(direct).rev();
    let has_shown = before
        .filter(|(step, _)| step.client == *client)
        .take_while(|(step, _)| !step.line.starts_with(['X', 'N', 'G', 'B']))
        .any(|(step, replies)| step.line.starts_with(['Q', 'E', 'K', 'A']) && replies.len() > 2);
    asks && !has_shown
}

/// The first difference between the answers of two sides.
fn difference(script: &Script, direct: &Transcript, proxied: &Transcript) -> Compared {
    let nothing = Vec::new();
    for (at, step) in script.steps.iter().enumerate() {
        let (left, right) = (&direct[at], proxied.get(at).unwrap_or(&nothing));
        let found = || Difference {
            at: format!("step {}:\n{step}\n", at + 1),
            direct: left.clone(),
            proxied: right.clone(),
        };
        // What stands in the same text has not run, and there is no cursor.
        let is_refused = right.last().is_some_and(|line| is_forgotten(line));
        if is_refused && (step.line.contains("; ") || step.line.starts_with('K')) {
            return Compared::Parted("a question about a statement that ran elsewhere", found());
        }
        if is_alike(step, left, right) || is_about_nothing(script, direct, at) {
            continue;
        }
        if right.last().is_some_and(|line| would_stay(line)) {
            return Compared::Parted("what keeps a replica's connection", found());
        }
        if right.last().is_some_and(|line| ends_late_on_replica(step, line)) {
            return Compared::Parted("DDL behind reads in a read-only transaction", found());
        }
        return Compared::Differs(found());
    }
    Compared::Same
}
