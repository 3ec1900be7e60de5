//! What the proxy answers itself: what concerns no server, prepared statements that are on none,
//! KILL, and `tiffin_…` settings.

use super::classify::reading_of;
use super::conversation::Conversation;
use super::errors;
use super::fault::{Fault, Refused};
use super::plan::{Request, What};
use super::welcome::variables_of;
use crate::config::Engine;
use crate::frontend::worker::{Cancel, Killed, MYSQL_ID};
use crate::metrics::ServerClosed;
use crate::protocol::mysql::capabilities::Capabilities;
use crate::protocol::mysql::lenenc::put_bytes;
use crate::protocol::mysql::packet;
use crate::protocol::mysql::reply::{EOF, OkPacket, put_eof};
use crate::session::{NoChoice, Session};
use crate::sql::{SessionEffect, Statement};

/// Type and character set of a text column: VARCHAR in utf8mb4_general_ci.
const VAR_STRING: u8 = 0xFD;
const UTF8MB4: u16 = 45;
/// Longer values are not shown.
const COLUMN_BYTES: u32 = 1024;
/// The fields of a column's definition behind its names have twelve bytes.
const FIXED_FIELDS: u8 = 0x0C;

impl Conversation {
    /// Answers a command without a server, if it can be.
    pub(super) async fn answer_here(&mut self, request: &Request) -> Result<bool, Fault> {
        match &request.what {
            What::Ping => {
                self.changed_no_row();
                self.tell_ok().await?;
            }
            What::CloseStatement(id) => {
                // On servers it is closed when the session comes there again.
                self.statements.remove(*id);
            }
            // Where no server knows it, there is nothing to reset.
            What::ResetStatement(id)
                if self.statements.contains(*id) && !self.is_on_server(*id) =>
            {
                self.changed_no_row();
                self.tell_ok().await?;
            }
            What::LongData { id } if !self.statements.contains(*id) => {
                // A server says nothing either, until the statement is executed.
                return Ok(request.upload.is_none());
            }
            What::MultiStatements(on) => return self.multi_statements(*on).await,
            What::ResetConnection => self.reset_connection().await?,
            What::Kill { id, query } if *id & u64::from(MYSQL_ID) != 0 => {
                self.kill(*id, *query).await?;
            }
            What::ChangeUser => Box::pin(self.change_user(request)).await?,
            What::Unknown => {
                let refused = Refused::new(errors::UNKNOWN_COMMAND, "Unknown command");
                self.tell_refusal(&refused).await?;
            }
            What::Prepare { id } => {
                let limit = self.worker.limits().client_statements_max;
                if self.statements.len() <= limit {
                    return Ok(false);
                }
                self.statements.remove(*id);
                let message = "too many prepared statements for one client \
                               (limits.client_statements_max)";
                let refused = Refused::new(errors::TOO_MANY_STATEMENTS, message);
                self.tell_refusal(&refused).await?;
            }
            What::Query => return self.answer_query(request).await,
            _ => return Ok(false),
        }
        Ok(true)
    }

