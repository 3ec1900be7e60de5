//! Prepared statements and portals of one client. They belong to the client and exist on any
//! server connection that needs them.

use crate::session::Settings;
use crate::sql::Statement;
use foldhash::quality::RandomState;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;

/// The longest text of an unnamed statement that is kept for a Bind in a later request; with a
/// longer one the session keeps its connection.
pub const UNNAMED_BYTES_MAX: usize = 64 * 1024;

/// What a statement was classified as, and with which catalog.
#[derive(Debug, Clone)]
pub struct Classified {
    pub statement: Arc<Statement>,
    pub catalog: u64,
}

/// A named statement of a client.
#[derive(Debug)]
pub struct Prepared {
    pub id: u64,
    /// Its own, where the same text under two names has one id.
    pub serial: u64,
    /// The name on servers.
    pub server_name: Box<[u8]>,
    /// It may meet statements by the names that their client gave them, and so has its own one as
    /// well: only its client's, for as long as a request lasts ([`super::own_names`]).
    pub sees_names: bool,
    pub sql: Box<[u8]>,
    /// Count and parameter type OIDs, as in Parse.
    pub types: Box<[u8]>,
    pub classified: RefCell<Classified>,
    /// The columns of its result, as its client was told last or as they were when it was
    /// prepared; `None`: nobody has asked yet.
    pub shape: Cell<Option<Shape>>,
    /// What was told first of those with the same id.
    pub first: FirstShape,
}

/// The result of a statement as a client was told last.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub columns: u64,
    /// Holds up to this change of plans.
    pub plans: u64,
    /// The result has other columns by now.
    pub is_stale: bool,
}

/// The columns that all statements with one id had when they were prepared, once a server has said.
pub type FirstShape = Rc<Cell<Option<Shape>>>;

/// The unnamed statement. Its memory is used again by the next one.
#[derive(Debug, Clone, Default)]
pub struct Unnamed {
    /// [`NO_STATEMENT`] if the client has none.
    pub id: u64,
    /// Whether the text is here, so that it can be prepared on any connection.
    pub kept: bool,
    pub sql: Vec<u8>,
    pub types: Vec<u8>,
    pub classified: Option<Classified>,
    /// As [`Prepared::sees_names`].
    pub sees_names: bool,
}

/// Ids of no statement, and of one that only its connection knows.
pub const NO_STATEMENT: u64 = 0;
pub const UNSEEN_STATEMENT: u64 = u64::MAX;

/// Names of SQL's PREPARE that are remembered.
const TAKEN_MAX: usize = 1024;

/// Names of statements and portals end here (`NAMEDATALEN`, `src/include/pg_config_manual.h`).
const NAME_BYTES_MAX: usize = 63;

/// What a server takes of a name.
pub fn truncated(name: &[u8]) -> &[u8] {
    &name[..name.len().min(NAME_BYTES_MAX)]
}

/// The name that a statement has on servers.
pub fn server_name(id: u64) -> Box<[u8]> {
    format!("{SERVER_NAME_PREFIX}{id:x}").into_bytes().into()
}

/// Names of this kind are the proxy's own.
pub const SERVER_NAME_PREFIX: &str = "tiffin_";

/// A named statement that came or went, and what the name meant before. A server may refuse the
/// message, or skip it after an error.
#[derive(Debug, Clone)]
struct Change {
    number: u64,
    name: Box<[u8]>,
    before: Option<Rc<Prepared>>,
}

/// A message that is planned is taken for granted by those behind it up to the next Sync: they
/// are skipped if it fails. Beyond that Sync its outcome must be known first:
/// [`Statements::is_uncertain`].
#[derive(Debug, Clone, Default)]
pub struct Statements {
    /// By names that clients choose: a hash with a seed.
    pub named: HashMap<Box<[u8]>, Rc<Prepared>, RandomState>,
    pub unnamed: Unnamed,
    /// The unnamed statement before the last Parse, which may be skipped.
    replaced: Unnamed,
    /// Changes whose outcome is not known, the oldest first.
    changes: VecDeque<Change>,
    /// The number of the newest change, and of the newest before the last Sync.
    newest: u64,
    newest_synced: u64,
    /// The number of the newest Parse of the unnamed statement.
    newest_unnamed: u64,
    /// Names that SQL's PREPARE has taken.
    taken: HashSet<Box<[u8]>>,
    /// What the unnamed portal runs.
    pub portal: Option<Arc<Statement>>,
    portals: HashMap<Box<[u8]>, Arc<Statement>, RandomState>,
}

impl Statements {
    pub fn get(&self, name: &[u8]) -> Option<&Rc<Prepared>> {
        self.named.get(truncated(name))
    }

