//! `pg_regress` as a child process: what it is given, what it says.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{OpenOptionsExt, chown, fchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tiffin::cli::sandbox::servers::binaries::Binaries;
use tiffin::cli::sandbox::servers::{Cluster, Server, wait_until};

/// A test that takes longer hangs: its psql is ended, and it has failed. The slowest takes ten
/// seconds on an idle machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(240);
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A superuser, as the suite wants it.
const USER: &str = "postgres";

/// Makes what the others need.
const FIRST_TEST: &str = "test_setup";
/// The database that pg_regress makes.
const DATABASE: &str = "regression";
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(60);

/// From the folder of the programs.
const PG_REGRESS: &str = "../lib/pgxs/src/test/regress/pg_regress";

pub struct Suite {
    pub binaries: Binaries,
    /// Scripts, expected output, data, schedule.
    input: PathBuf,
}

/// Test to whether it passed.
#[derive(Debug, Default)]
pub struct Results(BTreeMap<String, bool>);

impl Results {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn passed(&self) -> usize {
        self.0.values().filter(|passed| **passed).count()
    }

    pub fn has_passed(&self, test: &str) -> bool {
        self.0.get(test).copied().unwrap_or_default()
    }

    pub fn failed(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, passed)| !**passed).map(|(test, _)| test.as_str())
    }

    /// `ok 5     + name       12 ms`, `not ok 5     - name     12 ms`; the sign tells whether
    /// others ran at the same time.
    fn line(&mut self, line: &str) {
        let mut words = line.split_whitespace().peekable();
        let passed = words.next_if_eq(&"not").is_none();
        if words.next() != Some("ok") {
            return;
        }
        if let Some(name) = words.nth(2) {
            self.0.insert(name.to_string(), passed);
        }
    }
}

