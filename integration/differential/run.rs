//! Plays a case against a port and writes down what comes back.

use super::script::{Action, Case};
use super::transcript::Transcript;
use crate::support::wire::{self, Message, Wire};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::time::Duration;

/// Longer than any statement of the cases takes on a busy machine.
const REPLY_TIMEOUT: Duration = Duration::from_secs(15);

/// Stands in a transcript where a reply was missing, and where the stream ended.
const TIMED_OUT: u8 = b'?';
const ENDED: u8 = b'.';

/// Who logs in, and where.
pub struct Login<'a> {
    pub port: u16,
    pub user: &'a str,
    pub password: &'a str,
}

struct Client {
    wire: Wire,
    unsent: Vec<u8>,
    open: bool,
}

/// What came of a run: the replies, and the process ids of its sessions.
pub struct Played {
    pub transcript: Transcript,
    pub process_ids: Vec<i32>,
    /// A step waited for what did not come; those behind it were not played.
    pub hung: bool,
}

/// Runs a case. All of its connections are opened at the start, in order.
pub fn play(case: &Case, login: &Login<'_>) -> Played {
    let mut clients = BTreeMap::new();
    let mut transcript = Transcript::default();
    let mut welcomes = Vec::new();
    let mut process_ids = Vec::new();
    let mut numbers: Vec<usize> = case.steps.iter().map(|step| step.connection).collect();
    numbers.extend([1]);
    numbers.sort_unstable();
    numbers.dedup();
    for number in numbers {
        let (client, welcome) = Client::log_in(case, login);
        let key = welcome.iter().find(|message| message.tag == b'K');
        let process_id = key.and_then(|key| key.body.first_chunk().copied());
        process_ids.extend(process_id.map(i32::from_be_bytes));
        welcomes.extend(welcome);
        clients.insert(number, client);
    }
    transcript.add(welcomes);
    let mut hung = false;
    for step in &case.steps {
        let client = clients.get_mut(&step.connection).expect("opened above");
        let mut seen = Vec::new();
        for action in step.actions.iter().take_while(|_| !hung) {
            client.act(action, &mut seen);
        }
        // A client that hangs once would do so at each of its next steps.
        hung |= seen.iter().any(|message| message.tag == TIMED_OUT);
        transcript.add(seen);
    }
    let mut rest = Vec::new();
    for client in clients.values_mut() {
        client.leave(hung, &mut rest);
    }
    transcript.add(rest);
    Played { transcript, process_ids, hung }
}

impl Client {
    fn log_in(case: &Case, login: &Login<'_>) -> (Client, Vec<Message>) {
        let mut wire = Wire::connect(login.port);
        wire.stream.set_read_timeout(Some(REPLY_TIMEOUT)).unwrap();
        let mut parameters = vec![("user", login.user), ("database", "app")];
        parameters.extend(case.startup.iter().map(|(name, value)| (&name[..], &value[..])));
        wire.startup(wire::VERSION_3_0, &parameters);
        let mut client = Client { wire, unsent: Vec::new(), open: true };
        let mut seen = Vec::new();
        client.read(&mut seen, |message| matches!(message.tag, b'R' | b'E'));
        if seen.last().is_some_and(|message| message.body == [0, 0, 0, 3]) {
            let password = [login.password.as_bytes(), b"\0"].concat();
            client.wire.send(&wire::frame(b'p', &password));
            client.read(&mut seen, |message| message.tag == b'Z');
        }
        // The parameters come in the order of a hash table of the server's.
        seen.sort_by(|a, b| match (a.tag, b.tag) {
            (b'S', b'S') => a.body.cmp(&b.body),
            _ => std::cmp::Ordering::Equal,
        });
        (client, seen)
    }

    fn act(&mut self, action: &Action, seen: &mut Vec<Message>) {
        if let Action::Send(bytes) = action {
            self.unsent.extend(bytes);
            return;
        }
        self.send();
        match action {
            Action::Send(_) => {}
            Action::Wait(times) => {
                for _ in 0..*times {
                    self.read(seen, |message| message.tag == b'Z');
                }
            }
            Action::Until(tags) => self.read(seen, |message| tags.contains(&message.tag)),
            Action::End => self.read(seen, |_| false),
            Action::Drop => {
                let _ = self.wire.stream.shutdown(Shutdown::Both);
                self.open = false;
            }
        }
    }

    /// A server that has closed is found out when its last words are read.
    fn send(&mut self) {
        let _ = self.wire.stream.write_all(&self.unsent);
        self.unsent.clear();
    }

    fn read(&mut self, seen: &mut Vec<Message>, is_last: impl Fn(&Message) -> bool) {
        while self.open {
            match self.wire.try_message() {
                Ok(Some(message)) => {
                    let last = is_last(&message);
                    seen.push(message);
                    if last {
                        return;
                    }
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    seen.push(Message { tag: TIMED_OUT, body: b"nothing came".to_vec() });
                    return;
                }
                Ok(None) | Err(_) => {
                    seen.push(Message { tag: ENDED, body: b"the end of the stream".to_vec() });
                    self.open = false;
                }
            }
        }
    }

    /// Says good-bye and takes what has come that no step has waited for.
    fn leave(&mut self, hung: bool, seen: &mut Vec<Message>) {
        if !self.open {
            return;
        }
        if hung {
            let _ = self.wire.stream.shutdown(Shutdown::Both);
            return;
        }
        self.unsent.extend(wire::frame(b'X', b""));
        self.send();
        self.read(seen, |_| false);
    }
}
