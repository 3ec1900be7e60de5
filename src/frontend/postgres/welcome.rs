//! The start of a conversation: the settings of the start-up packet are checked by a server, and
//! the client learns its parameters and its cancel key.

use super::conversation::{Conversation, Identity};
use super::fault::{Fault, Refused};
use super::scratch::Scratch;
use super::startup::{Accepted, PeerAddress};
use super::statements::Statements;
use crate::backend::postgres::connection::Reported;
use crate::frontend::acquire::acquire;
use crate::frontend::cluster::{DRAINED, LocalCluster, WelcomeKey};
use crate::frontend::stall::Stall;
use crate::frontend::worker::Worker;
use crate::metrics::PinGuard;
use crate::protocol::buffer::Buffer;
use crate::protocol::postgres::reply::{Status, put_backend_key, put_parameter_status, put_ready};
use crate::session::settings::literal;
use crate::session::{Need, Session, Settings};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Cancel keys of protocol 3.0 and 3.2 (manual, section 55.2.8).
const KEY_BYTES_3_0: usize = 4;
const KEY_BYTES_3_2: usize = 32;

/// Settings of the proxy, which no server sees.
const OWN_PREFIX: &str = "tiffin.";

/// Settings whose values are lists of names, each of which is quoted where it needs to be
/// (`GUC_LIST_QUOTE`, `src/backend/utils/misc/guc_tables.c`).
const LISTS: &[&str] =
    &["search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries"];

/// How long a login waits for a server that tells it its parameters.
const LOGIN_WAIT_MAX: Duration = Duration::from_secs(15);

impl Conversation {
    /// Begins the conversation with a client that has proved who it is. A client that cannot be
    /// served is told, and gone.
    pub async fn begin(
        accepted: Box<Accepted>,
        worker: Rc<Worker>,
        scratch: Rc<Scratch>,
        cluster: Rc<LocalCluster>,
        (database, peer): (Arc<str>, PeerAddress),
    ) -> Option<Box<Conversation>> {
        let mut startup = Settings::default();
        let mut own = Vec::new();
        for (name, value) in &accepted.parameters {
            add_startup(&mut startup, &mut own, name, value);
        }
        if cluster.handle.config.pool.application_name_add_host {
            add_host(&mut startup, peer);
        }
        let startup = worker.intern_settings(Arc::new(startup));
        let key = cancel_key(accepted.minor)?;
        let catalog = cluster.handle.catalogs.get(&database);
        let mut inbox = Buffer::default();
        inbox.extend(&accepted.leftover);
        let identity = Rc::new(Identity {
            user: accepted.user.as_str().into(),
            database,
            secret: accepted.server_secret,
        });
        let pins = PinGuard::new(&worker.stats());
        let mut conversation = Box::new(Conversation {
            entry: worker.enter(key),
            worker,
            scratch,
            cluster,
            identity,
            catalog,
            client: accepted.stream,
            inbox,
            taken: 0,
            streaming: 0,
            session: Session::new(startup),
            pins,
            statements: Statements::default(),
            known: Arc::default(),
            welcome: Arc::default(),
            defaults: None,
            asks_sequences: false,
            pools: Vec::new(),
            active: None,
            skipping: false,
            lost: None,
            stall: Stall::default(),
            greeting: true,
        });
        let welcomed = match conversation.own_settings(&own) {
            Ok(()) if conversation.cluster.handle.topology.is_closed() => {
                Err(Fault::Login { sqlstate: "57P03".to_owned(), message: DRAINED.to_owned() })
            }
            Ok(()) => conversation.welcome().await,
            Err(fault) => Err(fault),
        };
        match welcomed {
            Ok(()) => Some(conversation),
            Err(fault) => {
                conversation.farewell(&fault).await;
                None
            }
        }
    }

    /// `tiffin.*` parameters of the start-up packet.
    fn own_settings(&mut self, settings: &[(String, String)]) -> Result<(), Fault> {
        for (name, value) in settings {
            let key = name.trim_start_matches(OWN_PREFIX);
            if let Err(Refused { sqlstate, message, .. }) = self.set_tiffin(key, Some(value)) {
                return Err(Fault::Login { sqlstate, message });
            }
        }
        Ok(())
    }

    async fn welcome(&mut self) -> Result<(), Fault> {
        self.defaults = self.catalog.load().defaults;
        let key = WelcomeKey {
            defaults: self.defaults.map(|defaults| defaults.number),
            user: self.identity.user.clone(),
            database: self.identity.database.clone(),
            settings: self.session.startup.clone(),
        };
        let reported = match self.cluster.welcome(&key) {
            Some(reported) => reported,
            None => {
                let reported = self.ask_server().await?;
                let reported = self.worker.intern_reported(reported);
                self.cluster.remember_welcome(key, reported.clone());
                reported
            }
        };
        let mut out = Vec::new();
        for (name, value) in reported.iter() {
            put_parameter_status(&mut out, name, value);
        }
        // Known to clients of version 14 and later; here it never changes.
        put_parameter_status(&mut out, b"in_hot_standby", b"off");
        put_backend_key(&mut out, self.entry.process_id, &self.entry.secret);
        put_ready(&mut out, Status::Idle);
        self.welcome = reported.clone();
        self.known = reported;
        self.greeting = false;
        self.tell(&out).await
    }

