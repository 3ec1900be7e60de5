//! From a login to a session: the variables that its character set means, the schema that it
//! names, and the greeting's last word.

use super::change_user::Door;
use super::classify::reading_of;
use super::compress::{ClientStream, Compression};
use super::conversation::{Conversation, Identity};
use super::errors;
use super::fault::{Fault, Refused};
use super::followed::Followed;
use super::startup::Accepted;
use crate::backend::mysql::variables::Variables;
use crate::config::Engine;
use crate::frontend::acquire::acquire;
use crate::frontend::cluster::DRAINED;
use crate::frontend::worker::{Entry, Worker};
use crate::metrics::{AuthFailure, PinGuard, ServerClosed};
use crate::protocol::buffer::Buffer;
use crate::protocol::mysql::reply::OkPacket;
use crate::protocol::mysql::translate::{Translation, Visible};
use crate::session::{Need, Session};
use bytes::BytesMut;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

/// Collations whose characters may hold a byte that looks like a quote or a backslash: big5, sjis,
/// gbk, cp932, gb18030. Clients cannot have those of whole words (ucs2, utf16, utf32).
const UNREADABLE: &[u8] = &[1, 84, 13, 88, 28, 87, 95, 96, 248, 249, 250];

impl Conversation {
    /// The session of a client whose password was right; `None` if it cannot begin.
    pub async fn begin(
        accepted: Box<Accepted>,
        worker: Rc<Worker>,
        entry: Rc<Entry>,
        door: Door,
    ) -> Option<Box<Conversation>> {
        let Some(cluster) = worker.mysql_cluster_of(accepted.database.as_deref()) else {
            refuse_schema(*accepted).await;
            worker.stats().auth_failed(AuthFailure::UnknownDatabase);
            worker.leave(&entry);
            return None;
        };
        let Accepted { stream, user, database, capabilities, collation, .. } = *accepted;
        let (sequence, compression, mut leftover) =
            (accepted.sequence, accepted.compression, accepted.leftover);
        entry.belongs_to(user.as_str().into());
        let reading = reading_of(cluster.handle.config.engine);
        let catalog = cluster.handle.catalogs.get("");
        let mut this = Box::new(Conversation {
            client: ClientStream::from(stream),
            identity: Rc::new(Identity {
                user: user.as_str().into(),
                secret: accepted.server_secret,
            }),
            translation: Translation::new(capabilities),
            visible: Visible::default(),
            pins: PinGuard::new(&worker.stats()),
            session: Session::default(),
            followed: Followed::new(Some(collation), reading),
            statements: Default::default(),
            pools: Default::default(),
            active: None,
            expected: Default::default(),
            stall: Default::default(),
            worker,
            cluster,
            catalog,
            entry,
            door,
            capabilities,
            inbox: Buffer::default(),
        });
        this.begin_anew();
        let schema = database.filter(|schema| !schema.is_empty());
        let begun = this.enter(schema.as_deref()).await;
        let mut out = Vec::new();
        let mut sequence = sequence;
        match begun {
            Ok(Ok(())) => {
                let ok = OkPacket::plain(this.followed.flags());
                ok.put(&mut out, &mut sequence, capabilities);
                match this.tell(&out).await {
                    Ok(()) => return Some(this.compressed(compression, &mut leftover)),
                    Err(fault) => this.farewell(&fault).await,
                }
            }
            Ok(Err(refused)) => {
                errors::put(&mut out, &mut sequence, refused.code, &refused.message);
                let _ = this.tell(&out).await;
                this.farewell(&Fault::ClientLeft).await;
            }
            Err(fault) => this.farewell(&fault).await,
        }
        None
    }

    /// The client speaks as it has agreed, now that it knows that it is in.
    fn compressed(
        mut self: Box<Self>,
        compression: Option<Compression>,
        leftover: &mut BytesMut,
    ) -> Box<Conversation> {
        if compression.is_none() {
            self.inbox.extend(leftover);
        } else if let ClientStream::Plain(stream) = self.client {
            self.client = ClientStream::new(stream, compression, leftover);
        }
        self
    }

