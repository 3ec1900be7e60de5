//! Which of the nodes that take writes is the cluster's primary.
//!
//! Pure. A node that takes writes *claims* to be the primary. Where a promotion starts a timeline,
//! the claim is only believed if the node has the cluster's system identifier and the highest
//! timeline that was ever seen. Where positions are GTIDs, nothing tells a promoted server from
//! the one before: it is remembered who was primary before, and of two claims the one is believed
//! whose server does not replicate from the other's, or has all of its transactions and more. Two
//! claims that cannot be told apart stop the writes. Health and history are `verdict.rs`.

use crate::topology::{Epoch, Leader, NodeId, Position, Timeline};
use std::sync::Arc;

/// A node that answered that it takes writes.
#[derive(Debug, Clone)]
pub struct Claim {
    pub node: NodeId,
    pub name: Arc<str>,
    pub address: Arc<str>,
    pub system: u64,
    /// Two nodes with the same are one server under two names.
    pub instance: u64,
    /// What its replicas call it beside its address; empty if nothing.
    pub id: Arc<str>,
    /// `None` also where servers have no timelines.
    pub timeline: Option<Timeline>,
    /// Up to which its log is on disk, or what it has committed. `None`: it does not tell.
    pub position: Option<Position>,
    /// Addresses and ids of those from whom it replicates although it takes writes.
    pub upstreams: Vec<Arc<str>>,
}

/// What is remembered for the life of the process, over reloads of the configuration as well.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// Whether a promotion starts a timeline.
    pub has_timelines: bool,
    /// The cluster's system identifier.
    pub system: Option<u64>,
    /// The highest timeline that any node of the cluster was seen on.
    pub timeline: Option<Timeline>,
    pub primary: Option<LastPrimary>,
    /// Nodes that were primary before another one was, and were not seen refusing writes since.
    pub superseded: Vec<NodeId>,
    /// Whom Patroni calls the leader. Its word decides among those who can be the primary.
    pub leader: Option<Leader>,
}

/// The primary that was believed last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastPrimary {
    pub node: NodeId,
    /// `None` where servers have no timelines.
    pub timeline: Option<Timeline>,
    /// The last position that was seen of it.
    pub position: Option<Position>,
}

/// What outlives a judge, so that a reloaded configuration forgets no fence.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    pub system: Option<u64>,
    pub timeline: Option<Timeline>,
    /// Address of the last primary, its timeline and its position. The epoch goes on if the new
    /// configuration has the address as well.
    pub primary: Option<(Arc<str>, Option<Timeline>, Option<Position>)>,
    /// Addresses of former primaries that still may think that they are.
    pub superseded: Vec<Arc<str>>,
    pub epoch: Epoch,
    pub version: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Election {
    /// With its timeline, where there are timelines.
    pub primary: Option<(NodeId, Option<Timeline>)>,
    /// Why nobody is, where there were claims; empty otherwise.
    pub because: String,
    /// Claims that are not believed, each with the reason. They never get a statement.
    pub refused: Vec<(NodeId, Arc<str>)>,
}