    /// The parameters of a server connection that has this session's settings.
    async fn ask_server(&mut self) -> Result<Arc<Reported>, Fault> {
        let limit = LOGIN_WAIT_MAX;
        let acquired = match timeout(limit, acquire(self, &Need::Any, false)).await {
            Ok(acquired) => acquired?,
            Err(_) => Err(Refused::new("57P03", "no server could be connected to")),
        };
        if let Err(Refused { sqlstate, message, .. }) = acquired {
            return Err(Fault::Login { sqlstate, message });
        }
        // With an empty batch only the settings are sent.
        self.send_settings();
        match poll_fn(|cx| self.poll_serve(cx)).await {
            Ok(_) => {}
            Err(Fault::Settings(message)) => {
                let sqlstate = message.get(..5).unwrap_or("22023").to_owned();
                let message = message.get(7..).unwrap_or_default().to_owned();
                return Err(Fault::Login { sqlstate, message });
            }
            Err(fault) => return Err(fault),
        }
        let reported = match self.active.as_mut().and_then(|active| active.connection()) {
            Some(connection) => connection.reported.clone(),
            None => Arc::default(),
        };
        self.release().await;
        Ok(reported)
    }
}

/// A parameter of the start-up packet as a setting, of the servers or the proxy's own.
fn add_startup(
    settings: &mut Settings,
    own: &mut Vec<(String, String)>,
    name: &[u8],
    value: &[u8],
) {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let value = String::from_utf8_lossy(value);
    if name.starts_with("_pq_.") {
        return;
    }
    let assigned = match name.as_str() {
        "options" => options(&value),
        _ => vec![(name, value.into_owned())],
    };
    for (name, value) in assigned {
        if name.starts_with(OWN_PREFIX) {
            own.push((name, value));
        } else {
            let sql = if LISTS.contains(&&*name) { list(&value) } else { literal(&value) };
            settings.set(name.into(), sql.into());
        }
    }
}

/// A list of names in the form of a start-up packet, as the values of a SET
/// (`SplitIdentifierString`, `src/backend/utils/adt/varlena.c`).
fn list(text: &str) -> String {
    let mut names = vec![String::new()];
    let mut quoted = false;
    let mut characters = text.trim().chars().peekable();
    while let Some(character) = characters.next() {
        let Some(name) = names.last_mut() else { break };
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => name.extend(characters.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => names.push(String::new()),
            space if !quoted && space.is_ascii_whitespace() => {}
            other if quoted => name.push(other),
            other => name.push(other.to_ascii_lowercase()),
        }
    }
    names.iter().map(|name| literal(name)).collect::<Vec<_>>().join(",")
}

/// The name that servers show for the session ends in the client's address.
fn add_host(settings: &mut Settings, peer: PeerAddress) {
    let named = settings.get("application_name").and_then(|name| name.strip_suffix('\''));
    let value = match named {
        Some(name) => format!("{name} - {peer}'"),
        None => literal(&peer.to_string()),
    };
    settings.set("application_name".into(), value.into());
}

/// `-c name=value` and `--name=value` of the `options` parameter, with backslash as the escape
/// (`pg_split_opts`, `src/backend/utils/init/postinit.c`).
fn options(text: &str) -> Vec<(String, String)> {
    let mut words = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => words.last_mut().unwrap_or(&mut String::new()).extend(characters.next()),
            space if space.is_ascii_whitespace() => words.push(String::new()),
            other => words.last_mut().unwrap_or(&mut String::new()).push(other),
        }
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let assignment = match word.strip_prefix("--") {
            Some(long) => long.to_owned(),
            None if word == "-c" => words.next().unwrap_or_default(),
            None => word.strip_prefix("-c").unwrap_or_default().to_owned(),
        };
        if let Some((name, value)) = assignment.split_once('=') {
            settings.push((name.to_ascii_lowercase().replace('-', "_"), value.to_owned()));
        }
    }
    settings
}

/// A random cancel key of the length that protocol 3.`minor` has.
pub(super) fn cancel_key(minor: u16) -> Option<Box<[u8]>> {
    let mut key = vec![0; if minor >= 2 { KEY_BYTES_3_2 } else { KEY_BYTES_3_0 }];
    aws_lc_rs::rand::fill(&mut key).ok()?;
    Some(key.into())
}

#[cfg(test)]
mod tests {
    use super::{PeerAddress, add_host, list, literal, options};
    use crate::session::Settings;

    #[test]
    fn start_up_options() {
        let table = [
            ("-c a=1 --b-c=2", vec![("a", "1"), ("b_c", "2")]),
            (r"-c search_path=a,\ b", vec![("search_path", "a, b")]),
            ("-ca=1", vec![("a", "1")]),
            ("", vec![]),
            ("-x", vec![]),
        ];
        for (text, expected) in table {
            let found = options(text);
            let found: Vec<_> = found.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn lists_of_names() {
        for (text, expected) in [
            ("a", "'a'"),
            ("Other, \"My Schema\",\"$user\"", "'other','My Schema','$user'"),
            (r#""a""b,c""#, r#"'a"b,c'"#),
            ("", "''"),
        ] {
            assert_eq!(list(text), expected, "{text}");
        }
    }

    #[test]
    fn the_clients_address_is_added_to_its_name() {
        let peer = PeerAddress::Tcp(([127, 0, 0, 1], 5).into());
        for (name, expected) in [
            (None, "'127.0.0.1:5'"),
            (Some("psql"), "'psql - 127.0.0.1:5'"),
            (Some("it's'"), "'it''s'' - 127.0.0.1:5'"),
        ] {
            let mut settings = Settings::default();
            if let Some(name) = name {
                settings.set("application_name".into(), literal(name).into());
            }
            add_host(&mut settings, peer);
            assert_eq!(settings.get("application_name").map(|name| &**name), Some(expected));
        }
    }
}
