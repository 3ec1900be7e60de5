//! The tour: statements through the proxy, and on which server each of them ran.
//!
//! A server says its own port, in the answer of a read and into the row of a write, so nothing is
//! shown that a server has not said. Each line ends with `ok` or `FAILED`. The steps build on one another: the last leaves
//! a healthy cluster whose primary is another server than at the start.

use super::proxy::Proxy;
use super::servers::group::{Group, Member, Sql};
use super::servers::wait_until;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A session stays with a replica while it reads without a pause, since another one might be
/// older; so it is sessions that are spread. Enough for each of a few replicas to be chosen.
const READERS: usize = 20;
/// Write-then-read pairs of one session, of which some …
const PAIRS: usize = 40;
/// … pause between the two for longer than a probe interval, so that replicas can be known to
/// be fresh enough.
const PAIRS_PAUSED: usize = 10;
const PAUSE: Duration = Duration::from_millis(250);
/// Between the writes of somebody who only keeps the primary from being idle.
const WRITE_PAUSE: Duration = Duration::from_millis(20);
/// Well above the default `max_lag` of one second.
const APPLY_DELAY_S: u32 = 3;
/// What is waited for here takes the apply delay and some probe intervals.
const PATIENCE: Duration = Duration::from_secs(30);

const TABLE: &str = "CREATE TABLE lunch (id int PRIMARY KEY, dish varchar(20), port int)";

/// Takes the tour; whether every step was seen to hold.
pub fn run<S: Member>(cluster: &Group<S>, proxy: &Proxy) -> Result<bool> {
    let tour = Tour { cluster, proxy, screen: Screen::new(), dishes: AtomicU64::new(0) };
    let steps: [(&str, Step<'_, S>); 5] = [
        ("A write goes to the primary", Tour::write),
        ("Reads are shared by the replicas", Tour::reads),
        ("A lagging replica leaves the reads, and a session still reads its own writes", Tour::lag),
        ("Having caught up, it returns", Tour::return_to_reads),
        ("A replica is promoted, and everything follows", Tour::promote),
    ];
    for (number, (title, step)) in steps.iter().enumerate() {
        tour.screen.title(number + 1, title);
        if let Err(error) = step(&tour) {
            tour.screen.note(&format!("{error:#}"));
            tour.screen.line("", "", false);
        }
    }
    Ok(tour.screen.all_held.load(Ordering::Relaxed))
}

type Step<'a, S> = fn(&Tour<'a, S>) -> Result<()>;

struct Tour<'a, S: Member> {
    cluster: &'a Group<S>,
    proxy: &'a Proxy,
    screen: Screen,
    /// Rows that were written, or tried.
    dishes: AtomicU64,
}

/// How many statements each server ran, by its name.
type Share = BTreeMap<String, usize>;