    /// Lets the client in, unless an operator has sent everybody away.
    async fn enter(&mut self, schema: Option<&str>) -> Result<Result<(), Refused>, Fault> {
        if self.cluster.handle.topology.is_closed() {
            return Ok(Err(Refused::new(errors::SHUTDOWN, DRAINED)));
        }
        match self.log_in(schema).await {
            Ok(Ok(())) => self.initiate().await,
            refused => refused,
        }
    }

    /// Whether a server lets the user in and knows the schema. Asked once for each.
    pub(super) async fn log_in(
        &mut self,
        schema: Option<&str>,
    ) -> Result<Result<(), Refused>, Fault> {
        let login = (self.identity.user.clone(), schema.map(Arc::from));
        self.followed.schema = schema.map(|schema| schema.as_bytes().into());
        if self.cluster.knows_login(&login) {
            return Ok(Ok(()));
        }
        if let Err(refused) = acquire(self, &Need::Any, false).await? {
            return Ok(Err(refused));
        }
        let broken = self.bring_session().await?;
        if let Some(broken) = broken {
            self.drop_server(ServerClosed::Dirty);
            return Ok(Err(Refused::new(broken.code, broken.message)));
        }
        self.give_up_server();
        self.cluster.remember_login(login);
        if !self.followed.knows_reading {
            // It was the first to find a server.
            self.begin_anew();
        }
        Ok(Ok(()))
    }
}

/// Tells a client that no cluster serves its schema.
async fn refuse_schema(accepted: Accepted) {
    let Accepted { stream, database, mut sequence, .. } = accepted;
    let name = database.unwrap_or_default();
    let mut out = Vec::new();
    let message = format!("Unknown database '{name}'");
    errors::put(&mut out, &mut sequence, errors::UNKNOWN_SCHEMA, &message);
    let mut client = ClientStream::from(stream);
    // A client that has left need not be told.
    let _ = client.write_all(&out).await;
    let _ = client.shutdown().await;
}

/// What a handshake's collation sets; nothing for one that the server does not know, which then
/// has its own. Servers take a collation's number for its name, and that of a character set's
/// default collation for the set.
pub(super) fn variables_of(collation: u8, engine: Engine) -> Variables {
    let mut variables = Variables::default();
    let number: Arc<str> = collation.to_string().into();
    let set = match (engine, charset_of(collation)) {
        (Engine::Mariadb, Some(name)) => format!("'{name}'").into(),
        (Engine::Mariadb, None) if collation > LAST_OF_MARIADB => return variables,
        _ => number.clone(),
    };
    for name in ["character_set_client", "character_set_results", "character_set_connection"] {
        variables.set(name, set.clone());
    }
    variables.set("collation_connection", number);
    variables
}

/// Higher numbers are of MySQL's own collations.
const LAST_OF_MARIADB: u8 = 247;

/// The character set of a collation, for sets with several collations.
fn charset_of(collation: u8) -> Option<&'static str> {
    Some(match collation {
        45 | 46 | 224..=247 => "utf8mb4",
        33 | 83 | 192..=215 | 223 => "utf8mb3",
        5 | 8 | 15 | 31 | 47..=49 | 94 => "latin1",
        2 | 9 | 21 | 27 | 77 => "latin2",
        26 | 34 | 44 | 66 | 99 => "cp1250",
        14 | 23 | 50..=52 => "cp1251",
        29 | 58 | 59 => "cp1257",
        20 | 41 | 42 | 79 => "latin7",
        11 | 65 => "ascii",
        63 => "binary",
        _ => return None,
    })
}

/// Whether texts in the character set of a collation can be read byte by byte.
pub(super) fn is_readable_collation(collation: u8) -> bool {
    !UNREADABLE.contains(&collation)
}
