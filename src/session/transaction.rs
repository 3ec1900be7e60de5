//! The session of one client over its transactions: what a statement leaves behind, what a
//! rollback takes back.
//!
//! ```text
//!            BEGIN                 first statement            COMMIT, ROLLBACK
//! Idle ───────────────▶ Held ─────────────────────────▶ Open ───────────────────▶ Idle
//!                        │ no server has seen it yet     │ error
//!                        └─ COMMIT, ROLLBACK ─▶ Idle     └──────▶ Failed ─ROLLBACK─▶ Idle
//! ```

use super::again::{CHARACTERISTICS, DEFAULT, characteristics, said_again};
use super::doubts::{AllLearned, Learned, UNKNOWN_SETTINGS_MAX};
use super::{Doubts, Overrides, Pins, Positions, Settings};
use crate::sql::{Discard, Pin, SessionEffect, TransactionModes};
use std::sync::Arc;

/// Texts with which a transaction begins elsewhere; with more it stays where it is.
const TEXTS_MAX: usize = 64;

/// Savepoints of one transaction that are followed; with more, the session keeps its connection.
const SAVEPOINTS_MAX: usize = 1024;

#[derive(Debug, Default)]
pub enum Transaction {
    #[default]
    Idle,
    /// The client was told that its transaction is open; the first statement decides where.
    Held(Held),
    Open,
    Failed,
}

/// A transaction that no server knows of yet.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// The BEGIN, then any SET TRANSACTION, as the client wrote them; then what settings and
    /// savepoints came to.
    pub texts: Vec<Box<[u8]>>,
    pub modes: TransactionModes,
}

#[derive(Debug, Default)]
pub struct Session {
    pub transaction: Transaction,
    pub settings: Arc<Settings>,
    /// What RESET goes back to: the settings of the start-up packet.
    pub startup: Arc<Settings>,
    pub pins: Pins,
    pub doubts: Doubts,
    pub positions: Positions,
    pub overrides: Overrides,
    /// How the open transaction began, if the proxy held it back: so it can begin elsewhere.
    pub began: Held,
    /// A read-only transaction has been refused on a replica what only a primary does: the next
    /// ones begin on the primary.
    pub shuns_replicas: bool,
    undo: Option<Undo>,
}

/// Settings that decide what the names in a text mean.
const NAMING: [&str; 3] = ["search_path", "role", "session_authorization"];

/// Whether the setting decides what the names in a text mean.
pub fn is_naming(name: &str) -> bool {
    NAMING.contains(&name)
}

/// What SET LOCAL has done to the naming settings.
#[derive(Debug, Clone, Default)]
enum Local {
    #[default]
    Nothing,
    /// The settings with those of the transaction.
    Known(Arc<Settings>),
    Unknown,
}

/// What the open transaction may take back.
#[derive(Debug)]
struct Undo {
    settings: Arc<Settings>,
    local: Local,
    savepoints: Vec<(Arc<str>, Arc<Settings>, Local)>,
    /// Something of the transaction is on its server: it cannot go on elsewhere.
    rooted: bool,
}

impl Session {
    pub fn new(startup: Arc<Settings>) -> Session {
        Session { settings: startup.clone(), startup, ..Session::default() }
    }

    /// Whether the session needs no particular connection for its next request.
    pub fn is_free(&self) -> bool {
        matches!(self.transaction, Transaction::Idle | Transaction::Held(_)) && !self.is_bound()
    }

    /// Whether something other than a transaction keeps the session's connection.
    pub fn is_bound(&self) -> bool {
        !self.pins.is_empty() || !self.doubts.is_empty()
    }