/// Chooses among the claims, in whatever order they come.
pub fn elect(claims: &[Claim], known: &Known) -> Election {
    let mut election = Election::default();
    let mut believed: Vec<&Claim> = Vec::new();
    let highest = claims
        .iter()
        .filter(|claim| Some(claim.system) == known.system)
        .filter_map(|claim| claim.timeline)
        .max()
        .max(known.timeline);
    // The last primary first: of one server's two names it keeps the one that it had.
    let last = known.primary.as_ref().map(|last| last.node);
    let mut claims: Vec<&Claim> = claims.iter().collect();
    claims.sort_by_key(|claim| (Some(claim.node) != last, claim.node));
    for claim in claims {
        let same = |other: &&&Claim| other.instance == claim.instance;
        match (objection(claim, known, highest), believed.iter().find(same)) {
            (None, None) => believed.push(claim),
            (None, Some(other)) => {
                let reason = format!("{} is the same server as {}", claim.name, other.name);
                election.refused.push((claim.node, Arc::from(reason)));
            }
            (Some(reason), _) => election.refused.push((claim.node, Arc::from(reason))),
        }
    }
    if !known.has_timelines {
        believed = tell_apart(believed, known, &mut election.refused);
    }
    match believed.as_slice() {
        [] => {
            let reasons = election.refused.iter().map(|(_, reason)| &**reason);
            election.because = reasons.collect::<Vec<_>>().join("; ");
        }
        [claim] => election.primary = Some((claim.node, claim.timeline)),
        [first, ..] => {
            let names = believed.iter().map(|claim| &*claim.name);
            let names = names.collect::<Vec<_>>().join(" and ");
            let (what, remedy) = match first.timeline {
                Some(Timeline(number)) => (format!(" on timeline {number}"), "shut down"),
                None => (String::new(), "shut down, or make read-only,"),
            };
            election.because = format!(
                "split brain: {names} both accept writes{what} and cannot be told apart; {remedy} \
                 all but the right one"
            );
            for claim in &believed {
                election.refused.push((claim.node, Arc::from(election.because.as_str())));
            }
        }
    }
    election
}

/// Why the claim is not believed, whatever the others say.
fn objection(claim: &Claim, known: &Known, highest: Option<Timeline>) -> Option<String> {
    let name = &claim.name;
    if let Some(system) = known.system
        && claim.system != system
    {
        return Some(foreign(name, claim.system, system));
    }
    // Another node that was the last primary, and where.
    let last = known.primary.as_ref().filter(|last| last.node != claim.node);
    let places = last.and_then(|last| last.position.as_ref().zip(claim.position.as_ref()));
    if !known.has_timelines {
        let lacks = places.is_some_and(|places| match places {
            (Position::Gtids(last), Position::Gtids(own)) => !own.includes(last),
            _ => false,
        });
        return (lacks && known.superseded.contains(&claim.node)).then(|| {
            format!(
                "{name} accepts writes, but another node became the primary after it and has \
                 transactions that it lacks: it is an old primary; make it read-only"
            )
        });
    }
    let Some(timeline) = claim.timeline else {
        return Some(format!("{name} accepts writes but does not tell its timeline"));
    };
    if let Some(highest) = highest
        && timeline < highest
    {
        return Some(format!(
            "{name} accepts writes on timeline {}, but timeline {} is known: it is an old primary",
            timeline.0, highest.0
        ));
    }
    // It has the key, and is or will be promoted; who still takes writes is about to lose them.
    if let Some(leader) = known.leader.as_ref().filter(|leader| leader.name != *name)
        && leader.timeline.is_some_and(|word| timeline <= word)
    {
        let leader = &leader.name;
        return Some(format!("{name} accepts writes, but Patroni's leader is {leader}"));
    }
    // The same timeline on another node is its data on a new host, or a copy that was started
    // beside it. A copy is behind.
    let behind = places.map_or(0, |(last, own)| last.ahead_of(own));
    if last.is_some_and(|last| last.timeline == Some(timeline)) && behind > 0 {
        return Some(format!(
            "{name} accepts writes on the same timeline {} as the last primary but is {behind} \
             bytes behind it: it is an older copy",
            timeline.0
        ));
    }
    None
}

/// Those of several claims that are left when each that is certainly not the primary's is refused.
fn tell_apart<'a>(
    claims: Vec<&'a Claim>,
    known: &Known,
    refused: &mut Vec<(NodeId, Arc<str>)>,
) -> Vec<&'a Claim> {
    let (old, new): (Vec<&Claim>, Vec<&Claim>) =
        claims.iter().partition(|claim| known.superseded.contains(&claim.node));
    let mut left = claims;
    if !new.is_empty() {
        for claim in old {
            let name = &claim.name;
            let reason = format!(
                "{name} accepts writes, but another node became the primary after it: make it read-only"
            );
            refused.push((claim.node, Arc::from(reason)));
        }
        left = new;
    }
    let objections: Vec<Option<String>> =
        left.iter().map(|claim| left.iter().find_map(|other| worse(claim, other))).collect();
    let mut kept = Vec::new();
    for (claim, objection) in left.into_iter().zip(objections) {
        match objection {
            None => kept.push(claim),
            Some(reason) => refused.push((claim.node, Arc::from(reason))),
        }
    }
    kept
}

