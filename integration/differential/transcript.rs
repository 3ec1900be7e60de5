//! What a server answered in one run of a case, made comparable, and the difference of two runs.

use super::script::{Case, Exception};
use crate::support::wire::Message;
use std::collections::HashMap;
use std::fmt::Write as _;

/// Objects of users have at least this OID (`FirstNormalObjectId`, `src/include/access/transam.h`).
const FIRST_USER_OID: u32 = 16_384;

/// Columns of each side of a printed difference.
const SIDE_WIDTH: usize = 62;

/// Characters of a message that are printed; a difference further behind is shown by its place.
const SHOWN_MAX: usize = 400;

/// The replies to each step, beginning with those to the logins.
#[derive(Debug, Default)]
pub struct Transcript {
    pub replies: Vec<Vec<Message>>,
    /// OIDs of users' objects in the order in which they appeared.
    oids: HashMap<u32, u32>,
}

impl Transcript {
    /// Adds what came in answer to a step.
    pub fn add(&mut self, messages: Vec<Message>) {
        let messages = messages.into_iter().map(|message| self.comparable(message)).collect();
        self.replies.push(messages);
    }

    /// Leaves out what is another number in each run on the very same server: keys, process ids,
    /// OIDs of what the run itself has made.
    fn comparable(&mut self, mut message: Message) -> Message {
        match message.tag {
            // BackendKeyData
            b'K' => message.body.clear(),
            // The process id of a NotificationResponse.
            b'A' => message.body.iter_mut().take(4).for_each(|byte| *byte = 0),
            b'T' => self.row_description(&mut message.body),
            b't' => {
                let mut at = 2;
                while self.oid(&mut message.body, at) {
                    at += 4;
                }
            }
            _ => {}
        }
        message
    }

    fn row_description(&mut self, body: &mut [u8]) {
        let mut at = 2;
        while let Some(name) = body.get(at..).and_then(|rest| rest.iter().position(|b| *b == 0)) {
            let table = at + name + 1;
            self.oid(body, table);
            self.oid(body, table + 6);
            at = table + 18;
        }
    }

    fn oid(&mut self, body: &mut [u8], at: usize) -> bool {
        let Some(place) = body.get_mut(at..at + 4) else { return false };
        let oid = u32::from_be_bytes([place[0], place[1], place[2], place[3]]);
        if oid >= FIRST_USER_OID {
            let next = FIRST_USER_OID + u32::try_from(self.oids.len()).unwrap_or(u32::MAX);
            let oid = *self.oids.entry(oid).or_insert(next);
            place.copy_from_slice(&oid.to_be_bytes());
        }
        true
    }

    fn without(&self, exceptions: &[Exception]) -> Vec<Vec<Message>> {
        self.replies.iter().map(|messages| without(messages, exceptions)).collect()
    }
}

fn without(messages: &[Message], exceptions: &[Exception]) -> Vec<Message> {
    let left_out =
        |message: &&Message| exceptions.iter().any(|e| e.tag == message.tag && e.fields.is_empty());
    let kept = messages.iter().filter(|message| !left_out(message));
    kept.map(|message| {
        let mut message = message.clone();
        for exception in exceptions.iter().filter(|exception| exception.tag == message.tag) {
            message.body = fields(&message.body)
                .filter(|field| !exception.fields.contains(&field[0]))
                .flat_map(|field| [field, &[0]].concat())
                .collect();
        }
        message
    })
    .collect()
}

/// Fields of an ErrorResponse or NoticeResponse, each with its letter.
fn fields(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    body.split(|byte| *byte == 0).filter(|field| !field.is_empty())
}

