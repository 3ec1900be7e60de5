//! Clients that write and read at random through the proxy, and remember what they were told.

use super::history::{Books, Event, Op, Outcome};
use super::longer;
use crate::support::{Login, PATIENCE, Sql, Stage, Stand, wait_until};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SESSIONS: usize = 6;
/// Lists that are appended to at one time, so that clients meet.
const LISTS_AT_ONCE: usize = 8;
/// Clients go through all of them in turn: each append writes the whole list, and few lists would
/// become ever longer.
const LISTS: usize = 100 * LISTS_AT_ONCE;
/// Numbers that are given out until clients go on to the next lists.
const LISTS_TURN: usize = 500;
pub const ACCOUNTS: usize = 8;
pub const START: i64 = 1000;
/// What a client waits between two steps: without, a machine of two cores has none left for the
/// recovery of servers, and the figures tell of that.
const PACE: Duration = Duration::from_millis(1);
/// Writes that took longer are told of, with the moment of their answer: beside the proxy's log that
/// says what became of them while there was no primary.
const SLOW: Duration = Duration::from_millis(500);

/// What the clients share.
#[derive(Default)]
pub struct Play {
    stop: AtomicBool,
    next: AtomicU64,
    done: [AtomicUsize; SESSIONS],
    /// Statements that ended with an error, whatever it says.
    errors: AtomicUsize,
    /// Every second client does what takes longer.
    longer: bool,
    /// When whoever it was had a write acknowledged, since this was last asked for.
    writes: Mutex<Vec<Instant>>,
}

/// Where the clients connect, and as whom.
pub struct Door {
    pub port: u16,
    pub app: Login,
}

/// Makes the tables, and waits until reads of them go to replicas.
pub fn set_up<S: Stand>(fixture: &Stage<S>) {
    make_tables::<S>(&fixture.session());
    // Until the catalog is loaded again, reads of what it does not know go to the primary, and may
    // write for all that is known.
    let primary = fixture.cluster.primary();
    primary.wait_caught_up(&fixture.cluster).expect("replicas catch up");
    let port = primary.port.to_string();
    let read = format!("SELECT {}, count(*) FROM registers", S::OWN_PORT);
    wait_until(PATIENCE, || fixture.try_value(&read).is_ok_and(|ran_on| ran_on != port))
        .expect("reads go to replicas");
}

