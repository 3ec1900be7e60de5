//! What one probe of one node says, whatever the engine.
//!
//! Values only: how they are asked for is `postgres.rs` and `mysql.rs`, what follows from them
//! `verdict.rs`.

use crate::topology::{Gtids, Position, SessionDefaults, Timeline};
use std::sync::Arc;

/// A receiver that has its connection, in the words of `SHOW REPLICA STATUS`.
pub(super) const RECEIVES: &str = "Yes";

/// A receiver that waits for its upstream to let it in; PostgreSQL has no word for it.
pub(super) const CONNECTING: &str = "connecting";

/// The same in the words of `SHOW REPLICA STATUS`, whether it waits for an answer or to try again.
pub(super) const RETRIES: &str = "Connecting";

/// Errors of a receiver's client library (errmsg.h): nobody, or nothing sensible, has answered it.
const UNANSWERED: std::ops::Range<u32> = 2000..3000;

/// What a server says of itself once per connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Kept by every physical copy: nodes of one cluster have the same. Zero for all where servers
    /// have no such thing.
    pub system: u64,
    /// Two nodes with the same are one server under two names.
    pub instance: u64,
    /// The same as long as the server has neither restarted nor crashed; `None`: it does not tell.
    pub life: Option<i64>,
    /// What its replicas call it beside its address; empty if nothing.
    pub id: Arc<str>,
    /// In the server's own words.
    pub version: Arc<str>,
}

/// An answered probe.
#[derive(Debug, Clone)]
pub struct Report {
    pub identity: Arc<Identity>,
    pub timeline: Option<Timeline>,
    /// A proxy hands this primary's part over (`handover.rs`).
    pub handover: bool,
    pub state: State,
}

/// Offsets are record ends in bytes (`postgres.rs`, `record_end`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not in recovery.
    Primary {
        insert: u64,
        flush: u64,
        /// Up to which it has applied the log when it was a replica, or after a crash; `None` if it
        /// was neither since its start.
        recovered: Option<u64>,
    },
    /// In recovery.
    Replica {
        /// `None` before the first record was applied.
        replayed: Option<u64>,
        /// Up to which the receiver has written and flushed; `None` if nothing was streamed.
        received: Option<u64>,
        replay_paused: bool,
        /// Everything that was received is applied as far as it forms whole records. `None`: the
        /// service user may not see it (`pg_monitor`).
        waits_for_log: Option<bool>,
        receiver: Option<Receiver>,
    },
    /// A server that replicates by GTID.
    Gtids(GtidState),
}

/// What a server that replicates by GTID says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GtidState {
    /// It takes writes.
    pub writable: bool,
    /// What it has committed, of its own and of others; on a server that is not writable what it
    /// has applied. `None`: it keeps no GTIDs.
    pub executed: Option<Arc<Gtids>>,
    /// What its sessions begin with.
    pub session_defaults: Arc<SessionDefaults>,
    /// From whom it replicates. `None`: the service user may not see it.
    pub replication: Option<Vec<Replication>>,
}

/// One upstream of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replication {
    /// `host:port`.
    pub upstream: Arc<str>,
    /// [`Identity::id`] of the upstream; empty before the first connection.
    pub upstream_id: Arc<str>,
    /// `Yes`, `No`, `Connecting`.
    pub receives: Arc<str>,
    /// Number of the receiver's last error; 0 if there is none since it was started.
    pub receiver_errno: u32,
    pub applies: bool,
    /// It applies everything this many seconds late, because it was told to.
    pub delay_s: u64,
    /// The last error of the receiver or the applier; empty if there is none.
    pub error: Arc<str>,
}

/// A replica's connection to its upstream. The fields are `None` when the service user may not
/// see them (`pg_monitor`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// `streaming` in the normal case.
    pub status: Option<Arc<str>>,
    /// `host:port`, for people.
    pub upstream: Option<Arc<str>>,
    /// Another one for each connection that it has made; `None` while it waits to be let in.
    pub pid: Option<i32>,
}