/// Both runs side by side where they differ; `None` if they do not.
pub fn difference(case: &Case, direct: &Transcript, proxied: &Transcript) -> Option<String> {
    let sides = [direct.without(&case.exceptions), proxied.without(&case.exceptions)];
    if let Some(reason) = &case.differs {
        let as_expected = case.at_times || sides[0] != sides[1];
        return (!as_expected).then(|| format!("it does not differ any more: {reason}\n"));
    }
    if sides[0] == sides[1] {
        if let Some(exception) = case.exceptions.first()
            && direct.replies == proxied.replies
        {
            return Some(format!("the exception is not needed any more: {}\n", exception.reason));
        }
        return None;
    }
    let mut text = String::new();
    let logins = std::iter::once("(login)".to_owned());
    let steps = case.steps.iter().map(|step| format!("{}: {}", step.connection, step.text));
    let ends = std::iter::once("(end)".to_owned());
    for (number, step) in logins.chain(steps).chain(ends).enumerate() {
        let [left, right] = &sides.each_ref().map(|side| side.get(number));
        if left == right {
            let _ = writeln!(text, "    {}", shorten(&step, 2 * SIDE_WIDTH));
            continue;
        }
        let _ = writeln!(text, " ▶  {}", shorten(&step, 2 * SIDE_WIDTH));
        let none = Vec::new();
        side_by_side(&mut text, left.unwrap_or(&none), right.unwrap_or(&none));
    }
    Some(text)
}

fn side_by_side(text: &mut String, direct: &[Message], proxied: &[Message]) {
    let _ = writeln!(text, "      {:SIDE_WIDTH$} │ proxied", "direct");
    for at in 0..direct.len().max(proxied.len()) {
        let (left, right) = (direct.get(at), proxied.get(at));
        let mark = if left == right { ' ' } else { '≠' };
        let [left, right] = [left, right].map(|side| side.map(show).unwrap_or_default());
        // What is the same in front of the first difference fills a line only once.
        let same = left.chars().zip(right.chars()).take_while(|(a, b)| a == b).count();
        let skip = if same > SIDE_WIDTH / 2 { same - SIDE_WIDTH / 4 } else { 0 };
        let [left, right] = [left, right].map(|side| wrap(&side, skip));
        for line in 0..left.len().max(right.len()) {
            let part = |side: &[String]| side.get(line).cloned().unwrap_or_default();
            let _ = writeln!(text, "    {mark} {:SIDE_WIDTH$} │ {}", part(&left), part(&right));
        }
    }
}

fn wrap(text: &str, skip: usize) -> Vec<String> {
    let mut characters: Vec<char> = text.chars().collect();
    if skip > 0 && characters.len() > SIDE_WIDTH {
        let head: Vec<char> = characters[..2].to_vec();
        characters = [&head[..], &['…'], &characters[skip.min(characters.len())..]].concat();
    }
    characters.truncate(SHOWN_MAX);
    characters.chunks(SIDE_WIDTH).map(|line| line.iter().collect()).collect()
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width).chain(['…']).collect()
}

/// A message for people.
pub fn show(message: &Message) -> String {
    let tag = char::from(message.tag);
    match message.tag {
        b'E' | b'N' => {
            let fields: Vec<String> = fields(&message.body)
                .map(|field| format!("{}={}", char::from(field[0]), escape(&field[1..])))
                .collect();
            format!("{tag} {}", fields.join(" "))
        }
        b'D' => format!("{tag} {}", show_row(&message.body).unwrap_or_default()),
        b'T' => format!("{tag} {}", escape(message.body.get(2..).unwrap_or_default())),
        _ => format!("{tag} {}", escape(&message.body)),
    }
}

fn show_row(body: &[u8]) -> Option<String> {
    let mut columns = Vec::new();
    let mut rest = body.get(2..)?;
    while let Some((head, after)) = rest.split_first_chunk::<4>() {
        let Ok(length) = usize::try_from(i32::from_be_bytes(*head)) else {
            columns.push("null".to_owned());
            rest = after;
            continue;
        };
        columns.push(escape(after.get(..length)?));
        rest = after.get(length..)?;
    }
    Some(columns.join(" | "))
}

fn escape(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    text.trim_end_matches("\\x00").replace("\\x00", "·")
}
