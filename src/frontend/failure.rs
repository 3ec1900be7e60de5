//! Why a transaction that has lost its server does not go on on another one (`failover.replay`);
//! the same for every protocol.

use crate::metrics::ReplayOutcome;

/// What the client is told; the hint says why.
pub const FAILED: &str = "the server was lost with this transaction open, and running it again on \
    another one has failed";

/// Why a transaction has not gone on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Differs,
    TooLong,
    NoServer,
    /// The next server was lost as well.
    Lost,
}

impl Failure {
    pub fn outcome(self) -> ReplayOutcome {
        match self {
            Failure::Differs => ReplayOutcome::Differs,
            Failure::TooLong => ReplayOutcome::TooLong,
            Failure::NoServer | Failure::Lost => ReplayOutcome::NoServer,
        }
    }

    pub fn hint(self) -> &'static str {
        match self {
            Failure::Differs => {
                "A statement was answered in another way than before: what it reads has changed, \
                or it is not deterministic. Run the transaction again."
            }
            Failure::TooLong => "It took longer than failover.replay_time_max.",
            Failure::NoServer | Failure::Lost => {
                "There was no server to run it on within gate.hold. Run the transaction again."
            }
        }
    }
}
