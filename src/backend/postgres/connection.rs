//! A server connection and what is known of its state: settings, prepared statements, age.

use super::auth::ServerSecret;
use super::connect::{self, ConnectError, Target};
use crate::backend::stream::{Detached, Stream};
use crate::backend::{Fault, Life, Opening, ServerConnection};
use crate::config::Address;
use crate::config::tls::ServerTlsConnector;
use crate::session::Settings;
use crate::sql::is_readable_encoding;
use crate::topology::NodeId;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

/// A parameter that tells where a connection happens to be, not what the session is. A client of
/// the proxy has no such place.
const PARAMETER_OF_PLACE: &[u8] = b"in_hot_standby";

/// How long the server may take to take a cancel request.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Parameters as the server reported them (ParameterStatus), without those of the place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reported {
    values: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// `standard_conforming_strings`: whether a backslash in a string is itself.
    pub standard_strings: bool,
    /// Whether texts in this `client_encoding` can be classified.
    pub is_readable: bool,
}

impl Default for Reported {
    fn default() -> Reported {
        Reported { values: BTreeMap::new(), standard_strings: true, is_readable: true }
    }
}

impl Reported {
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.values.get(name).map(|value| &**value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.values.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether something changed.
    pub fn set(this: &mut Arc<Reported>, name: &[u8], value: &[u8]) -> bool {
        if name == PARAMETER_OF_PLACE || this.get(name) == Some(value) {
            return false;
        }
        let this = Arc::make_mut(this);
        match name {
            b"standard_conforming_strings" => this.standard_strings = value != b"off",
            b"client_encoding" => {
                this.is_readable = is_readable_encoding(&String::from_utf8_lossy(value));
            }
            _ => {}
        }
        this.values.insert(name.into(), value.into());
        true
    }
}

/// What it takes to cancel a statement of a connection.
#[derive(Debug)]
pub struct CancelKey {
    address: Address,
    tls: Arc<ServerTlsConnector>,
    process_id: i32,
    key: Box<[u8]>,
}

impl CancelKey {
    /// The process that serves the connection.
    pub fn process_id(&self) -> i32 {
        self.process_id
    }

    /// Returns when the server has sent the signal, or has not within a bound.
    pub async fn cancel(&self) -> Result<(), ConnectError> {
        let CancelKey { address, tls, process_id, key } = self;
        connect::cancel(address, tls, *process_id, key, CANCEL_TIMEOUT).await
    }
}

/// A prepared statement of a connection.
#[derive(Debug, Clone, Copy)]
struct Made {
    used: u64,
    /// The count of changes of plans when it was prepared.
    plans: u64,
}

/// Prepared statements that a connection has, by id, bounded; the least recently used goes first.
#[derive(Debug, Default)]
pub struct PreparedOnServer {
    by_id: HashMap<u64, Made, foldhash::fast::RandomState>,
    clock: u64,
    /// The same names may mean other tables by now, and the server has not noticed.
    pub are_outdated: bool,
}

impl PreparedOnServer {
    /// Whether the statement is there; it counts as used.
    pub fn touch(&mut self, id: u64) -> bool {
        self.clock += 1;
        match self.by_id.get_mut(&id) {
            Some(made) => {
                made.used = self.clock;
                true
            }
            None => false,
        }
    }

    /// The count of changes of plans when the statement was prepared, if it is there.
    pub fn plans(&self, id: u64) -> Option<u64> {
        self.by_id.get(&id).map(|made| made.plans)
    }

    /// Adds a statement; gives the one that must be closed to stay within `limit`.
    pub fn insert(&mut self, id: u64, plans: u64, limit: usize) -> Option<u64> {
        self.clock += 1;
        self.by_id.insert(id, Made { used: self.clock, plans });
        if self.by_id.len() <= limit {
            return None;
        }
        let oldest = self.by_id.iter().min_by_key(|(_, made)| made.used).map(|(id, _)| *id)?;
        self.by_id.remove(&oldest);
        Some(oldest)
    }

    pub fn remove(&mut self, id: u64) {
        self.by_id.remove(&id);
    }

    pub fn clear(&mut self) {
        self.by_id.clear();
    }

    /// Gives up all of them.
    pub fn take(&mut self) -> Vec<u64> {
        self.by_id.drain().map(|(id, _)| id).collect()
    }
}

/// The client's name of a statement, and the statement's number among the client's.
#[derive(Debug)]
pub struct OwnName {
    pub name: Box<[u8]>,
    pub serial: u64,
}

/// Which defaults of roles and databases (ALTER ROLE … SET) a connection was opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenedWith {
    /// The catalog had not been loaded: those that it then had first.
    First,
    /// Perhaps older ones than the primary had: the replica had not applied them for certain.
    Older,
    Known(u64),
}

/// The defaults that a session is to have.
#[derive(Debug, Clone, Copy)]
pub struct WantedDefaults {
    pub number: u64,
    pub first: u64,
    /// Whether the node has them for certain.
    pub applied: bool,
}

impl WantedDefaults {
    /// Whether a connection has them, as far as the node can give them.
    pub fn has(self, opened: OpenedWith) -> bool {
        !self.applied
            || match opened {
                OpenedWith::First => self.number == self.first,
                OpenedWith::Older => false,
                OpenedWith::Known(number) => number == self.number,
            }
    }

    /// What a connection has that is opened now.
    pub fn opened(wanted: Option<WantedDefaults>) -> OpenedWith {
        match wanted {
            None => OpenedWith::First,
            Some(wanted) if wanted.applied => OpenedWith::Known(wanted.number),
            Some(_) => OpenedWith::Older,
        }
    }
}

