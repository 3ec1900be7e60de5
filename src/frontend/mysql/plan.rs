//! From a client's packet to what it asks for and what that needs of a node.

use super::active::Whose;
use super::conversation::Conversation;
use super::statements::Prepared;
use super::stream::Upload;
use crate::frontend::mysql::fault::Fault;
use crate::metrics::RouteReason;
use crate::protocol::mysql::PacketError;
use crate::protocol::mysql::capabilities::Capabilities;
use crate::protocol::mysql::command::{Command, OPTION_MULTI_STATEMENTS_ON};
use crate::protocol::mysql::execute::{Execute, QueryAttributes};
use crate::protocol::mysql::packet::{self, HEAD_BYTES};
use crate::protocol::mysql::replies::Awaits;
use crate::session::Class;
use crate::sql::{Effect, Hint, SessionEffect, Statement, TransactionModes};
use std::rc::Rc;
use std::sync::Arc;

/// Commands other than queries and executions are kept whole up to this: a statement to prepare
/// with as many parameters as there can be (65,535) fits twice.
pub const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// One command, planned.
#[derive(Debug, Clone)]
pub struct Request {
    /// In the inbox, heads included; of a long command those that were there.
    pub bytes: usize,
    /// What is still to come of it.
    pub upload: Option<Upload>,
    pub what: What,
    pub whose: Whose,
    pub awaits: Awaits,
    pub class: Class,
    pub hint: Option<Hint>,
    /// What its text does.
    pub statement: Option<Arc<Statement>>,
    /// What is sent in the place of its bytes.
    pub instead: Option<Box<[u8]>>,
}

/// What of a command the proxy has to do itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Quit,
    Ping,
    Query,
    /// The schema's name.
    InitDb(Box<[u8]>),
    /// The client's id of the new statement.
    Prepare {
        id: u32,
    },
    Execute {
        id: u32,
    },
    LongData {
        id: u32,
    },
    Fetch {
        id: u32,
    },
    CloseStatement(u32),
    ResetStatement(u32),
    /// Whether several statements may stand in one text.
    MultiStatements(bool),
    Kill {
        id: u64,
        query: bool,
    },
    ResetConnection,
    ChangeUser,
    /// The connection becomes a stream of the primary's log, or is prepared to.
    Replicate,
    /// Asks about the server itself.
    AskPrimary,
    /// Nothing but to pass it on.
    Pass,
    Unknown,
}

/// How much of a command has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Whole(usize),
    /// The front of a long one.
    Front(usize),
    Partial,
}

/// Looks for the first command. `hold`: so much of a query or an execution is waited for.
pub fn extent(bytes: &[u8], hold: usize) -> Result<Extent, PacketError> {
    let Some(head) = packet::head(bytes) else { return Ok(Extent::Partial) };
    if head.sequence != 0 {
        return Err(PacketError::Order);
    }
    if head.payload == 0 {
        return Err(PacketError::Shape);
    }
    if bytes.len() >= head.bytes() && !head.is_continued() {
        return Ok(Extent::Whole(head.bytes()));
    }
    let Some(&command) = bytes.get(HEAD_BYTES) else { return Ok(Extent::Partial) };
    let passes = matches!(command, 0x03 | 0x17 | 0x18 | 0xFA);
    if passes && bytes.len() >= hold {
        return Ok(Extent::Front(bytes.len()));
    }
    if !passes && head.bytes() > KEPT_BYTES_MAX {
        return Err(PacketError::TooLong);
    }
    Ok(Extent::Partial)
}

impl Conversation {
    /// Bytes of a command that are held back until it is whole.
    pub(super) fn hold_bytes(&self) -> usize {
        self.worker.limits().parse_bytes_max + HEAD_BYTES + 1
    }

