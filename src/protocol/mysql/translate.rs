//! Replies for a client that negotiated less than the proxy did with the server: an EOF behind
//! definitions and rows instead of none and an OK, and only those trackers that it asked for.
//!
//! Where a packet is put in, the sequence ids of what follows move up; what the client sends in
//! the middle of a reply moves down again. Rows stay where they are: their heads are renumbered in
//! place.

use super::capabilities::{Capabilities, Status};
use super::packet::{self, HEAD_BYTES};
use super::replies::Told;
use super::reply::{EOF, OkPacket, Tracked, put_eof};
use std::collections::BTreeSet;

/// Which trackers a client sees: those that the server would have had on for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visible {
    pub variables: VisibleVariables,
    pub schema: bool,
    pub state_change: bool,
    pub gtids: bool,
    pub characteristics: bool,
    pub transaction_state: bool,
}

/// `session_track_system_variables`, as the client has set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VisibleVariables {
    /// `*`.
    All,
    /// In lower case.
    These(BTreeSet<Box<[u8]>>),
}

/// The default of `session_track_system_variables`, on MySQL and MariaDB.
const VARIABLES_DEFAULT: &[&[u8]] = &[
    b"time_zone",
    b"autocommit",
    b"character_set_client",
    b"character_set_results",
    b"character_set_connection",
];

impl Default for Visible {
    fn default() -> Visible {
        let names = VARIABLES_DEFAULT.iter().map(|name| Box::from(*name)).collect();
        Visible {
            variables: VisibleVariables::These(names),
            schema: true,
            state_change: false,
            gtids: false,
            characteristics: false,
            transaction_state: false,
        }
    }
}

impl Visible {
    /// The client sets this `session_track_…` variable; `None`: to its default.
    pub fn set(&mut self, name: &str, value: Option<&str>) {
        let value = value.map(|value| value.trim_matches('\'').to_ascii_lowercase());
        let on = matches!(value.as_deref(), Some("1" | "on" | "true"));
        let default = Visible::default();
        match name {
            "session_track_schema" => {
                self.schema = value.as_ref().map_or(default.schema, |_| on);
            }
            "session_track_state_change" => self.state_change = on,
            "session_track_gtids" => {
                self.gtids = value.as_ref().is_some_and(|value| value != "off");
            }
            "session_track_transaction_info" => {
                self.characteristics = value.as_deref() == Some("characteristics");
                self.transaction_state = self.characteristics || value.as_deref() == Some("state");
            }
            "session_track_system_variables" => {
                self.variables = match value.as_deref() {
                    None => default.variables,
                    Some("*") => VisibleVariables::All,
                    Some(names) => VisibleVariables::These(
                        names.split(',').map(|name| name.trim().as_bytes().into()).collect(),
                    ),
                };
            }
            _ => {}
        }
    }
}

impl Visible {
    /// Whether the client sees the entry. What is not known is not shown: nobody asked for it.
    fn shows(&self, tracked: Option<Tracked<'_>>) -> bool {
        match tracked {
            Some(Tracked::Variable { name, .. }) => match &self.variables {
                VisibleVariables::All => true,
                VisibleVariables::These(names) => names.contains(name),
            },
            Some(Tracked::Schema(_)) => self.schema,
            Some(Tracked::StateChange(_)) => self.state_change,
            Some(Tracked::Gtids(_)) => self.gtids,
            Some(Tracked::Characteristics(_)) => self.characteristics,
            Some(Tracked::TransactionState(_)) => self.transaction_state,
            None => false,
        }
    }
}

/// What a status says of the session; the rest is about one statement.
const LASTING: Status = Status::IN_TRANS
    .with(Status::AUTOCOMMIT)
    .with(Status::IN_TRANS_READONLY)
    .with(Status::NO_BACKSLASH_ESCAPES)
    .with(Status::ANSI_QUOTES);

