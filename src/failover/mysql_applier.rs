//! What a replica of MySQL or MariaDB has received and is still to apply, and what it never can.
//!
//! A primary that is lost while it sends a transaction leaves the first events of it with its
//! replicas. An applier of MySQL's with several workers (the default) that waits for the rest hears
//! that it is to stop after a minute only (`SLAVE_WAIT_GROUP_DONE`, rpl_replica.cc). It rolls back at
//! once if its receiver finds another source, or if it is killed.

use super::mysql::{Channel, Session, sentence};
use super::servers::LOOK_INTERVAL;
use crate::config::Engine;
use crate::monitor::mysql::named;
use crate::topology::Position;
use mysql_async::Row;
use mysql_async::prelude::Queryable;
use std::time::{Duration, Instant};

/// An applier with workers tells how far it is each 300 ms (`replica_checkpoint_period`).
const TOLD_WITHIN: Duration = Duration::from_millis(400);
/// What an applier does that has nothing to do (`stage_replica_has_read_all_relay_log`).
const IDLE: &str = "has read all relay log";

impl Session<'_> {
    /// Waits until everything that was received is applied.
    pub(super) async fn apply_all(&mut self) -> Result<Position, String> {
        self.run(&format!("START {} SQL_THREAD", self.words.replica)).await?;
        loop {
            let (standing, channel) = self.place().await?;
            let (Some(received), Some(applied)) = (standing.position, standing.reach) else {
                return Err("it keeps no GTIDs".to_owned());
            };
            if applied.covers(&received) {
                return Ok(applied);
            }
            if let Some(channel) = channel.filter(|channel| !channel.applies) {
                return Err(format!("it cannot apply what it has received: {}", channel.error));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Whether it has applied all whole transactions that it has received, and has the beginning of
    /// another one. One that still receives may get the rest, and more.
    pub(super) async fn has_half_transaction(&mut self) -> Result<bool, String> {
        if self.servers.cluster.engine == Engine::Mariadb {
            return Ok(false);
        }
        let until = Instant::now() + TOLD_WITHIN;
        loop {
            let (standing, channel) = self.place().await?;
            let covers = |reach: Position| Some(reach.covers(standing.position.as_ref()?));
            let may_have =
                |channel: &Channel| channel.applies && channel.by_gtid && channel.receives != "Yes";
            let Some(channel) = channel.filter(may_have) else { return Ok(false) };
            if channel.at_end || standing.reach.clone().and_then(covers) != Some(true) {
                return Ok(false);
            }
            if Instant::now() >= until {
                return Ok(true);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Nobody will send the rest of it.
    pub(super) async fn drop_half_transaction(&mut self) -> Result<(), String> {
        if !self.has_half_transaction().await? {
            return Ok(());
        }
        let rows: Vec<Row> = self.connection.query("SHOW PROCESSLIST").await.map_err(sentence)?;
        let applier = rows.iter().find(|row| named(row, "State").contains(IDLE));
        let killed = match applier {
            Some(row) => self.run(&format!("KILL {}", named(row, "Id"))).await,
            None => Err("SHOW PROCESSLIST does not show it".to_owned()),
        };
        if let Err(error) = killed {
            tracing::warn!(
                "the rest of a transaction was never received, and its applier ends after a minute, \
                 for it cannot be killed (GRANT SYSTEM_USER): {error}"
            );
            return Ok(());
        }
        while self.channel().await?.is_some_and(|channel| channel.applies) {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }
}
