//! Why a statement went where it went. One word for the counter, one sentence for people.

/// Which kind of node a reason speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    Primary,
    Replica,
    /// The hint named a node; it may be either.
    Any,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $target:ident, $word:literal, $sentence:literal;)+) => {
        /// Why the router chose the node that it chose.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum RouteReason {
            $($(#[$doc])* $name,)+
        }

        impl RouteReason {
            pub const ALL: &'static [RouteReason] = &[$(RouteReason::$name,)+];
            pub const COUNT: usize = RouteReason::ALL.len();

            /// The label in metrics and in the output of `explain`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(RouteReason::$name => $word,)+
                }
            }

            /// A sentence for people.
            pub const fn explain(self) -> &'static str {
                match self {
                    $(RouteReason::$name => $sentence,)+
                }
            }

            /// The kind of node that a decision with this reason takes.
            pub const fn target(self) -> Target {
                match self {
                    $(RouteReason::$name => Target::$target,)+
                }
            }
        }
    };
}

reasons! {
    Write => Primary, "write",
        "the statement writes, or takes a lock that a standby refuses";
    /// Not read-only, or its modes are not known.
    Transaction => Primary, "transaction",
        "the statement belongs to a transaction that may write";
    SessionPin => Primary, "session_pin",
        "the session keeps its connection to the primary because of state that lives there";
    Serializable => Primary, "serializable",
        "a standby cannot run serializable transactions";
    ReadYourWrites => Primary, "read_your_writes",
        "no replica is known to have applied this session's last write";
    Monotonic => Primary, "monotonic",
        "no replica is known to be as far as what this session has already read";
    Lag => Primary, "lag",
        "every replica lags more than allowed";
    NoReplica => Primary, "no_replica",
        "no replica is healthy";
    HintPrimary => Primary, "hint_primary",
        "a hint asks for the primary";
    Strong => Primary, "strong",
        "reads of consistency level strong go to the primary";
    UnknownStatement => Primary, "unknown_statement",
        "the statement is not understood, and what is not understood may write";
    CatalogUnknown => Primary, "catalog_unknown",
        "the catalog is not loaded, so a function or relation may do anything";
    TooLarge => Primary, "too_large",
        "the statement is longer than what is parsed";
    /// In a pipeline a later statement of the same implicit transaction could write.
    SegmentOpen => Primary, "segment_open",
        "the pipeline's Sync has not been seen, so a write may still follow in the same transaction";
    RetriedOnPrimary => Primary, "retried_on_primary",
        "the replica failed before a byte of the reply had reached the client";

    LeastLag => Replica, "least_lag",
        "the replica is among the least lagged that qualify";
    Latency => Replica, "latency",
        "the replica answers fastest among those that qualify";
    Weighted => Replica, "weighted",
        "the replica was drawn by weight among those that qualify";
    LeastConnections => Replica, "least_connections",
        "the replica has the fewest busy connections among those that qualify";
    /// A read-only transaction, or a pin, holds the session there.
    Sticky => Replica, "sticky",
        "the session is in a read-only transaction on this replica, or has state there";
    /// After waiting at most `catchup_wait`.
    CaughtUp => Replica, "caught_up",
        "the replica caught up with what the session needs while the read waited";
    HintReplica => Replica, "hint_replica",
        "a hint asks for a replica";
    HintNode => Any, "hint_node",
        "a hint names this node";
    Stale => Replica, "stale",
        "no replica is fresh enough, and the configuration prefers a stale answer";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn words_are_unique_and_usable_as_labels() {
        let words: HashSet<_> = RouteReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), RouteReason::COUNT);
        for word in words {
            assert!(word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{word}");
        }
    }

    #[test]
    fn the_position_in_all_is_the_index_of_the_counter() {
        for (index, reason) in RouteReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }

    #[test]
    fn the_page_tells_each_word_and_its_sentence() {
        let page = include_str!("../../docs/metrics.md");
        for reason in RouteReason::ALL {
            let target = match reason.target() {
                Target::Primary => "primary",
                Target::Replica => "replica",
                Target::Any => "either",
            };
            let row = format!("| `{}` | {target} | {} |", reason.as_str(), reason.explain());
            assert!(page.lines().any(|line| line == row), "docs/metrics.md lacks: {row}");
        }
    }
}
