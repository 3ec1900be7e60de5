//! What clients saw, checked against what is there in the end. Pure.
//!
//! Three kinds of data, each sees another fault: lists to which unique values are appended (lost or
//! doubled writes), accounts with transfers between them (torn transactions), and registers of one
//! writer each whose values only grow (reads that go backward).

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What a client was told of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Acknowledged,
    /// It has failed for certain: nothing of it may be there.
    Failed,
    /// The client was told that nobody knows, or the connection broke after the commit was sent.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Append {
        list: usize,
        value: u64,
    },
    Transfer {
        id: u64,
        from: usize,
        to: usize,
        amount: i64,
    },
    /// Only by the session that owns the register; each value is greater than the one before.
    Set {
        register: usize,
        value: u64,
    },
    /// All balances together, of one moment; always acknowledged.
    Sum {
        value: i64,
    },
    /// Always acknowledged.
    Read {
        register: usize,
        value: u64,
    },
}

/// One step of a session; a session's steps are in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub session: usize,
    pub op: Op,
    pub outcome: Outcome,
}

/// What is there in the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    pub lists: Vec<Vec<u64>>,
    pub balances: Vec<i64>,
    /// The transfers that left a record, in any order.
    pub transfers: Vec<u64>,
    pub registers: Vec<u64>,
}

/// Every contradiction between the history and the books, as a sentence. All accounts began with
/// `start`, all registers with 0.
pub fn contradictions(history: &[Event], books: &Books, start: i64) -> Vec<String> {
    let mut found = Vec::new();
    lists(history, books, &mut found);
    transfers(history, books, start, &mut found);
    registers(history, books, &mut found);
    reads(history, &mut found);
    sums(history, start * books.balances.len() as i64, &mut found);
    found
}

/// Present exactly once if it was acknowledged, not at all if it has failed.
fn presence(what: &str, count: usize, outcome: Option<Outcome>) -> Option<String> {
    match (outcome, count) {
        (None, _) => Some(format!("{what} is there and nobody wrote it")),
        (Some(Outcome::Acknowledged), 0) => Some(format!("{what} was acknowledged and is lost")),
        (Some(Outcome::Failed), 1..) => Some(format!("{what} was reported as failed and is there")),
        (_, 2..) => Some(format!("{what} is there {count} times")),
        _ => None,
    }
}

fn lists(history: &[Event], books: &Books, found: &mut Vec<String>) {
    let mut written: BTreeMap<(usize, u64), Outcome> = BTreeMap::new();
    for event in history {
        if let Op::Append { list, value } = event.op {
            written.insert((list, value), event.outcome);
        }
    }
    let mut there: BTreeMap<(usize, u64), usize> = BTreeMap::new();
    let mut place: HashMap<(usize, u64), usize> = HashMap::new();
    for (list, values) in books.lists.iter().enumerate() {
        for (at, value) in values.iter().enumerate() {
            *there.entry((list, *value)).or_default() += 1;
            place.insert((list, *value), at);
        }
    }
    let keys: BTreeSet<_> = written.keys().chain(there.keys()).copied().collect();
    for key in keys {
        let what = format!("value {} of list {}", key.1, key.0);
        let count = there.get(&key).copied().unwrap_or(0);
        found.extend(presence(&what, count, written.get(&key).copied()));
    }
    // What one session appended to one list stands there in its order.
    let mut last: HashMap<(usize, usize), usize> = HashMap::new();
    for event in history {
        let Op::Append { list, value } = event.op else { continue };
        let Some(&at) = place.get(&(list, value)) else { continue };
        let before = last.insert((event.session, list), at);
        if before.is_some_and(|before| before > at) {
            let session = event.session;
            found.push(format!("value {value} of list {list} stands before one that session {session} had appended earlier"));
        }
    }
}

