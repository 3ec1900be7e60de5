//! What a client chose for its own reads (`tiffin.consistency`, `tiffin.max_lag`,
//! `tiffin.target`), over what the configuration says.

use crate::config::Routing;
use crate::sql::{Consistency, HintTarget, hint};
use std::time::Duration;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    pub consistency: Option<Consistency>,
    pub lag_max: Option<Duration>,
    pub target: Option<HintTarget>,
}

/// Why a choice was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoChoice {
    UnknownKey,
    /// What may stand there.
    Allowed(&'static str),
}

impl Overrides {
    /// `value` is SQL, in single quotes or not; `None` is the configuration's.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), NoChoice> {
        let word = value.map(|value| value.trim_matches('\'')).filter(|word| *word != "default");
        match key {
            "consistency" => {
                let allowed = NoChoice::Allowed("eventual, bounded, session, strong");
                let parse = |word| Consistency::parse(word).ok_or(allowed);
                self.consistency = word.map(parse).transpose()?;
            }
            "max_lag" => {
                let allowed = NoChoice::Allowed("a time such as 500ms or 5s");
                let parse = |word| hint::duration(word).ok_or(allowed);
                self.lag_max = word.map(parse).transpose()?;
            }
            "target" | "node" => {
                self.target = word.filter(|word| !word.is_empty()).map(hint::target);
            }
            _ => return Err(NoChoice::UnknownKey),
        }
        Ok(())
    }

    /// What is in force; `None` for a key that does not exist.
    pub fn show(&self, key: &str, routing: &Routing) -> Option<String> {
        Some(match key {
            "consistency" => self.consistency.unwrap_or(routing.consistency).as_str().to_owned(),
            "max_lag" => format!("{}ms", self.lag_max.unwrap_or(routing.lag_max).as_millis()),
            "target" | "node" => match &self.target {
                None => "default".to_owned(),
                Some(HintTarget::Primary) => "primary".to_owned(),
                Some(HintTarget::Replica) => "replica".to_owned(),
                Some(HintTarget::Node(name)) => name.to_string(),
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{NoChoice, Overrides};
    use crate::config::fixture::routing;

    #[test]
    fn what_is_set_is_shown() {
        let table: &[(&str, Option<&str>, Result<&str, bool>)] = &[
            ("consistency", Some("'strong'"), Ok("strong")),
            ("consistency", Some("'sometimes'"), Err(true)),
            ("consistency", None, Ok("session")),
            ("max_lag", Some("'250ms'"), Ok("250ms")),
            ("max_lag", Some("default"), Ok("1000ms")),
            ("target", Some("'replica'"), Ok("replica")),
            ("node", Some("'db-1'"), Ok("db-1")),
            ("node", Some("''"), Ok("default")),
            ("colour", Some("'blue'"), Err(false)),
        ];
        let mut overrides = Overrides::default();
        for (key, value, expected) in table {
            let set = overrides.set(key, *value);
            match expected {
                Ok(shown) => {
                    assert_eq!(set, Ok(()), "{key} {value:?}");
                    assert_eq!(overrides.show(key, &routing()).as_deref(), Some(*shown));
                }
                Err(known) => assert_eq!(set != Err(NoChoice::UnknownKey), *known, "{set:?}"),
            }
        }
    }
}