impl<S: Member> Tour<'_, S> {
    fn write(&self) -> Result<()> {
        let session = self.connect()?;
        session.query(TABLE)?;
        self.screen.line(TABLE, "", true);
        let id = self.write_row(&session)?;
        let server = self.writer(&session, id)?;
        self.screen.line(&self.insert(id), &server, server == self.cluster.primary().name);
        Ok(())
    }

    fn reads(&self) -> Result<()> {
        self.cluster.primary().wait_caught_up(self.cluster)?;
        let all: Vec<&S> = self.cluster.replicas().iter().collect();
        let share = self.until_read_by(&all)?;
        self.screen.line(&sessions_read(), &told(&share), self.are(&share, &all));
        Ok(())
    }

    fn lag(&self) -> Result<()> {
        let (lagging, others) = self.lagging();
        lagging.apply_late(APPLY_DELAY_S)?;
        let name = &lagging.name;
        self.screen.note(&format!("{name} applies everything {APPLY_DELAY_S} s late"));

        let out = format!("tiffin_node_in_read_set{{cluster=\"main\",node=\"{name}\"}} 0");
        let started = Instant::now();
        let share = self.while_somebody_writes(|| {
            wait_until(PATIENCE, || {
                self.proxy.get("/metrics").is_ok_and(|(_, page)| page.contains(&out))
            })
            .context("the lagging replica stays in the read set")?;
            self.screen.note(&format!("{name} left the read set after {}", seconds(started)));
            self.until_read_by(&others)
        })?;
        self.screen.line(&sessions_read(), &told(&share), self.are(&share, &others));

        let session = self.connect()?;
        let mut share = Share::new();
        let mut found = 0;
        for number in 0..PAIRS {
            let id = self.write_row(&session)?;
            if number < PAIRS_PAUSED {
                std::thread::sleep(PAUSE);
            }
            let own = format!("SELECT id, {} FROM lunch WHERE id = {id}", S::OWN_PORT);
            match self.run(&session, &own) {
                Ok((read, server)) if read == id.to_string() => {
                    found += 1;
                    *share.entry(server).or_default() += 1;
                }
                _ => {}
            }
        }
        let what = format!("{PAIRS} × INSERT … ; SELECT … WHERE id = the new one");
        self.screen.line(&what, &format!("{found} found: {}", told(&share)), found == PAIRS);
        Ok(())
    }

    fn return_to_reads(&self) -> Result<()> {
        let (lagging, _) = self.lagging();
        lagging.apply_late(0)?;
        self.screen.note(&format!("{} applies at once again", lagging.name));
        let started = Instant::now();
        let all: Vec<&S> = self.cluster.replicas().iter().collect();
        let share = self.until_read_by(&all)?;
        let seen = format!("{} · after {}", told(&share), seconds(started));
        self.screen.line(&sessions_read(), &seen, self.are(&share, &all));
        Ok(())
    }

    fn promote(&self) -> Result<()> {
        let (old, new) = (self.cluster.primary(), self.cluster.replica(0));
        let session = self.connect()?;
        old.wait_caught_up(self.cluster)?;
        old.stop_in_order()?;
        self.screen.note(&format!("{} is stopped", old.name));
        // Sent while there is no primary, the statement waits for the next one.
        let (ran, promoted) = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| (self.write_row(&session), Instant::now()));
            let promoted = new.take_over().map(|()| Instant::now());
            let joined = waiting.join();
            anyhow::Ok((joined.ok().context("the writing thread panicked")?, promoted?))
        })?;
        self.screen.note(&format!("{} is promoted", new.name));
        let (answer, answered) = ran;
        let server = self.writer(&session, answer.context("the waiting INSERT")?)?;
        let gap = answered.saturating_duration_since(promoted).as_millis();
        let seen = format!("{server} · {gap} ms after the promotion");
        self.screen.line("INSERT …, sent while there was no primary", &seen, server == new.name);

        for replica in &self.cluster.replicas()[1..] {
            replica.follow(self.cluster, new)?;
        }
        old.rejoin(self.cluster, new)?;
        new.wait_caught_up(self.cluster)?;
        let servers = self.cluster.servers().iter();
        let replicas: Vec<&S> = servers.filter(|server| server.name != new.name).collect();
        self.screen.note(&format!("{} replicate from {}", names(&replicas), new.name));
        let share = self.until_read_by(&replicas)?;
        self.screen.line(&sessions_read(), &told(&share), self.are(&share, &replicas));
        Ok(())
    }

    /// Idle, a primary leaves nothing to lag behind: a replica would return while it is looked at.
    fn while_somebody_writes<T>(&self, look: impl FnOnce() -> Result<T>) -> Result<T> {
        let session = self.connect()?;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) && self.write_row(&session).is_ok() {
                    std::thread::sleep(WRITE_PAUSE);
                }
            });
            let seen = look();
            done.store(true, Ordering::Relaxed);
            seen
        })
    }

    /// The replica that will lag, and the servers that are to be read meanwhile.
    fn lagging(&self) -> (&S, Vec<&S>) {
        match self.cluster.replicas() {
            [only] => (only, vec![self.cluster.primary()]),
            [others @ .., last] => (last, others.iter().collect()),
            [] => (self.cluster.primary(), Vec::new()),
        }
    }

    fn connect(&self) -> Result<S::Session> {
        S::session(self.proxy.port, &self.cluster.app).context("connect to the proxy")
    }

    fn insert(&self, id: u64) -> String {
        format!("INSERT INTO lunch (id, dish, port) VALUES ({id}, 'dal', {})", S::OWN_PORT)
    }

    /// Writes a row, and says its id.
    fn write_row(&self, session: &S::Session) -> Result<u64> {
        let id = self.dishes.fetch_add(1, Ordering::Relaxed);
        session.query(&self.insert(id))?;
        Ok(id)
    }

    /// The server that wrote this row, by the session that wrote it.
    fn writer(&self, session: &S::Session, id: u64) -> Result<String> {
        Ok(self.run(session, &format!("SELECT id, port FROM lunch WHERE id = {id}"))?.1)
    }

    /// Runs a statement whose second column is a server's port: the first column, and the name of
    /// the server.
    fn run(&self, session: &S::Session, sql: &str) -> Result<(String, String)> {
        let rows = session.query(sql)?;
        let Some([Some(first), Some(port)]) = rows.first().map(Vec::as_slice) else {
            bail!("no row: {sql}");
        };
        let server = self.cluster.by_port(port.parse()?).context("an unknown server answered")?;
        Ok((first.clone(), server.name.clone()))
    }

    /// Where new sessions read, each once. They have written nothing and read nothing before.
    fn share(&self) -> Result<Share> {
        let read = format!("SELECT count(*), {} FROM lunch", S::OWN_PORT);
        let mut share = Share::new();
        for _ in 0..READERS {
            *share.entry(self.run(&self.connect()?, &read)?.1).or_default() += 1;
        }
        Ok(share)
    }

    /// Reads until exactly these servers share the reads, or patience ends; the last share.
    fn until_read_by(&self, servers: &[&S]) -> Result<Share> {
        let mut last = self.share()?;
        wait_until(PATIENCE, || {
            self.are(&last, servers) || {
                last = self.share().unwrap_or_default();
                false
            }
        })
        .ok();
        Ok(last)
    }

    fn are(&self, share: &Share, servers: &[&S]) -> bool {
        share.len() == servers.len()
            && servers.iter().all(|server| share.contains_key(&server.name))
    }
}