    /// Plans the command at the front of the inbox.
    pub(super) fn plan(&mut self, extent: Extent) -> Result<Request, Fault> {
        let (bytes, upload) = match extent {
            Extent::Whole(bytes) => (bytes, None),
            Extent::Front(bytes) => {
                let mut upload = Upload::command();
                upload.take(&mut self.inbox.filled_mut()[..bytes]);
                (bytes, Some(upload))
            }
            Extent::Partial => return Err(PacketError::Short.into()),
        };
        let payload: &[u8] = &self.inbox.filled()[HEAD_BYTES..bytes];
        let command = Command::parse(payload, self.capabilities)?;
        let mut request = Request {
            bytes,
            upload,
            what: What::Pass,
            whose: Whose::Client,
            awaits: command.awaits(),
            class: Class::Session,
            hint: None,
            statement: None,
            instead: None,
        };
        let id = command.statement_id().map(|id| self.statements.meant(id)).unwrap_or_default();
        request.what = match command {
            Command::Quit => What::Quit,
            Command::Ping => What::Ping,
            Command::InitDb(schema) => What::InitDb(schema.into()),
            Command::Query(text) => {
                request.does(self.classify(text));
                request.is_told(self.choices_before(payload)?);
                What::Query
            }
            Command::Prepare(text) => {
                let text = Rc::from(text);
                self.plan_prepare(text, &mut request)
            }
            Command::Execute(execute) => {
                let (told, cursor) = (self.choices_behind(id, &execute), execute.opens_cursor());
                self.plan_execution(id, told, cursor, &mut request)
            }
            Command::SendLongData { .. } => {
                self.plan_prepared(id, &mut request);
                request.keeps_connection();
                What::LongData { id }
            }
            Command::Fetch { .. } => What::Fetch { id },
            Command::CloseStatement(_) => What::CloseStatement(id),
            Command::ResetStatement(_) => What::ResetStatement(id),
            Command::SetOption(option) => {
                What::MultiStatements(option == OPTION_MULTI_STATEMENTS_ON)
            }
            Command::ProcessKill(id) => What::Kill { id: id.into(), query: false },
            Command::ResetConnection => What::ResetConnection,
            Command::ChangeUser(_) => What::ChangeUser,
            Command::RegisterSlave | Command::BinlogDump | Command::BinlogDumpGtid => {
                What::Replicate
            }
            Command::FieldList { .. } => {
                request.class = Class::Read;
                What::Pass
            }
            Command::Statistics | Command::ProcessInfo | Command::Debug => What::AskPrimary,
            Command::Unknown(_) => What::Unknown,
        };
        if matches!(request.what, What::Kill { .. } | What::Replicate | What::AskPrimary) {
            request.class = Class::Write(RouteReason::HintPrimary);
        }
        Ok(request)
    }

    /// What the attributes of a COM_QUERY choose.
    fn choices_before(&self, payload: &[u8]) -> Result<Vec<(String, String)>, PacketError> {
        if !self.capabilities.has(Capabilities::QUERY_ATTRIBUTES) {
            return Ok(Vec::new());
        }
        let (attributes, _) = QueryAttributes::before(payload.get(1..).unwrap_or_default())?;
        Ok(choices(attributes))
    }

    /// What the attributes of an execution choose.
    fn choices_behind(&self, id: u32, execute: &Execute<'_>) -> Vec<(String, String)> {
        let parameters = self.statements.get(id).map_or(0, |known| known.parameters);
        choices(execute.attributes(parameters))
    }

    /// Preparing does nothing: what the statement does counts when it is executed.
    fn plan_prepare(&mut self, sql: Rc<[u8]>, request: &mut Request) -> What {
        let statement = self.classify(&sql);
        request.does(statement.clone());
        if matches!(request.class, Class::Begin(_)) {
            request.class = Class::Session;
        }
        let prepared = Prepared {
            sql,
            schema: self.followed.schema.clone(),
            variables: self.followed.variables.clone(),
            rules: self.followed.rules(),
            statement,
            catalog: self.catalog_version(),
            parameters: 0,
            types: Box::default(),
            types_version: 0,
            holds: None,
        };
        What::Prepare { id: self.statements.insert(prepared) }
    }

    fn plan_execution(
        &mut self,
        id: u32,
        told: Vec<(String, String)>,
        opens_cursor: bool,
        request: &mut Request,
    ) -> What {
        self.plan_prepared(id, request);
        request.is_told(told);
        if opens_cursor {
            request.keeps_connection();
        }
        What::Execute { id }
    }

    /// What a prepared statement does, by the catalog of now.
    fn plan_prepared(&mut self, id: u32, request: &mut Request) {
        let Some(prepared) = self.statements.get(id) else {
            // The error is asked about where the statement before was.
            request.class = Class::Read;
            return;
        };
        let statement = if prepared.catalog == self.catalog_version() {
            prepared.statement.clone()
        } else {
            let statement = self.classify_by(&prepared.sql.clone(), prepared.rules);
            let version = self.catalog_version();
            if let Some(prepared) = self.statements.get_mut(id) {
                (prepared.statement, prepared.catalog) = (statement.clone(), version);
            }
            statement
        };
        request.does(statement);
    }

    /// The class of a request in this session: without autocommit every statement that touches
    /// data opens a transaction.
    pub(super) fn class(&self, request: &Request) -> Class {
        match &request.class {
            Class::Read if !self.followed.autocommit => Class::Begin(TransactionModes::default()),
            class => class.clone(),
        }
    }
}

