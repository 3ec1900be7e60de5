//! The folder that everything lives in, and the watchdog that ends what lives there.
//!
//! The watchdog is a small shell script that waits for the end of its standard input. The other
//! end of that pipe is held by this process alone, so it closes when this process ends, however
//! it ends. Then the watchdog ends every process whose working directory is in the folder and
//! deletes it. There is no other way of cleaning up: it is tested by each run.

use super::binaries::Binaries;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

/// `$1` is the folder, `$2` is `delete` or `keep`. First politely: frozen processes go on and
/// the servers end at once, taking their shared memory with them; after five seconds by force.
/// MySQL keeps nothing outside its folder, and takes seconds to end by itself.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
cd /
cat >/dev/null
residents() {
    find /proc -maxdepth 2 -name cwd -lname "$1*" 2>/dev/null | cut -d/ -f3
}
for pid in $(residents "$1"); do
    case $(cat "/proc/$pid/comm") in
    mysqld | mariadbd) [ "$2" = delete ] && kill -KILL "$pid" 2>/dev/null ;;
    esac
    kill -CONT "$pid" 2>/dev/null
done
for file in "$1"/*/data/postmaster.pid; do
    [ -f "$file" ] && kill -QUIT "$(head -n 1 "$file")" 2>/dev/null
done
round=0
while [ -n "$(residents "$1")" ] && [ "$round" -lt 100 ]; do
    if [ "$round" -eq 10 ]; then
        for pid in $(residents "$1"); do kill -TERM "$pid" 2>/dev/null; done
    fi
    if [ "$round" -ge 50 ]; then
        for pid in $(residents "$1"); do kill -KILL "$pid" 2>/dev/null; done
    fi
    round=$((round + 1))
    sleep 0.1
done
[ "$2" = delete ] && rm -rf "$1"
exit 0
"#;

pub struct Folder {
    path: PathBuf,
    watchdog: Mutex<Option<(Child, ChildStdin)>>,
}

impl Folder {
    /// Makes a folder that only the servers' user and root may enter, and starts its watchdog.
    /// `keep` names a folder that stays afterwards; it must be empty or absent.
    pub fn create(binaries: &Binaries, keep: Option<&Path>) -> Result<Folder> {
        let path = match keep {
            Some(path) => {
                if path.exists() && fs::read_dir(path)?.next().is_some() {
                    bail!("{} is not empty: choose another folder", path.display());
                }
                path.to_path_buf()
            }
            None => std::env::temp_dir().join(format!("tiffin-{}", random_hex(6)?)),
        };
        let make = || -> Result<PathBuf> {
            fs::DirBuilder::new().recursive(keep.is_some()).mode(0o700).create(&path)?;
            if let Some((uid, gid)) = binaries.run_as {
                chown(&path, Some(uid), Some(gid))?;
            }
            Ok(path.canonicalize()?)
        };
        let path = make().with_context(|| format!("make the folder {}", path.display()))?;
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", WATCHDOG, "tiffin-watchdog"]).arg(&path);
        watchdog.arg(if keep.is_some() { "keep" } else { "delete" });
        // A group of its own: Ctrl-C on the terminal and a test runner that kills the group of
        // its test must not reach it.
        watchdog.process_group(0);
        watchdog.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut watchdog = watchdog.spawn().context("start sh")?;
        let stdin = watchdog.stdin.take().context("the watchdog's standard input")?;
        let folder = Folder { path, watchdog: Mutex::new(Some((watchdog, stdin))) };
        folder.check_reachable(binaries)?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends everything that runs in the folder, deletes it unless it is to stay, and returns
    /// when that is done.
    pub fn end(&self) {
        let watchdog = self.watchdog.lock().unwrap_or_else(|poison| poison.into_inner()).take();
        if let Some((mut child, stdin)) = watchdog {
            drop(stdin);
            // The script bounds itself to about ten seconds.
            let _ = child.wait();
        }
    }

    /// The servers' own words for a folder above that is closed to their user are hard to read.
    fn check_reachable(&self, binaries: &Binaries) -> Result<()> {
        let Some((uid, gid)) = binaries.run_as else { return Ok(()) };
        let mut test = Command::new("test");
        let status = test.arg("-w").arg(&self.path).uid(uid).gid(gid).current_dir("/").status()?;
        if !status.success() {
            bail!(
                "the user that runs the servers (id {uid}) cannot enter {}: choose a folder whose \
                 parents are open to it",
                self.path.display()
            );
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs a command to its end; what it said becomes the error if it failed.
pub fn run(command: &mut Command) -> Result<()> {
    let program = Path::new(command.get_program()).display().to_string();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed ({}): {}", output.status, said.trim());
    }
    Ok(())
}

/// This many random bytes as hex digits: passwords and folder names.
pub fn random_hex(bytes: usize) -> Result<String> {
    let mut random = vec![0; bytes];
    fs::File::open("/dev/urandom")?.read_exact(&mut random).context("/dev/urandom")?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