fn transfers(history: &[Event], books: &Books, start: i64, found: &mut Vec<String>) {
    let mut there: BTreeMap<u64, usize> = BTreeMap::new();
    for id in &books.transfers {
        *there.entry(*id).or_default() += 1;
    }
    let mut expected = vec![start; books.balances.len()];
    let mut known = BTreeSet::new();
    for event in history {
        let Op::Transfer { id, from, to, amount } = event.op else { continue };
        known.insert(id);
        let count = there.get(&id).copied().unwrap_or(0);
        found.extend(presence(&format!("transfer {id}"), count, Some(event.outcome)));
        if count > 0 {
            expected[from] -= amount;
            expected[to] += amount;
        }
    }
    for id in there.keys().filter(|id| !known.contains(id)) {
        found.extend(presence(&format!("transfer {id}"), 1, None));
    }
    let (sum, whole) = (books.balances.iter().sum::<i64>(), start * books.balances.len() as i64);
    if sum != whole {
        found.push(format!("the accounts hold {sum} together, not {whole}"));
    }
    for (account, (balance, expected)) in books.balances.iter().zip(&expected).enumerate() {
        if balance != expected {
            found.push(format!("account {account} holds {balance}; its transfers make {expected}"));
        }
    }
}

fn registers(history: &[Event], books: &Books, found: &mut Vec<String>) {
    for (register, &value) in books.registers.iter().enumerate() {
        let sets = history.iter().filter_map(|event| match event.op {
            Op::Set { register: of, value } if of == register => Some((value, event.outcome)),
            _ => None,
        });
        let sets: Vec<(u64, Outcome)> = sets.collect();
        let acknowledged = sets.iter().filter(|(_, outcome)| *outcome == Outcome::Acknowledged);
        let last = acknowledged.map(|(value, _)| *value).max().unwrap_or(0);
        if value < last {
            found.push(format!("register {register} is {value}, but {last} was acknowledged"));
        }
        let outcome = sets.iter().find(|(set, _)| *set == value).map(|(_, outcome)| *outcome);
        if value != 0 && matches!(outcome, None | Some(Outcome::Failed)) {
            found.push(format!("register {register} is {value}, which nobody has set"));
        }
    }
}

/// Transfers are never seen in halves.
fn sums(history: &[Event], whole: i64, found: &mut Vec<String>) {
    for event in history {
        if let Op::Sum { value } = event.op
            && value != whole
        {
            let session = event.session;
            found.push(format!("session {session} reads a sum of {value}, not {whole}"));
        }
    }
}

/// A session never reads a value that is older than what it has read or set before, and never one
/// that was not set.
fn reads(history: &[Event], found: &mut Vec<String>) {
    let failed: BTreeSet<(usize, u64)> = history
        .iter()
        .filter(|event| event.outcome == Outcome::Failed)
        .filter_map(|event| match event.op {
            Op::Set { register, value } => Some((register, value)),
            _ => None,
        })
        .collect();
    let mut seen: HashMap<(usize, usize), u64> = HashMap::new();
    for event in history {
        let session = event.session;
        match event.op {
            Op::Set { register, value } if event.outcome == Outcome::Acknowledged => {
                seen.insert((session, register), value);
            }
            Op::Read { register, value } => {
                let before = seen.insert((session, register), value).unwrap_or(0);
                if value < before {
                    found.push(format!(
                        "session {session} reads {value} of register {register} after {before}"
                    ));
                }
                if failed.contains(&(register, value)) {
                    found.push(format!("session {session} reads {value} of register {register}, whose setting was reported as failed"));
                }
            }
            _ => {}
        }
    }
}

mod tests {
    use super::Outcome::{Acknowledged, Failed, Unknown};
    use super::*;

    const START: i64 = 100;

    fn event(session: usize, op: Op, outcome: Outcome) -> Event {
        Event { session, op, outcome }
    }