    async fn answer_query(&mut self, request: &Request) -> Result<bool, Fault> {
        let Some(statement) = request.statement.clone() else { return Ok(false) };
        let [effect] = &statement.session[..] else { return Ok(false) };
        if statement.count != 1 {
            return Ok(false);
        }
        match effect {
            SessionEffect::SetTiffin { key, value } => {
                match self.set_tiffin(key, value.as_deref()) {
                    Ok(()) => self.tell_ok().await?,
                    Err(refused) => self.tell_refusal(&refused).await?,
                }
            }
            SessionEffect::ShowTiffin { key } => self.show_tiffin(key).await?,
            SessionEffect::Kill { id, query } if id & u64::from(MYSQL_ID) != 0 => {
                self.kill(*id, *query).await?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn set_tiffin(&mut self, key: &str, value: Option<&str>) -> Result<(), Refused> {
        self.session.overrides.set(key, value).map_err(|error| match error {
            NoChoice::UnknownKey => {
                Refused::new(errors::WRONG_VALUE, format!("there is no setting @tiffin_{key}"))
            }
            NoChoice::Allowed(allowed) => {
                let value = value.unwrap_or_default();
                let message = format!(
                    "Variable '@tiffin_{key}' can't be set to the value of {value} ({allowed})"
                );
                Refused::new(errors::WRONG_VALUE, message)
            }
        })
    }

    async fn show_tiffin(&mut self, key: &str) -> Result<(), Fault> {
        let routing = &self.cluster.handle.config.routing;
        let value = self.session.overrides.show(key, routing);
        let mut out = Vec::new();
        let name = format!("@tiffin_{key}");
        put_row(&mut out, &name, value.as_deref(), &self.ends());
        self.tell(&out).await
    }

    /// What rows end with.
    fn ends(&self) -> (OkPacket<'static>, Capabilities) {
        (OkPacket { header: EOF, ..OkPacket::plain(self.followed.flags()) }, self.capabilities)
    }

    /// Whether the connection that is held knows the statement.
    pub(super) fn is_on_server(&mut self, id: u32) -> bool {
        let active = self.active.as_mut();
        active.is_some_and(|active| active.connection().traces.prepared.touch(id).is_some())
    }

    /// Whether several statements may stand in one text is a capability of connections: the
    /// session goes on with others.
    async fn multi_statements(&mut self, on: bool) -> Result<bool, Fault> {
        self.capabilities = match on {
            true => self.capabilities | Capabilities::MULTI_STATEMENTS,
            false => self.capabilities.without(Capabilities::MULTI_STATEMENTS),
        };
        self.pools = Default::default();
        if !self.is_free() {
            return Ok(false);
        }
        self.give_up_server();
        let mut out = Vec::new();
        put_end(&mut out, &mut 1, &self.ends());
        self.tell(&out).await?;
        Ok(true)
    }

    /// The session begins anew, as after its login, but for the schema.
    async fn reset_connection(&mut self) -> Result<(), Fault> {
        self.drop_server(ServerClosed::Abandoned);
        if self.cluster.handle.config.engine == Engine::Mysql {
            // MariaDB goes back to the handshake's character set.
            self.followed.collation = None;
        }
        self.begin_anew();
        self.tell_ok().await
    }

    pub(super) fn begin_anew(&mut self) {
        let positions = std::mem::take(&mut self.session.positions);
        self.session = Session::default();
        // Who reads its own writes does so whatever else it forgets.
        self.session.positions = positions;
        self.statements.clear();
        let engine = self.cluster.handle.config.engine;
        let of_collation = |collation| variables_of(collation, engine);
        let startup = self.followed.collation.map(of_collation).unwrap_or_default();
        let defaults = self.cluster.handle.topology.load().session_defaults().cloned();
        let followed = &mut self.followed;
        self.session.settings = followed.begin(startup, reading_of(engine), defaults.as_deref());
        let variables = std::mem::take(&mut followed.variables);
        followed.variables = self.worker.intern_variables(variables);
        self.translation.set_status(self.followed.flags());
        self.visible = Default::default();
        self.pins.hold([]);
    }

    /// KILL of a session of the proxy's.
    async fn kill(&mut self, id: u64, query: bool) -> Result<(), Fault> {
        let what = if query { Cancel::Statement } else { Cancel::Session };
        let killed = self.worker.kill(id, &self.identity.user, what).await;
        let refused = match killed {
            Killed::Done => return self.tell_ok().await,
            Killed::NotThere => {
                Refused::new(errors::NO_SUCH_THREAD, format!("Unknown thread id: {id}"))
            }
            Killed::NotOwner => {
                Refused::new(errors::KILL_DENIED, format!("You are not owner of thread {id}"))
            }
        };
        self.tell_refusal(&refused).await
    }

    async fn tell_refusal(&mut self, refused: &Refused) -> Result<(), Fault> {
        self.worker.stats().error(errors::ORIGIN, &refused.code.sqlstate);
        let mut out = Vec::new();
        errors::put(&mut out, &mut 1, refused.code, &refused.message);
        self.tell(&out).await
    }
}

/// Whether the text does nothing but what the proxy answers.
pub fn is_answered_here(statement: &Statement) -> bool {
    statement.count == 1
        && matches!(
            &statement.session[..],
            [SessionEffect::SetTiffin { .. } | SessionEffect::ShowTiffin { .. }]
        )
}

/// Appends a result of one column and one row.
fn put_row(
    out: &mut Vec<u8>,
    name: &str,
    value: Option<&str>,
    ends: &(OkPacket<'static>, Capabilities),
) {
    let mut sequence = 1;
    packet::put(out, &mut sequence, |out| out.push(1));
    packet::put(out, &mut sequence, |out| {
        for text in ["def", "", "", "", name, ""] {
            put_bytes(out, text.as_bytes());
        }
        if ends.1.has(Capabilities::EXTENDED_METADATA) {
            put_bytes(out, b"");
        }
        out.push(FIXED_FIELDS);
        out.extend_from_slice(&UTF8MB4.to_le_bytes());
        out.extend_from_slice(&COLUMN_BYTES.to_le_bytes());
        out.push(VAR_STRING);
        out.extend_from_slice(&[0; 5]);
    });
    let (ok, capabilities) = ends;
    if !capabilities.has(Capabilities::DEPRECATE_EOF) {
        put_eof(out, &mut sequence, 0, ok.status);
    }
    packet::put(out, &mut sequence, |out| match value {
        Some(value) => put_bytes(out, value.as_bytes()),
        None => out.push(0xFB),
    });
    put_end(out, &mut sequence, ends);
}

fn put_end(
    out: &mut Vec<u8>,
    sequence: &mut u8,
    (ok, capabilities): &(OkPacket<'static>, Capabilities),
) {
    if capabilities.has(Capabilities::DEPRECATE_EOF) {
        ok.put(out, sequence, *capabilities);
    } else {
        put_eof(out, sequence, 0, ok.status);
    }
}