/// Why the first of two claims is not the primary's, if the other one shows it.
fn worse(claim: &Claim, other: &Claim) -> Option<String> {
    let follows = |claim: &Claim, other: &Claim| {
        claim.upstreams.contains(&other.address) || claim.upstreams.contains(&other.id)
    };
    let (name, better) = (&claim.name, &other.name);
    match (follows(claim, other), follows(other, claim)) {
        // Each has all of the other's transactions sooner or later: that says nothing.
        (true, true) | (false, true) => return None,
        (true, false) => {
            return Some(format!(
                "{name} replicates from {better} and accepts writes as well: make it read-only"
            ));
        }
        (false, false) => {}
    }
    let (Some(Position::Gtids(own)), Some(Position::Gtids(theirs))) =
        (&claim.position, &other.position)
    else {
        return None;
    };
    (theirs.includes(own) && !own.includes(theirs)).then(|| {
        format!(
            "{name} accepts writes, and {better} has all of its transactions and more: make {name} \
             read-only"
        )
    })
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
    use crate::topology::Gtids;

    const SYSTEM: u64 = 7;

    fn claim(node: u16, system: u64, timeline: u32, flush: u64) -> Claim {
        let name: Arc<str> = Arc::from(["pg-a", "pg-b", "pg-c"][usize::from(node)]);
        let timeline = Timeline(timeline);
        Claim {
            node: NodeId(node),
            address: name.clone(),
            name,
            system,
            instance: u64::from(node),
            id: Arc::from(""),
            timeline: Some(timeline),
            position: Some(Position::Log { timeline, offset: flush }),
            upstreams: Vec::new(),
        }
    }

    struct Case {
        name: &'static str,
        claims: Vec<Claim>,
        timeline: Option<u32>,
        last: Option<(u16, u32, u64)>,
        leader: Option<(&'static str, u32)>,
        primary: Option<u16>,
        refused: &'static [u16],
        because: &'static str,
    }

    fn check(case: &Case) {
        let known = Known {
            has_timelines: true,
            system: Some(SYSTEM),
            timeline: case.timeline.map(Timeline),
            primary: case.last.map(|(node, timeline, offset)| LastPrimary {
                node: NodeId(node),
                timeline: Some(Timeline(timeline)),
                position: Some(Position::Log { timeline: Timeline(timeline), offset }),
            }),
            superseded: Vec::new(),
            leader: case.leader.map(|(name, timeline)| Leader {
                name: name.into(),
                timeline: Some(Timeline(timeline)),
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
            leader: None,
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
                    Claim { instance: 5, ..claim(0, SYSTEM, 2, 900) },
                    Claim { instance: 5, ..claim(1, SYSTEM, 2, 900) },
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
                name: "two on one timeline, one of them with the leader's key",
                claims: vec![claim(0, SYSTEM, 2, 900), claim(1, SYSTEM, 2, 900)],
                leader: Some(("pg-b", 2)),
                primary: Some(1),
                refused: &[0],
                ..none()
            },
            Case {
                name: "the key is another one's, who is not promoted yet",
                claims: vec![claim(0, SYSTEM, 2, 900)],
                timeline: Some(2),
                last: Some((0, 2, 900)),
                leader: Some(("pg-b", 2)),
                refused: &[0],
                because: "Patroni's leader is pg-b",
                ..none()
            },
            Case {
                name: "a promotion that is newer than the word",
                claims: vec![claim(0, SYSTEM, 2, 900), claim(1, SYSTEM, 3, 900)],
                leader: Some(("pg-a", 2)),
                primary: Some(1),
                refused: &[0],
                ..none()
            },
            Case {
                name: "the leader is of an old timeline",
                claims: vec![claim(0, SYSTEM, 2, 900)],
                timeline: Some(3),
                leader: Some(("pg-a", 2)),
                refused: &[0],
                because: "timeline 3 is known",
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
        let known = Known { has_timelines: true, system: Some(SYSTEM), ..Known::default() };
        assert_eq!(elect(&claims, &known).primary, None);
    }

    /// A claim of a server whose position is GTIDs, as `domain-server-sequence`.
    fn gtid_claim(node: u16, executed: &str, upstreams: &[&str]) -> Claim {
        let executed = Gtids::parse_heads(executed).unwrap();
        Claim {
            timeline: None,
            position: Some(Position::Gtids(Arc::new(executed))),
            upstreams: upstreams.iter().map(|name| Arc::from(*name)).collect(),
            id: Arc::from(["id-a", "id-b", "id-c"][usize::from(node)]),
            ..claim(node, 0, 0, 0)
        }
    }

    #[test]
    fn claims_without_timelines_are_told_apart_by_who_follows_whom_and_by_transactions() {
        let (a, b) = (|gtids| gtid_claim(0, gtids, &[]), |gtids| gtid_claim(1, gtids, &[]));
        let last = |node, gtids| {
            let Claim { node, position, .. } = gtid_claim(node, gtids, &[]);
            Some(LastPrimary { node, timeline: None, position })
        };
        // The claims, the last primary, who was superseded, the primary, the refused, why nobody.
        let table = [
            (vec![a("0-1-9")], None, vec![], Some(0), vec![], ""),
            (vec![a("0-1-9"), b("0-1-8")], None, vec![], Some(0), vec![1], ""),
            (vec![a("0-1-9"), b("0-1-9,0-2-10")], last(0, "0-1-9"), vec![], Some(1), vec![0], ""),
            (vec![a("0-1-9"), b("0-1-9")], None, vec![], None, vec![0, 1], "split brain: pg-a"),
            (vec![a("0-1-9"), b("0-1-8,0-2-9")], None, vec![], None, vec![0, 1], "split brain"),
            // One that is replicating is a replica that somebody has forgotten to protect.
            (
                vec![a("0-1-9"), gtid_claim(1, "0-1-9", &["pg-a"])],
                None,
                vec![],
                Some(0),
                vec![1],
                "",
            ),
            (
                vec![a("0-1-9"), gtid_claim(1, "0-1-9", &["id-a"])],
                None,
                vec![],
                Some(0),
                vec![1],
                "",
            ),
            (
                vec![gtid_claim(0, "0-1-9", &["pg-b"]), gtid_claim(1, "0-1-8", &["pg-a"])],
                None,
                vec![],
                None,
                vec![0, 1],
                "split brain",
            ),
            // The old primary had written what nobody got; it was primary before the other.
            (
                vec![a("0-1-9"), b("0-1-8,0-2-9")],
                last(1, "0-1-8,0-2-9"),
                vec![0],
                Some(1),
                vec![0],
                "",
            ),
            (
                vec![a("0-1-9")],
                last(1, "0-1-9,0-2-12"),
                vec![0],
                None,
                vec![0],
                "transactions that it lacks",
            ),
            (
                vec![a("0-1-9")],
                last(1, "0-1-8,0-2-9"),
                vec![0],
                None,
                vec![0],
                "it is an old primary",
            ),
            (vec![a("0-1-9,0-2-12")], last(1, "0-1-9,0-2-12"), vec![0], Some(0), vec![], ""),
            // A promotion that lost the last writes of the dead one is followed all the same.
            (vec![b("0-1-7")], last(0, "0-1-9"), vec![], Some(1), vec![], ""),
        ];
        for (index, (mut claims, last, superseded, primary, refused, because)) in
            table.into_iter().enumerate()
        {
            let superseded = superseded.into_iter().map(NodeId).collect();
            let known = Known { system: Some(0), primary: last, superseded, ..Known::default() };
            for _ in 0..2 {
                let election = elect(&claims, &known);
                assert_eq!(election.primary, primary.map(|node| (NodeId(node), None)), "{index}");
                let mut named: Vec<u16> = election.refused.iter().map(|(node, _)| node.0).collect();
                named.sort_unstable();
                assert_eq!(named, refused, "{index}: {election:?}");
                assert!(election.because.contains(because), "{index}: {election:?}");
                claims.reverse();
            }
        }
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
