//! From a seed to a script.

use super::random::Random;
use super::script::{Act, Arena, Message, Script, Step, User};
use super::vocabulary::{LOOKS, Speaker, follow};

/// OIDs of parameter types.
const INT4: u32 = 23;
const TEXT: u32 = 25;

/// What is prepared by the protocol: text and declared types. The number of parameters is the
/// highest that the text names.
const PREPARED: &[(&str, &[u32])] = &[
    ("SELECT $1::int + 1", &[]),
    ("SELECT $1", &[INT4]),
    ("SELECT $1 || 'x'", &[TEXT]),
    ("SELECT v FROM fixed WHERE id = $1", &[INT4]),
    ("SELECT id, v FROM fixed WHERE id > $1 ORDER BY id", &[]),
    ("SELECT id, v FROM t{c} WHERE id > $1 ORDER BY id", &[]),
    ("SELECT generate_series(1, $1)", &[INT4]),
    ("SELECT 10 / $1", &[INT4]),
    ("SELECT f_read($1)", &[]),
    (
        "INSERT INTO t{c} VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET v = excluded.v",
        &[INT4, TEXT],
    ),
    ("UPDATE t{c} SET v = $2 WHERE id = $1 RETURNING id, v", &[INT4, TEXT]),
    ("DELETE FROM t{c} WHERE id = $1", &[]),
    ("SELECT set_config('soak.a', $1::text, false)", &[]),
    ("SELECT set_config('work_mem', '7MB', false)", &[]),
    ("SELECT current_setting('work_mem')", &[]),
    ("SELECT current_user", &[]),
    ("SELECT x FROM tt1 ORDER BY x", &[]),
    ("SELECT pg_try_advisory_lock($1)", &[INT4]),
    ("SET work_mem = '6MB'", &[]),
    ("SHOW work_mem", &[]),
    ("BEGIN", &[]),
    ("COMMIT", &[]),
    ("ROLLBACK", &[]),
    ("LISTEN n1", &[]),
    ("SELECT id FROM t{c} WHERE id = $1 FOR UPDATE", &[]),
    ("SELEC $1", &[]),
    ("SELECT 1; SELECT 2", &[]),
    ("", &[]),
];

const STATEMENT_NAMES: &[&str] = &["s1", "s2", "s3"];
const PORTAL_NAMES: &[&str] = &["", "", "p1", "p2"];

/// Messages of one act, and whether they may hold the connection.
struct Uttered {
    act: Act,
    holds: bool,
}

struct Client {
    in_transaction: bool,
    /// Something may keep its connection.
    held: bool,
}

struct Maker {
    random: Random,
    user: User,
    clients: Vec<Client>,
    steps: Vec<Step>,
}

/// The script of a seed; always the same one.
pub fn script(seed: u64) -> Script {
    let mut random = Random::new(seed);
    let arena = if random.percent(50) { Arena::Narrow } else { Arena::Wide };
    let user = if random.percent(85) { User::App } else { User::Superuser };
    let count = if random.percent(70) { 2 } else { 3 };
    let turns = random.between(3, 12);
    let clients = (0..count).map(|_| Client { in_transaction: false, held: false }).collect();
    let mut maker = Maker { random, user, clients, steps: Vec::new() };
    for client in 0..count {
        let parameters = maker.startup();
        maker.push(client, Act::Connect(parameters));
    }
    for _ in 0..turns {
        maker.turn(arena);
    }
    for client in 0..count {
        maker.end_turn(client);
        let looks = LOOKS.iter().map(|look| look.replace("{c}", &client.to_string()));
        maker.push(client, Act::Send(looks.map(Message::Query).collect()));
        maker.clients[client].held = true;
        maker.end_turn(client);
    }
    Script { arena, user, clients: count, steps: maker.steps }
}

impl Maker {
    fn push(&mut self, client: usize, act: Act) {
        self.steps.push(Step { client, act });
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
        self.push(client, Act::Send(vec![Message::Query(word.into())]));
        if self.clients[client].held {
            let all = Message::Query("DISCARD ALL".into());
            self.push(client, Act::Send(vec![all]));
        }
        self.clients[client] = Client { in_transaction: false, held: false };
    }

    fn step(&mut self, client: usize) {
        let uttered = match self.random.below(200) {
            0..=84 => self.simple(client),
            85..=99 => self.several(client),
            100..=129 => self.extended(client),
            130..=159 => self.prepared(client),
            160..=173 => self.pipeline(client),
            174..=181 => self.copy_in(client),
            182..=185 => self.flushed(client),
            186..=187 => Uttered { act: self.function(), holds: false },
            188 => self.cancelled(client),
            189..=190 => Uttered { act: Act::StrayCancel, holds: false },
            191..=194 => self.two_phase(client),
            _ => self.again(client),
        };
        self.clients[client].held |= uttered.holds;
        self.push(client, uttered.act);
    }

    /// One statement's text.
    fn say(&mut self, client: usize) -> (String, bool) {
        let in_transaction = self.clients[client].in_transaction;
        let (random, user) = (&mut self.random, self.user);
        let said = Speaker { random, client, user, in_transaction }.say();
        follow(&mut self.clients[client].in_transaction, &said.sql);
        (said.sql, said.holds)
    }

