//! One script on one side, and how the answers of two sides differ.

use super::arena::{Side, World};
use super::client::{Broken, Client, Door};
use super::found::FOUND;
use super::script::{Act, Message, Script, Step};
use super::{Outcome, Play, generate, script};
use crate::support::wire;
use std::fmt::Write as _;
use std::ops::Range;
use std::time::{Duration, Instant};

/// The first OID that the server gives to what users make: it differs between databases.
const FIRST_OWN_OID: u32 = 16_384;

/// How long a notification may take that the other side has already seen.
const NOTIFIED: Duration = Duration::from_secs(5);

/// What came of a script.
#[derive(Debug, Default)]
struct Transcript {
    /// Replies of each step, without notifications.
    steps: Vec<Vec<String>>,
    /// Notifications of each client in the order in which they came: they may come at any time.
    notifications: Vec<Vec<String>>,
    /// Locks that are held after a step in which somebody left.
    locks: Vec<String>,
    /// Why it did not get to its end.
    broken: Option<String>,
}

/// Where two transcripts part.
#[derive(Debug, Clone)]
pub struct Difference {
    pub at: String,
    pub direct: Vec<String>,
    pub proxied: Vec<String>,
}

/// What comparing two transcripts gives.
#[derive(Debug)]
pub enum Compared {
    Same,
    /// They are alike up to here, and not compared further: why, and what was answered.
    Parted(&'static str, Difference),
    Differs(Difference),
}

struct Run<'a> {
    world: &'a World,
    side: Side,
    door: Door,
    clients: Vec<Option<Client>>,
    transcript: Transcript,
    /// What the other side did, when it was first.
    model: Option<&'a Transcript>,
}

impl Play for World {
    type Script = Script;

    const SHORT_SEED: u64 = 60;
    const FOUND: &[&str] = FOUND;

    fn again(&self) -> World {
        World::start()
    }

    fn script(&self, seed: u64) -> Script {
        generate::script(seed)
    }

    fn read(text: &str) -> Script {
        script::read(text)
    }

    fn compare(&self, script: &Script, patience: Duration) -> Outcome {
        let direct = run(self, Side::Direct, script, None, patience);
        if let Some(why) = direct.broken {
            return Outcome::Broken(why);
        }
        let side = Side::Proxied(script.arena);
        let proxied = run(self, side, script, Some(&direct), patience);
        Outcome::Compared(difference(script, &direct, &proxied))
    }

    fn steps(script: &Script) -> usize {
        script.steps.len()
    }

    fn without(script: &Script, steps: Range<usize>) -> Script {
        let mut script = script.clone();
        script.steps.drain(steps);
        script
    }

    fn without_message(script: &Script, step: usize, message: usize) -> Option<Script> {
        let mut script = script.clone();
        let Act::Send(messages) = &mut script.steps[step].act else { return None };
        if message >= messages.len() || messages.len() == 1 {
            return None;
        }
        messages.remove(message);
        Some(script)
    }
}

/// Runs a script on its own side of the servers, from a fresh state.
fn run(
    world: &World,
    side: Side,
    script: &Script,
    model: Option<&Transcript>,
    patience: Duration,
) -> Transcript {
    world.reset(side);
    let mut run = Run {
        world,
        side,
        door: world.door(side, script.user, patience),
        clients: (0..script.clients).map(|_| None).collect(),
        transcript: Transcript {
            notifications: vec![Vec::new(); script.clients],
            ..Transcript::default()
        },
        model,
    };
    if let Err(Broken(why)) = run.all(script) {
        run.transcript.broken = Some(why);
    }
    let clients = std::mem::take(&mut run.clients);
    for client in clients.into_iter().flatten() {
        let _ = client.leave(true);
    }
    let mut transcript = run.transcript;
    if let Err(why) = world.settle(side) {
        transcript.broken.get_or_insert(why);
    }
    transcript
}