    /// Takes over what a statement that ran has done.
    pub fn apply(&mut self, effect: &SessionEffect) {
        self.root(effect);
        match effect {
            SessionEffect::Set { name, value, local: true } => self.set_local(name, value.as_ref()),
            SessionEffect::Set { name, value, local: false } => self.set(name, value.as_ref()),
            SessionEffect::Reset(name) => self.set(name, None),
            SessionEffect::ResetAll => self.reset_all(),
            SessionEffect::Discard(Discard::All) => {
                self.settings = Arc::new(self.after_reset());
                self.pins.clear();
                self.doubts = Doubts::default();
                self.shuns_replicas = false;
            }
            SessionEffect::Discard(Discard::Temp) => {
                self.pins.remove(Pin::TemporaryTable);
            }
            SessionEffect::Discard(Discard::Sequences) => {
                self.pins.remove(Pin::Sequence);
            }
            SessionEffect::Savepoint(name) => self.savepoint(name.clone()),
            SessionEffect::RollbackTo(name) => self.rollback_to(name),
            SessionEffect::Release(name) => self.release(name),
            SessionEffect::SetCharacteristics(modes) => self.set_characteristics(*modes),
            SessionEffect::Prepare { .. } => {
                self.pins.insert(Pin::PreparedStatement);
            }
            SessionEffect::Deallocate(None) => {
                self.pins.remove(Pin::PreparedStatement);
            }
            SessionEffect::Pin(pin) => {
                self.pins.insert(*pin);
            }
            SessionEffect::Unpin(pin) => {
                self.pins.remove(*pin);
            }
            SessionEffect::Doubt(pin) => self.doubt(*pin),
            SessionEffect::Learn(name) => self.learn(name),
            SessionEffect::Deallocate(Some(_)) => self.doubt(Pin::PreparedStatement),
            // Undone by the server itself when the transaction ends, or no state of the session.
            SessionEffect::Begin(_)
            | SessionEffect::Commit { .. }
            | SessionEffect::Rollback { .. }
            | SessionEffect::SetTransaction(_)
            | SessionEffect::SetNext(_)
            | SessionEffect::PrepareTransaction
            | SessionEffect::Use(_)
            | SessionEffect::Recall(_)
            | SessionEffect::Counts
            | SessionEffect::Disconnect(_)
            | SessionEffect::SetsOnce
            | SessionEffect::Kill { .. }
            | SessionEffect::SetTiffin { .. }
            | SessionEffect::ShowTiffin { .. }
            | SessionEffect::Discard(Discard::Plans)
            | SessionEffect::Execute { .. } => {}
        }
    }

    /// Notes what the transaction has left on its server. Settings and savepoints can be said again
    /// elsewhere.
    fn root(&mut self, effect: &SessionEffect) {
        let Some(undo) = &mut self.undo else { return };
        let texts = &mut self.began.texts;
        let may_move = !undo.rooted && (1..TEXTS_MAX).contains(&texts.len());
        match may_move.then(|| said_again(effect, &self.startup)).flatten() {
            Some(text) => texts.push(text.into_bytes().into()),
            None => undo.rooted = true,
        }
    }

    /// A statement may have done this, or not.
    pub fn may_have(&mut self, effect: &SessionEffect) {
        match effect {
            SessionEffect::Set { name, local: false, .. }
            | SessionEffect::Reset(name)
            | SessionEffect::Learn(name) => self.learn(name),
            SessionEffect::SetCharacteristics(_) => {
                CHARACTERISTICS.iter().for_each(|name| self.learn(&Arc::from(*name)));
            }
            SessionEffect::ResetAll | SessionEffect::Discard(Discard::All) => {
                self.doubts.everything = true;
            }
            _ => {}
        }
    }

    /// The session is outside of a transaction on a replica, where nothing but what that server
    /// can tell of is to keep it: its next request may be a write.
    pub fn leave_if_possible(&mut self) {
        self.doubts.everything |= !self.pins.without(self.pins.visible()).is_empty();
    }

    /// A transaction has ended, it is not known how: with the settings of now or with these.
    pub fn may_have_settings(&mut self, others: &Settings) {
        let settings = self.settings.clone();
        for name in settings.names().chain(others.names()) {
            if settings.get(name) != others.get(name) {
                self.learn(name);
            }
        }
    }

    /// A transaction block is open on the server; what changes from here on may be taken back.
    pub fn opened(&mut self) {
        self.opened_from(self.settings.clone());
    }

    /// A transaction block is open on the server, and has begun with these settings.
    pub fn opened_from(&mut self, settings: Arc<Settings>) {
        self.transaction = Transaction::Open;
        if self.undo.is_none() {
            let (local, savepoints) = (Local::Nothing, Vec::new());
            self.undo = Some(Undo { settings, local, savepoints, rooted: false });
        }
    }