/// How far a replica is, for the two questions that are asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Everything up to here is applied and visible.
    pub replayed: Position,
    /// As far as lag goes. A primary may have sent half of a record whose rest it has not written
    /// yet; a replica that waits for more has applied all there is.
    pub caught_up_to: Position,
}

impl Report {
    /// Whether it takes no writes.
    pub fn is_replica(&self) -> bool {
        match &self.state {
            State::Primary { .. } => false,
            State::Replica { .. } => true,
            State::Gtids(state) => !state.writable,
        }
    }

    pub fn session_defaults(&self) -> Option<Arc<SessionDefaults>> {
        match &self.state {
            State::Primary { .. } | State::Replica { .. } => None,
            State::Gtids(state) => Some(state.session_defaults.clone()),
        }
    }

    /// Whether it takes no writes and is not known to receive from nobody.
    pub fn follows(&self) -> bool {
        match &self.state {
            State::Gtids(state) => {
                !state.writable && state.replication.as_ref().is_none_or(|all| !all.is_empty())
            }
            _ => self.is_replica(),
        }
    }

    /// Where it is: what it has written, or what it has applied.
    pub fn position(&self) -> Option<Position> {
        match &self.state {
            State::Primary { insert, .. } => self.log(*insert),
            State::Replica { replayed, .. } => self.log((*replayed)?),
            State::Gtids(state) => state.executed.clone().map(Position::Gtids),
        }
    }

    /// How far the other servers can be that have everything: what it has flushed, or executed.
    pub fn flushed(&self) -> Option<Position> {
        match &self.state {
            State::Primary { insert, flush, .. } => self.log(*flush.min(insert)),
            State::Replica { .. } | State::Gtids(_) => self.position(),
        }
    }

    /// `None` for a server that takes writes, and for a replica that has applied nothing.
    pub fn reach(&self) -> Option<Reach> {
        let replayed = self.position().filter(|_| self.is_replica())?;
        let caught_up_to = match (&self.state, &replayed) {
            (
                State::Replica { waits_for_log: Some(true), received: Some(received), .. },
                Position::Log { timeline, offset },
            ) => Position::Log { timeline: *timeline, offset: (*received).max(*offset) },
            _ => replayed.clone(),
        };
        Some(Reach { replayed, caught_up_to })
    }

    fn log(&self, offset: u64) -> Option<Position> {
        Some(Position::Log { timeline: self.timeline?, offset })
    }

    /// Addresses and ids of those from whom a server replicates by GTID, as far as it is told.
    pub fn upstreams(&self) -> Vec<Arc<str>> {
        let State::Gtids(state) = &self.state else { return Vec::new() };
        let names = |channel: &Replication| [channel.upstream.clone(), channel.upstream_id.clone()];
        let names = state.channels().iter().flat_map(names);
        names.filter(|name| !name.is_empty()).collect()
    }

    /// Whether it is a replica that receives from something else than these `host:port`s. What
    /// the service user may not see is taken for a running receiver.
    pub fn receives(&self, except: &[&str]) -> bool {
        match &self.state {
            State::Primary { .. } | State::Replica { receiver: None, .. } => false,
            State::Replica { receiver: Some(receiver), .. } => {
                receiver.status.as_deref().is_none_or(|status| status == "streaming")
                    && receiver
                        .upstream
                        .as_deref()
                        .is_none_or(|upstream| !except.contains(&upstream))
            }
            State::Gtids(state) => {
                let receives = |channel: &Replication| {
                    &*channel.receives == RECEIVES && !except.contains(&&*channel.upstream)
                };
                !state.writable
                    && state.replication.as_ref().is_none_or(|all| all.iter().any(receives))
            }
        }
    }

