//! Prepared statements and portals of one client. They belong to the client and exist on any
//! server connection that needs them.

use crate::session::Settings;
use crate::sql::Statement;
use std::cell::RefCell;
use std::collections::HashMap;
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
    /// The name on servers.
    pub server_name: Box<[u8]>,
    pub sql: Box<[u8]>,
    /// Count and parameter type OIDs, as in Parse.
    pub types: Box<[u8]>,
    pub classified: RefCell<Classified>,
}

/// The unnamed statement. Its memory is used again by the next one.
#[derive(Debug, Default)]
pub struct Unnamed {
    pub id: u64,
    pub sql: Vec<u8>,
    pub types: Vec<u8>,
    pub classified: Option<Classified>,
}

/// The name that a statement has on servers.
pub fn server_name(id: u64) -> Box<[u8]> {
    format!("{SERVER_NAME_PREFIX}{id:x}").into_bytes().into()
}

/// Names of this kind are the proxy's own.
pub const SERVER_NAME_PREFIX: &str = "tiffin_";

#[derive(Debug, Default)]
pub struct Statements {
    pub named: HashMap<Box<[u8]>, Rc<Prepared>>,
    pub unnamed: Unnamed,
    /// What the unnamed portal runs.
    pub portal: Option<Arc<Statement>>,
    portals: HashMap<Box<[u8]>, Arc<Statement>>,
}

impl Statements {
    pub fn bind(&mut self, portal: &[u8], statement: Option<&Arc<Statement>>) {
        if portal.is_empty() {
            self.portal = statement.cloned();
        } else if let Some(statement) = statement {
            self.portals.insert(portal.into(), statement.clone());
        }
    }

    /// What an Execute of this portal runs.
    pub fn portal(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        if name.is_empty() { self.portal.as_ref() } else { self.portals.get(name) }
    }

    pub fn close_portal(&mut self, name: &[u8]) {
        self.portals.remove(name);
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
    ids: RefCell<HashMap<Key, u64>>,
}

/// Texts that share ids; beyond this, the same text of two clients is two statements.
const REGISTRY_MAX: usize = 16 * 1024;

impl Registry {
    /// The id for a text; `fresh` gives a new one.
    pub fn id(
        &self,
        (sql, types): (&[u8], &[u8]),
        settings: &Settings,
        (database, plans): (&Arc<str>, u64),
        fresh: impl FnOnce() -> u64,
    ) -> u64 {
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
            return *id;
        }
        if ids.len() >= REGISTRY_MAX {
            ids.clear();
        }
        let id = fresh();
        ids.insert(key, id);
        id
    }
}