/// What the last session may have left on a connection beyond what is followed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traces {
    /// Process id of the session, in the proxy.
    pub owner: Option<i32>,
    /// A function of the users' own ran: it may have left anything.
    pub unknown: bool,
    /// It has just written: sequences may have a state.
    pub wrote: bool,
}

/// One connection, in the hands of exactly one owner: a pool or a client's conversation. What is
/// known of it is reached as its own fields.
#[derive(Debug)]
pub struct Connection {
    pub stream: Stream,
    pub state: State,
}

/// What is known of a connection, in whichever thread it is.
#[derive(Debug)]
pub struct State {
    pub node: NodeId,
    pub life: Life,
    pub cancel: Arc<CancelKey>,
    /// What has been SET on it; `None`: not known, to be set from scratch.
    pub settings: Option<Arc<Settings>>,
    pub reported: Arc<Reported>,
    pub prepared: PreparedOnServer,
    /// The statement in the unnamed slot.
    pub unnamed: Option<u64>,
    /// Statements that are there under the names that a client gave them, until the end of a
    /// request.
    pub under_own_names: Vec<OwnName>,
    /// Who used it last, and what may be left of it.
    pub traces: Traces,
    /// The defaults of roles and databases with which it was opened.
    pub defaults: OpenedWith,
}

impl State {
    /// Whether a statement is there under its client's name.
    pub fn has_own_name(&self, serial: u64) -> bool {
        self.under_own_names.iter().any(|own| own.serial == serial)
    }

    pub fn add_own_name(&mut self, name: &[u8], serial: u64) {
        self.under_own_names.push(OwnName { name: name.into(), serial });
    }
}

impl Deref for Connection {
    type Target = State;

    #[inline]
    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Connection {
    #[inline]
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

/// A connection on its way from one worker to another.
#[derive(Debug)]
pub struct DetachedConnection {
    stream: Detached,
    state: State,
}

impl ServerConnection for Connection {
    type Secret = ServerSecret;
    type Wanted = WantedDefaults;
    type Detached = DetachedConnection;
    type Error = ConnectError;

    const OWN_IS_BEST: bool = false;

    async fn open(opening: Opening<'_, Connection>) -> Result<Box<Connection>, ConnectError> {
        let established = connect::connect(&Target {
            address: opening.address,
            tls: opening.tls,
            user: opening.user,
            database: opening.database,
            secret: opening.secret,
            parameters: &[],
            timeout: opening.timeout,
        })
        .await?;
        let mut reported = Arc::new(Reported::default());
        for (name, value) in &established.parameters {
            Reported::set(&mut reported, name, value);
        }
        let state = State {
            node: opening.node,
            life: Life::begin(opening.epoch, opening.lifetime),
            cancel: Arc::new(CancelKey {
                address: opening.address.clone(),
                tls: opening.tls.clone(),
                process_id: established.process_id,
                key: established.secret_key,
            }),
            settings: Some(Arc::default()),
            reported,
            prepared: PreparedOnServer::default(),
            unnamed: None,
            under_own_names: Vec::new(),
            traces: Traces::default(),
            defaults: WantedDefaults::opened(opening.wanted),
        };
        Ok(Box::new(Connection { stream: established.stream, state }))
    }

    fn fault(error: &ConnectError) -> Fault {
        error.fault()
    }

    #[inline]
    fn life(&self) -> &Life {
        &self.state.life
    }

    #[inline]
    fn life_mut(&mut self) -> &mut Life {
        &mut self.state.life
    }

    #[inline]
    fn has(&self, wanted: WantedDefaults) -> bool {
        wanted.has(self.state.defaults)
    }

    #[inline]
    fn owner(&self) -> Option<i32> {
        self.state.traces.owner
    }

    #[inline]
    fn take_wrote(&mut self) -> bool {
        std::mem::take(&mut self.state.traces.wrote)
    }

    fn is_untouched(&self) -> bool {
        !self.stream.looks_readable()
    }

    fn detach(self) -> io::Result<DetachedConnection> {
        let Connection { stream, state } = self;
        Ok(DetachedConnection { stream: stream.detach()?, state })
    }

    fn attach(detached: DetachedConnection) -> io::Result<Box<Connection>> {
        let DetachedConnection { stream, state } = detached;
        Ok(Box::new(Connection { stream: Stream::attach(stream)?, state }))
    }
}

#[cfg(test)]
mod tests {
    use super::{PreparedOnServer, Reported};
    use std::sync::Arc;

    #[test]
    fn the_least_recently_used_statement_goes() {
        let mut prepared = PreparedOnServer::default();
        assert_eq!(prepared.insert(1, 7, 2), None);
        assert_eq!(prepared.insert(2, 7, 2), None);
        assert!(prepared.touch(1));
        assert_eq!(prepared.insert(3, 8, 2), Some(2));
        assert_eq!([1, 2, 3].map(|id| prepared.plans(id)), [Some(7), None, Some(8)]);
        assert!(!prepared.touch(2) && prepared.touch(1));
    }

    #[test]
    fn where_a_connection_is_does_not_count() {
        let mut reported = Arc::new(Reported::default());
        assert!(!Reported::set(&mut reported, b"in_hot_standby", b"on"));
        assert!(Reported::set(&mut reported, b"TimeZone", b"UTC"));
        assert!(!Reported::set(&mut reported, b"TimeZone", b"UTC"));
    }
}
