//! A client's prepared statements: their ids are the client's, whichever servers know them.

use super::followed::Rules;
use crate::backend::mysql::variables::Variables;
use crate::protocol::mysql::command::LAST_PREPARED;
use crate::sql::Statement;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

#[derive(Debug, Clone)]
pub struct Prepared {
    pub sql: Rc<[u8]>,
    /// The default schema when it was prepared: what names without one mean.
    pub schema: Option<Arc<[u8]>>,
    /// The session's variables then, some of which servers read the text by.
    pub variables: Arc<Variables>,
    pub rules: Rules,
    pub statement: Arc<Statement>,
    /// Version of the catalog by which the statement was classified.
    pub catalog: u64,
    pub parameters: u16,
    /// The parameters' types as the client sent them last, and how often it has.
    pub types: Box<[u8]>,
    pub types_version: u32,
    /// What the server has of it: the connection is kept.
    pub holds: Option<Held>,
}

/// What keeps the connection that a statement was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Parts of its parameters.
    Parameters,
    Cursor,
}

#[derive(Debug, Default)]
pub struct Statements {
    known: HashMap<u32, Prepared, foldhash::fast::RandomState>,
    next: u32,
}

impl Statements {
    /// Takes a statement in; gives its id.
    pub fn insert(&mut self, prepared: Prepared) -> u32 {
        // As a server does: from 1 up, and never the id that stands for the last one.
        self.next = if self.next >= LAST_PREPARED - 1 { 1 } else { self.next + 1 };
        while self.known.contains_key(&self.next) {
            self.next += 1;
        }
        self.known.insert(self.next, prepared);
        self.next
    }

    /// Takes a closed one in again, under its id.
    pub fn lend(&mut self, id: u32, prepared: Prepared) {
        self.known.insert(id, prepared);
    }

    /// The client's id of a statement: MariaDB's clients may name the last one without it.
    pub fn meant(&self, id: u32) -> u32 {
        if id == LAST_PREPARED { self.next } else { id }
    }

    pub fn get(&self, id: u32) -> Option<&Prepared> {
        self.known.get(&id)
    }

    pub fn get_mut(&mut self, id: u32) -> Option<&mut Prepared> {
        self.known.get_mut(&id)
    }

    pub fn remove(&mut self, id: u32) -> Option<Prepared> {
        self.known.remove(&id)
    }

    pub fn contains(&self, id: u32) -> bool {
        self.known.contains_key(&id)
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whether one of them keeps the connection.
    pub fn hold(&self) -> bool {
        self.known.values().any(|prepared| prepared.holds.is_some())
    }

    pub fn hold_parameters(&self) -> bool {
        self.known.values().any(|prepared| prepared.holds == Some(Held::Parameters))
    }

    /// Nothing of them is on a server any more.
    pub fn let_go(&mut self) {
        for prepared in self.known.values_mut() {
            prepared.holds = None;
        }
    }

    pub fn clear(&mut self) {
        self.known.clear();
    }
}
