//! From a seed to a script for MySQL or MariaDB.

use super::mysql_script::{Script, Step};
use super::mysql_vocabulary::{BEGINS, BINARY, ENDS, KINDS, LOOKS, ROLES};
use super::random::Random;
use super::script::Arena;
use crate::support::mysql::Engine;

#[derive(Default)]
struct Client {
    in_transaction: bool,
    /// Something may keep its connection.
    held: bool,
    /// Has taken on a role.
    role: bool,
    /// Texts that were prepared since the last reset, and whether they were executed.
    prepared: Vec<Statement>,
}

struct Statement {
    text: &'static str,
    executed: bool,
    /// With a cursor.
    cursor: bool,
}

struct Maker {
    random: Random,
    engine: Engine,
    clients: Vec<Client>,
    steps: Vec<Step>,
}

/// The script of a seed; always the same one.
pub fn script(engine: Engine, seed: u64) -> Script {
    let mut random = Random::new(seed);
    let arena = if random.percent(50) { Arena::Narrow } else { Arena::Wide };
    let count = if random.percent(70) { 2 } else { 3 };
    let turns = random.between(3, 12);
    let clients = (0..count).map(|_| Client::default()).collect();
    let mut maker = Maker { random, engine, clients, steps: Vec::new() };
    for _ in 0..turns {
        maker.turn(arena);
    }
    for client in 0..count {
        maker.end_turn(client);
        LOOKS.iter().for_each(|look| maker.push(client, format!("Q {look}")));
        maker.clients[client].held = true;
        maker.end_turn(client);
    }
    Script { arena, clients: count, steps: maker.steps }
}

impl Maker {
    fn push(&mut self, client: usize, line: String) {
        self.steps.push(Step { client, line });
    }

    fn turn(&mut self, arena: Arena) {
        let client = self.random.below(self.clients.len());
        for _ in 0..self.random.between(1, 8) {
            self.step(client);
        }
        if arena == Arena::Narrow {
            self.end_turn(client);
        }
    }

    /// Leaves nothing that would hold the connection, so that the next client can have it.
    fn end_turn(&mut self, client: usize) {
        let word = if self.random.percent(50) { "COMMIT" } else { "ROLLBACK" };
        self.push(client, format!("Q {word}"));
        self.clients[client].in_transaction = false;
        if self.clients[client].held {
            self.reset(client);
        }
    }

    fn step(&mut self, client: usize) {
        match self.random.below(100) {
            0..=69 => {
                let sql = self.say(client);
                self.push(client, format!("Q {sql}"));
            }
            70..=76 => {
                let said: Vec<_> =
                    (0..self.random.between(2, 4)).map(|_| self.say(client)).collect();
                // If another one of them fails, nobody knows what became of these; nor, while the
                // catalog is loaded again, whether the others have set something as well. A text
                // that cannot be read may have.
                let may_hold = |sql: &String| sql.starts_with("SET ") || sql.starts_with("SELEC ");
                self.clients[client].held |= said.iter().any(may_hold);
                self.push(client, format!("Q {}", said.join("; ")));
            }
            77..=91 => self.prepared(client),
            92..=93 => self.file(client),
            94..=97 => {
                let lines =
                    ["U app", "U other", "U nowhere", "I", "F t{c}", "F nowhere", "O 1", "O 0"];
                let line = self.random.pick(&lines).replace("{c}", &client.to_string());
                self.push(client, line);
            }
            _ => self.reset(client),
        }
    }