impl Suite {
    pub fn find() -> Result<Suite> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/postgresql-18.sh");
        let output = Command::new(&script).arg("path").output().context("run the script")?;
        let root = PathBuf::from(String::from_utf8(output.stdout)?.trim());
        let input = root.join("regress");
        if !input.join("complete").is_file() {
            bail!("the suite is missing: run {} regress", script.display());
        }
        Ok(Suite { binaries: Binaries::at(&root.join("usr/lib/postgresql/18/bin"))?, input })
    }

    /// Runs the suite, or these tests of it, against what listens at this port. `output` is made.
    pub fn run(
        &self,
        output: &Path,
        port: u16,
        cluster: &Cluster,
        tests: &[String],
    ) -> Result<Results> {
        fs::create_dir(output)?;
        self.give(output)?;
        self.write_password(&output.join(".pgpass"), &cluster.superuser.password)?;
        let mut results = Results::default();
        if !tests.is_empty() {
            let mut command = self.pg_regress(output, port);
            self.wait(command.arg(FIRST_TEST).args(tests), &mut results)?;
            return Ok(results);
        }
        self.wait(self.pg_regress(output, port).arg(FIRST_TEST), &mut results)?;
        for name in ["regression.diffs", "regression.out"] {
            let _ = fs::rename(output.join(name), output.join(format!("{name}.first")));
        }
        make_visible(cluster.primary())?;
        let schedule = fs::read_to_string(self.input.join("parallel_schedule"))?;
        let rest = schedule.replace(&format!("test: {FIRST_TEST}\n"), "");
        let path = output.join("schedule");
        fs::write(&path, rest)?;
        let mut command = self.pg_regress(output, port);
        command.arg("--use-existing").arg(format!("--schedule={}", path.display()));
        self.wait(&mut command, &mut results)?;
        Ok(results)
    }

    fn pg_regress(&self, output: &Path, port: u16) -> Command {
        let folder = self.binaries.folder();
        let mut command = self.binaries.command(PG_REGRESS);
        command.arg(format!("--inputdir={}", self.input.display()));
        command.arg(format!("--expecteddir={}", self.input.display()));
        command.arg(format!("--outputdir={}", output.display()));
        command.arg(format!("--bindir={}", folder.display()));
        command.arg(format!("--dlpath={}", folder.with_file_name("lib").display()));
        command.args(["--host=127.0.0.1", &format!("--port={port}"), &format!("--user={USER}")]);
        command.arg("--max-concurrent-tests=20");
        // It forgets PGPASSWORD and PGPASSFILE, but not where the home folder is.
        command.env("HOME", output).current_dir(output);
        command
    }

    /// Runs it to its end, whatever that is.
    fn wait(&self, command: &mut Command, results: &mut Results) -> Result<()> {
        let before = results.len();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start pg_regress")?;
        let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| end_hanging_tests(child.id(), &ended));
            for line in lines.map_while(std::result::Result::ok) {
                println!("{line}");
                results.line(&line);
            }
            ended.store(true, Ordering::Relaxed);
        });
        child.wait()?;
        if results.len() == before {
            bail!("pg_regress ran no test");
        }
        Ok(())
    }

    fn write_password(&self, path: &Path, password: &str) -> Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        writeln!(file, "*:*:*:{USER}:{password}")?;
        if let Some((uid, gid)) = self.binaries.run_as {
            fchown(&file, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// Gives a folder to the servers' user: some tests have the server write into it.
    fn give(&self, folder: &Path) -> Result<()> {
        if let Some((uid, gid)) = self.binaries.run_as {
            chown(folder, Some(uid), Some(gid))?;
        }
        Ok(())
    }
}

/// Expected plans count on the visibility map that VACUUM made in the first test. VACUUM leaves out
/// what any other transaction in the database may still see, if only a look at the catalog.
fn make_visible(primary: &Server) -> Result<()> {
    // Others have no statistics, and expected plans count on that, too.
    let tables = "FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
                  AND reltuples >= 0";
    let names = primary.value_in(DATABASE, &format!("SELECT string_agg(relname, ',') {tables}"))?;
    let hidden = format!("SELECT count(*) {tables} AND relallvisible < relpages");
    wait_until(VISIBLE_TIMEOUT, || {
        primary.query_in(DATABASE, &format!("VACUUM {names}")).is_ok()
            && primary.value_in(DATABASE, &hidden).is_ok_and(|count| count == "0")
    })
    .context("VACUUM leaves something out")?;
    Ok(())
}

/// Ends each psql that has run for too long, so that the suite goes on.
fn end_hanging_tests(pg_regress: u32, ended: &AtomicBool) {
    let mut first_seen: BTreeMap<String, Instant> = BTreeMap::new();
    let children = format!("/proc/{pg_regress}/task/{pg_regress}/children");
    while !ended.load(Ordering::Relaxed) {
        let pids = fs::read_to_string(&children).unwrap_or_default();
        first_seen.retain(|pid, _| pids.split_whitespace().any(|other| other == pid));
        for pid in pids.split_whitespace() {
            let since = first_seen.entry(pid.to_string()).or_insert_with(Instant::now);
            if since.elapsed() > TEST_TIMEOUT {
                println!("# ends a test that hangs (process {pid})");
                let _ = Command::new("kill").args(["-KILL", pid]).status();
            }
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// The diff of one test.
pub fn diff_path(folder: &Path, test: &str) -> PathBuf {
    folder.join("diffs").join(format!("{test}.diff"))
}

/// Takes `regression.diffs`, which has those of all tests, apart.
pub fn split_diffs(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("diffs"))?;
    let read = |name| fs::read(folder.join(name)).unwrap_or_default();
    let bytes = [read("regression.diffs.first"), read("regression.diffs")].concat();
    let text = String::from_utf8_lossy(&bytes);
    for part in text.split("diff -U3 ").skip(1) {
        let first = part.lines().next().unwrap_or_default();
        let test = Path::new(first.split_whitespace().last().unwrap_or_default()).file_stem();
        if let Some(test) = test.and_then(|test| test.to_str()) {
            fs::write(diff_path(folder, test), format!("diff -U3 {part}"))?;
        }
    }
    Ok(())
}
