//! The md5 password method: what is stored, and what answers a salt.
//!
//! Source: PostgreSQL `src/common/md5_common.c`, `src/backend/libpq/crypt.c`.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use postgres_protocol::password;

/// `md5` and 32 hex digits.
const STORED_BYTES: usize = 35;

/// What `pg_authid` stores for a password: `md5` + hex(md5(password ‖ user)).
pub fn stored(user: &str, password: &[u8]) -> String {
    password::md5(password, user)
}

/// Whether a text has the form that [`stored`] gives.
pub fn is_stored(text: &str) -> bool {
    text.len() == STORED_BYTES
        && text.starts_with("md5")
        && text.bytes().skip(3).all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What a client answers to a salt: `md5` + hex(md5(hex(md5(password ‖ user)) ‖ salt)), from the
/// stored form, whose first three characters are left out.
pub fn response(stored: &str, salt: [u8; 4]) -> String {
    let mut salted = stored.as_bytes().get(3..).unwrap_or_default().to_vec();
    salted.extend_from_slice(&salt);
    password::md5(&salted, "")
}

/// Whether a client's answer is right, in constant time.
pub fn verify(stored: &str, salt: [u8; 4], answer: &[u8]) -> bool {
    verify_slices_are_equal(response(stored, salt).as_bytes(), answer).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_that_of_libpq() {
        // The vector of postgres-protocol, itself recorded from libpq.
        let hash = stored("md5_user", b"password");
        assert!(is_stored(&hash));
        let salt = [0x2a, 0x3d, 0x8f, 0xe0];
        assert_eq!(response(&hash, salt), "md562af4dd09bbb41884907a838a3233294");
        assert!(verify(&hash, salt, b"md562af4dd09bbb41884907a838a3233294"));
        assert!(!verify(&hash, salt, b"md562af4dd09bbb41884907a838a3233295"));
        assert!(!verify(&hash, [0; 4], b"md562af4dd09bbb41884907a838a3233294"));
    }

    #[test]
    fn only_the_stored_form_counts_as_stored() {
        for text in ["", "md5", "md5zz", "secret", "md5AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert!(!is_stored(text), "{text}");
        }
    }
}
