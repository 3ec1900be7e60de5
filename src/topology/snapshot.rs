//! Values of a snapshot: nodes with role, health, position and lag.

use super::Gtids;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Index of a node in its cluster's configuration. Stable until the configuration changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u16);

/// Grows each time the primary changes; a connection opened under an older epoch never writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Epoch(pub u64);

/// A branch of the write-ahead log; a promotion starts a new, higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timeline(pub u32);

/// What a node is, as probed. Never taken from the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Primary,
    Replica,
    /// Not probed yet, unreachable for too long, or not to be trusted (a returned old primary).
    Unknown,
}

/// Whether a node answers its probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// No probe has been answered or has failed often enough yet.
    Unknown,
    Healthy,
    /// The reason is a sentence for people: the last probe's error, or why it was refused.
    Unhealthy {
        reason: Arc<str>,
    },
}

/// How far a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// Write-ahead log: the timeline and the byte offset up to which the node wrote (primary) or
    /// applied (replica).
    Log { timeline: Timeline, offset: u64 },
    /// The transactions that the node has executed.
    Gtids(Arc<Gtids>),
}

/// Age of the newest primary position that the node has applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    /// What cannot be determined is infinite.
    Unknown,
    Known {
        /// Zero when the node has applied the newest sample of the primary.
        age: Duration,
        /// Distance to the newest sample of the primary in bytes, where positions are offsets.
        bytes: Option<u64>,
    },
}

/// What waits at the gate although there is a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hold {
    #[default]
    Nothing,
    /// Whatever needs the primary: it is being changed.
    Writes,
    /// Every request that no server connection is held for: an operator has paused the cluster.
    Everything,
}

/// A primary that is one no more, while there is no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    pub node: NodeId,
    /// When the last probe was started that it has answered.
    pub seen_at: Option<Instant>,
    /// It does not answer; otherwise it does, but as something else or under an objection.
    pub silent: bool,
    /// It answers neither the proxy nor the replicas that want to be let in, and was given time.
    pub frozen: bool,
    /// A replica that answers still receives from something that is no known replica.
    pub followed: bool,
}

/// What a server's new sessions begin with, of the variables that decide how a text is read or
/// where it may run: names and values.
pub type SessionDefaults = [(&'static str, Box<str>)];

/// Up to where the log of a primary before is also the log of the one of now: what stands there
/// before `at` has happened, what does not never will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Branch {
    /// The primary before, and its timeline.
    pub node: NodeId,
    pub timeline: Timeline,
    /// The end of the last record that the primary of now has applied as a replica.
    pub at: u64,
    /// What is known of where it has that log from.
    pub descent: Option<Descent>,
    /// More of that will be known once the primary before has answered.
    pub is_open: bool,
}

/// Up to where a server's log is that of one life of another: behind that it may be what the other
/// has written in the same places after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descent {
    pub node: NodeId,
    /// [`Node::life`] of the other.
    pub life: u64,
    pub up_to: u64,
}

/// One server of a cluster at one moment.
#[derive(Debug, Clone)]
pub struct Node {
    pub id: NodeId,
    pub name: Arc<str>,
    /// Address as configured, for people (`10.0.0.1:5432`, `/run/db`).
    pub address: Arc<str>,
    pub zone: Option<Arc<str>>,
    pub weight: u32,
    pub role: Role,
    pub health: Health,
    /// Whether reads may be sent here as far as health and lag with hysteresis go.
    pub in_read_set: bool,
    /// Why the node is out of the read set, for people; empty when it is in.
    pub out_because: Arc<str>,
    pub position: Option<Position>,
    pub lag: Lag,
    /// When the newest primary sample that this node has applied was *started*. Everything that
    /// was acknowledged before that instant is visible here. `None`: nothing is known.
    pub applied_at: Option<Instant>,
    /// The primary has written in one order only since it is the primary: of its transactions, who
    /// has applied everything up to one has all that was visible before it.
    pub in_order: bool,
    /// Grows whenever the node restarted or its probe connection was opened anew: a restarted
    /// replica may show older data than it did before.
    pub incarnation: u64,
    /// Grows by one whenever the node has crashed or restarted, and by two where that may have happened
    /// more than once. Where its life is not told (`pg_monitor`), each probe connection is one.
    pub life: u64,
    /// What the server calls its version; `None` before the first probe.
    pub version: Option<Arc<str>>,
    /// `None` before the first probe, and where it is not asked for.
    pub session_defaults: Option<Arc<SessionDefaults>>,
    /// Smoothed time of a probe's round trip.
    pub round_trip: Duration,
    /// An operator has taken it out of service: as a replica it gets nothing new.
    pub drained: bool,
    /// An operator has paused it: as the primary it gets no new requests either.
    pub paused: bool,
    /// A proxy, maybe this one, says that it hands the part of this primary to another node.
    pub handover: bool,
}