    /// One statement's text.
    fn say(&mut self, client: usize) -> String {
        let in_transaction = self.clients[client].in_transaction;
        let control = if in_transaction { 20 } else { 7 };
        let text = if self.random.percent(control) {
            self.random.pick(if in_transaction { ENDS } else { BEGINS })
        } else {
            let engine = self.engine;
            let of_engine = |of: Option<Engine>| of.is_none_or(|of| of == engine);
            let kinds: Vec<_> = KINDS
                .iter()
                .filter(|kind| of_engine(kind.of))
                .map(|kind| (kind.weight, (kind.holds, kind.texts)))
                .collect();
            let (holds, texts) = self.random.weighted(&kinds);
            self.clients[client].held |= holds;
            self.clients[client].role |= std::ptr::eq(texts, ROLES);
            self.random.pick(texts)
        };
        self.follow(client, text);
        let number = self.random.between(1, 9).to_string();
        let word = self.random.pick(&["x", "y", "long word", ""]);
        text.replace("{c}", &client.to_string()).replace("{i}", &number).replace("{w}", word)
    }

    /// Follows the transaction, as far as texts tell.
    fn follow(&mut self, client: usize, text: &str) {
        let client = &mut self.clients[client];
        if text.starts_with("BEGIN") || text.starts_with("START") || text.ends_with("CHAIN") {
            client.in_transaction = true;
        } else if text.starts_with("COMMIT") || text == "ROLLBACK" {
            client.in_transaction = false;
        }
    }

    /// Everything that a statement of the protocol goes through, in any order.
    fn prepared(&mut self, client: usize) {
        // What runs is not known here, and a cursor holds the connection.
        self.clients[client].held = true;
        for _ in 0..self.random.between(1, 4) {
            let count = self.clients[client].prepared.len();
            let number = self.random.between(1, count.max(1));
            let line = match self.random.below(12) {
                kind if kind < 3 || count == 0 => {
                    let text = self.random.pick(BINARY);
                    self.clients[client].prepared.push(Statement {
                        text,
                        executed: false,
                        cursor: false,
                    });
                    self.follow(client, text);
                    format!("P {}", text.replace("{c}", &client.to_string()))
                }
                3..=8 => self.executed(client, number),
                9 => format!("T {number} 2"),
                10 => format!("R {number}"),
                _ => format!("C {number}"),
            };
            self.push(client, line);
        }
    }

    /// An execution of the client's statement of this number.
    ///
    /// Once there was a cursor, MySQL ends the rows of a plain execution with a packet that no
    /// client takes for it, and of a call with a cursor it does not tell where its results end.
    fn executed(&mut self, client: usize, number: usize) -> String {
        let statement = &mut self.clients[client].prepared[number - 1];
        let again = std::mem::replace(&mut statement.executed, true);
        let letter = match (statement.cursor, again) {
            _ if statement.text.starts_with("CALL") => "E",
            (true, _) => "K",
            // Types can be left out when they were told before.
            (false, true) => self.random.pick(&["E", "E", "E", "K", "A"]),
            (false, false) => self.random.pick(&["E", "E", "E", "K"]),
        };
        statement.cursor = letter == "K";
        let marks = statement.text.matches('?').count();
        let values = ["1", "2", "7", "'x'", "'UTC'", "null"];
        (0..marks).fold(format!("{letter} {number}"), |line, _| {
            format!("{line} {}", self.random.pick(&values))
        })
    }

    fn file(&mut self, client: usize) {
        let file = self.random.pick(&[
            "one\\ntwo\\n",
            "",
            "long line that does not fit in there at all, ever\\n",
        ]);
        self.push(client, format!("D {file}"));
        self.push(client, format!("Q LOAD DATA LOCAL INFILE 'x' INTO TABLE app.t{client} (v)"));
    }

    /// Forgets everything, in one of the ways that there are.
    fn reset(&mut self, client: usize) {
        let ways = ["G", "G eof", "B", "N app", "N other", "X", "X"];
        // Servers leave a role in force; MariaDB also for another user.
        let count = match (self.clients[client].role, self.engine) {
            (false, _) => 7,
            (true, Engine::MySql) => 5,
            (true, Engine::MariaDb) => 3,
        };
        let line = self.random.pick(&ways[..count]);
        self.push(client, line.to_owned());
        self.clients[client] = Client::default();
    }
}
