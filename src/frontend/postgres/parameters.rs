//! What the client is told of its parameters (ParameterStatus) when its server connection changes.
//!
//! RESET and its kin go back to what the client asked for when it connected. A pooled connection
//! was not started with that, so the server goes back to its own values: the client is told the
//! right ones in their place, and they are set again before anything else runs.

use super::observer::Observer;
use crate::backend::postgres::connection::Reported;
use crate::protocol::buffer::Buffer;
use crate::protocol::postgres::reply::put_parameter_status;
use crate::session::Settings;
use crate::session::settings::assignment;
use crate::sql::{Discard, SessionEffect, Statement};
use std::sync::Arc;

/// Start-up values that the server has dropped.
#[derive(Debug, Default)]
pub struct Dropped {
    /// In what is answered now: the client is still to be told.
    untold: Vec<Arc<str>>,
    /// In the open transaction, with whether it was for this transaction only.
    unset: Vec<(Arc<str>, bool)>,
}

impl Dropped {
    /// A statement has run: what of the start-up values it has dropped.
    pub fn note(&mut self, effect: &SessionEffect, startup: &Settings) {
        if let SessionEffect::Set { name, value: Some(_), .. } = effect {
            self.untold.retain(|dropped| dropped != name);
            self.unset.retain(|(dropped, _)| dropped != name);
            return;
        }
        let local = matches!(effect, SessionEffect::Set { local: true, .. });
        for name in startup.names().filter(|name| drops(effect, name)) {
            self.untold.push(name.clone());
            self.unset.push((name.clone(), local));
        }
    }

    /// The transaction is over: the start-up values that the connection may lack.
    pub fn ended(&mut self) -> Vec<(Arc<str>, bool)> {
        std::mem::take(&mut self.unset)
    }

    /// What brings the start-up values back inside the open transaction, a text for each.
    pub fn restoration(&mut self, startup: &Settings) -> Vec<String> {
        let unset = self.unset.drain(..);
        unset
            .filter_map(|(name, local)| Some(assignment(&name, startup.get(&name)?, local)))
            .collect()
    }
}

impl Observer<'_> {
    /// Whether a parameter has changed because a statement dropped its start-up value.
    pub(super) fn is_dropped(&self, parameter: &[u8], runs: Option<&Statement>) -> bool {
        let startup = &self.session.startup;
        if startup.is_empty() {
            return false;
        }
        let name = String::from_utf8_lossy(parameter).to_ascii_lowercase();
        if startup.get(&name).is_none() {
            return false;
        }
        let executed = self.progress.executed.iter().map(|statement| &**statement).chain(runs);
        let effects = executed.flat_map(|statement| &statement.session);
        effects.fold(false, |dropped, effect| match effect {
            SessionEffect::Set { name: set, value: Some(_), .. } if **set == *name => false,
            effect => dropped || drops(effect, &name),
        })
    }

    /// Tells the start-up values that the session is back to.
    pub(super) fn tell_dropped(&mut self, out: &mut Vec<u8>) {
        for name in self.progress.dropped.untold.drain(..) {
            let same = |parameter: &[u8]| parameter.eq_ignore_ascii_case(name.as_bytes());
            let found = self.welcome.iter().find(|(parameter, _)| same(parameter));
            if let Some((parameter, value)) = found
                && Reported::set(self.known, parameter, value)
            {
                put_parameter_status(out, parameter, value);
            }
        }
    }
}

/// Tells the client the parameters in which its connection differs from what it knows.
pub fn tell_parameters(known: &mut Arc<Reported>, reported: &mut Arc<Reported>, out: &mut Buffer) {
    if Arc::ptr_eq(reported, known) {
        return;
    }
    let mut told = Vec::new();
    for (name, value) in reported.clone().iter() {
        if Reported::set(known, name, value) {
            put_parameter_status(&mut told, name, value);
        }
    }
    out.extend(&told);
    if **reported == **known {
        *reported = known.clone();
    }
}

/// Start-up values that a statement drops: name, value, and whether for its transaction only.
pub fn dropped<'a>(
    statement: &Statement,
    startup: &'a Settings,
) -> Vec<(&'a str, &'a Arc<str>, bool)> {
    let mut all = Vec::new();
    for name in startup.names() {
        let effect = statement.session.iter().find(|effect| drops(effect, name));
        if let (Some(effect), Some(value)) = (effect, startup.get(name)) {
            let local = matches!(effect, SessionEffect::Set { local: true, .. });
            all.push((&**name, value, local));
        }
    }
    all
}

/// Whether a statement may take settings back to their start-up values.
pub fn drops_any(statement: &Statement) -> bool {
    statement.session.iter().any(|effect| {
        matches!(
            effect,
            SessionEffect::Set { value: None, .. }
                | SessionEffect::Reset(_)
                | SessionEffect::ResetAll
                | SessionEffect::Discard(Discard::All)
        )
    })
}

/// Whether a statement takes this setting back to its start-up value.
fn drops(effect: &SessionEffect, name: &str) -> bool {
    match effect {
        SessionEffect::Set { name: reset, value: None, .. } | SessionEffect::Reset(reset) => {
            **reset == *name
        }
        SessionEffect::ResetAll | SessionEffect::Discard(Discard::All) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup() -> Settings {
        let mut startup = Settings::default();
        startup.set("timezone".into(), "'Asia/Tokyo'".into());
        startup.set("work_mem".into(), "'3MB'".into());
        startup
    }

    #[test]
    fn only_what_was_dropped_is_brought_back() {
        let set = |name: &str, value: Option<&str>, local| {
            let (name, value) = (Arc::from(name), value.map(Arc::from));
            SessionEffect::Set { name, value, local }
        };
        let table = [
            (vec![SessionEffect::Reset("timezone".into())], "SET \"timezone\" TO 'Asia/Tokyo';"),
            (vec![SessionEffect::Reset("datestyle".into())], ""),
            (vec![set("work_mem", None, true)], "SET LOCAL \"work_mem\" TO '3MB';"),
            (
                vec![SessionEffect::ResetAll, set("work_mem", Some("1"), false)],
                "SET \"timezone\" TO 'Asia/Tokyo';",
            ),
        ];
        for (effects, sql) in table {
            let mut dropped = Dropped::default();
            effects.iter().for_each(|effect| dropped.note(effect, &startup()));
            assert_eq!(dropped.restoration(&startup()).concat(), sql, "{effects:?}");
        }
    }
}
