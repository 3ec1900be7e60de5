//! What a session has left on a connection, as far as the proxy follows it.

use super::variables::Variables;
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Debug, Default)]
pub struct Traces {
    /// The session that used it last: its number, and how often it had begun anew.
    pub owner: Option<i32>,
    pub generation: u32,
    /// What differs from the server's own values.
    pub variables: Arc<Variables>,
    /// The default schema; `None`: none was ever chosen, and none can be taken away again.
    pub schema: Option<Arc<[u8]>>,
    pub prepared: PreparedOnServer,
    /// The trackers are not as they should be.
    pub untracked: bool,
    /// A statement has set variables for itself, and the next reply tells that they are back.
    pub goes_back: bool,
    /// What LAST_INSERT_ID() gives, as far as is known.
    pub insert_id: u64,
    /// No other session may have it.
    pub spoiled: bool,
    /// There may be more of its last owner's than is followed here: it is reset before another
    /// session has it.
    pub unclean: bool,
}

/// A client's statement as a server connection has it.
#[derive(Debug, Clone, Copy)]
pub struct OnServer {
    pub id: u32,
    /// Which of the parameter types that the client has sent it knows; 0: none.
    pub types: u32,
    used: u64,
}

/// The prepared statements of the connection's owner, by its own ids.
#[derive(Debug, Default)]
pub struct PreparedOnServer {
    statements: HashMap<u32, OnServer, foldhash::fast::RandomState>,
    clock: u64,
}

impl PreparedOnServer {
    /// The statement, which counts as used.
    pub fn touch(&mut self, own: u32) -> Option<&mut OnServer> {
        self.clock += 1;
        let statement = self.statements.get_mut(&own)?;
        statement.used = self.clock;
        Some(statement)
    }

    /// The server has not taken the types of its parameters, whatever it knew before.
    pub fn forget_types(&mut self, own: u32) {
        if let Some(statement) = self.statements.get_mut(&own) {
            statement.types = 0;
        }
    }

    /// Adds a statement; gives the server's id of the one that must be closed to stay within
    /// `limit`: the least recently used.
    pub fn insert(&mut self, own: u32, id: u32, limit: usize) -> Option<u32> {
        self.clock += 1;
        self.statements.insert(own, OnServer { id, types: 0, used: self.clock });
        if self.statements.len() <= limit {
            return None;
        }
        let oldest = self.statements.iter().min_by_key(|(_, statement)| statement.used);
        let oldest = oldest.map(|(own, _)| *own)?;
        self.statements.remove(&oldest).map(|statement| statement.id)
    }

    /// Forgets all; gives their ids on the server.
    pub fn take(&mut self) -> Vec<u32> {
        self.statements.drain().map(|(_, statement)| statement.id).collect()
    }

    /// Forgets those that `is_kept` does not know; gives their ids on the server.
    pub fn sweep(&mut self, is_kept: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut closed = Vec::new();
        self.statements.retain(|own, statement| {
            let kept = is_kept(*own);
            if !kept {
                closed.push(statement.id);
            }
            kept
        });
        closed
    }

    pub fn remove(&mut self, own: u32) -> Option<u32> {
        self.statements.remove(&own).map(|statement| statement.id)
    }

    pub fn len(&self) -> usize {
        self.statements.len()
    }

    pub fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::PreparedOnServer;

    #[test]
    fn the_least_recently_used_statement_is_closed() {
        let mut prepared = PreparedOnServer::default();
        assert_eq!(prepared.insert(1, 11, 2), None);
        assert_eq!(prepared.insert(2, 12, 2), None);
        assert!(prepared.touch(1).is_some());
        assert_eq!(prepared.insert(3, 13, 2), Some(12));
        assert!(prepared.touch(2).is_none());
        assert_eq!(prepared.sweep(|own| own == 3), [11]);
        assert_eq!((prepared.len(), prepared.remove(3)), (1, Some(13)));
    }
}
