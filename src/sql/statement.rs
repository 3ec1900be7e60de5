//! What one SQL text does. Made by the classifier, read by session and route.

use std::sync::Arc;
use std::time::Duration;

/// Functions whose effect is not their transaction's.
const OUTSIDE: [&str; 8] = [
    "lo_export",
    "pg_cancel_backend",
    "pg_create_restore_point",
    "pg_logical_emit_message",
    "pg_promote",
    "pg_reload_conf",
    "pg_switch_wal",
    "pg_terminate_backend",
];

/// The class of a text. Of several statements in one text the strictest wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// May run on a replica.
    Read,
    /// Changes data or schema, takes locks that a standby refuses, or may do so.
    Write,
    /// Changes only the session (SET, RESET, DISCARD, PREPARE, DEALLOCATE, LISTEN …). A SELECT
    /// of `set_config` with constants is one as well (`set_config`): it returns a row, so a server
    /// has to run it.
    Session,
    /// Transaction control only (BEGIN, COMMIT, ROLLBACK, SAVEPOINT, SET TRANSACTION …).
    Transaction,
    /// Could not be parsed or has a part that is not known: treated as a write.
    Unknown,
}

/// Everything the proxy needs to know of one SQL text.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    pub effect: Effect,
    /// Why it is not a read, or why it is one: a sentence for people (`explain`, the log).
    pub reason: Arc<str>,
    /// A short stable word for the counter of that reason (`select`, `dml`, `locking_clause`,
    /// `function`, `parse_error`, `too_large` …).
    pub reason_code: &'static str,
    /// Names as written and folded, schema-qualified where the text qualifies them.
    pub tables_read: Vec<Arc<str>>,
    pub tables_written: Vec<Arc<str>>,
    pub functions: Vec<Arc<str>>,
    /// What the text does to the session, in the order of its statements.
    pub session: Vec<SessionEffect>,
    /// Whether its first statement ends a transaction: one that has failed lets nothing else run.
    pub ends_first: bool,
    /// How many statements the text has (0 for an empty one). Transaction control is only held
    /// back by the proxy when the text is exactly one statement.
    pub count: usize,
    /// Whether it may change what the catalog says (DDL): the catalog is loaded again after it.
    pub is_ddl: bool,
    /// The hint at the head of the text. A read whose answer is about one server (`server_local`:
    /// pg_stat_activity, SHOW transaction_read_only …) is given the target `Primary` here, unless
    /// the text itself names another one.
    pub hint: Option<Hint>,
}

impl Statement {
    /// What an EXECUTE does, given the body of its prepared statement: a write in the arguments
    /// stays one. The session effects of the body hold as well each time that it is executed.
    pub fn effect_executed(&self, body: &Statement) -> Effect {
        if self.reason_code == "execute" { body.effect } else { self.effect }
    }

    /// Whether MySQL ends the open transaction for it ("Statements That Cause an Implicit Commit"),
    /// as far as a read-only transaction meets such statements.
    pub fn commits_unsaid(&self) -> bool {
        self.is_ddl || matches!(self.reason_code, "truncate" | "account")
    }

    /// Whether it says something of the next transaction (MySQL's SET TRANSACTION).
    pub fn says_of_next(&self) -> bool {
        self.session.iter().any(|effect| matches!(effect, SessionEffect::SetNext(_)))
    }

    /// Whether it has certainly been, begun or ended the transaction of which SET TRANSACTION has said
    /// something: it has touched a table that is stored, or controlled transactions. SAVEPOINT outside
    /// of one does nothing.
    pub fn uses_next(&self) -> bool {
        const SERVERS: [&str; 2] = ["information_schema.", "performance_schema."];
        let is_stored = |name: &Arc<str>| !SERVERS.iter().any(|schema| name.starts_with(schema));
        let controls =
            |effect: &SessionEffect| matches!(effect, SessionEffect::Begin(_)) || effect.is_end();
        let mut tables = self.tables_read.iter().chain(&self.tables_written);
        tables.any(is_stored) || self.commits_unsaid() || self.session.iter().any(controls)
    }

    /// Whether it changes rows and does nothing else that outlives it or ends its transaction.
    pub fn is_dml(&self) -> bool {
        let plain = self.session.is_empty() && !self.is_ddl && self.count == 1;
        plain && self.effect == Effect::Write && self.reason_code == "dml"
    }

    /// Whether it sets modes of a transaction that no replica takes.
    pub fn sets_modes_of_primary(&self) -> bool {
        self.session.iter().any(SessionEffect::sets_modes_of_primary)
    }

