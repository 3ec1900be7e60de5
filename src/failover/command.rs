//! Commands of the configuration: what only they can do is done on the servers' machines.

use super::conninfo::host_and_port;
use crate::config::NodeConfig;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// Bytes of a command's last words that are kept for the audit.
const WORDS_BYTES_MAX: usize = 400;

/// Runs a command by `/bin/sh -c`, with the old primary as `TIFFIN_NODE`, `TIFFIN_HOST`,
/// `TIFFIN_PORT` and the new one, if it is known, as `TIFFIN_PRIMARY_NODE`, `_HOST`, `_PORT`.
/// Gives its last words, or why it failed.
pub async fn run(
    command: &str,
    cluster: &str,
    (old, new): (&NodeConfig, Option<&NodeConfig>),
    timeout: Duration,
) -> Result<String, String> {
    let mut child = Command::new("/bin/sh");
    child.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    child.kill_on_drop(true).env("TIFFIN_CLUSTER", cluster);
    tell(&mut child, "TIFFIN", old);
    if let Some(new) = new {
        tell(&mut child, "TIFFIN_PRIMARY", new);
    }
    let mut child = child.spawn().map_err(|error| format!("it cannot be started: {error}"))?;
    let mut stderr = child.stderr.take();
    let work = async {
        let mut words = Vec::new();
        if let Some(stderr) = &mut stderr {
            // What is beyond stays unread; its end is waited for below all the same.
            let _ = stderr.take(WORDS_BYTES_MAX as u64).read_to_end(&mut words).await;
        }
        drop(stderr.take());
        (child.wait().await, String::from_utf8_lossy(&words).trim().to_owned())
    };
    match tokio::time::timeout(timeout, work).await {
        Err(_) => Err(format!("it was killed after {timeout:?} (failover.command_timeout)")),
        Ok((Err(error), _)) => Err(format!("it cannot be waited for: {error}")),
        Ok((Ok(status), words)) if status.success() => {
            Ok(if words.is_empty() { "done".to_owned() } else { words })
        }
        Ok((Ok(status), words)) => Err(format!("{status}: {words}")),
    }
}

fn tell(child: &mut Command, prefix: &str, node: &NodeConfig) {
    let (host, port) = host_and_port(&node.address);
    let name = if prefix == "TIFFIN" { "TIFFIN_NODE".to_owned() } else { format!("{prefix}_NODE") };
    child.env(name, &*node.name);
    child.env(format!("{prefix}_HOST"), host).env(format!("{prefix}_PORT"), port.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture::node;

    #[tokio::test]
    async fn commands_know_the_nodes_and_end_in_time() {
        let (old, new) = (node("a"), node("b"));
        let run =
            async |command: &str, timeout| run(command, "main", (&old, Some(&new)), timeout).await;
        let long = Duration::from_secs(60);
        let echo = "echo $TIFFIN_CLUSTER $TIFFIN_NODE:$TIFFIN_PORT $TIFFIN_PRIMARY_HOST >&2";
        assert_eq!(run(echo, long).await, Ok("main a:5432 b".to_owned()));
        assert_eq!(run("true", long).await, Ok("done".to_owned()));
        let failed = run("echo no >&2; exit 3", long).await.unwrap_err();
        assert!(failed.contains('3') && failed.contains("no"), "{failed}");
        let late = run("sleep 60", Duration::from_millis(50)).await.unwrap_err();
        assert!(late.contains("killed"), "{late}");
    }
}
