//! Which replica is promoted: by position, then priority, then zone. Pure.

use crate::topology::{Position, Timeline};
use std::sync::Arc;

/// A replica that answered when it was asked for its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub name: Arc<str>,
    pub system: u64,
    pub timeline: Option<Timeline>,
    /// Up to which it has received or applied, whichever is further.
    pub position: Position,
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
    /// `None` where servers have no timelines.
    pub timeline: Option<Timeline>,
    pub zone: Option<Arc<str>>,
    /// That one was chosen before: the others receive from it meanwhile, and what they have by now
    /// is no reason to take another.
    pub chosen: Option<Arc<str>>,
}

/// The chosen one, or why nobody can be. Equal in everything, the one that was chosen before is
/// taken, else the first in the order of the configuration.
///
/// The most advanced must be eligible: a less advanced one would lose what was acknowledged, and
/// the others could not follow it. Where each has what another one lacks, there is no such one.
pub fn choose<'a>(candidates: &'a [Candidate], wanted: &Wanted) -> Result<&'a Candidate, String> {
    let ours: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| candidate.system == wanted.system)
        .filter(|candidate| candidate.timeline == wanted.timeline)
        .collect();
    if ours.is_empty() {
        let on = wanted.timeline.map(|timeline| format!(" on timeline {}", timeline.0));
        return Err(format!(
            "there is none{} among the {} replicas that answer",
            on.unwrap_or_default(),
            candidates.len()
        ));
    }
    let has_all =
        |candidate: &Candidate| ours.iter().all(|other| candidate.position.covers(&other.position));
    let furthest: Vec<&Candidate> =
        ours.iter().copied().filter(|candidate| has_all(candidate)).collect();
    if furthest.is_empty() {
        return Err(format!(
            "{} each have transactions that another one lacks, and whoever is promoted, some \
             would be lost",
            names(&ours)
        ));
    }
    let eligible = furthest.iter().filter(|candidate| candidate.priority > 0 && !candidate.drained);
    let same_zone =
        |candidate: &Candidate| candidate.zone.is_some() && candidate.zone == wanted.zone;
    let rank = |candidate: &&&Candidate| {
        let is_chosen = wanted.chosen.as_ref() == Some(&candidate.name);
        (candidate.priority, same_zone(candidate), is_chosen)
    };
    // `max_by_key` takes the last of equals.
    eligible.rev().max_by_key(rank).copied().ok_or_else(|| {
        format!(
            "{} has received most, but is drained or has priority 0; promoting a less advanced \
             one would lose acknowledged writes",
            names(&furthest)
        )
    })
}

fn names(candidates: &[&Candidate]) -> String {
    let names: Vec<&str> = candidates.iter().map(|candidate| &*candidate.name).collect();
    names.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Gtids;

    fn candidate(name: &str, offset: u64) -> Candidate {
        let timeline = Timeline(3);
        Candidate {
            name: name.into(),
            system: 7,
            timeline: Some(timeline),
            position: Position::Log { timeline, offset },
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
            ("nobody", vec![], Err("none on timeline 3 among the 0 replicas")),
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
        let wanted = Wanted { system: 7, timeline: Some(Timeline(3)), zone: east, chosen: None };
        for (story, candidates, expected) in table {
            match (choose(candidates, &wanted), expected) {
                (Ok(found), Ok(name)) => assert_eq!(&*found.name, *name, "{story}"),
                (Err(found), Err(part)) => assert!(found.contains(part), "{story}: {found}"),
                (found, _) => panic!("{story}: {found:?}"),
            }
        }
        // Priority and zone before what was chosen before.
        let wanted = Wanted { chosen: Some(b.name.clone()), ..wanted };
        let first = Candidate { priority: 101, ..a.clone() };
        for (candidates, expected) in
            [(vec![a.clone(), b.clone()], "b"), (vec![first, b.clone()], "a"), (vec![a, c], "c")]
        {
            assert_eq!(&*choose(&candidates, &wanted).unwrap().name, expected);
        }
    }

    #[test]
    fn by_gtids_the_one_that_has_all_of_the_others() {
        let set = |name: &str, text: &str| {
            let text = text.replace('A', "3e11fa47-71ca-11e1-9e33-c80aa9429562");
            let text = text.replace('B', "8a94f357-aab4-11df-86ab-c80aa9429562");
            let gtids = Arc::new(Gtids::parse_set(&text).unwrap());
            Candidate { timeline: None, position: Position::Gtids(gtids), ..candidate(name, 0) }
        };
        let heads = |name: &str, text: &str| {
            let gtids = Arc::new(Gtids::parse_heads(text).unwrap());
            Candidate { timeline: None, position: Position::Gtids(gtids), ..candidate(name, 0) }
        };
        let table = [
            (vec![set("a", "A:1-9"), set("b", "A:1-10"), set("c", "A:1-9")], Ok("b")),
            (vec![set("a", "A:1-9,B:1"), set("b", "A:1-9")], Ok("a")),
            (vec![set("a", "A:1-9,B:1"), set("b", "A:1-10")], Err("a and b each have")),
            (vec![heads("a", "0-1-9"), heads("b", "0-1-10")], Ok("b")),
            (vec![heads("a", "0-1-9,1-1-4"), heads("b", "0-1-10,1-1-3")], Err("a and b each")),
        ];
        let wanted = Wanted { system: 7, timeline: None, zone: None, chosen: None };
        for (candidates, expected) in table {
            match (choose(&candidates, &wanted), expected) {
                (Ok(found), Ok(name)) => assert_eq!(&*found.name, name),
                (Err(found), Err(part)) => assert!(found.contains(part), "{found}"),
                (found, _) => panic!("{found:?}"),
            }
        }
    }
}