pub fn make_tables<S: Stand>(session: &S::Session) {
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
    pub fn new(longer: bool) -> Play {
        Play { longer, ..Play::default() }
    }

    /// The clients, meanwhile; what they saw, and what came of it.
    pub fn around<S: Stand, T>(&self, door: &Door, then: impl FnOnce() -> T) -> (Vec<Event>, T) {
        let seed = super::number("CHAOS_SEED", 1);
        std::thread::scope(|scope| {
            let players: Vec<_> = (0..SESSIONS)
                .map(|client| scope.spawn(move || self.run::<S>(door, client, seed)))
                .collect();
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(then));
            self.stop.store(true, Ordering::Relaxed);
            let history = players.into_iter().flat_map(|player| player.join().unwrap()).collect();
            (history, done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    pub fn errors(&self) -> usize {
        self.errors.load(Ordering::Relaxed)
    }

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
        let mut writes = self.writes.lock().unwrap();
        let gap = writes.windows(2).map(|pair| pair[1] - pair[0]).max();
        let last = writes.pop();
        *writes = Vec::from_iter(last);
        gap.unwrap_or_default()
    }

    /// From this moment on, until a write was acknowledged.
    pub fn until_a_write(&self, from: Instant) -> Option<Duration> {
        let writes = self.writes.lock().unwrap();
        writes.iter().find(|at| **at >= from).map(|at| *at - from)
    }

    fn note_write(&self) {
        let mut writes = self.writes.lock().unwrap();
        writes.push(Instant::now());
    }

    pub fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// One client until it is told to stop.
    fn run<S: Stand>(&self, door: &Door, client: usize, seed: u64) -> Vec<Event> {
        let mut history = Vec::new();
        let mut dice = Dice(seed ^ (client as u64) << 32 | 1);
        let is_long = self.longer && client % 2 == 1;
        let mut connection = self.connect::<S>(door);
        // A new connection is a new session, which may read what is older.
        let mut session = client;
        let mut set = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let Done { events, error } = match is_long {
                true => longer::perform::<S>(self, door, &connection, &mut dice),
                false => perform::<S>(&connection, self.choose(&mut dice, client, &mut set)),
            };
            let writes =
                events.iter().any(|(op, _)| !matches!(op, Op::Read { .. } | Op::Sum { .. }));
            if error.is_none() && writes {
                self.note_write();
            }
            if begun.elapsed() > SLOW && writes {
                let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                println!(
                    "client {client} at {:.3}: {events:?} took {:?}",
                    at.as_secs_f64(),
                    begun.elapsed()
                );
            }
            if let Some(error) = &error {
                println!("client {client}: {events:?}: {error}");
                self.errors.fetch_add(1, Ordering::Relaxed);
            }
            history.extend(events.into_iter().map(|(op, outcome)| Event { session, op, outcome }));
            // What is left of a transaction of two phases is of no interest.
            if error.is_some() && (is_long || connection.query("SELECT 1").is_err()) {
                session += SESSIONS;
                connection = self.connect::<S>(door);
            }
            self.done[client].fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(PACE);
        }
        history
    }

    pub fn connect<S: Stand>(&self, door: &Door) -> S::Session {
        let mut connected = None;
        wait_until(PATIENCE, || {
            connected = S::copying_session(door.port, &door.app).ok();
            connected.is_some()
        })
        .expect("a new session");
        connected.expect("it was waited for")
    }

    fn choose(&self, dice: &mut Dice, client: usize, set: &mut u64) -> Op {
        let id = self.next_id();
        match dice.below(10) {
            0..3 => Op::Append { list: list_of(id, dice), value: id },
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

/// What is to be remembered of a step, and the error if there was one.
pub struct Done {
    pub events: Vec<(Op, Outcome)>,
    pub error: Option<String>,
}

/// A list to append this number to.
pub fn list_of(id: u64, dice: &mut Dice) -> usize {
    let turn = usize::try_from(id).expect("64 bits") / LISTS_TURN;
    (turn * LISTS_AT_ONCE + dice.below(LISTS_AT_ONCE)) % LISTS
}

pub fn append(list: usize, value: u64) -> String {
    format!("UPDATE lists SET items = concat(items, ' ', {value}) WHERE id = {list}")
}

/// What a client knows of a write after this answer, and the error.
pub fn told<S: Stand>(answer: anyhow::Result<()>) -> (Outcome, Option<String>) {
    match answer {
        Ok(()) => (Outcome::Acknowledged, None),
        Err(error) => (outcome::<S>(&error), Some(format!("{error:#}"))),
    }
}

fn perform<S: Stand>(session: &S::Session, op: Op) -> Done {
    let write = |sql: &str| {
        let (outcome, error) = told::<S>(session.query(sql).map(drop));
        Done { events: vec![(op, outcome)], error }
    };
    let failed = |events, error: anyhow::Error| Done { events, error: Some(format!("{error:#}")) };
    match op {
        Op::Append { list, value } => write(&append(list, value)),
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
                return failed(vec![(op, Outcome::Failed)], error);
            }
            write("COMMIT")
        }
        Op::Read { register, .. } => {
            match session.value(&format!("SELECT value FROM registers WHERE id = {register}")) {
                Ok(value) => {
                    let read = Op::Read { register, value: value.parse().expect("a number") };
                    Done { events: vec![(read, Outcome::Acknowledged)], error: None }
                }
                Err(error) => failed(Vec::new(), error),
            }
        }
        Op::Sum { .. } => unreachable!("that takes longer"),
    }
}

/// What an error of a statement that commits says of it.
pub fn outcome<S: Stand>(error: &anyhow::Error) -> Outcome {
    match S::NOT_RUN.contains(&&*S::code(error)) {
        true => Outcome::Failed,
        false => Outcome::Unknown,
    }
}

/// SplitMix64.
pub struct Dice(u64);

impl Dice {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % limit as u64).expect("below the limit")
    }
}
