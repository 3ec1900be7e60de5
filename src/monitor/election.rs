//! Which of the nodes that are not in recovery is the cluster's primary.
//!
//! Pure. A node that is not in recovery *claims* to be the primary; the claim is only believed if
//! the node has the cluster's system identifier and the highest timeline that was ever seen. Two
//! claims that cannot be told apart stop the writes. Health and history are `verdict.rs`.

use crate::topology::{NodeId, Timeline};
use std::sync::Arc;

/// A node that answered that it is not in recovery.
#[derive(Debug, Clone)]
pub struct Claim {
    pub node: NodeId,
    pub name: Arc<str>,
    pub system: u64,
    pub timeline: Option<Timeline>,
    /// When the server started, in microseconds: two nodes with one system and one start are one
    /// server under two names.
    pub started_us: i64,
    /// Up to which its log is on disk.
    pub flush: u64,
}

/// What is remembered for the life of the process, over reloads of the configuration as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// The cluster's system identifier.
    pub system: Option<u64>,
    /// The highest timeline that any node of the cluster was seen on.
    pub timeline: Option<Timeline>,
    pub primary: Option<LastPrimary>,
}

/// The primary that was believed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastPrimary {
    pub node: NodeId,
    pub timeline: Timeline,
    /// The highest flushed offset that was seen of it.
    pub flush: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Election {
    pub primary: Option<(NodeId, Timeline)>,
    /// Why nobody is, where there were claims; empty otherwise.
    pub because: String,
    /// Claims that are not believed, each with the reason. They never get a statement.
    pub refused: Vec<(NodeId, Arc<str>)>,
}

/// Chooses among the claims, in whatever order they come.
pub fn elect(claims: &[Claim], known: &Known) -> Election {
    let mut election = Election::default();
    let mut believed: Vec<(&Claim, Timeline)> = Vec::new();
    let highest = claims
        .iter()
        .filter(|claim| Some(claim.system) == known.system)
        .filter_map(|claim| claim.timeline)
        .max()
        .max(known.timeline);
    // The last primary first: of one server's two names it keeps the one that it had.
    let last = known.primary.map(|last| last.node);
    let mut claims: Vec<&Claim> = claims.iter().collect();
    claims.sort_by_key(|claim| (Some(claim.node) != last, claim.node));
    for claim in claims {
        let same = |(other, _): &&(&Claim, Timeline)| other.started_us == claim.started_us;
        match (objection(claim, known, highest), believed.iter().find(same)) {
            (Ok(timeline), None) => believed.push((claim, timeline)),
            (Ok(_), Some((other, _))) => {
                let reason = format!("{} is the same server as {}", claim.name, other.name);
                election.refused.push((claim.node, Arc::from(reason)));
            }
            (Err(reason), _) => election.refused.push((claim.node, Arc::from(reason))),
        }
    }
    match believed.as_slice() {
        [] => {
            let reasons = election.refused.iter().map(|(_, reason)| &**reason);
            election.because = reasons.collect::<Vec<_>>().join("; ");
        }
        [(claim, timeline)] => election.primary = Some((claim.node, *timeline)),
        [(_, timeline), ..] => {
            let names = believed.iter().map(|(claim, _)| &*claim.name);
            let names = names.collect::<Vec<_>>().join(" and ");
            election.because = format!(
                "split brain: {names} both accept writes on timeline {} and cannot be told \
                 apart; shut down all but the right one",
                timeline.0
            );
            for (claim, _) in &believed {
                election.refused.push((claim.node, Arc::from(election.because.as_str())));
            }
        }
    }
    election
}

/// The claim's timeline, or why it is not believed.
fn objection(claim: &Claim, known: &Known, highest: Option<Timeline>) -> Result<Timeline, String> {
    let name = &claim.name;
    if let Some(system) = known.system
        && claim.system != system
    {
        return Err(foreign(name, claim.system, system));
    }
    let Some(timeline) = claim.timeline else {
        return Err(format!("{name} accepts writes but does not tell its timeline"));
    };
    if let Some(highest) = highest
        && timeline < highest
    {
        return Err(format!(
            "{name} accepts writes on timeline {}, but timeline {} is known: it is an old primary",
            timeline.0, highest.0
        ));
    }
    // The same timeline on another node is its data on a new host, or a copy that was started
    // beside it. A copy is behind.
    if let Some(last) = known.primary
        && last.timeline == timeline
        && last.node != claim.node
        && claim.flush < last.flush
    {
        return Err(format!(
            "{name} accepts writes on the same timeline {} as the last primary but is {} bytes \
             behind it: it is an older copy",
            timeline.0,
            last.flush - claim.flush
        ));
    }
    Ok(timeline)
}

/// Why a node of another system is refused.
pub fn foreign(name: &str, system: u64, expected: u64) -> String {
    format!(
        "{name} is not of this cluster: its system identifier is {system}, the cluster's is \
         {expected}"
    )
}

