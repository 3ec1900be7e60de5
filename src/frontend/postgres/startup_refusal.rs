//! What a client is told when it is not let in: the sentences, in one place.
//!
//! The words are PostgreSQL's where it has words for it (`auth.c`, `backend_startup.c`).

use super::startup::PeerAddress;
use crate::protocol::postgres::scram::ScramError;
use std::fmt;

/// What a client is told when it is not let in (always FATAL), and what the log says besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub sqlstate: &'static str,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// For the log only.
    pub because: Option<String>,
    /// Told after `limits.auth_delay`: a guess costs time.
    pub delayed: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.sqlstate, self.message)?;
        match self.because.as_ref().or(self.detail.as_ref()) {
            Some(because) => write!(f, " ({because})"),
            None => Ok(()),
        }
    }
}

impl Refusal {
    pub(super) fn new(sqlstate: &'static str, message: String) -> Refusal {
        Refusal { sqlstate, message, detail: None, hint: None, because: None, delayed: false }
    }

    pub(super) fn violation(message: &str) -> Refusal {
        Refusal::new("08P01", message.to_owned())
    }

    pub(super) fn injected() -> Refusal {
        let mut refusal = Refusal::violation("received unencrypted data after SSL request");
        refusal.detail = Some(
            "This could be either a client-software bug or evidence of an attempted \
             man-in-the-middle attack."
                .to_owned(),
        );
        refusal
    }

    pub(super) fn no_user() -> Refusal {
        Refusal::new("28000", "no PostgreSQL user name specified in startup packet".to_owned())
    }

    pub(super) fn unencrypted(peer: PeerAddress, user: &str) -> Refusal {
        let mut refusal = Refusal::new(
            "28000",
            format!("connection of user \"{user}\" from {peer} refused: no encryption"),
        );
        refusal.hint = Some("TLS is required here: connect with sslmode=require.".to_owned());
        refusal
    }

    pub(super) fn certificate_required() -> Refusal {
        Refusal::new("28000", "connection requires a valid client certificate".to_owned())
    }

    pub(super) fn certificate(user: &str, because: &str) -> Refusal {
        let mut refusal =
            Refusal::new("28000", format!("certificate authentication failed for user \"{user}\""));
        refusal.because = Some(because.to_owned());
        refusal.delayed = true;
        refusal
    }

    pub(super) fn no_such_role(user: &str) -> Refusal {
        let mut refusal = Refusal::new("28000", format!("role \"{user}\" does not exist"));
        refusal.delayed = true;
        refusal
    }

    pub(super) fn wrong_password(user: &str, because: &str) -> Refusal {
        let mut refusal =
            Refusal::new("28P01", format!("password authentication failed for user \"{user}\""));
        refusal.because = Some(because.to_owned());
        refusal.delayed = true;
        refusal
    }

    pub(super) fn scram(user: &str, error: &ScramError) -> Refusal {
        if *error == ScramError::WrongPassword {
            return Refusal::wrong_password(user, "the password is another one");
        }
        let mut refusal = Refusal::new(error.sqlstate(), error.to_string());
        refusal.detail = error.detail().map(str::to_owned);
        refusal
    }

    pub(super) fn lookup_failed(because: &str) -> Refusal {
        let message = "the user cannot be looked up now, no server answers".to_owned();
        let mut refusal = Refusal::new("57P03", message);
        refusal.because = Some(because.to_owned());
        refusal
    }

    pub(super) fn shutting_down() -> Refusal {
        Refusal::new("57P01", "the proxy is shutting down".to_owned())
    }

    pub(super) fn no_randomness() -> Refusal {
        Refusal::new("XX000", "could not generate random numbers".to_owned())
    }
}