    pub fn failed(&mut self) {
        self.transaction = Transaction::Failed;
    }

    /// The transaction block is over.
    pub fn closed(&mut self, committed: bool) {
        self.transaction = Transaction::Idle;
        self.began.texts.clear();
        if let Some(undo) = self.undo.take()
            && !committed
        {
            self.settings = undo.settings;
            self.doubts.pins = self.doubts.pins.or(self.pins.visible());
        }
    }

    /// Whether there is a transaction block, or was one until it failed.
    pub fn is_in_block(&self) -> bool {
        self.undo.is_some()
    }

    /// The transaction that a text or segment is without a block was rolled back.
    pub fn rolled_back(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
        self.doubts.pins = self.doubts.pins.or(self.pins.visible());
    }

    /// Whether the open transaction has left nothing on its server that it needs: none but plain
    /// statements have run in it.
    pub fn is_rooted(&self) -> bool {
        self.undo.as_ref().is_none_or(|undo| undo.rooted)
    }

    pub fn has_savepoints(&self) -> bool {
        self.undo.as_ref().is_some_and(|undo| !undo.savepoints.is_empty())
    }

    /// The settings outside of the open transaction, or those of now.
    pub fn settings_before(&self) -> &Arc<Settings> {
        self.undo.as_ref().map_or(&self.settings, |undo| &undo.settings)
    }

    /// The transaction goes on elsewhere, where it begins again with these texts.
    pub fn uprooted(&mut self, held: Held) {
        self.transaction = Transaction::Held(held);
    }

    fn doubt(&mut self, pin: Pin) {
        let mut pins = Pins::default();
        pins.insert(pin);
        self.doubts.pins = self.doubts.pins.or(pins.and(self.pins).visible());
    }

    fn learn(&mut self, name: &Arc<str>) {
        if self.doubts.settings.contains(name) {
            return;
        }
        if self.doubts.settings.len() < UNKNOWN_SETTINGS_MAX {
            self.doubts.settings.push(name.clone());
        } else {
            self.pins.insert(Pin::Setting);
        }
    }

    /// What a server was asked about may hold, whatever the proxy has seen of it.
    pub fn suspect(&mut self, pins: Pins) {
        self.pins = self.pins.or(pins);
        self.doubts.pins = self.doubts.pins.or(pins.visible());
    }

    /// The server's answer: which pins hold, and the values of the settings.
    pub fn answered(&mut self, held: Pins, values: Vec<Learned>) {
        let Doubts { pins, settings, .. } = std::mem::take(&mut self.doubts);
        self.pins = self.pins.without(pins.without(held));
        for (name, value) in settings.iter().zip(values) {
            match value {
                Learned::Value(value) => self.set(name, Some(&value)),
                Learned::Unset => Arc::make_mut(&mut self.settings).remove(name),
                Learned::Unreadable => {
                    self.pins.insert(Pin::Setting);
                }
            }
        }
    }

    /// The server's answer where everything was asked: which pins hold, and what has been set.
    /// What it cannot tell of keeps the session on a primary only. Gives what is not set there of
    /// what the client has asked for when it connected: only a RESET has taken that away, and the
    /// session has it again.
    pub fn answered_everything(
        &mut self,
        held: Pins,
        values: AllLearned,
        on_replica: bool,
    ) -> Vec<Arc<str>> {
        self.doubts = Doubts::default();
        let hidden = self.pins.without(self.pins.visible());
        self.pins = if on_replica { held } else { held.or(hidden) };
        let mut settings = Settings::default();
        for (name, value) in values {
            match value {
                Learned::Value(value) if !settings.is_full() => settings.set(name, value),
                _ => {
                    self.pins.insert(Pin::Setting);
                }
            }
        }
        for name in self.settings.names().filter(|name| is_custom(name)) {
            if settings.get(name).is_none() {
                settings.set(name.clone(), DEFAULT.into());
            }
        }
        let is_lacking = |name: &&Arc<str>| settings.get(name).is_none();
        let lacking: Vec<_> = self.startup.names().filter(is_lacking).cloned().collect();
        for name in &lacking {
            if let Some(value) = self.startup.get(name) {
                settings.set(name.clone(), value.clone());
            }
        }
        self.settings = Arc::new(settings);
        lacking
    }