    /// A history in which everything is right.
    fn sound() -> (Vec<Event>, Books) {
        let history = vec![
            event(0, Op::Append { list: 0, value: 1 }, Acknowledged),
            event(1, Op::Append { list: 0, value: 2 }, Unknown),
            event(0, Op::Append { list: 0, value: 3 }, Acknowledged),
            event(1, Op::Append { list: 1, value: 4 }, Failed),
            event(1, Op::Append { list: 1, value: 5 }, Unknown),
            event(0, Op::Transfer { id: 1, from: 0, to: 1, amount: 10 }, Acknowledged),
            event(1, Op::Transfer { id: 2, from: 1, to: 0, amount: 5 }, Unknown),
            event(1, Op::Transfer { id: 3, from: 1, to: 0, amount: 7 }, Failed),
            event(0, Op::Set { register: 0, value: 1 }, Acknowledged),
            event(1, Op::Read { register: 0, value: 1 }, Acknowledged),
            event(0, Op::Set { register: 0, value: 2 }, Failed),
            event(0, Op::Set { register: 0, value: 3 }, Unknown),
            event(1, Op::Read { register: 0, value: 3 }, Acknowledged),
            event(1, Op::Sum { value: 200 }, Acknowledged),
        ];
        let books = Books {
            lists: vec![vec![1, 2, 3], vec![]],
            balances: vec![95, 105],
            transfers: vec![2, 1],
            registers: vec![3],
        };
        (history, books)
    }

    #[test]
    fn a_sound_history_has_no_contradiction() {
        let (history, books) = sound();
        assert_eq!(contradictions(&history, &books, START), Vec::<String>::new());
    }

    /// Each fault that the checker is for is planted once, and found.
    #[test]
    fn every_planted_fault_is_found() {
        type Plant = fn(&mut Vec<Event>, &mut Books);
        let faults: &[(&str, Plant)] = &[
            ("value 3 of list 0 was acknowledged and is lost", |_, books| {
                books.lists[0].pop();
            }),
            ("value 2 of list 0 is there 2 times", |_, books| books.lists[0].push(2)),
            ("value 4 of list 1 was reported as failed and is there", |_, books| {
                books.lists[1].push(4);
            }),
            ("value 9 of list 1 is there and nobody wrote it", |_, books| books.lists[1].push(9)),
            ("stands before one that session 0 had appended earlier", |_, books| {
                books.lists[0].reverse();
            }),
            ("transfer 1 was acknowledged and is lost", |_, books| {
                books.transfers.pop();
                books.balances = vec![105, 95];
            }),
            ("transfer 3 was reported as failed and is there", |_, books| {
                books.transfers.push(3);
                books.balances = vec![102, 98];
            }),
            ("transfer 2 is there 2 times", |_, books| books.transfers.push(2)),
            ("the accounts hold 190 together, not 200", |_, books| books.balances[1] = 95),
            ("account 0 holds 90; its transfers make 95", |_, books| {
                books.balances = vec![90, 110]
            }),
            ("register 0 is 0, but 1 was acknowledged", |_, books| books.registers[0] = 0),
            ("register 0 is 2, which nobody has set", |_, books| books.registers[0] = 2),
            ("session 1 reads 1 of register 0 after 3", |history, _| {
                history.push(event(1, Op::Read { register: 0, value: 1 }, Acknowledged));
            }),
            ("session 0 reads 0 of register 0 after 1", |history, _| {
                history.push(event(0, Op::Read { register: 0, value: 0 }, Acknowledged));
            }),
            ("session 1 reads a sum of 190, not 200", |history, _| {
                history.push(event(1, Op::Sum { value: 190 }, Acknowledged));
            }),
            ("reads 2 of register 0, whose setting was reported as failed", |history, _| {
                history.push(event(2, Op::Read { register: 0, value: 2 }, Acknowledged));
            }),
        ];
        for (expected, plant) in faults {
            let (mut history, mut books) = sound();
            plant(&mut history, &mut books);
            let found = contradictions(&history, &books, START);
            assert!(found.iter().any(|text| text.contains(expected)), "{expected}: {found:?}");
        }
    }
}
