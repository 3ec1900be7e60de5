//! Secrets: in the file, in a file of their own, or in the environment; exactly one of these.
//!
//! No message here contains any part of a secret.

use super::section::Section;
use super::{Secret, file::Value};
use secrecy::SecretString;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// No password is longer; a longer file was named by mistake.
const SECRET_BYTES_MAX: u64 = 64 * 1024;
/// Bits of a file's mode that let everybody read it.
const MODE_OTHERS_READ: u32 = 0o004;

/// The secret under `name`, `name_file` or `name_env`; `None` if there is none of them, or after
/// a problem was noted.
pub(super) fn secret(section: &Section<'_>, name: &str) -> Option<SecretString> {
    let (file, env) = (format!("{name}_file"), format!("{name}_env"));
    let given: Vec<&str> = [name, &file, &env].into_iter().filter(|key| section.has(key)).collect();
    if let [first, second, ..] = given.as_slice() {
        section.note(
            second,
            format!("contradicts `{first}`; give only one of `{name}`, `{file}` and `{env}`"),
        );
    }
    match given.first() {
        Some(key) if *key == name => inline(section, name),
        Some(key) if *key == file => from_file(section, key),
        Some(key) => from_env(section, key),
        None => None,
    }
}

/// Whether any of the three keys is in the file.
pub(super) fn is_given(section: &Section<'_>, name: &str) -> bool {
    section.has(name) || section.has(&format!("{name}_file")) || section.has(&format!("{name}_env"))
}

fn inline(section: &Section<'_>, name: &str) -> Option<SecretString> {
    // A number or truth value would lose how it was written: 0x10, 1e5, true.
    if let Some(Value::Int(_) | Value::Float | Value::Bool(_)) =
        section.value(name).map(|node| &node.value)
    {
        section.note(name, "must be a text; put it in quotes".to_owned());
        return None;
    }
    let text = section.text(name)?;
    section.walk.inline_secrets.set(section.walk.inline_secrets.get() + 1);
    if section.walk.inline_secrets.get() == 1 {
        section.warn(
            name,
            format!("is a secret in the config file itself; better `{name}_file` or `{name}_env`"),
        );
    }
    checked(section, name, text)
}

fn from_file(section: &Section<'_>, key: &str) -> Option<SecretString> {
    let path = section.walk.base.join(section.text(key)?);
    match read_bounded(&path) {
        Ok((text, mode)) => {
            if mode & MODE_OTHERS_READ != 0 {
                let path = path.display();
                section.warn(key, format!("{path} can be read by everybody; `chmod 600 {path}`"));
            }
            checked(section, key, text.trim_end_matches(['\n', '\r']).to_owned())
        }
        Err(fault) => {
            section.note(key, format!("cannot read {}: {fault}", path.display()));
            None
        }
    }
}

fn from_env(section: &Section<'_>, key: &str) -> Option<SecretString> {
    let variable = section.text(key)?;
    match (section.walk.env)(&variable) {
        Some(value) => checked(section, key, value),
        None => {
            section.note(key, format!("the environment variable {variable} is not set"));
            None
        }
    }
}

fn read_bounded(path: &Path) -> Result<(String, u32), String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mode = file.metadata().map_err(|error| error.to_string())?.permissions().mode();
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("it is longer than {SECRET_BYTES_MAX} bytes, which is no password"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    Ok((text, mode))
}

fn checked(section: &Section<'_>, key: &str, text: String) -> Option<SecretString> {
    if text.is_empty() {
        section.note(key, "the secret is empty".to_owned());
        return None;
    }
    if text.contains('\0') {
        section.note(key, "the secret contains a NUL byte, which no server takes".to_owned());
        return None;
    }
    Some(SecretString::from(text))
}

/// The three ways of knowing a user's password; at most one of them.
pub(super) fn user_secret(user: &Section<'_>) -> Option<Secret> {
    use secrecy::ExposeSecret;
    let names = ["password", "scram_verifier", "md5_hash"];
    let given: Vec<&str> = names.into_iter().filter(|name| is_given(user, name)).collect();
    if let [first, second, ..] = given.as_slice() {
        let message = format!(
            "has both `{first}…` and `{second}…`; give only one of `password`, `scram_verifier` and `md5_hash`, or its `_file` or `_env`"
        );
        user.note_whole(message);
    }
    let name = *given.first()?;
    let key = [name.to_owned(), format!("{name}_file"), format!("{name}_env")]
        .into_iter()
        .find(|key| user.has(key))
        .unwrap_or_default();
    let secret = secret(user, name)?;
    let text = secret.expose_secret();
    match name {
        "scram_verifier" if !is_scram_verifier(text) => {
            user.note(&key, "is not a SCRAM verifier; must be `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` as in `pg_authid.rolpassword`".to_owned());
            None
        }
        "scram_verifier" => Some(Secret::ScramVerifier(secret)),
        "md5_hash" if !is_md5(text) => {
            user.note(
                &key,
                "is not an md5 hash; must be `md5` and 32 hex digits as in `pg_authid.rolpassword`"
                    .to_owned(),
            );
            None
        }
        "md5_hash" => Some(Secret::Md5(secret)),
        _ => {
            if text.starts_with("SCRAM-SHA-256$") || is_md5(text) {
                let right = if is_md5(text) { "md5_hash" } else { "scram_verifier" };
                user.note(
                    &key,
                    format!(
                        "is a stored form of a password, not a password; use `{}`",
                        key.replacen("password", right, 1)
                    ),
                );
                return None;
            }
            Some(Secret::Password(secret))
        }
    }
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`; PostgreSQL's
/// `parse_scram_secret` in `src/backend/libpq/auth-scram.c`.
fn is_scram_verifier(text: &str) -> bool {
    /// 32 bytes in base64.
    const KEY_CHARS: usize = 44;
    let parts = || {
        let (iterations, rest) = text.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored, server) = keys.split_once(':')?;
        Some((iterations, salt, stored, server))
    };
    let base64 = |text: &str| {
        let body = text.trim_end_matches('=');
        !body.is_empty()
            && text.len().is_multiple_of(4)
            && text.len() - body.len() <= 2
            && body.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
    };
    parts().is_some_and(|(iterations, salt, stored, server)| {
        iterations.parse::<u32>().is_ok_and(|count| count > 0)
            && base64(salt)
            && [stored, server].iter().all(|key| key.len() == KEY_CHARS && base64(key))
    })
}

fn is_md5(text: &str) -> bool {
    text.strip_prefix("md5").is_some_and(|hex| {
        hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_forms_are_recognised() {
        let verifier = "SCRAM-SHA-256$4096:VcNrjGbKQ1hR8c9rqFzS4g==$9ToUSZvYUDiLmHxDoFBZ2gJcF2/bVVsXKCqKD8oHO3k=:Lya0DRqT2Bm1lAL7gBeiyyTStVSQdKfxTyKIlSgSGaU=";
        assert!(is_scram_verifier(verifier));
        for wrong in [
            "",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$0:AAAA$x:y",
            &verifier[..verifier.len() - 4],
            &verifier.replace("4096", "x"),
            &verifier.replace("VcNr", "V*Nr"),
            "hunter2",
        ] {
            assert!(!is_scram_verifier(wrong), "{wrong}");
        }
        assert!(is_md5("md5d41d8cd98f00b204e9800998ecf8427e"));
        assert!(!is_md5("md5d41d8cd98f00b204e9800998ecf8427"));
        assert!(!is_md5("md5D41D8CD98F00B204E9800998ECF8427E"));
    }
}