    fn simple(&mut self, client: usize) -> Uttered {
        let (sql, holds) = self.say(client);
        Uttered { act: Act::Send(vec![Message::Query(sql)]), holds }
    }

    /// Several statements in one text, with an error anywhere.
    fn several(&mut self, client: usize) -> Uttered {
        let said: Vec<_> = (0..self.random.between(2, 4)).map(|_| self.say(client)).collect();
        let holds = said.iter().any(|(_, holds)| *holds);
        let texts: Vec<String> = said.into_iter().map(|(sql, _)| sql).collect();
        Uttered { act: Act::Send(vec![Message::Query(texts.join("; "))]), holds }
    }

    fn unnamed(&mut self, sql: String, rows: u32) -> Vec<Message> {
        let binary = self.random.percent(20);
        let portal = self.random.pick(PORTAL_NAMES).to_owned();
        let mut messages = vec![Message::Parse { name: String::new(), types: vec![], sql }];
        if self.random.percent(15) {
            messages.push(Message::Describe('S', String::new()));
        }
        let statement = String::new();
        messages.push(Message::Bind {
            portal: portal.clone(),
            statement,
            binary,
            parameters: vec![],
        });
        if self.random.percent(60) {
            messages.push(Message::Describe('P', portal.clone()));
        }
        messages.push(Message::Execute(portal.clone(), rows));
        if rows > 0 && self.random.percent(50) {
            messages.push(Message::Execute(portal.clone(), rows));
        }
        if self.random.percent(10) {
            messages.push(Message::Close('P', portal));
        }
        messages
    }

    /// COPY FROM STDIN is never said here, so that each Sync is answered.
    fn extended(&mut self, client: usize) -> Uttered {
        let (sql, holds) = self.say(client);
        let rows = if self.random.percent(20) { 2 } else { 0 };
        let mut messages = self.unnamed(sql, rows);
        messages.push(Message::Sync);
        Uttered { act: Act::Send(messages), holds }
    }

    /// Everything that a named statement goes through, in any order.
    fn prepared(&mut self, client: usize) -> Uttered {
        let mut messages = Vec::new();
        let mut holds = false;
        for _ in 0..self.random.between(1, 4) {
            holds |= self.prepared_part(client, &mut messages);
            if self.random.percent(50) {
                messages.push(Message::Sync);
            }
        }
        messages.push(Message::Sync);
        Uttered { act: Act::Send(messages), holds }
    }

    fn prepared_part(&mut self, client: usize, messages: &mut Vec<Message>) -> bool {
        let name = self.random.pick(STATEMENT_NAMES).to_owned();
        let portal = self.random.pick(PORTAL_NAMES).to_owned();
        let mut holds = false;
        match self.random.below(10) {
            0..=3 => {
                let (sql, types) = PREPARED[self.random.below(PREPARED.len())];
                let sql = sql.replace("{c}", &client.to_string());
                follow(&mut self.clients[client].in_transaction, &sql);
                holds = true;
                if self.random.percent(60) {
                    messages.push(Message::Close('S', name.clone()));
                }
                let count = ["$1", "$2"].iter().filter(|word| sql.contains(**word)).count();
                let parse = Message::Parse { name: name.clone(), types: types.to_vec(), sql };
                messages.push(parse);
                if self.random.percent(70) {
                    let parameters = self.parameters(count);
                    let statement = name.clone();
                    messages.push(Message::Bind {
                        portal: portal.clone(),
                        statement,
                        binary: self.random.percent(20),
                        parameters,
                    });
                    messages.push(Message::Execute(portal, 0));
                }
            }
            4 => messages.push(Message::Describe('S', name)),
            5 => messages.push(Message::Close('S', name)),
            6 => messages.push(Message::Execute(portal, 2)),
            _ => {
                let count = self.random.below(3);
                let parameters = self.parameters(count);
                let rows = if self.random.percent(30) { 2 } else { 0 };
                messages.push(Message::Bind {
                    portal: portal.clone(),
                    statement: name,
                    binary: self.random.percent(20),
                    parameters,
                });
                if self.random.percent(40) {
                    messages.push(Message::Describe('P', portal.clone()));
                }
                messages.push(Message::Execute(portal, rows));
                holds = true;
            }
        }
        holds
    }

    fn parameters(&mut self, count: usize) -> Vec<Option<String>> {
        let words = ["1", "2", "3", "0", "-1", "x"];
        (0..count)
            .map(|_| (!self.random.percent(5)).then(|| self.random.pick(&words).to_owned()))
            .collect()
    }

    /// Several requests in one go, with Syncs here and there.
    fn pipeline(&mut self, client: usize) -> Uttered {
        let mut messages = Vec::new();
        let mut holds = false;
        for _ in 0..self.random.between(2, 5) {
            let (sql, held) = self.say(client);
            holds |= held;
            if self.random.percent(15) {
                messages.push(Message::Sync);
                messages.push(Message::Query(sql));
                continue;
            }
            messages.extend(self.unnamed(sql, 0));
            if self.random.percent(60) {
                messages.push(Message::Sync);
            }
        }
        messages.push(Message::Sync);
        Uttered { act: Act::Send(messages), holds }
    }