    /// Whether it is known to do something that no rollback takes back, and that is not repeated
    /// without harm. Of the functions that users have written nothing is known.
    pub fn reaches_outside(&self) -> bool {
        let reaches = |name: &Arc<str>| {
            let name = name.rsplit('.').next().unwrap_or_default();
            name.starts_with("dblink") || name.starts_with("pg_file_") || OUTSIDE.contains(&name)
        };
        self.reason_code == "copy_to_file" || self.functions.iter().any(reaches)
    }
}

/// Transaction modes as a BEGIN or SET TRANSACTION names them; `None` where it is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransactionModes {
    pub read_only: Option<bool>,
    pub isolation: Option<Isolation>,
    pub deferrable: Option<bool>,
}

impl TransactionModes {
    /// Of a text that begins a transaction and another one: as a whole it only reads if both do.
    pub fn and_then(self, next: TransactionModes) -> TransactionModes {
        TransactionModes {
            read_only: if self.read_only == next.read_only { next.read_only } else { Some(false) },
            isolation: next.isolation.or(self.isolation),
            deferrable: next.deferrable.or(self.deferrable),
        }
    }

    /// Whether no replica takes them in SET TRANSACTION (`check_transaction_read_only` and
    /// `check_XactIsoLevel`, `src/backend/commands/variable.c`).
    pub fn are_of_primary(self) -> bool {
        self.read_only == Some(false) || self.isolation == Some(Isolation::Serializable)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

impl Isolation {
    /// Whether a transaction sees one state from its first statement to its end.
    pub fn has_one_snapshot(self) -> bool {
        matches!(self, Isolation::RepeatableRead | Isolation::Serializable)
    }
}

/// What a statement does to the session that runs it.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionEffect {
    Begin(TransactionModes),
    /// COMMIT or END.
    Commit {
        chain: bool,
    },
    /// ROLLBACK or ABORT.
    Rollback {
        chain: bool,
    },
    Savepoint(Arc<str>),
    RollbackTo(Arc<str>),
    Release(Arc<str>),
    /// The default schema is another one (USE).
    Use(Arc<str>),
    /// SET TRANSACTION of the open transaction.
    SetTransaction(TransactionModes),
    /// SET TRANSACTION that holds for the next transaction and no other.
    SetNext(TransactionModes),
    /// SET SESSION CHARACTERISTICS AS TRANSACTION, SET SESSION TRANSACTION.
    SetCharacteristics(TransactionModes),
    /// PREPARE TRANSACTION ends the transaction; COMMIT/ROLLBACK PREPARED are plain writes.
    PrepareTransaction,
    /// `SET [SESSION] name TO value` (also SET TIME ZONE, SET NAMES, SET ROLE, SET SESSION
    /// AUTHORIZATION by their setting's names). `value` is the text as SQL that can stand after
    /// `SET name TO `, `None` for DEFAULT.
    Set {
        name: Arc<str>,
        value: Option<Arc<str>>,
        local: bool,
    },
    Reset(Arc<str>),
    ResetAll,
    /// A `tiffin.*` setting; answered by the proxy, never sent to a server.
    SetTiffin {
        key: Arc<str>,
        value: Option<Arc<str>>,
    },
    ShowTiffin {
        key: Arc<str>,
    },
    Discard(Discard),
    /// SQL-level PREPARE: the name and the class of the statement after AS.
    Prepare {
        name: Arc<str>,
        body: Arc<Statement>,
    },
    /// The statement's own effect is that of an unknown body; with the body at hand it is
    /// [`Statement::effect_executed`].
    Execute {
        name: Arc<str>,
    },
    /// `None` is DEALLOCATE ALL.
    Deallocate(Option<Arc<str>>),
    /// The session must keep its server connection from now on.
    Pin(Pin),
    /// The cause of a pin ends as a whole (UNLISTEN *, pg_advisory_unlock_all, CLOSE ALL).
    Unpin(Pin),
    /// The cause of a pin may have ended (DROP, UNLISTEN of one channel, an unlock): only the
    /// server knows whether something is left.
    Doubt(Pin),
    /// A setting has a value that the text does not tell (`set_config('a.b', $1, false)`): only
    /// the server knows it.
    Learn(Arc<str>),
    /// The answer tells of what the session ran before: it has to come from the connection that
    /// ran it, with nothing in between.
    Recall(Recall),
    /// COMMIT or ROLLBACK that ends the connection as well ([`true`], RELEASE), or that does not,
    /// whatever the session's `completion_type` says.
    Disconnect(bool),
    /// SQL_CALC_FOUND_ROWS: the next statement may ask what was counted.
    Counts,
    /// Sets variables for itself only (MariaDB's SET STATEMENT, NOWAIT). Its server tells of their
    /// values with its reply, and with the next one that they are back.
    SetsOnce,
    /// Ends another session, or what it runs, by the number that the proxy has told its client.
    Kill {
        id: u64,
        query: bool,
    },
}

impl SessionEffect {
    /// Whether it ends a transaction, if one is open.
    pub fn is_end(&self) -> bool {
        matches!(
            self,
            SessionEffect::Commit { .. }
                | SessionEffect::Rollback { .. }
                | SessionEffect::PrepareTransaction
        )
    }