impl Run<'_> {
    fn all(&mut self, script: &Script) -> Result<(), Broken> {
        for step in &script.steps {
            let mut seen = Vec::new();
            let done = self.step(step, &mut seen);
            let mut replies = self.readable(step.client, &seen);
            if let Err(Broken(why)) = &done {
                replies.push(format!("! {why}"));
            }
            // Changed parameters come in whichever order.
            for told in replies.chunk_by_mut(|one, other| is_parameter(one) && is_parameter(other))
            {
                told.sort_unstable();
            }
            self.transcript.steps.push(replies);
            done?;
        }
        (0..script.clients).try_for_each(|client| self.last_notifications(client))
    }

    fn step(&mut self, step: &Step, seen: &mut Vec<wire::Message>) -> Result<(), Broken> {
        let patience = self.door.patience;
        match &step.act {
            Act::Send(messages) => self.client(step)?.run(messages, seen),
            Act::Cancel(messages) => self.client(step)?.cancel(messages, seen, patience),
            Act::StrayCancel => self.client(step)?.stray_cancel(),
            Act::Connect(parameters) => self.connect(step.client, true, parameters, seen),
            Act::Abort(parameters) => self.connect(step.client, false, parameters, seen),
        }
    }

    /// The client of a step; one that is missing (a shrunk script) comes without parameters.
    fn client(&mut self, step: &Step) -> Result<&mut Client, Broken> {
        let place = &mut self.clients[step.client];
        if place.is_none() {
            *place = Some(Client::connect(&self.door, &[])?.0);
        }
        Ok(place.as_mut().expect("it was just put there"))
    }

    fn connect(
        &mut self,
        number: usize,
        politely: bool,
        parameters: &[(String, String)],
        seen: &mut Vec<wire::Message>,
    ) -> Result<(), Broken> {
        if let Some(client) = self.clients[number].take() {
            client.leave(politely)?;
            let at = self.transcript.locks.len();
            if let Some(wanted) = self.model.and_then(|model| model.locks.get(at)) {
                self.world.wait_locks(self.side, wanted);
            }
            self.transcript.locks.push(self.world.locks(self.side));
        }
        let (client, first) = Client::connect(&self.door, parameters)?;
        seen.extend(first);
        self.clients[number] = Some(client);
        Ok(())
    }

    /// Replies as lines; notifications are put aside.
    fn readable(&mut self, client: usize, seen: &[wire::Message]) -> Vec<String> {
        let mut lines = Vec::new();
        for message in seen {
            match message.tag {
                b'A' => {
                    let word = message.body.get(4..).unwrap_or_default().escape_ascii();
                    self.transcript.notifications[client].push(word.to_string());
                }
                _ => lines.push(line(message)),
            }
        }
        lines
    }

    /// What was notified before a query outside of a transaction comes before its end.
    fn last_notifications(&mut self, number: usize) -> Result<(), Broken> {
        for sql in ["ROLLBACK", "SELECT 1"] {
            let mut seen = Vec::new();
            let Some(client) = &mut self.clients[number] else { return Ok(()) };
            client.run(&[Message::Query(sql.into())], &mut seen)?;
            self.readable(number, &seen);
        }
        let Some(model) = self.model else { return Ok(()) };
        let wanted = model.notifications[number].len();
        let until = Instant::now() + NOTIFIED;
        while self.transcript.notifications[number].len() < wanted {
            let Some(left) = until.checked_duration_since(Instant::now()) else { break };
            let Some(client) = &mut self.clients[number] else { break };
            if let Some(message) = client.unasked(left.max(Duration::from_millis(1)))? {
                self.readable(number, &[message]);
            }
        }
        Ok(())
    }
}

fn is_parameter(line: &str) -> bool {
    line.starts_with("S ")
}

/// A reply as a line, without what no two servers have in common.
fn line(message: &wire::Message) -> String {
    let body = &message.body;
    let tag = char::from(message.tag);
    match message.tag {
        b'E' | b'N' => fields(body).fold(tag.to_string(), |mut line, (code, value)| {
            // File, line and routine of the server's source are nobody's business, and what the
            // proxy says itself has none.
            if !b"FLR".contains(&code) {
                let value = value.escape_ascii().to_string();
                let _ = write!(line, " {}={value}", char::from(code));
            }
            line
        }),
        b'T' => format!("T {}", columns(body)),
        b't' => {
            let types = body.get(2..).unwrap_or_default().chunks(4).map(oid);
            format!("t {types:?}", types = types.collect::<Vec<_>>())
        }
        _ => format!("{tag} {}", body.escape_ascii()),
    }
}

fn fields(body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    body.split(|byte| *byte == 0).filter_map(|field| Some((*field.first()?, &field[1..])))
}

/// Types that users made and tables have another OID in each database.
fn oid(bytes: &[u8]) -> u32 {
    let oid = bytes.try_into().map(u32::from_be_bytes).unwrap_or_default();
    if oid < FIRST_OWN_OID { oid } else { FIRST_OWN_OID }
}

