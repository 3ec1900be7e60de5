//! The list of users: each may log in somehow, and none twice.

use super::secret::{is_given, secret, user_secret};
use super::section::Section;
use super::{Auth, AuthMethod, ClientTls, ClientTlsMode, Secret, User, Word};
use std::collections::HashSet;

/// Checks the list, and that somebody can log in at all.
pub(super) fn users(root: &Section<'_>, auth: &Auth, tls: &ClientTls) -> Vec<User> {
    let mut users = Vec::new();
    let mut names = HashSet::new();
    for section in root.list("users") {
        let user = user(&section, auth, tls);
        if !user.name.is_empty() && !names.insert(user.name.clone()) {
            section.note("name", format!("`{}` is in the list twice", user.name));
        }
        users.push(user);
    }
    let by_certificate = matches!(auth.method, AuthMethod::Trust | AuthMethod::Cert);
    if users.is_empty() && auth.query.is_none() && !by_certificate {
        root.note(
            "users",
            "nobody could log in; must name at least one user unless `auth.query` finds them"
                .to_owned(),
        );
    }
    if auth.method == AuthMethod::Cert && !demands_certificate(tls) {
        root.section("auth").contradiction(
            "method",
            "is `cert`, which needs `tls.mode: verify-ca` or `verify-full`".to_owned(),
        );
    }
    users
}

fn demands_certificate(tls: &ClientTls) -> bool {
    matches!(tls.mode, ClientTlsMode::VerifyCa | ClientTlsMode::VerifyFull)
}

fn user(section: &Section<'_>, auth: &Auth, tls: &ClientTls) -> User {
    let user = User {
        name: section.required("name").into(),
        secret: user_secret(section),
        server_password: secret(section, "server_password"),
        method: section.choice("method"),
    };
    let method = user.method.unwrap_or(auth.method);
    let named =
        || if user.name.is_empty() { "the user".to_owned() } else { format!("`{}`", user.name) };
    let given =
        ["password", "scram_verifier", "md5_hash"].into_iter().any(|name| is_given(section, name));
    let needs_secret = !matches!(method, AuthMethod::Trust | AuthMethod::Cert);
    let whole = |message: String| section.note_whole(message);
    if needs_secret && !given {
        whole(format!(
            "{} has no secret and could not log in by `{}`; give `password_file`, `password_env`, `password`, or one of `scram_verifier…` and `md5_hash…`",
            named(),
            method.word()
        ));
    }
    match (method, &user.secret) {
        (AuthMethod::ScramSha256, Some(Secret::Md5(_))) => whole(format!(
            "{} has an md5 hash, which cannot be checked by `scram-sha-256`; give a password or SCRAM verifier, or `method: md5`",
            named()
        )),
        (AuthMethod::Md5, Some(Secret::ScramVerifier(_))) => whole(format!(
            "{} has a SCRAM verifier, which cannot be checked by `md5`; give a password or md5 hash, or `method: scram-sha-256`",
            named()
        )),
        (AuthMethod::Cert, _) if user.method.is_some() && !demands_certificate(tls) => {
            section.contradiction(
                "method",
                "is `cert`, which needs `tls.mode: verify-ca` or `verify-full`".to_owned(),
            );
        }
        (AuthMethod::Password, _)
            if matches!(tls.mode, ClientTlsMode::Disable | ClientTlsMode::Allow) =>
        {
            section.warn_whole(format!(
                "{} may send the password in clear text; `tls.mode: require` prevents it",
                named()
            ));
        }
        (AuthMethod::Trust | AuthMethod::Cert, None) if user.server_password.is_none() => {
            section.warn_whole(format!("{} gives the proxy no password for the servers; add `server_password_file` or `server_password_env` unless the servers ask for none", named()));
        }
        _ => {}
    }
    user
}