    /// Whether it ends a transaction and begins another one with the same modes.
    pub fn chains(&self) -> bool {
        let (SessionEffect::Commit { chain } | SessionEffect::Rollback { chain }) = self else {
            return false;
        };
        *chain
    }

    /// Whether it sets modes of a transaction that no replica takes.
    pub fn sets_modes_of_primary(&self) -> bool {
        matches!(self, SessionEffect::SetTransaction(modes) if modes.are_of_primary())
    }
}

/// What of the statements before an answer tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recall {
    /// SHOW WARNINGS, GET DIAGNOSTICS, `@@error_count`.
    Diagnostics,
    /// `FOUND_ROWS()`.
    FoundRows,
    /// `ROW_COUNT()`.
    RowCount,
    /// `LAST_INSERT_ID()`.
    InsertId,
}

impl Recall {
    pub fn as_str(self) -> &'static str {
        match self {
            Recall::Diagnostics => "diagnostics",
            Recall::FoundRows => "found_rows",
            Recall::RowCount => "row_count",
            Recall::InsertId => "insert_id",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    All,
    Plans,
    Sequences,
    Temp,
}

/// Why a session must keep its present server connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pin {
    TemporaryTable,
    AdvisoryLock,
    Listen,
    HoldCursor,
    /// `nextval` was called: `currval`/`lastval` may follow.
    Sequence,
    /// SQL-level PREPARE.
    PreparedStatement,
    /// `set_config` or a SET whose effect the proxy cannot follow.
    Setting,
    /// A variable of the session's own (MySQL's `@name`).
    Variable,
    /// LOCK TABLES, and the locks of FLUSH and of backups.
    TableLock,
    /// XA.
    DistributedTransaction,
    /// Until the next statement, which may ask how many rows there were without LIMIT.
    FoundRows,
    /// LOAD, DO, CALL, a text that could not be parsed or any other state unknown to the proxy.
    Unknown,
}

impl Pin {
    /// The label in metrics and in `explain`.
    pub fn as_str(self) -> &'static str {
        match self {
            Pin::TemporaryTable => "temporary_table",
            Pin::AdvisoryLock => "advisory_lock",
            Pin::Listen => "listen",
            Pin::HoldCursor => "hold_cursor",
            Pin::Sequence => "sequence",
            Pin::PreparedStatement => "prepared_statement",
            Pin::Setting => "setting",
            Pin::Variable => "variable",
            Pin::TableLock => "table_lock",
            Pin::DistributedTransaction => "distributed_transaction",
            Pin::FoundRows => "found_rows",
            Pin::Unknown => "unknown",
        }
    }
}

/// A comment at the head of a text, or the session's setting, that narrows the choice of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hint {
    pub target: Option<HintTarget>,
    pub lag_max: Option<Duration>,
    pub consistency: Option<Consistency>,
    /// What of the comment was not understood, for people; the rest of it holds.
    pub problem: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HintTarget {
    Primary,
    Replica,
    /// Reads only; a write with this hint still goes to the primary.
    Node(Arc<str>),
}

/// Which replicas may serve a read. `DESIGN.md`, section 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Consistency {
    Eventual,
    Bounded,
    Session,
    Strong,
}

impl Consistency {
    pub const ALL: [Consistency; 4] =
        [Consistency::Eventual, Consistency::Bounded, Consistency::Session, Consistency::Strong];

    pub fn as_str(self) -> &'static str {
        match self {
            Consistency::Eventual => "eventual",
            Consistency::Bounded => "bounded",
            Consistency::Session => "session",
            Consistency::Strong => "strong",
        }
    }

    pub fn parse(word: &str) -> Option<Consistency> {
        Consistency::ALL.into_iter().find(|level| level.as_str() == word)
    }
}
