//! Clients whose work is longer than a statement: reads that take a while, COPY (LOAD DATA LOCAL),
//! statements that are sent together, transactions of two phases. What they write are appends, and
//! transfers of nothing.

use super::clients::{Dice, Done, Door, Play, append, list_of, outcome, told};
use super::history::{Op, Outcome};
use crate::support::{PATIENCE, Sql, Stand, wait_until};

pub fn perform<S: Stand>(play: &Play, door: &Door, session: &S::Session, dice: &mut Dice) -> Done {
    match dice.below(8) {
        0..3 => match session.value(S::LONG_SUM) {
            Ok(sum) => {
                let value = sum.parse().expect("a number");
                Done { events: vec![(Op::Sum { value }, Outcome::Acknowledged)], error: None }
            }
            Err(error) => Done { events: Vec::new(), error: Some(format!("{error:#}")) },
        },
        3..5 => {
            let ids = [play.next_id(), play.next_id()];
            let (outcome, error) = told::<S>(S::copy(session, ids));
            Done { events: ids.map(|id| (nothing(id), outcome)).to_vec(), error }
        }
        5..7 => {
            let writes = [(); 2].map(|()| {
                let id = play.next_id();
                (list_of(id, dice), id)
            });
            let texts = writes.map(|(list, value)| append(list, value));
            let [one, two] = S::together(session, [&texts[0], &texts[1]]).map(told::<S>);
            let ops = writes.map(|(list, value)| Op::Append { list, value });
            Done { events: vec![(ops[0], one.0), (ops[1], two.0)], error: one.1.or(two.1) }
        }
        _ => in_two_phases::<S>(play, door, session),
    }
}

fn nothing(id: u64) -> Op {
    Op::Transfer { id, from: 0, to: 0, amount: 0 }
}

fn of(sql: &str, id: u64) -> String {
    sql.replace("{id}", &id.to_string())
}

/// Whatever a client is told of the first phase, nothing is committed by it. Of what is prepared only
/// the second phase may leave it open what has become of it.
fn in_two_phases<S: Stand>(play: &Play, door: &Door, session: &S::Session) -> Done {
    let id = play.next_id();
    let mut steps = S::TWO_PHASES.prepare.iter();
    let prepared = steps.try_for_each(|sql| session.query(&of(sql, id)).map(drop));
    let (before, ended) = match prepared {
        Err(error) => (Outcome::Failed, Err(error)),
        Ok(()) => (Outcome::Unknown, session.query(&of(S::TWO_PHASES.commit, id)).map(drop)),
    };
    match ended {
        Ok(()) => Done { events: vec![(nothing(id), Outcome::Acknowledged)], error: None },
        Err(error) => {
            let known = match outcome::<S>(&error) {
                Outcome::Failed => Outcome::Failed,
                _ => before,
            };
            let outcome = settle::<S>(play, door, id, known);
            Done { events: vec![(nothing(id), outcome)], error: Some(format!("{error:#}")) }
        }
    }
}

/// Ends a transaction whose client was told of an error, so that nothing is left behind, and says
/// what has become of it.
fn settle<S: Stand>(play: &Play, door: &Door, id: u64, known: Outcome) -> Outcome {
    let phases = &S::TWO_PHASES;
    let name = id.to_string();
    let end = || -> anyhow::Result<Outcome> {
        let session = play.connect::<S>(door);
        session.query(&S::set_own("target", "primary"))?;
        let rows = session.query(phases.prepared)?;
        let is_there =
            rows.iter().any(|row| row.last().is_some_and(|gid| gid.as_ref() == Some(&name)));
        Ok(match (is_there, known) {
            // It was prepared for certain, and is not any more.
            (false, Outcome::Unknown) => Outcome::Acknowledged,
            // Nobody else can commit it.
            (false, _) => Outcome::Failed,
            (true, Outcome::Unknown) => {
                session.query(&of(phases.commit, id))?;
                Outcome::Acknowledged
            }
            (true, _) => {
                session.query(&of(phases.rollback, id))?;
                Outcome::Failed
            }
        })
    };
    let mut ended = None;
    wait_until(PATIENCE, || {
        ended = end().inspect_err(|error| println!("transaction {id}: {error:#}")).ok();
        ended.is_some()
    })
    .expect("it can be ended");
    ended.expect("it was waited for")
}