    /// Gives a name to a statement, or to none any more; returns the number of this change.
    pub fn change(&mut self, name: &[u8], to: Option<Rc<Prepared>>) -> u64 {
        let name = truncated(name);
        let before = match to {
            Some(prepared) => self.named.insert(name.into(), prepared),
            None => self.named.remove(name),
        };
        self.newest += 1;
        self.changes.push_back(Change { number: self.newest, name: name.into(), before });
        self.newest
    }

    /// The server has done a change; those before it are certain as well.
    pub fn changed(&mut self, number: u64) {
        while self.changes.front().is_some_and(|change| change.number <= number) {
            self.changes.pop_front();
        }
    }

    /// The server has refused or skipped these changes.
    pub fn not_changed(&mut self, numbers: &RangeInclusive<u64>) {
        for at in (0..self.changes.len()).rev() {
            if !numbers.contains(&self.changes[at].number) {
                continue;
            }
            let Some(Change { name, before, .. }) = self.changes.remove(at) else { continue };
            match before {
                Some(prepared) => self.named.insert(name, prepared),
                None => self.named.remove(&name),
            };
        }
    }

    /// Nothing is under way: every change is in force.
    pub fn all_changed(&mut self) {
        self.changes.clear();
    }

    /// Nothing of what was planned will be sent.
    pub fn none_changed(&mut self) {
        self.not_changed(&(1..=self.newest));
    }

    /// The client's name of a statement, and the servers'.
    pub fn names_of(&self, serial: u64) -> Option<(&[u8], &[u8])> {
        let replaced = self
            .changes
            .iter()
            .filter_map(|change| change.before.as_ref().map(|prepared| (&change.name, prepared)));
        let mut all = self.named.iter().chain(replaced);
        let (name, prepared) = all.find(|(_, prepared)| prepared.serial == serial)?;
        Some((name, &prepared.server_name))
    }

    /// The statement with this [`Prepared::serial`].
    pub fn by_serial(&self, serial: u64) -> Option<&Rc<Prepared>> {
        let replaced = self.changes.iter().filter_map(|change| change.before.as_ref());
        self.named.values().chain(replaced).find(|prepared| prepared.serial == serial)
    }

    /// SQL's PREPARE has taken a name; of very many the server alone knows.
    pub fn take_name(&mut self, name: &[u8]) {
        if self.taken.len() < TAKEN_MAX {
            self.taken.insert(truncated(name).into());
        }
    }

    /// DEALLOCATE of a name, or of all.
    pub fn free_name(&mut self, name: Option<&[u8]>) {
        match name {
            Some(name) => drop(self.taken.remove(truncated(name))),
            None => self.taken.clear(),
        }
    }

    pub fn is_taken_by_sql(&self, name: &[u8]) -> bool {
        !self.taken.is_empty() && self.taken.contains(truncated(name))
    }

    /// The number of the newest change.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// What follows is run whether or not what came before has failed.
    pub fn synced(&mut self) {
        self.newest_synced = self.newest;
    }

    /// Whether it is not known yet what a name means: an earlier request may have failed to change
    /// it.
    pub fn is_uncertain(&self, name: &[u8]) -> bool {
        let name = truncated(name);
        if name.is_empty() {
            let newest = self.newest_unnamed;
            return newest <= self.newest_synced
                && self.changes.iter().any(|change| change.number == newest);
        }
        let synced = |change: &&Change| change.number <= self.newest_synced;
        self.changes.iter().take_while(synced).any(|change| *change.name == *name)
    }

    /// The unnamed statement is to be another one; its old one may be wanted again.
    pub fn replace_unnamed(&mut self, id: u64) -> &mut Unnamed {
        self.newest_unnamed = self.change(b"", None);
        std::mem::swap(&mut self.unnamed, &mut self.replaced);
        let unnamed = &mut self.unnamed;
        unnamed.id = id;
        unnamed.kept = false;
        unnamed.sql.clear();
        unnamed.types.clear();
        unnamed.classified = None;
        unnamed
    }

    /// The client has no unnamed statement any more.
    pub fn drop_unnamed(&mut self) {
        self.unnamed.id = NO_STATEMENT;
    }

    /// A Parse of the unnamed statement was skipped.
    pub fn restore_unnamed(&mut self) {
        std::mem::swap(&mut self.unnamed, &mut self.replaced);
        // Whatever it was replaced by is not the one before it.
        self.replaced.id = NO_STATEMENT;
    }

    /// Notes what a portal runs; false when the client has as many portals as it may.
    pub fn bind(
        &mut self,
        portal: &[u8],
        statement: Option<&Arc<Statement>>,
        portals_max: usize,
    ) -> bool {
        if portal.is_empty() {
            self.portal = statement.cloned();
        } else if let Some(statement) = statement {
            if self.portals.len() >= portals_max && !self.portals.contains_key(truncated(portal)) {
                return false;
            }
            self.portals.insert(truncated(portal).into(), statement.clone());
        }
        true
    }

