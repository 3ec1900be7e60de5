//! Clients that write and read at random through the proxy, and remember what they were told.

use super::history::{Books, Event, Op, Outcome};
use crate::support::{PATIENCE, Sql, Stage, Stand, wait_until};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub const SESSIONS: usize = 6;
pub const LISTS: usize = 8;
pub const ACCOUNTS: usize = 8;
pub const START: i64 = 1000;

/// What the clients share.
#[derive(Default)]
pub struct Play {
    pub stop: AtomicBool,
    next: AtomicU64,
    pub done: [AtomicUsize; SESSIONS],
    /// Statements that ended with an error, whatever it says.
    pub errors: AtomicUsize,
    writes: Mutex<Writes>,
}

/// When whoever it was had a write acknowledged, and the longest time without.
#[derive(Default)]
struct Writes {
    last: Option<Instant>,
    gap: Duration,
}

/// Makes the tables.
pub fn set_up<S: Stand>(fixture: &Stage<S>) {
    let session = fixture.session();
    let rows = |count: usize, value: &str| {
        let rows: Vec<String> = (0..count).map(|id| format!("({id}, {value})")).collect();
        rows.join(", ")
    };
    let text = S::TEXT;
    for sql in [
        format!("CREATE TABLE lists (id int PRIMARY KEY, items {text} NOT NULL)"),
        "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL)".to_owned(),
        "CREATE TABLE transfers (id bigint NOT NULL)".to_owned(),
        "CREATE TABLE registers (id int PRIMARY KEY, value bigint NOT NULL)".to_owned(),
        format!("INSERT INTO lists VALUES {}", rows(LISTS, "''")),
        format!("INSERT INTO accounts VALUES {}", rows(ACCOUNTS, &START.to_string())),
        format!("INSERT INTO registers VALUES {}", rows(SESSIONS, "0")),
    ] {
        session.query(&sql).expect("make the tables");
    }
    // Until the catalog is loaded again, reads of what it does not know go to the primary, and may
    // write for all that is known.
    let primary = fixture.cluster.primary();
    primary.wait_caught_up(&fixture.cluster).expect("replicas catch up");
    let port = primary.port.to_string();
    let read = format!("SELECT {}, count(*) FROM registers", S::OWN_PORT);
    wait_until(PATIENCE, || fixture.try_value(&read).is_ok_and(|ran_on| ran_on != port))
        .expect("reads go to replicas");
}

/// What is there in the end, read where it was written.
pub fn books(session: &impl Sql) -> Books {
    let numbers = |sql: &str| -> Vec<u64> {
        let rows = session.query(sql).expect("read the books");
        rows.iter().map(|row| row[0].as_deref().unwrap().parse().unwrap()).collect()
    };
    let list = |list: usize| -> Vec<u64> {
        let items = session.value(&format!("SELECT items FROM lists WHERE id = {list}"));
        let items = items.expect("read a list");
        items.split_whitespace().map(|item| item.parse().unwrap()).collect()
    };
    let balances = session.query("SELECT balance FROM accounts ORDER BY id").expect("accounts");
    Books {
        lists: (0..LISTS).map(list).collect(),
        balances: balances.iter().map(|row| row[0].as_deref().unwrap().parse().unwrap()).collect(),
        transfers: numbers("SELECT id FROM transfers"),
        registers: numbers("SELECT value FROM registers ORDER BY id"),
    }
}

impl Play {
    /// Waits until every client has done `more` more.
    pub fn go_on(&self, more: usize) {
        assert!(self.goes_on(more, PATIENCE), "every client goes on");
    }

    /// Whether every client has done `more` more within this time.
    pub fn goes_on(&self, more: usize, bound: Duration) -> bool {
        let before: Vec<usize> = self.done.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        let all =
            || self.done.iter().zip(&before).all(|(n, b)| n.load(Ordering::Relaxed) >= b + more);
        wait_until(bound, all).is_ok()
    }

    /// The longest time without any acknowledged write since this was asked before.
    pub fn longest_gap(&self) -> Duration {
        std::mem::take(&mut self.writes.lock().unwrap().gap)
    }

    fn note_write(&self) {
        let mut writes = self.writes.lock().unwrap();
        let now = Instant::now();
        let gap = writes.last.map_or(Duration::ZERO, |last| now - last);
        *writes = Writes { last: Some(now), gap: writes.gap.max(gap) };
    }