    /// The server could not answer: everything stays as it is.
    pub fn unanswered(&mut self) {
        let Doubts { settings, everything, .. } = std::mem::take(&mut self.doubts);
        if !settings.is_empty() || everything {
            self.pins.insert(Pin::Setting);
        }
    }

    /// Whether the session keeps its connection for settings of which only that one knows.
    pub fn has_hidden_settings(&self) -> bool {
        self.pins.contains(Pin::Setting) || self.pins.contains(Pin::Unknown)
    }

    /// The settings by which the names in a text are understood now; `None` when they are not
    /// known.
    pub fn naming(&self) -> Option<&Settings> {
        if !self.doubts.settings.is_empty() || self.doubts.everything || self.has_hidden_settings()
        {
            return None;
        }
        match self.undo.as_ref().map(|undo| &undo.local) {
            None | Some(Local::Nothing) => Some(&self.settings),
            Some(Local::Known(local)) => Some(local),
            Some(Local::Unknown) => None,
        }
    }

    /// The server itself takes a local setting back; here only the meaning of names counts.
    fn set_local(&mut self, name: &Arc<str>, value: Option<&Arc<str>>) {
        // Afterwards it is empty, and not unknown any more.
        if is_custom(name) && self.settings.get(name).is_none() {
            self.set(name, None);
        }
        let Some(undo) = self.undo.as_mut().filter(|_| is_naming(name)) else { return };
        let known = match &undo.local {
            Local::Nothing => Some(&self.settings),
            Local::Known(local) => Some(local),
            Local::Unknown => None,
        };
        undo.local = match (known, value) {
            (Some(known), Some(value)) => {
                let mut local = (**known).clone();
                local.set(name.clone(), value.clone());
                Local::Known(Arc::new(local))
            }
            _ => Local::Unknown,
        };
    }

    fn set(&mut self, name: &Arc<str>, value: Option<&Arc<str>>) {
        if self.settings.is_full() {
            self.pins.insert(Pin::Setting);
            return;
        }
        let value = value.or_else(|| self.startup.get(name)).cloned();
        let settings = Arc::make_mut(&mut self.settings);
        match value {
            Some(value) => settings.set(name.clone(), value),
            None if is_custom(name) => settings.set(name.clone(), DEFAULT.into()),
            None => settings.remove(name),
        }
        // SET SESSION AUTHORIZATION also sets the role to none.
        if &**name == "session_authorization" {
            settings.remove("role");
        }
        if is_naming(name) {
            self.forget_local();
        }
    }

    /// RESET ALL leaves out the role and the session's user (`GUC_NO_RESET_ALL`).
    fn reset_all(&mut self) {
        let mut settings = self.after_reset();
        for name in ["session_authorization", "role"] {
            if let Some(value) = self.settings.get(name) {
                settings.set(name.into(), value.clone());
            }
        }
        self.settings = Arc::new(settings);
        self.forget_local();
    }

    /// A setting was made for the session over one that was made for the transaction.
    fn forget_local(&mut self) {
        if let Some(undo) = &mut self.undo
            && !matches!(undo.local, Local::Nothing)
        {
            undo.local = Local::Unknown;
        }
    }

    /// The start-up values, and what custom settings become.
    fn after_reset(&self) -> Settings {
        let mut settings = (*self.startup).clone();
        for name in self.settings.names().filter(|name| is_custom(name)) {
            if settings.get(name).is_none() {
                settings.set(name.clone(), DEFAULT.into());
            }
        }
        settings
    }

    fn set_characteristics(&mut self, modes: TransactionModes) {
        for (name, value) in characteristics(modes) {
            self.set(&name.into(), Some(&Arc::from(value)));
        }
    }