/// Immutable picture of a cluster.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Grows with every published snapshot.
    pub version: u64,
    pub epoch: Epoch,
    pub primary: Option<NodeId>,
    /// Why there is no primary (none found, split brain in words); empty when there is one.
    pub no_primary_because: Arc<str>,
    pub hold: Hold,
    /// An operator has drained the cluster: it has no clients, or soon none.
    pub closed: bool,
    /// The primary that is missed; `None` while there is one, and before the first.
    pub lost: Option<Lost>,
    /// `None`: the primary is the first, or nobody has seen its promotion from before to after.
    pub branch: Option<Branch>,
    /// The timeline of this epoch's primary, also while that does not answer.
    pub timeline: Option<Timeline>,
    /// In the order of the configuration: `nodes[id.0]` has that id.
    pub nodes: Vec<Node>,
    /// When the last primary change was seen, and a sentence that tells it.
    pub last_change: Option<(Instant, Arc<str>)>,
}

impl Snapshot {
    /// What sessions begin with: on the primary, or on any server while there is none.
    pub fn session_defaults(&self) -> Option<&Arc<SessionDefaults>> {
        let primary = self.primary.map(|primary| self.node(primary));
        let mut told = primary.into_iter().chain(&self.nodes);
        told.find_map(|node| node.session_defaults.as_ref())
    }

    /// One of these.
    pub fn session_default(&self, name: &str) -> Option<&str> {
        let mut all = self.session_defaults()?.iter();
        all.find(|(of, _)| *of == name).map(|(_, value)| &**value)
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[usize::from(id.0)]
    }

    pub fn node_by_name(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| &*node.name == name)
    }

    /// The primary, if requests may go to it now.
    pub fn open_primary(&self) -> Option<NodeId> {
        self.primary.filter(|_| self.hold == Hold::Nothing)
    }

    /// Why requests that need the primary wait.
    pub fn closed_because(&self) -> &str {
        match (self.primary, self.hold) {
            (None, _) => &self.no_primary_because,
            (_, Hold::Nothing) => "",
            (Some(primary), Hold::Writes) if self.node(primary).paused => {
                "an operator has paused the primary"
            }
            (_, Hold::Writes) => "the primary is being changed",
            (_, Hold::Everything) => "an operator has paused the cluster",
        }
    }

    /// Replicas that answer and are in service, whatever their lag.
    pub fn healthy_replicas(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| {
            node.role == Role::Replica && node.health == Health::Healthy && !node.drained
        })
    }
}

impl Position {
    /// Whether a node that is here shows everything that one there does. Places on different
    /// timelines are not comparable.
    pub fn covers(&self, other: &Position) -> bool {
        match (self, other) {
            (
                Position::Log { timeline, offset },
                Position::Log { timeline: branch, offset: place },
            ) => timeline == branch && offset >= place,
            (Position::Gtids(own), Position::Gtids(others)) => {
                Arc::ptr_eq(own, others) || own.covers(others)
            }
            _ => false,
        }
    }

    /// How far this is ahead of the other: in bytes, or in transactions. Zero if it is not.
    pub fn ahead_of(&self, other: &Position) -> u64 {
        match (self, other) {
            (Position::Log { offset, .. }, Position::Log { offset: place, .. }) => {
                offset.saturating_sub(*place)
            }
            (Position::Gtids(own), Position::Gtids(others)) => own.count_beyond(others),
            _ => 0,
        }
    }

    /// In how many sources of transactions this goes beyond the other.
    pub fn sources_beyond(&self, other: &Position) -> usize {
        match (self, other) {
            (Position::Gtids(own), Position::Gtids(others)) => own.sources_beyond(others),
            _ => usize::from(self != other),
        }
    }

    pub fn timeline(&self) -> Option<Timeline> {
        match self {
            Position::Log { timeline, .. } => Some(*timeline),
            Position::Gtids(_) => None,
        }
    }
}

/// As the servers write it; an offset without its timeline.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Log { offset, .. } => {
                write!(f, "{:X}/{:X}", offset >> 32, offset & 0xffff_ffff)
            }
            Position::Gtids(gtids) => gtids.fmt(f),
        }
    }
}

impl Lag {
    pub const ZERO: Lag = Lag::Known { age: Duration::ZERO, bytes: Some(0) };

    /// Whether the lag is within both bounds. Unknown never is.
    pub fn within(self, age_max: Duration, bytes_max: Option<u64>) -> bool {
        match self {
            Lag::Unknown => false,
            Lag::Known { age, bytes } => {
                age <= age_max
                    && bytes_max.is_none_or(|limit| bytes.is_some_and(|bytes| bytes <= limit))
            }
        }
    }
}
