//! Which replica is promoted: by position, then priority, then zone. Pure.

use crate::topology::Timeline;
use std::sync::Arc;

/// A replica that answered when it was asked for its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub name: Arc<str>,
    pub system: u64,
    pub timeline: Option<Timeline>,
    /// Up to which it has received or applied the log, whichever is further, in bytes.
    pub position: u64,
    /// 0: never.
    pub priority: u32,
    pub zone: Option<Arc<str>>,
    /// An operator has taken it out of service.
    pub drained: bool,
}

/// What the candidates are measured by.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// That of the lost primary.
    pub system: u64,
    pub timeline: Timeline,
    pub zone: Option<Arc<str>>,
}

/// The chosen one, or why nobody can be. Equal in everything, the first in the order of the
/// configuration is taken.
///
/// The most advanced must be eligible: a less advanced one would lose what was acknowledged, and
/// the others could not follow it.
pub fn choose<'a>(candidates: &'a [Candidate], wanted: &Wanted) -> Result<&'a Candidate, String> {
    let ours: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| candidate.system == wanted.system)
        .filter(|candidate| candidate.timeline == Some(wanted.timeline))
        .collect();
    let Some(furthest) = ours.iter().map(|candidate| candidate.position).max() else {
        return Err(format!(
            "none of the {} replicas that answer is on timeline {}",
            candidates.len(),
            wanted.timeline.0
        ));
    };
    let eligible = ours
        .iter()
        .filter(|candidate| candidate.priority > 0 && !candidate.drained)
        .filter(|candidate| candidate.position == furthest);
    let same_zone =
        |candidate: &Candidate| candidate.zone.is_some() && candidate.zone == wanted.zone;
    let rank = |candidate: &&&Candidate| (candidate.priority, same_zone(candidate));
    // `max_by_key` takes the last of equals.
    match eligible.rev().max_by_key(rank) {
        Some(best) => Ok(best),
        None => {
            let names = ours.iter().filter(|candidate| candidate.position == furthest);
            let names: Vec<&str> = names.map(|candidate| &*candidate.name).collect();
            Err(format!(
                "{} has received most, but is drained or has priority 0; promoting a less \
                 advanced one would lose acknowledged writes",
                names.join(" and ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, position: u64) -> Candidate {
        Candidate {
            name: name.into(),
            system: 7,
            timeline: Some(Timeline(3)),
            position,
            priority: 100,
            zone: None,
            drained: false,
        }
    }

    #[test]
    fn the_most_advanced_then_priority_then_zone() {
        let (a, b, c) = (candidate("a", 10), candidate("b", 10), candidate("c", 11));
        let east = Some(Arc::from("east"));
        let table: &[(&str, Vec<Candidate>, Result<&str, &str>)] = &[
            ("nobody", vec![], Err("none of the 0 replicas")),
            ("position", vec![a.clone(), b.clone(), c.clone()], Ok("c")),
            ("the first of equals", vec![a.clone(), b.clone()], Ok("a")),
            ("priority", vec![a.clone(), Candidate { priority: 101, ..b.clone() }], Ok("b")),
            (
                "position before priority",
                vec![Candidate { priority: 1000, ..a.clone() }, c.clone()],
                Ok("c"),
            ),
            ("zone", vec![a.clone(), Candidate { zone: east.clone(), ..b.clone() }], Ok("b")),
            (
                "priority before zone",
                vec![
                    Candidate { priority: 101, ..a.clone() },
                    Candidate { zone: east.clone(), ..b.clone() },
                ],
                Ok("a"),
            ),
            (
                "the most advanced may not",
                vec![a.clone(), Candidate { priority: 0, ..c.clone() }],
                Err("c has received most"),
            ),
            ("drained", vec![Candidate { drained: true, ..a.clone() }], Err("drained")),
            ("an equal may not", vec![Candidate { priority: 0, ..a.clone() }, b.clone()], Ok("b")),
            ("another system", vec![Candidate { system: 8, ..c.clone() }, a.clone()], Ok("a")),
            (
                "an old timeline",
                vec![Candidate { timeline: Some(Timeline(2)), ..c.clone() }, a.clone()],
                Ok("a"),
            ),
        ];
        let wanted = Wanted { system: 7, timeline: Timeline(3), zone: east };
        for (story, candidates, expected) in table {
            match (choose(candidates, &wanted), expected) {
                (Ok(found), Ok(name)) => assert_eq!(&*found.name, *name, "{story}"),
                (Err(found), Err(part)) => assert!(found.contains(part), "{story}: {found}"),
                (found, _) => panic!("{story}: {found:?}"),
            }
        }
    }
}
