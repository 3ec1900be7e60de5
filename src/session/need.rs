//! From what a request does and what the session is to what it requires of a node.

use super::{Positions, Session, Transaction};
use crate::config::Routing;
use crate::metrics::RouteReason;
use crate::sql::{
    Consistency, Effect, Hint, HintTarget, Isolation, SessionEffect, Statement, TransactionModes,
};
use std::sync::Arc;
use std::time::Duration;

/// What a request does: the strictest of its statements.
#[derive(Debug, Clone)]
pub enum Class {
    /// Every statement is a read.
    Read,
    /// Only changes the session: any server will do.
    Session,
    /// Begins a transaction of these modes, and perhaps goes on with it.
    Begin(TransactionModes),
    Write(RouteReason),
}

/// What a request requires.
#[derive(Debug, Clone)]
pub enum Need {
    Primary(RouteReason),
    /// The primary, or a replica while there is none.
    Any,
    Replica(ReplicaNeed),
}

#[derive(Debug, Clone)]
pub struct ReplicaNeed {
    pub consistency: Consistency,
    /// Bound on the age of data; `None` where the level has none.
    pub lag_max: Option<Duration>,
    pub positions: Positions,
    pub wish: Wish,
    /// Whether the node is kept for a whole transaction.
    pub transaction: bool,
}

/// What a hint asks of the choice among safe nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    None,
    Replica,
    Node(Arc<str>),
}

impl Class {
    pub fn of(statement: &Statement) -> Class {
        let begins = statement.session.iter().filter_map(|effect| match effect {
            SessionEffect::Begin(modes) => Some(*modes),
            _ => None,
        });
        let begins = begins.reduce(TransactionModes::and_then);
        // What keeps the connection keeps it for writes to come as well.
        let pins = statement.session.iter().any(|effect| match effect {
            SessionEffect::Pin(_) => true,
            SessionEffect::SetsOnce => statement.count > 1,
            _ => false,
        });
        match (statement.effect, begins) {
            (Effect::Read | Effect::Session | Effect::Transaction, _) if pins => {
                Class::Write(RouteReason::SessionPin)
            }
            // A replica refuses them also outside of a transaction, where they mean nothing.
            (Effect::Read | Effect::Session | Effect::Transaction, _)
                if statement.sets_modes_of_primary() =>
            {
                Class::Write(RouteReason::Transaction)
            }
            (Effect::Read, None) => Class::Read,
            (Effect::Session, _) => Class::Session,
            (Effect::Read | Effect::Transaction, Some(modes)) => Class::Begin(modes),
            (Effect::Transaction, None) => Class::Session,
            (Effect::Write | Effect::Unknown, _) => Class::Write(reason(statement)),
        }
    }

    /// The class of two statements that run as one.
    pub fn join(self, other: Class) -> Class {
        match (self, other) {
            (Class::Write(reason), _) | (_, Class::Write(reason)) => Class::Write(reason),
            (Class::Begin(modes), _) | (_, Class::Begin(modes)) => Class::Begin(modes),
            (Class::Read, _) | (_, Class::Read) => Class::Read,
            (Class::Session, Class::Session) => Class::Session,
        }
    }
}

fn reason(statement: &Statement) -> RouteReason {
    match statement.reason_code {
        "catalog_unknown" => RouteReason::CatalogUnknown,
        "too_large" => RouteReason::TooLarge,
        _ if statement.effect == Effect::Unknown => RouteReason::UnknownStatement,
        _ => RouteReason::Write,
    }
}

impl Isolation {
    /// The value of `default_transaction_isolation`, quoted.
    pub fn as_setting(self) -> &'static str {
        match self {
            Isolation::ReadUncommitted => "'read uncommitted'",
            Isolation::ReadCommitted => "'read committed'",
            Isolation::RepeatableRead => "'repeatable read'",
            Isolation::Serializable => "'serializable'",
        }
    }
}

impl Session {
    /// What the next request requires, for a session that keeps no connection.
    pub fn need(&self, class: &Class, hint: Option<&Hint>, routing: &Routing) -> Need {
        let modes = match (&self.transaction, class) {
            // A BEGIN in a block warns, and its modes count.
            (Transaction::Held(held), Class::Begin(more)) => {
                let isolation = more.isolation.or(held.modes.isolation);
                Some(TransactionModes { isolation, ..held.modes })
            }
            (Transaction::Held(held), _) => Some(held.modes),
            (_, Class::Begin(modes)) => Some(*modes),
            _ => None,
        };
        if let Class::Write(reason) = class {
            return Need::Primary(*reason);
        }
        if let Some(modes) = modes
            && let Some(reason) = self.transaction_needs_primary(modes)
        {
            return Need::Primary(reason);
        }
        match class {
            Class::Session if modes.is_none() => Need::Any,
            _ if modes.is_none() && self.settings.is_serializable_by_default() => {
                Need::Primary(RouteReason::Serializable)
            }
            _ => self.read_need(hint, routing, modes.is_some()),
        }
    }

    /// Why a transaction of these modes cannot run on a replica.
    fn transaction_needs_primary(&self, modes: TransactionModes) -> Option<RouteReason> {
        let read_only =
            modes.read_only.unwrap_or_else(|| self.settings.is_on("default_transaction_read_only"));
        let serializable = match modes.isolation {
            Some(level) => level == Isolation::Serializable,
            None => self.settings.is_serializable_by_default(),
        };
        match (read_only, serializable) {
            (false, _) => Some(RouteReason::Transaction),
            (true, true) => Some(RouteReason::Serializable),
            (true, false) if self.shuns_replicas => Some(RouteReason::RetriedOnPrimary),
            (true, false) => None,
        }
    }

    fn read_need(&self, hint: Option<&Hint>, routing: &Routing, transaction: bool) -> Need {
        let hinted = |of: fn(&Hint) -> Option<Consistency>| hint.and_then(of);
        let consistency = hinted(|hint| hint.consistency)
            .or(self.overrides.consistency)
            .unwrap_or(routing.consistency);
        let lag_max = hint.and_then(|hint| hint.lag_max).or(self.overrides.lag_max);
        let target = hint.and_then(|hint| hint.target.as_ref()).or(self.overrides.target.as_ref());
        let wish = match target {
            Some(HintTarget::Primary) => return Need::Primary(RouteReason::HintPrimary),
            Some(HintTarget::Replica) => Wish::Replica,
            Some(HintTarget::Node(name)) => Wish::Node(name.clone()),
            None => Wish::None,
        };
        if consistency == Consistency::Strong {
            return Need::Primary(RouteReason::Strong);
        }
        let lag_max = match consistency {
            Consistency::Eventual => lag_max,
            _ => Some(lag_max.unwrap_or(routing.lag_max)),
        };
        let positions = self.positions.clone();
        Need::Replica(ReplicaNeed { consistency, lag_max, positions, wish, transaction })
    }
}

#[cfg(test)]
#[path = "need_tests.rs"]
mod tests;
