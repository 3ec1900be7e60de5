//! What a client is told when it is not let in: numbers and sentences, in one place. They are
//! MySQL's (`share/messages_to_clients.txt`).

use crate::frontend::postgres::startup::PeerAddress;
use crate::metrics::AuthFailure;
use std::fmt;

/// What a client is told when it is not let in, and what the log says besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub errno: u16,
    pub sqlstate: [u8; 5],
    pub message: String,
    /// As it is counted.
    pub failure: AuthFailure,
    /// For the log only.
    pub because: Option<String>,
    /// Told after `limits.auth_delay`: a guess costs time.
    pub delayed: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { errno, message, .. } = self;
        match &self.because {
            Some(because) => write!(f, "{errno}: {message} ({because})"),
            None => write!(f, "{errno}: {message}"),
        }
    }
}

impl Refusal {
    fn new(errno: u16, sqlstate: &[u8; 5], failure: AuthFailure, message: &str) -> Refusal {
        let message = message.to_owned();
        Refusal { errno, sqlstate: *sqlstate, message, failure, because: None, delayed: false }
    }

    fn because(self, because: &str) -> Refusal {
        Refusal { because: Some(because.to_owned()), ..self }
    }

    /// ER_HANDSHAKE_ERROR.
    pub(super) fn bad_handshake(because: &str) -> Refusal {
        Refusal::new(1043, b"08S01", AuthFailure::Protocol, "Bad handshake").because(because)
    }

    /// ER_NET_PACKETS_OUT_OF_ORDER.
    pub(super) fn out_of_order() -> Refusal {
        Refusal::new(1156, b"08S01", AuthFailure::Protocol, "Got packets out of order")
    }

    /// ER_NET_PACKET_TOO_LARGE.
    pub(super) fn too_long() -> Refusal {
        let message = "Got a packet bigger than 'max_allowed_packet' bytes";
        Refusal::new(1153, b"08S01", AuthFailure::Protocol, message)
    }

    /// ER_NET_READ_INTERRUPTED.
    pub(super) fn too_slow() -> Refusal {
        let message = "Got timeout reading communication packets";
        Refusal::new(1159, b"08S01", AuthFailure::Timeout, message)
    }

    /// ER_NOT_SUPPORTED_AUTH_MODE.
    pub(super) fn too_old() -> Refusal {
        let message = "Client does not support authentication protocol requested by server; \
                       consider upgrading MySQL client";
        Refusal::new(1251, b"08004", AuthFailure::Protocol, message)
    }

    /// ER_SECURE_TRANSPORT_REQUIRED.
    pub(super) fn unencrypted() -> Refusal {
        let message = "Connections using insecure transport are prohibited while \
                       --require_secure_transport=ON.";
        Refusal::new(3159, b"HY000", AuthFailure::TlsRequired, message)
    }

    /// ER_ACCESS_DENIED_ERROR, alike for every reason that has to do with a user: which names
    /// there are is not told.
    pub(super) fn denied(
        user: &str,
        peer: PeerAddress,
        password: bool,
        because: Denied,
    ) -> Refusal {
        let host = match peer {
            PeerAddress::Tcp(address) => address.ip().to_string(),
            PeerAddress::Unix => "localhost".to_owned(),
        };
        let using = if password { "YES" } else { "NO" };
        let message = format!("Access denied for user '{user}'@'{host}' (using password: {using})");
        let (failure, why) = match because {
            Denied::NoUser => (AuthFailure::UnknownUser, "there is no such user"),
            Denied::NoPassword => (
                AuthFailure::WrongPassword,
                "nothing is known that its password could be checked with",
            ),
            Denied::WrongPassword => (AuthFailure::WrongPassword, "the password is another one"),
            Denied::NoCertificate => (AuthFailure::Certificate, "no certificate was shown"),
            Denied::OtherCertificate => {
                (AuthFailure::Certificate, "the certificate is for another name")
            }
        };
        let refusal = Refusal::new(1045, b"28000", failure, &message).because(why);
        Refusal { delayed: true, ..refusal }
    }

    /// ER_UNKNOWN_ERROR: users cannot be looked up just now.
    pub(super) fn lookup_failed(reason: &str) -> Refusal {
        let message = "Users cannot be looked up on the server";
        Refusal::new(1105, b"HY000", AuthFailure::QueryFailed, message).because(reason)
    }

    /// ER_UNKNOWN_ERROR: the proxy's own trouble.
    pub(super) fn trouble(because: &str) -> Refusal {
        Refusal::new(1105, b"HY000", AuthFailure::Protocol, "Unknown error").because(because)
    }
}

/// Why a user is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    NoUser,
    NoPassword,
    WrongPassword,
    NoCertificate,
    OtherCertificate,
}