fn columns(body: &[u8]) -> String {
    let mut line = String::new();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let Some(part) = rest.get(end + 1..end + 19) else { break };
        let name = rest[..end].escape_ascii();
        let _ = write!(
            line,
            "{name}(table {} column {:?} type {} rest {:?}) ",
            oid(&part[..4]),
            &part[4..6],
            oid(&part[6..10]),
            &part[10..]
        );
        rest = &rest[end + 19..];
    }
    line
}

/// Refused either way: the portal of a BEGIN that no server has seen yet is executed once more, in
/// its transaction or after that has failed; a Bind in an aborted transaction, of a statement that
/// can not be prepared on this server any more, has the wrong parameters, or a Parse of its name
/// comes again; a Bind with the wrong number of parameters, of a statement that is prepared anew and
/// refused; in a transaction that has failed, a Parse of a taken name with a text that is none.
fn is_refused_alike(direct: &str, proxied: &str) -> bool {
    let codes = |one: &str, other: &str| direct.contains(one) && proxied.contains(other);
    codes("C=55000", "C=34000") && direct.contains("cannot be run")
        || codes("C=25P02", "C=34000")
        || codes("C=08P01", "C=25P02")
        || codes("C=42P05", "C=25P02")
        || codes("M=bind message supplies", "C=42")
        || codes("C=42601", "C=25P02")
}

/// A statement whose table is not on the search path any more is prepared anew and refused, where a
/// server tells its parameters before it looks for the table.
fn is_described_to_be_refused(direct: &[String], proxied: &[String]) -> bool {
    let rest = direct.iter().filter(|line| !line.starts_with('t'));
    proxied.iter().any(|line| line.contains("C=42"))
        && proxied.len() < direct.len()
        && rest.eq(proxied)
}

/// A READ ONLY transaction with a snapshot or other state on a replica, or a session with what such
/// a transaction has left there, needs the primary (`docs/limits.md`).
fn on_standby(line: &str) -> bool {
    line.contains("C=40001") && line.contains("this needs the primary")
        || line.contains("C=0A000") && line.contains("this needs the primary")
}

/// UNLISTEN does nothing on a server connection that has never listened. One that an earlier client
/// has listened on takes part in the commit, and such a transaction cannot be prepared.
fn on_listener(line: &str) -> bool {
    line.contains("C=0A000") && line.contains("executed LISTEN, UNLISTEN, or NOTIFY")
}

/// The state of sequences after an INSERT is lost when another session has used its connection
/// since: there are not always others.
fn on_used_connection(line: &str) -> bool {
    line.contains("C=55000") && line.contains("is not yet defined in this session")
}

/// In a transaction that has failed nothing can be prepared on the server that it is on.
fn is_not_described(found: &Difference) -> bool {
    let pairs = found.direct.iter().zip(&found.proxied);
    let Some((at, (direct, proxied))) = pairs.enumerate().find(|(_, (one, other))| one != other)
    else {
        return false;
    };
    let status = found.direct[at..].iter().find(|line| line.starts_with("Z "));
    !direct.starts_with('E')
        && proxied.contains("C=25P02")
        && status.is_none_or(|status| status == "Z E")
}

/// One that began on a replica fails on the primary, where its portals are not.
fn lost_portal(found: &Difference) -> bool {
    let mut pairs = found.direct.iter().zip(&found.proxied);
    let first = pairs.find(|(direct, proxied)| direct != proxied);
    first.is_some_and(|(direct, _)| direct.contains("C=42P03"))
}

/// What a client has asked for when it connected is reset in a text of several statements, and those
/// behind it see the server's default, or so does `set_config` (`docs/limits.md`).
fn resets_startup(script: &Script, at: usize) -> bool {
    let step = &script.steps[at];
    let has_parameters = script.steps[..at].iter().rev().find_map(|before| match &before.act {
        Act::Connect(parameters) | Act::Abort(parameters) if before.client == step.client => {
            Some(!parameters.is_empty())
        }
        _ => None,
    });
    let resets = |message: &Message| match message {
        Message::Query(sql) => {
            let words = ["RESET", "DEFAULT", "DISCARD ALL"];
            sql.contains(';') && words.iter().any(|word| sql.contains(word))
        }
        // `set_config('…', NULL, false)` in a prepared statement.
        Message::Bind { parameters, .. } => parameters.contains(&None),
        _ => false,
    };
    let Act::Send(messages) = &step.act else { return false };
    has_parameters == Some(true) && messages.iter().any(resets)
}

/// Something without a result needs no tables to be described, but to be prepared anew where they
/// are not on the search path any more (`docs/limits.md`).
fn is_refused_description(found: &Difference) -> bool {
    let mut pairs = found.direct.iter().zip(&found.proxied);
    let first = pairs.find(|(direct, proxied)| direct != proxied);
    first.is_some_and(|(direct, proxied)| direct.starts_with('t') && proxied.contains("C=42"))
}

