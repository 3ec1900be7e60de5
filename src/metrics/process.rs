//! What the kernel knows of this process, under the names that Prometheus' own clients use:
//! <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>.
//!
//! Read from `/proc` at the scrape, four small files; what cannot be read is not on the page.

use super::table::Name;
use super::text::Page;
use std::fs;

/// `USER_HZ`, the unit of times in `/proc`: part of the kernel's interface to programs and 100 on
/// every architecture that matters.
const TICKS_PER_SECOND: f64 = 100.0;

/// This process; made once, for its start does not change.
#[derive(Debug)]
pub struct Process {
    /// In seconds since 1970.
    started: Option<f64>,
}

impl Process {
    pub fn this() -> Process {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let system = fs::read_to_string("/proc/stat").unwrap_or_default();
        let booted = system.lines().find_map(|line| line.strip_prefix("btime "));
        let booted = booted.and_then(|seconds| seconds.trim().parse::<f64>().ok());
        let started = booted.zip(Stat::parse(&stat)).map(|(boot, stat)| boot + stat.started);
        Process { started }
    }

    pub fn write(&self, page: &mut Page) {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let status = read("/proc/self/status");
        let real = [
            (Name::ProcessCpuSeconds, Stat::parse(&read("/proc/self/stat")).map(|stat| stat.cpu)),
            (Name::ProcessStartTime, self.started),
        ];
        let whole = [
            (Name::ProcessResidentMemory, kibibytes(&status, "VmRSS:")),
            (Name::ProcessVirtualMemory, kibibytes(&status, "VmSize:")),
            (Name::ProcessOpenFds, open_files()),
            (Name::ProcessMaxFds, open_files_max(&read("/proc/self/limits"))),
        ];
        for (name, value) in real {
            value.into_iter().for_each(|value| page.single(name, value));
        }
        for (name, value) in whole {
            value.into_iter().for_each(|value| page.single(name, value));
        }
    }
}

/// Of `/proc/PID/stat` (proc_pid_stat(5)), in seconds.
#[derive(Debug, PartialEq)]
struct Stat {
    /// In user and kernel mode, of all threads, ended ones included.
    cpu: f64,
    /// Since the boot.
    started: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        // The second field is a name in parentheses that may hold anything; the third follows.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let seconds = |field: usize| {
            let ticks: f64 = fields.get(field - 3)?.parse().ok()?;
            Some(ticks / TICKS_PER_SECOND)
        };
        Some(Stat { cpu: seconds(14)? + seconds(15)?, started: seconds(22)? })
    }
}

/// A line of `/proc/PID/status`, in bytes.
fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

fn open_files() -> Option<u64> {
    // Since Linux 6.2 the folder's size is their number. Before, it is zero and they are counted.
    let folder = "/proc/self/fd";
    let size = fs::metadata(folder).ok()?.len();
    if size > 0 {
        return Some(size);
    }
    // Looking takes one as well.
    let entries = fs::read_dir(folder).ok()?.count().saturating_sub(1);
    u64::try_from(entries).ok()
}

/// The soft limit, at which opening one more fails; `None` if there is none.
fn open_files_max(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let stat = "4242 (a) b (c)) S 1 4242 4242 0 -1 4194560 9 0 0 0 150 25 0 0 20 0 4 0 12345 \
                    1 2 3";
        assert_eq!(Stat::parse(stat), Some(Stat { cpu: 1.75, started: 123.45 }));
        for broken in ["", "4242", "4242 (x", "4242 (x) S 1 2", "4242 (x) S a b c"] {
            assert_eq!(Stat::parse(broken), None, "{broken}");
        }
        let status = "Name:\tx\nVmSize:\t  2048 kB\nVmRSS:\t      12 kB\nThreads:\t3\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(12 << 10));
        assert_eq!(kibibytes(status, "VmSize:"), Some(2 << 20));
        assert_eq!((kibibytes(status, "Threads:"), kibibytes("", "VmRSS:")), (None, None));
        let limits = "Limit          Soft Limit   Hard Limit   Units\n\
                      Max open files 1024         1048576      files\n";
        assert_eq!(open_files_max(limits), Some(1024));
        assert_eq!(open_files_max("Max open files unlimited unlimited files\n"), None);
    }

    #[test]
    fn this_process_is_on_the_page() {
        let mut page = Page::default();
        let process = Process::this();
        process.write(&mut page);
        let text = page.into_text();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
            line.and_then(|line| line.split(' ').nth(1)).expect(name).parse().expect(name)
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_cpu_seconds_total") >= 0.0);
        let (open, max) = (value("process_open_fds"), value("process_max_fds"));
        assert!(open >= 3.0 && open <= max, "{open} of {max}");
        // Neither before the machine's last years nor after now.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let started = value("process_start_time_seconds");
        assert!(started > 1.5e9 && started <= now.expect("a clock").as_secs_f64() + 2.0);
    }
}