/// What one client makes of replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation {
    client: Capabilities,
    /// How many packets the client was given more than the server sent, in this command.
    shift: u8,
    /// Bytes still to come of the packet that passes.
    passing: usize,
    /// Of the last OK, what lasts: an EOF in the middle of a reply says it.
    status: Status,
    /// Of the last packet that the client was given.
    sequence: u8,
    /// Entries of trackers for the packet at hand; its memory is used again.
    kept: Vec<u8>,
}

/// No more memory than this is kept for the next packet.
const KEPT_BYTES_MAX: usize = 4096;

impl Translation {
    pub fn new(client: Capabilities) -> Translation {
        let status = Status::AUTOCOMMIT;
        Translation { client, shift: 0, passing: 0, status, sequence: 0, kept: Vec::new() }
    }

    /// The session begins anew, with these flags.
    pub fn set_status(&mut self, status: Status) {
        self.status = status;
    }

    /// Whether the open transaction only reads, as the server has said last.
    pub fn is_read_only(&self) -> bool {
        self.status.has(Status::IN_TRANS_READONLY)
    }

    /// Another command's reply begins.
    pub fn begin(&mut self) {
        self.shift = 0;
        self.passing = 0;
    }

    /// The server's sequence id of a packet that the client sends within a reply.
    pub fn to_server(&self, sequence: u8) -> u8 {
        sequence.wrapping_sub(self.shift)
    }

    /// The sequence id that the client expects next, in place of `server`'s next.
    pub fn to_client(&self, server: u8) -> u8 {
        server.wrapping_add(self.shift)
    }

    /// Renumbers what passes, as [`super::replies::Reply::step`] gave it out.
    pub fn plain(&mut self, bytes: &mut [u8]) {
        if self.shift == 0 && self.client.has(Capabilities::DEPRECATE_EOF) {
            return;
        }
        let mut at = self.passing;
        while let Some(head) = bytes.get(at..).and_then(packet::head) {
            self.sequence = self.to_client(head.sequence);
            bytes[at + 3] = self.sequence;
            at += head.bytes();
        }
        self.passing = at.saturating_sub(bytes.len());
    }

    /// Whether the client gets something else than `packet`, which is appended to `out`.
    pub fn told(
        &mut self,
        told: &Told<'_>,
        packet: &[u8],
        visible: &Visible,
        out: &mut Vec<u8>,
    ) -> bool {
        let old = !self.client.has(Capabilities::DEPRECATE_EOF);
        if let Some(head) = packet::head(packet) {
            self.sequence = self.to_client(head.sequence);
        }
        match told {
            Told::DefinitionsEnd => {
                if old {
                    let mut sequence = self.sequence.wrapping_add(1);
                    put_eof(out, &mut sequence, 0, self.status);
                    self.sequence = self.sequence.wrapping_add(1);
                    self.shift = self.shift.wrapping_add(1);
                }
                return old;
            }
            Told::Ok(ok) => {
                self.status = Status(ok.status.0 & LASTING.0);
                let mut sequence = self.sequence;
                if old && ok.header == EOF {
                    put_eof(out, &mut sequence, ok.warnings, ok.status);
                    return true;
                }
                if self.filter(ok, visible) {
                    OkPacket { track: &self.kept, ..*ok }.put(out, &mut sequence, self.client);
                    return true;
                }
            }
            _ => {}
        }
        if self.shift == 0 {
            return false;
        }
        out.extend_from_slice(&packet[..HEAD_BYTES - 1]);
        out.push(self.sequence);
        out.extend_from_slice(&packet[HEAD_BYTES..]);
        true
    }

    /// Leaves in `kept` the entries that the client sees, unless those are all that there are.
    fn filter(&mut self, ok: &OkPacket<'_>, visible: &Visible) -> bool {
        if !ok.status.has(Status::STATE_CHANGED) {
            return false;
        }
        self.kept.clear();
        self.kept.shrink_to(KEPT_BYTES_MAX);
        if self.client.has(Capabilities::SESSION_TRACK) {
            for entry in ok.entries().filter(|entry| visible.shows(entry.tracked)) {
                entry.put(&mut self.kept);
            }
        }
        self.kept.len() != ok.track.len() || self.kept.is_empty()
    }
}

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;