    /// One client until it is told to stop.
    pub fn run<S: Stand>(&self, fixture: &Stage<S>, client: usize, seed: u64) -> Vec<Event> {
        let mut history = Vec::new();
        let mut dice = Dice(seed ^ (client as u64) << 32 | 1);
        let mut connection = fixture.session();
        // A new connection is a new session, which may read what is older.
        let mut session = client;
        let mut set = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let op = self.choose(&mut dice, client, &mut set);
            match perform::<S>(&connection, op) {
                (Some(op), outcome, None) => {
                    if !matches!(op, Op::Read { .. }) {
                        self.note_write();
                    }
                    history.push(Event { session, op, outcome });
                }
                (op, outcome, error) => {
                    let error = error.unwrap_or_default();
                    println!("client {client}: {op:?} {outcome:?}: {error}");
                    self.errors.fetch_add(1, Ordering::Relaxed);
                    history.extend(op.map(|op| Event { session, op, outcome }));
                    if connection.query("SELECT 1").is_err() {
                        session += SESSIONS;
                        connection = self.connect(fixture);
                    }
                }
            }
            self.done[client].fetch_add(1, Ordering::Relaxed);
        }
        history
    }

    fn connect<S: Stand>(&self, fixture: &Stage<S>) -> S::Session {
        let mut connected = None;
        wait_until(PATIENCE, || {
            connected = S::session(fixture.proxy.port, &fixture.cluster.app).ok();
            connected.is_some()
        })
        .expect("a new session");
        connected.expect("it was waited for")
    }

    fn choose(&self, dice: &mut Dice, client: usize, set: &mut u64) -> Op {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        match dice.below(10) {
            0..3 => Op::Append { list: dice.below(LISTS), value: id },
            3..5 => {
                let from = dice.below(ACCOUNTS);
                let to = (from + 1 + dice.below(ACCOUNTS - 1)) % ACCOUNTS;
                Op::Transfer { id, from, to, amount: 1 + dice.below(9) as i64 }
            }
            5..7 => {
                *set += 1;
                Op::Set { register: client, value: *set }
            }
            _ => Op::Read { register: dice.below(SESSIONS), value: 0 },
        }
    }
}

/// Performs a step: what is to be remembered of it, how it ended, and the error if there was one.
fn perform<S: Stand>(session: &S::Session, op: Op) -> (Option<Op>, Outcome, Option<String>) {
    let write = |sql: &str| match session.query(sql) {
        Ok(_) => (Some(op), Outcome::Acknowledged, None),
        Err(error) => (Some(op), outcome::<S>(&error), Some(format!("{error:#}"))),
    };
    match op {
        Op::Append { list, value } => write(&format!(
            "UPDATE lists SET items = concat(items, ' ', {value}) WHERE id = {list}"
        )),
        Op::Set { register, value } => {
            write(&format!("UPDATE registers SET value = {value} WHERE id = {register}"))
        }
        Op::Transfer { id, from, to, amount } => {
            // In the order of the accounts, so that two transfers never wait for each other.
            let change = |account: usize, by: i64| {
                format!("UPDATE accounts SET balance = balance + {by} WHERE id = {account}")
            };
            let mut changes = [(from, -amount), (to, amount)];
            changes.sort_unstable();
            let begun = session
                .query("BEGIN")
                .and_then(|_| session.query(&change(changes[0].0, changes[0].1)))
                .and_then(|_| session.query(&change(changes[1].0, changes[1].1)))
                .and_then(|_| session.query(&format!("INSERT INTO transfers VALUES ({id})")));
            if let Err(error) = begun {
                // COMMIT was never sent: whatever the error says, nothing may be there.
                let _ = session.query("ROLLBACK");
                return (Some(op), Outcome::Failed, Some(format!("{error:#}")));
            }
            write("COMMIT")
        }
        Op::Read { register, .. } => {
            match session.value(&format!("SELECT value FROM registers WHERE id = {register}")) {
                Ok(value) => {
                    let value = value.parse().expect("a number");
                    (Some(Op::Read { register, value }), Outcome::Acknowledged, None)
                }
                Err(error) => (None, Outcome::Unknown, Some(format!("{error:#}"))),
            }
        }
    }
}

/// What an error of a statement that commits says of it.
fn outcome<S: Stand>(error: &anyhow::Error) -> Outcome {
    match S::NOT_RUN.contains(&&*S::code(error)) {
        true => Outcome::Failed,
        false => Outcome::Unknown,
    }
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % limit as u64).expect("below the limit")
    }
}