    fn savepoint(&mut self, name: Arc<str>) {
        let Some(undo) = &mut self.undo else { return };
        if undo.savepoints.len() >= SAVEPOINTS_MAX {
            self.pins.insert(Pin::Setting);
            return;
        }
        undo.savepoints.push((name, self.settings.clone(), undo.local.clone()));
    }

    fn rollback_to(&mut self, name: &str) {
        let Some(undo) = &mut self.undo else { return };
        if let Some(at) = undo.savepoints.iter().rposition(|(known, ..)| &**known == name) {
            undo.savepoints.truncate(at + 1);
            let (_, settings, local) = &undo.savepoints[at];
            self.settings = settings.clone();
            undo.local = local.clone();
        }
        self.doubts.pins = self.doubts.pins.or(self.pins.visible());
        self.transaction = Transaction::Open;
    }

    fn release(&mut self, name: &str) {
        let Some(undo) = &mut self.undo else { return };
        if let Some(at) = undo.savepoints.iter().rposition(|(known, ..)| &**known == name) {
            undo.savepoints.truncate(at);
        }
    }
}

/// Whether this is a name that nobody need have defined, as `app.user`.
pub fn is_custom(name: &str) -> bool {
    name.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> SessionEffect {
        SessionEffect::Set { name: name.into(), value: Some(value.into()), local: false }
    }

    fn value(session: &Session, name: &str) -> Option<String> {
        session.settings.get(name).map(|value| value.to_string())
    }

    #[test]
    fn a_rollback_takes_a_setting_back() {
        let mut session = Session::default();
        session.apply(&set("a", "1"));
        session.opened();
        session.apply(&set("a", "2"));
        session.closed(false);
        assert_eq!(value(&session, "a").as_deref(), Some("1"));
    }

    #[test]
    fn a_commit_keeps_it() {
        let mut session = Session::default();
        session.opened();
        session.apply(&set("a", "2"));
        session.closed(true);
        assert_eq!(value(&session, "a").as_deref(), Some("2"));
    }

    #[test]
    fn savepoints_nest() {
        let mut session = Session::default();
        session.opened();
        session.apply(&SessionEffect::Savepoint("s".into()));
        session.apply(&set("a", "1"));
        session.apply(&SessionEffect::Savepoint("s".into()));
        session.apply(&set("a", "2"));
        session.apply(&SessionEffect::RollbackTo("s".into()));
        assert_eq!(value(&session, "a").as_deref(), Some("1"));
        session.apply(&SessionEffect::Release("s".into()));
        session.apply(&SessionEffect::RollbackTo("s".into()));
        assert_eq!(value(&session, "a"), None);
    }

    #[test]
    fn reset_goes_back_to_the_start_up_packet() {
        let mut startup = Settings::default();
        startup.set("a".into(), "'start'".into());
        let mut session = Session::new(Arc::new(startup));
        session.apply(&set("a", "2"));
        session.apply(&set("role", "'r'"));
        session.apply(&SessionEffect::ResetAll);
        assert_eq!(value(&session, "a").as_deref(), Some("'start'"));
        assert_eq!(value(&session, "role").as_deref(), Some("'r'"));
        session.apply(&SessionEffect::Discard(Discard::All));
        assert_eq!(value(&session, "role"), None);
    }

    #[test]
    fn a_custom_setting_that_was_reset_is_still_known() {
        let reset = [
            SessionEffect::Reset("app.user".into()),
            SessionEffect::ResetAll,
            SessionEffect::Discard(Discard::All),
        ];
        for effect in reset {
            let mut session = Session::default();
            session.apply(&set("app.user", "'me'"));
            session.apply(&effect);
            assert_eq!(value(&session, "app.user").as_deref(), Some("DEFAULT"), "{effect:?}");
        }
    }

    #[test]
    fn local_settings_are_the_servers_business() {
        let mut session = Session::default();
        session.apply(&SessionEffect::Set {
            name: "a".into(),
            value: Some("1".into()),
            local: true,
        });
        assert!(session.settings.is_empty());
        session.apply(&SessionEffect::Set {
            name: "app.a".into(),
            value: Some("1".into()),
            local: true,
        });
        assert_eq!(value(&session, "app.a").as_deref(), Some("DEFAULT"));
    }
}