    /// Whether it is a replica that waits for its upstream to let it in. One that is turned away
    /// has an upstream that lives.
    pub fn is_connecting(&self) -> bool {
        match &self.state {
            State::Primary { .. } | State::Replica { receiver: None, .. } => false,
            State::Replica { receiver: Some(receiver), .. } => {
                receiver.status.as_deref() == Some(CONNECTING)
            }
            State::Gtids(state) => {
                let waits = |channel: &Replication| {
                    let errno = channel.receiver_errno;
                    &*channel.receives == RETRIES && (errno == 0 || UNANSWERED.contains(&errno))
                };
                let channels = state.channels();
                !state.writable && !channels.is_empty() && channels.iter().all(waits)
            }
        }
    }

    /// What may explain a replica's lag; empty or beginning with `; `.
    pub fn remarks(&self) -> String {
        let mut remarks = String::new();
        match &self.state {
            State::Primary { .. } => {}
            State::Replica { replay_paused, receiver, .. } => {
                if *replay_paused {
                    remarks += "; replay is paused";
                }
                match receiver {
                    None => remarks += "; it receives from nobody",
                    Some(Receiver { status: Some(status), .. }) if &**status != "streaming" => {
                        remarks += &format!("; its receiver is {status}");
                    }
                    Some(_) => {}
                }
            }
            State::Gtids(state) => state.remark(&mut remarks),
        }
        remarks
    }
}

impl GtidState {
    fn channels(&self) -> &[Replication] {
        self.replication.as_deref().unwrap_or_default()
    }

    fn remark(&self, remarks: &mut String) {
        if self.executed.is_none() {
            *remarks += "; it keeps no GTIDs";
        }
        if self.replication.as_ref().is_some_and(Vec::is_empty) {
            *remarks += "; it receives from nobody";
        }
        for channel in self.channels() {
            let Replication { upstream, receives, applies, delay_s, error, .. } = channel;
            match &**receives {
                RECEIVES => {}
                "No" => *remarks += &format!("; its receiver from {upstream} is stopped"),
                _ => *remarks += &format!("; its receiver cannot connect to {upstream}"),
            }
            if !applies {
                *remarks += "; its applier is stopped";
            }
            if *delay_s > 0 {
                *remarks += &format!("; it is told to apply {delay_s} s late");
            }
            if !error.is_empty() {
                *remarks += &format!(": {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_that_is_turned_away_has_an_upstream_that_lives() {
        // Each channel's word and the number of its receiver's error; whether it waits to be let in.
        let table: &[(&[(&str, u32)], bool)] = &[
            (&[], false),
            (&[("Yes", 0)], false),
            (&[("No", 0)], false),
            (&[("Preparing", 0)], false),
            (&[("Connecting", 0)], true),
            // Connection refused; no greeting.
            (&[("Connecting", 2003)], true),
            (&[("Connecting", 2013)], true),
            // Wrong password, too many connections.
            (&[("Connecting", 1045)], false),
            (&[("Connecting", 1040)], false),
            (&[("Connecting", 0), ("Yes", 0)], false),
        ];
        for (channels, expected) in table {
            let channel = |&(receives, receiver_errno): &(&str, u32)| Replication {
                upstream: Arc::from("10.0.0.1:3306"),
                upstream_id: Arc::from(""),
                receives: Arc::from(receives),
                receiver_errno,
                applies: true,
                delay_s: 0,
                error: Arc::from(""),
            };
            let identity =
                Identity { system: 0, instance: 1, life: None, id: "".into(), version: "".into() };
            for writable in [false, true] {
                let state = State::Gtids(GtidState {
                    writable,
                    executed: None,
                    session_defaults: Arc::from([]),
                    replication: Some(channels.iter().map(channel).collect()),
                });
                let report = Report {
                    identity: Arc::new(identity.clone()),
                    timeline: None,
                    handover: false,
                    state,
                };
                assert_eq!(report.is_connecting(), *expected && !writable, "{channels:?}");
            }
        }
    }
}