/// The system identifier that most nodes have. `Err`: nobody answered, or a tie.
pub fn common_system(systems: &[(Arc<str>, u64)]) -> Result<u64, String> {
    let mut counts: Vec<(u64, usize)> = Vec::new();
    for &(_, system) in systems {
        match counts.iter_mut().find(|(known, _)| *known == system) {
            Some((_, count)) => *count += 1,
            None => counts.push((system, 1)),
        }
    }
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    match counts.as_slice() {
        [] => Err("no node answers".to_string()),
        [(_, first), (_, second), ..] if first == second => {
            let nodes = systems.iter().map(|(name, system)| format!("{name} has {system}"));
            Err(format!(
                "the nodes are of different clusters, and none is in the majority: system \
                 identifier of {}",
                nodes.collect::<Vec<_>>().join(", ")
            ))
        }
        [(system, _), ..] => Ok(*system),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEM: u64 = 7;

    fn claim(node: u16, system: u64, timeline: u32, flush: u64) -> Claim {
        let name = Arc::from(["pg-a", "pg-b", "pg-c"][usize::from(node)]);
        let started_us = i64::from(node);
        let timeline = Some(Timeline(timeline));
        Claim { node: NodeId(node), name, system, timeline, started_us, flush }
    }

    struct Case {
        name: &'static str,
        claims: Vec<Claim>,
        timeline: Option<u32>,
        last: Option<(u16, u32, u64)>,
        primary: Option<u16>,
        refused: &'static [u16],
        because: &'static str,
    }

    fn check(case: &Case) {
        let known = Known {
            system: Some(SYSTEM),
            timeline: case.timeline.map(Timeline),
            primary: case.last.map(|(node, timeline, flush)| LastPrimary {
                node: NodeId(node),
                timeline: Timeline(timeline),
                flush,
            }),
        };
        let mut claims = case.claims.clone();
        for _ in 0..2 {
            let election = elect(&claims, &known);
            let primary = election.primary.map(|(node, _)| node.0);
            assert_eq!(primary, case.primary, "{}", case.name);
            let mut refused: Vec<u16> = election.refused.iter().map(|(node, _)| node.0).collect();
            refused.sort_unstable();
            assert_eq!(refused, case.refused, "{}", case.name);
            assert!(election.because.contains(case.because), "{}: {}", case.name, election.because);
            assert_eq!(election.because.is_empty(), case.because.is_empty(), "{}", case.name);
            claims.reverse();
        }
    }

    #[test]
    fn claims_are_told_apart_by_system_and_timeline() {
        let none = || Case {
            name: "nobody claims",
            claims: vec![],
            timeline: None,
            last: None,
            primary: None,
            refused: &[],
            because: "",
        };
        let cases = [
            none(),
            Case {
                name: "one claims",
                claims: vec![claim(1, SYSTEM, 1, 10)],
                primary: Some(1),
                ..none()
            },
            Case {
                name: "the higher timeline wins",
                claims: vec![claim(0, SYSTEM, 1, 900), claim(2, SYSTEM, 2, 800)],
                timeline: Some(1),
                last: Some((0, 1, 900)),
                primary: Some(2),
                refused: &[0],
                ..none()
            },
            Case {
                name: "a lone old primary comes back",
                claims: vec![claim(0, SYSTEM, 1, 900)],
                timeline: Some(2),
                refused: &[0],
                because: "timeline 2 is known",
                ..none()
            },
            Case {
                name: "two on one timeline",
                claims: vec![claim(0, SYSTEM, 2, 900), claim(1, SYSTEM, 2, 900)],
                timeline: Some(2),
                last: Some((0, 2, 900)),
                refused: &[0, 1],
                because: "split brain",
                ..none()
            },
            Case {
                name: "one server under two names",
                claims: vec![
                    Claim { started_us: 5, ..claim(0, SYSTEM, 2, 900) },
                    Claim { started_us: 5, ..claim(1, SYSTEM, 2, 900) },
                ],
                timeline: Some(2),
                last: Some((1, 2, 900)),
                primary: Some(1),
                refused: &[0],
                ..none()
            },
            Case {
                name: "two on one timeline beside a higher one",
                claims: vec![
                    claim(0, SYSTEM, 2, 900),
                    claim(1, SYSTEM, 2, 900),
                    claim(2, SYSTEM, 3, 100),
                ],
                primary: Some(2),
                refused: &[0, 1],
                ..none()
            },
            Case {
                name: "another system, whatever its timeline",
                claims: vec![claim(0, SYSTEM, 1, 10), claim(1, 8, 9, 10)],
                primary: Some(0),
                refused: &[1],
                ..none()
            },
            Case {
                name: "only another system",
                claims: vec![claim(1, 8, 9, 10)],
                refused: &[1],
                because: "system identifier is 8",
                ..none()
            },
            Case {
                name: "the data on a new host",
                claims: vec![claim(1, SYSTEM, 1, 900)],
                timeline: Some(1),
                last: Some((0, 1, 900)),
                primary: Some(1),
                ..none()
            },
            Case {
                name: "an older copy on another host",
                claims: vec![claim(1, SYSTEM, 1, 899)],
                timeline: Some(1),
                last: Some((0, 1, 900)),
                refused: &[1],
                because: "1 bytes behind",
                ..none()
            },
            Case {
                name: "the same node after a crash that lost its tail",
                claims: vec![claim(0, SYSTEM, 1, 899)],
                timeline: Some(1),
                last: Some((0, 1, 900)),
                primary: Some(0),
                ..none()
            },
        ];
        cases.iter().for_each(check);
    }

    #[test]
    fn a_claim_without_a_timeline_is_refused() {
        let claims = [Claim { timeline: None, ..claim(0, SYSTEM, 1, 1) }];
        let known = Known { system: Some(SYSTEM), ..Known::default() };
        assert_eq!(elect(&claims, &known).primary, None);
    }

    #[test]
    fn the_cluster_is_what_most_nodes_are() {
        let table: &[(&[u64], Option<u64>)] = &[
            (&[], None),
            (&[7], Some(7)),
            (&[7, 8], None),
            (&[8, 7, 7], Some(7)),
            (&[8, 8, 7, 7], None),
            (&[8, 8, 7, 9], Some(8)),
        ];
        for (systems, expected) in table {
            let named: Vec<(Arc<str>, u64)> =
                systems.iter().map(|&system| (Arc::from("pg"), system)).collect();
            assert_eq!(common_system(&named).ok(), *expected, "{systems:?}");
        }
    }
}