/// DEALLOCATE in a text of several statements that fails (`docs/limits.md`).
fn kept_statement(script: &Script, at: usize, found: &Difference) -> bool {
    let mut pairs = found.direct.iter().zip(&found.proxied);
    let first = pairs.find(|(direct, proxied)| direct != proxied);
    let is_text = |message: &Message| match message {
        Message::Query(sql) => sql.contains("DEALLOCATE") && sql.contains(';'),
        _ => false,
    };
    let client = script.steps[at].client;
    let mut steps = script.steps[..at].iter().filter(|step| step.client == client);
    first.is_some_and(|(direct, _)| direct.contains("C=26000"))
        && steps.any(|step| matches!(&step.act, Act::Send(all) if all.iter().any(is_text)))
}

type Parting = (&'static str, fn(&str) -> bool);

/// Answers after which the two sides cannot be compared any more, by what is to be said of them.
const PARTINGS: [Parting; 3] = [
    ("needs the primary and cannot leave a replica", on_standby),
    ("a connection that listened", on_listener),
    ("a connection that was used", on_used_connection),
];

/// The first difference between the answers of two sides.
fn difference(script: &Script, direct: &Transcript, proxied: &Transcript) -> Compared {
    for (at, step) in script.steps.iter().enumerate() {
        let nothing = Vec::new();
        let (left, right) = (direct.steps.get(at), proxied.steps.get(at));
        if left == right {
            continue;
        }
        if let (Some(left), Some(right)) = (left, right)
            && left.len() == right.len()
            && left
                .iter()
                .zip(right)
                .all(|(left, right)| left == right || is_refused_alike(left, right))
        {
            continue;
        }
        if let (Some(left), Some(right)) = (left, right)
            && is_described_to_be_refused(left, right)
        {
            continue;
        }
        let found = Difference {
            at: format!("step {}:\n{step}", at + 1),
            direct: left.unwrap_or(&nothing).clone(),
            proxied: right.unwrap_or(&nothing).clone(),
        };
        let says = |is: fn(&str) -> bool| found.proxied.iter().any(|line| is(line));
        // The session goes another way from here on.
        return match PARTINGS.iter().find(|(_, is)| says(*is)) {
            Some((why, _)) => Compared::Parted(why, found),
            None if resets_startup(script, at) => Compared::Parted("a start-up value", found),
            None if kept_statement(script, at, &found) => Compared::Parted("a DEALLOCATE", found),
            None if is_refused_description(&found) => Compared::Parted("a description", found),
            None if lost_portal(&found) => Compared::Parted("a failed transaction", found),
            None if is_not_described(&found) => Compared::Parted("a failed transaction", found),
            None => Compared::Differs(found),
        };
    }
    for client in 0..script.clients {
        let (left, right) = (&direct.notifications[client], &proxied.notifications[client]);
        if left != right {
            let at = format!("notifications of client {client}\n");
            let (direct, proxied) = (left.clone(), right.clone());
            return Compared::Differs(Difference { at, direct, proxied });
        }
    }
    proxied.broken.as_ref().map_or(Compared::Same, |why| {
        let at = "the end\n".to_owned();
        Compared::Differs(Difference { at, direct: Vec::new(), proxied: vec![why.clone()] })
    })
}

impl Difference {
    /// What kind of difference it is, so that a smaller script shows the same one: the first lines
    /// that differ, without what stands in rows.
    pub fn kind(&self) -> String {
        let mut pairs = self.direct.iter().zip(&self.proxied);
        let pair = pairs.find(|(left, right)| left != right);
        let word = |line: Option<&String>| match line {
            None => "nothing".to_owned(),
            Some(line) if line.starts_with(['E', 'N', '!', 'S']) => line.clone(),
            Some(line) => line.chars().take(1).collect(),
        };
        match pair {
            Some((left, right)) => format!("{} / {}", word(Some(left)), word(Some(right))),
            None => {
                let at = self.direct.len().min(self.proxied.len());
                format!("{} / {}", word(self.direct.get(at)), word(self.proxied.get(at)))
            }
        }
    }

    pub fn text(&self) -> String {
        let mut text = format!("at {}", self.at);
        for (side, lines) in [("direct", &self.direct), ("proxied", &self.proxied)] {
            let _ = writeln!(text, "{side}:");
            for line in lines {
                let _ = writeln!(text, "    {line}");
            }
        }
        text
    }
}