    /// COPY FROM STDIN, well or not.
    fn copy_in(&mut self, client: usize) -> Uttered {
        let table = ["t{c} (id, v)", "fixed", "nowhere", "made{c}", "tt1"];
        let table = self.random.pick(&table).replace("{c}", &client.to_string());
        let sql = match table.as_str() {
            "fixed" => "COPY t9 FROM STDIN".to_owned(),
            table => format!("COPY {table} FROM STDIN"),
        };
        let mut messages = match self.random.below(3) {
            0 => {
                let bind = Message::Bind {
                    portal: String::new(),
                    statement: String::new(),
                    binary: false,
                    parameters: vec![],
                };
                let parse = Message::Parse { name: String::new(), types: vec![], sql };
                let mut messages = vec![parse, bind, Message::Execute(String::new(), 0)];
                // As tokio-postgres does.
                if self.random.percent(50) {
                    messages.push(Message::Sync);
                }
                messages
            }
            1 => vec![Message::Query(sql)],
            _ => vec![Message::Query(format!("SELECT 1; {sql}; SELECT 2"))],
        };
        let extended = !matches!(messages[0], Message::Query(_));
        for _ in 0..self.random.below(4) {
            let id = self.random.between(30, 60);
            let line = ["{i}\tcopied\n", "{i}\tcopied\n{i}0\t\\N\n", "seven\t7\n", "{i}\n"];
            let line = self.random.pick(&line).replace("{i}", &id.to_string());
            messages.push(Message::CopyData(line));
        }
        messages.push(match self.random.percent(80) {
            true => Message::CopyDone,
            false => Message::CopyFail("changed my mind".into()),
        });
        if extended {
            messages.push(Message::Sync);
        }
        Uttered { act: Act::Send(messages), holds: false }
    }

    /// Answers are asked for before the Sync.
    fn flushed(&mut self, client: usize) -> Uttered {
        let mut messages = Vec::new();
        let mut holds = false;
        for _ in 0..self.random.between(1, 3) {
            let (sql, held) = self.say(client);
            holds |= held;
            for message in self.unnamed(sql, 0) {
                messages.push(message);
                if self.random.percent(60) {
                    messages.push(Message::Flush);
                }
            }
        }
        messages.push(Message::Sync);
        Uttered { act: Act::Send(messages), holds }
    }

    /// int4pl, int4div.
    fn function(&mut self) -> Act {
        let oid = if self.random.percent(50) { 177 } else { 154 };
        let second = i32::try_from(self.random.below(3)).unwrap();
        Act::Send(vec![Message::Function(oid, vec![10, second])])
    }

    fn cancelled(&mut self, client: usize) -> Uttered {
        let sql = ["SELECT pg_sleep(60)", "UPDATE t{c} SET n = 3 RETURNING pg_sleep(60)"];
        let sql = self.random.pick(&sql).replace("{c}", &client.to_string());
        let messages = match self.random.percent(50) {
            true => vec![Message::Query(sql)],
            false => {
                let mut messages = self.unnamed(sql, 0);
                messages.push(Message::Sync);
                messages
            }
        };
        Uttered { act: Act::Cancel(messages), holds: false }
    }

    /// A prepared transaction, from its start to its end in one go.
    fn two_phase(&mut self, client: usize) -> Uttered {
        let mut said = vec!["BEGIN".to_owned()];
        let mut holds = false;
        for _ in 0..self.random.below(3) {
            let (sql, held) = self.say(client);
            said.push(sql);
            holds |= held;
        }
        let end = self.random.pick(&["COMMIT", "COMMIT", "ROLLBACK"]).to_owned();
        said.push(format!("PREPARE TRANSACTION 'g{client}'"));
        said.push("SELECT 1".into());
        said.push(format!("{end} PREPARED 'g{client}'"));
        self.clients[client].in_transaction = false;
        let messages = said.into_iter().map(Message::Query).collect();
        Uttered { act: Act::Send(messages), holds }
    }

    /// Leaves and comes back.
    fn again(&mut self, client: usize) -> Uttered {
        self.clients[client] = Client { in_transaction: false, held: false };
        let parameters = self.startup();
        let act = match self.random.percent(60) {
            true => Act::Connect(parameters),
            false => Act::Abort(parameters),
        };
        Uttered { act, holds: false }
    }

    fn startup(&mut self) -> Vec<(String, String)> {
        let choices = [
            ("application_name", "start"),
            ("options", "-c work_mem=3MB"),
            ("options", "-c soak.a=start -c DateStyle=German"),
            ("TimeZone", "Asia/Tokyo"),
            ("search_path", "other, public"),
            ("default_transaction_read_only", "on"),
            ("client_encoding", "LATIN1"),
        ];
        if self.random.percent(65) {
            return Vec::new();
        }
        let (name, value) = choices[self.random.below(choices.len())];
        vec![(name.to_owned(), value.to_owned())]
    }
}