/// What attributes say to the proxy: `tiffin_consistency` and the like, without that prefix.
fn choices(attributes: QueryAttributes<'_>) -> Vec<(String, String)> {
    let choice = |(name, value)| {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let value = String::from_utf8_lossy(value).into_owned();
        name.strip_prefix("tiffin_").map(|key| (key.to_owned(), value))
    };
    attributes.texts().filter_map(choice).collect()
}

impl Request {
    fn does(&mut self, statement: Arc<Statement>) {
        self.class = Class::of(&statement);
        self.hint = statement.hint.clone();
        self.statement = Some(statement);
    }

    /// What keeps the connection keeps it for writes to come as well.
    fn keeps_connection(&mut self) {
        if matches!(self.class, Class::Read | Class::Session) {
            self.class = Class::Write(RouteReason::SessionPin);
        }
    }

    /// What the client chooses for this execution counts for more than a comment.
    fn is_told(&mut self, choices: Vec<(String, String)>) {
        for (key, value) in choices {
            self.hint.get_or_insert_default().set(&key, Some(&value));
        }
    }

    /// Whether the client's text is a single statement.
    pub fn is_single(&self) -> bool {
        self.statement.as_ref().is_some_and(|statement| statement.count == 1)
    }

    /// Whether its text has several statements.
    pub fn is_several(&self) -> bool {
        self.statement.as_ref().is_some_and(|statement| statement.count > 1)
    }

    /// Whether it may be sent again elsewhere, as far as what it does goes.
    pub fn only_reads(&self) -> bool {
        matches!(self.class, Class::Read) && self.upload.is_none()
    }

    /// Whether it leaves nothing on its connection but what is followed there, once its transaction
    /// is over. Functions and views that only read were looked through when the catalog was loaded.
    pub fn leaves_nothing(&self) -> bool {
        use SessionEffect::{Begin, Commit, Recall, Release, Rollback, RollbackTo, Savepoint};
        let is_over = |effect: &SessionEffect| {
            matches!(
                effect,
                Begin(_)
                    | Commit { .. }
                    | Rollback { .. }
                    | Savepoint(_)
                    | RollbackTo(_)
                    | Release(_)
                    | Recall(_)
            )
        };
        match self.what {
            What::Query | What::Execute { .. } => {
                self.statement.as_ref().is_some_and(|statement| {
                    matches!(statement.effect, Effect::Read | Effect::Transaction)
                        && statement.session.iter().all(is_over)
                })
            }
            What::Ping
            | What::InitDb(_)
            | What::Prepare { .. }
            | What::LongData { .. }
            | What::Fetch { .. }
            | What::CloseStatement(_)
            | What::ResetStatement(_) => true,
            _ => false,
        }
    }

    /// Whether it may change data.
    pub fn may_write(&self) -> bool {
        let writes = |statement: &Arc<Statement>| {
            matches!(statement.effect, Effect::Write | Effect::Unknown)
        };
        self.statement.as_ref().is_some_and(writes)
    }
}

#[cfg(test)]
mod tests {
    use super::{Extent, KEPT_BYTES_MAX, extent};
    use crate::protocol::mysql::PacketError;

    #[test]
    fn how_much_of_a_command_has_arrived() {
        let hold = 16;
        let long = [&b"\xff\xff\xff\0\x03"[..], &[b'x'; 20]].concat();
        let table: &[(&[u8], Result<Extent, PacketError>)] = &[
            (b"", Ok(Extent::Partial)),
            (b"\x01\0\0\0", Ok(Extent::Partial)),
            (b"\x01\0\0\0\x0e", Ok(Extent::Whole(5))),
            (b"\x01\0\0\0\x0e\x01", Ok(Extent::Whole(5))),
            (b"\0\0\0\0", Err(PacketError::Shape)),
            (b"\x20\0\0\0\x03SELECT", Ok(Extent::Partial)),
            (b"\x20\0\0\0\x03SELECT 12345678", Ok(Extent::Front(20))),
            (&long, Ok(Extent::Front(25))),
            // What is to be prepared is kept.
            (b"\x20\0\0\0\x16SELECT 12345678", Ok(Extent::Partial)),
            (b"\0\0\x7f\0\x16SELECT", Err(PacketError::TooLong)),
        ];
        const { assert!(0x7f_0000 > KEPT_BYTES_MAX) };
        for (bytes, expected) in table {
            assert_eq!(extent(bytes, hold), *expected, "{bytes:?}");
        }
    }
}
