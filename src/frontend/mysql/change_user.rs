//! COM_CHANGE_USER: the session begins anew, as somebody else.

use super::auth_context::AuthContext;
use super::conversation::{Conversation, Identity};
use super::errors::{self, Code};
use super::fault::{Fault, Refused};
use super::plan::Request;
use super::startup::{Changed, Client, StartupError, change_user};
use crate::backend::mysql::wire::Packets;
use crate::frontend::postgres::startup::PeerAddress;
use crate::metrics::ServerClosed;
use crate::protocol::mysql::packet::HEAD_BYTES;
use crate::protocol::mysql::reply::OkPacket;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// utf8mb4_general_ci, for a client that names no collation.
const COLLATION: u8 = 45;

/// Where a client came in, and who decides on that.
pub struct Door {
    pub auth: Arc<AuthContext>,
    pub peer: PeerAddress,
}

impl Conversation {
    /// Answers the command. A client that is refused is let go, as by a server.
    pub(super) async fn change_user(&mut self, request: &Request) -> Result<(), Fault> {
        self.drop_server(ServerClosed::Abandoned);
        let payload = self.inbox.filled()[HEAD_BYTES + 1..request.bytes].to_vec();
        let client = Client {
            capabilities: self.capabilities,
            peer: self.door.peer,
            tls: self.client.is_tls(),
        };
        let face = self.cluster.face();
        let mut packets = Packets::new(&mut self.client);
        packets.sequence = 1;
        let proved = change_user(&mut packets, &self.door.auth, &face, client, &payload).await;
        let mut sequence = packets.sequence;
        let (_, leftover) = packets.wire.into_parts();
        let changed = match proved {
            Ok(changed) => changed,
            Err(StartupError::Refused(refusal)) => {
                if refusal.delayed {
                    sleep(self.auth_delay()).await;
                }
                self.worker.stats().auth_failed(refusal.failure);
                let code = Code::new(refusal.errno, refusal.sqlstate);
                return self.tell_last(code, &refusal.message, sequence).await;
            }
            Err(_) => return Err(Fault::ClientLeft),
        };
        let begun = self.become_other(changed).await?;
        if let Err(refused) = begun {
            return self.tell_last(refused.code, &refused.message, sequence).await;
        }
        let mut out = Vec::new();
        OkPacket::plain(self.followed.flags()).put(&mut out, &mut sequence, self.capabilities);
        self.tell(&out).await?;
        self.inbox.extend(&leftover);
        Ok(())
    }

    fn auth_delay(&self) -> Duration {
        self.worker.limits().auth_delay
    }

    /// The client's last words from here.
    async fn tell_last(&mut self, code: Code, message: &str, sequence: u8) -> Result<(), Fault> {
        self.worker.stats().error(errors::ORIGIN, &code.sqlstate);
        let (mut out, mut sequence) = (Vec::new(), sequence);
        errors::put(&mut out, &mut sequence, code, message);
        self.tell(&out).await?;
        Err(Fault::ClientLeft)
    }

    async fn become_other(&mut self, changed: Changed) -> Result<Result<(), Refused>, Fault> {
        let schema = changed.database.filter(|schema| !schema.is_empty());
        let Some(cluster) = self.worker.mysql_cluster_of(schema.as_deref()) else {
            let message = format!("Unknown database '{}'", schema.unwrap_or_default());
            return Ok(Err(Refused::new(errors::UNKNOWN_SCHEMA, message)));
        };
        if !Rc::ptr_eq(&self.cluster, &cluster) {
            // What was written elsewhere is not here.
            self.session.positions = Default::default();
        }
        self.catalog = cluster.handle.catalogs.get("");
        self.cluster = cluster;
        self.pools = Default::default();
        let user: Arc<str> = changed.user.as_str().into();
        self.entry.belongs_to(user.clone());
        self.identity = Rc::new(Identity { user, secret: changed.server_secret });
        self.followed.collation = match u8::try_from(changed.collation) {
            Ok(collation @ 1..) => Some(collation),
            _ => Some(COLLATION),
        };
        self.followed.schema = None;
        self.begin_anew();
        self.log_in(schema.as_deref()).await
    }
}
