//! `init_connect`: what servers run for each client that connects, for each session instead. A
//! server runs it for the proxy's connections, whose first session is not the last.

use super::active::Whose;
use super::conversation::Conversation;
use super::errors;
use super::fault::{Fault, Refused};
use super::plan::Extent;
use super::serve::Served;
use crate::frontend::acquire::acquire;
use crate::frontend::cluster::{LocalCluster, Mysql};
use crate::protocol::mysql::execute::put_query;
use crate::protocol::mysql::packet;
use crate::sql::{Dialect, split_statements};

const NAME: &str = "init_connect";

/// Whether a server of the cluster has one.
pub fn is_asked_for(cluster: &LocalCluster<Mysql>) -> bool {
    let snapshot = cluster.handle.topology.load();
    let told = snapshot.nodes.iter().filter_map(|node| node.session_defaults.as_deref());
    told.flatten().any(|(name, value)| *name == NAME && !value.trim().is_empty())
}

impl Conversation {
    /// Runs the primary's `init_connect` as if the client had sent it, statement by statement: what
    /// it sets follows the session, what it writes goes to the primary.
    pub(super) async fn initiate(&mut self) -> Result<Result<(), Refused>, Fault> {
        if !is_asked_for(&self.cluster) {
            return Ok(Ok(()));
        }
        let topology = &self.cluster.handle.topology;
        let text = topology.load().session_default(NAME).unwrap_or_default().to_owned();
        for statement in split_statements(&text, Dialect::MySql(self.followed.reading)) {
            if let Err(refused) = self.run_for_session(statement).await? {
                return Ok(Err(refused));
            }
        }
        Ok(Ok(()))
    }

    async fn run_for_session(&mut self, sql: &str) -> Result<Result<(), Refused>, Fault> {
        let mut command = Vec::new();
        packet::put(&mut command, &mut 0, |out| put_query(out, self.capabilities, sql));
        self.inbox.extend(&command);
        let mut request = self.plan(Extent::Whole(command.len()))?;
        request.whose = Whose::Session;
        let need = self.need(&request);
        if self.active.is_none()
            && let Err(refused) = acquire(self, &need, false).await?
        {
            return Ok(Err(refused));
        }
        let served = self.run_on_server(&mut request, false).await?;
        let failed = self.active.as_ref().and_then(|active| active.progress.failed);
        if self.is_free() {
            self.give_up_server();
        }
        Ok(match (served, failed) {
            (Served::Refused(refused), _) => Err(refused),
            (_, Some(errno)) => {
                let message = format!("Aborted connection: init_connect failed with error {errno}");
                Err(Refused::new(errors::ABORTED, message))
            }
            (Served::Done | Served::Repeat, None) => Ok(()),
        })
    }
}