fn sessions_read() -> String {
    format!("{READERS} sessions: SELECT count(*) FROM lunch")
}

fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f32())
}

fn told(share: &Share) -> String {
    let parts: Vec<String> = share.iter().map(|(name, count)| format!("{name} {count}")).collect();
    parts.join(" · ")
}

fn names<S: Member>(servers: &[&S]) -> String {
    let names: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
    names.join(" and ")
}

/// Columns of a line: what was run, what was seen, whether it held.
const WHAT_WIDTH: usize = 58;
const SEEN_WIDTH: usize = 34;

struct Screen {
    coloured: bool,
    all_held: AtomicBool,
}

impl Screen {
    fn new() -> Screen {
        let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Screen { coloured, all_held: AtomicBool::new(true) }
    }

    fn title(&self, number: usize, title: &str) {
        println!("\n{}", self.paint("1", &format!("{number}  {title}")));
    }

    /// Something that was done to the servers.
    fn note(&self, text: &str) {
        println!("   {}", self.paint("2", &format!("({text})")));
        let _ = std::io::stdout().flush();
    }

    fn line(&self, what: &str, seen: &str, held: bool) {
        let what: String = match what.char_indices().nth(WHAT_WIDTH) {
            Some(_) => what.chars().take(WHAT_WIDTH - 2).chain(" …".chars()).collect(),
            None => what.to_string(),
        };
        let word = if held { self.paint("32", "ok") } else { self.paint("1;31", "FAILED") };
        println!("   {what:WHAT_WIDTH$} {seen:SEEN_WIDTH$} {word}");
        self.all_held.fetch_and(held, Ordering::Relaxed);
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}