    /// Whether the transaction has portals that a client can come back to.
    pub fn has_portals(&self) -> bool {
        !self.portals.is_empty()
    }

    /// What an Execute of this portal runs.
    pub fn portal(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        if name.is_empty() { self.portal.as_ref() } else { self.portals.get(truncated(name)) }
    }

    pub fn close_portal(&mut self, name: &[u8]) {
        self.portals.remove(truncated(name));
    }

    /// Portals end with their transaction.
    pub fn end_transaction(&mut self) {
        self.portals.clear();
    }
}

/// The settings that decide what the names in a text mean.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Names {
    search_path: Option<Arc<str>>,
    role: Option<Arc<str>>,
    session_authorization: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    sql: Box<[u8]>,
    types: Box<[u8]>,
    names: Names,
    database: Arc<str>,
    /// A text that is prepared after a change of the catalog gets plans of its own: the older ones
    /// may be refused.
    plans: u64,
}

/// Statements of one worker's clients: the same text, types and meaning of names share one id and
/// so one statement on each server connection.
#[derive(Debug, Default)]
pub struct Registry {
    ids: RefCell<HashMap<Key, (u64, FirstShape)>>,
}

/// Texts that share ids; beyond this, the same text of two clients is two statements.
const REGISTRY_MAX: usize = 16 * 1024;

impl Registry {
    /// The id for a text; `fresh` gives a new one. Without `settings` nobody knows what its names
    /// mean, and it is shared with none.
    pub fn id(
        &self,
        (sql, types): (&[u8], &[u8]),
        settings: Option<&Settings>,
        (database, plans): (&Arc<str>, u64),
        fresh: impl FnOnce() -> u64,
    ) -> (u64, FirstShape) {
        let Some(settings) = settings else { return (fresh(), FirstShape::default()) };
        let name = |name| settings.get(name).cloned();
        let names = Names {
            search_path: name("search_path"),
            role: name("role"),
            session_authorization: name("session_authorization"),
        };
        let (sql, types, database) = (sql.into(), types.into(), database.clone());
        let key = Key { sql, types, names, database, plans };
        let mut ids = self.ids.borrow_mut();
        if let Some(id) = ids.get(&key) {
            return id.clone();
        }
        if ids.len() >= REGISTRY_MAX {
            ids.clear();
        }
        let id = (fresh(), FirstShape::default());
        ids.insert(key, id.clone());
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::postgres::unseen::foreign;

    fn prepared(id: u64) -> Option<Rc<Prepared>> {
        let statement = Arc::new(foreign());
        Some(Rc::new(Prepared {
            id,
            serial: id,
            server_name: server_name(id),
            sees_names: false,
            sql: Box::default(),
            types: Box::default(),
            classified: RefCell::new(Classified { statement, catalog: 0 }),
            shape: Cell::default(),
            first: FirstShape::default(),
        }))
    }

    fn id(statements: &Statements, name: &[u8]) -> Option<u64> {
        statements.get(name).map(|prepared| prepared.id)
    }

    #[test]
    fn changes_that_fail_are_taken_back_in_their_order() {
        let mut statements = Statements::default();
        statements.change(b"a", prepared(1));
        let first = statements.change(b"a", None);
        let last = statements.change(b"a", prepared(3));
        statements.not_changed(&(first..=last));
        assert_eq!(id(&statements, b"a"), Some(1));
        statements.none_changed();
        assert_eq!(id(&statements, b"a"), None);
    }

    #[test]
    fn a_name_is_uncertain_beyond_the_sync_until_it_is_confirmed() {
        let mut statements = Statements::default();
        let number = statements.change(b"a", prepared(1));
        assert!(!statements.is_uncertain(b"a"), "in the same request");
        statements.synced();
        assert!(statements.is_uncertain(b"a") && !statements.is_uncertain(b"b"));
        statements.changed(number);
        assert!(!statements.is_uncertain(b"a"));
    }

    #[test]
    fn names_are_as_long_as_the_servers_take_them() {
        let mut statements = Statements::default();
        statements.change(&[b'n'; 100], prepared(1));
        assert_eq!(id(&statements, &[b'n'; 63]), Some(1));
        assert_eq!(id(&statements, &[b'n'; 62]), None);
    }

    #[test]
    fn a_skipped_parse_leaves_the_unnamed_statement() {
        let mut statements = Statements::default();
        statements.replace_unnamed(1).kept = true;
        statements.replace_unnamed(2);
        statements.restore_unnamed();
        assert!(statements.unnamed.id == 1 && statements.unnamed.kept);
    }
}
