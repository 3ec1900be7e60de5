//! The proxy as a child process: the same binary with `run --config FILE`, in the folder of the
//! cluster that it serves, so that the cluster's watchdog ends it too.

use super::servers::group::{Group, Member};
use super::servers::process::{free_port, reserve};
use super::servers::{Cluster, mysql, wait_until};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// The first probes and the catalog take a few intervals; a loaded machine needs more.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// A proxy that is asked to end without a drain is gone well within this.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);
/// A configuration for the cluster's servers with free ports, to be changed before
/// [`Proxy::start`]: the superuser and the user `app`, everything else as by default.
pub fn config(cluster: &Cluster, port: u16) -> Result<Value> {
    let mut config = config_of(cluster, "postgres", port)?;
    config["clusters"]["main"]["service"]["database"] = json!("postgres");
    Ok(config)
}

/// The same for a cluster of MySQL or MariaDB.
pub fn mysql_config(cluster: &mysql::Cluster, port: u16) -> Result<Value> {
    let mut config = config_of(cluster, "mysql", port)?;
    config["clusters"]["main"]["engine"] = json!(cluster.primary().engine.word());
    Ok(config)
}

fn config_of<S: Member>(cluster: &Group<S>, protocol: &str, port: u16) -> Result<Value> {
    let port = match port {
        0 => free_port()?,
        // Taken or not will show when the proxy binds it; the next line must not choose it too.
        port => {
            reserve(port);
            port
        }
    };
    let http_port = free_port()?;
    let nodes: serde_json::Map<String, Value> = cluster
        .servers()
        .iter()
        .map(|server| (server.name.clone(), json!(format!("127.0.0.1:{}", server.port))))
        .collect();
    let users = [&cluster.app, &cluster.superuser]
        .map(|login| json!({ "name": login.user, "password": login.password }));
    let service = json!({ "user": cluster.service.user, "password": cluster.service.password });
    Ok(json!({
        "listen": {
            protocol: [format!("127.0.0.1:{port}")],
            "http": format!("127.0.0.1:{http_port}"),
        },
        "users": users,
        "clusters": { "main": { "nodes": nodes, "service": service } },
    }))
}

/// A running proxy. Dropping it kills the process.
pub struct Proxy {
    pub port: u16,
    pub http: Option<SocketAddr>,
    /// The configuration file; change it and send `HUP`.
    pub config_path: PathBuf,
    log_path: PathBuf,
    process: Mutex<Option<Child>>,
}

impl Proxy {
    /// Starts `binary run` with this configuration and waits until it is ready to serve.
    ///
    /// # Errors
    /// Quotes the proxy's log if it ends or does not become ready.
    pub fn start<S: Member>(binary: &Path, cluster: &Group<S>, config: &Value) -> Result<Proxy> {
        let proxy = Proxy::spawn(binary, cluster, config)?;
        proxy.wait_ready()?;
        Ok(proxy)
    }

    /// As [`Proxy::start`], without waiting: for a cluster that is not there or not healthy.
    pub fn spawn<S: Member>(binary: &Path, cluster: &Group<S>, config: &Value) -> Result<Proxy> {
        Proxy::spawn_in(binary, cluster.folder(), config)
    }

    /// As [`Proxy::spawn`], in the folder of servers of another kind.
    pub fn spawn_in(binary: &Path, folder: &Path, config: &Value) -> Result<Proxy> {
        let port = listening_port(config).context("`listen` has no TCP address for clients")?;
        let http = config["listen"]["http"].as_str().and_then(|text| text.parse().ok());
        let config_path = folder.join(format!("tiffin-{port}.yaml"));
        write_config(&config_path, config)?;
        let log_path = config_path.with_extension("log");
        let log = fs::OpenOptions::new().create(true).append(true).open(&log_path)?;
        let mut command = Command::new(binary);
        command.arg("run").arg("--config").arg(&config_path).current_dir(folder);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C on the terminal is for the sandbox, which ends the proxy before the servers.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("start {}", binary.display()))?;
        Ok(Proxy { port, http, config_path, log_path, process: Mutex::new(Some(child)) })
    }

    /// Waits until `/ready` says yes, or without HTTP until the port answers.
    pub fn wait_ready(&self) -> Result<()> {
        let ready = || match self.http {
            Some(_) => self.get("/ready").is_ok_and(|(status, _)| status == 200),
            None => TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok(),
        };
        wait_until(READY_TIMEOUT, || !self.is_running() || ready()).ok();
        if !self.is_running() || !ready() {
            bail!("the proxy is not ready; its log says:\n{}", self.log().trim_end());
        }
        Ok(())
    }

    /// Status and body of a page of the HTTP interface.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let address = self.http.context("the proxy has no HTTP interface")?;
        crate::cli::remote::exchange(address, "GET", path, "")
    }

    /// Asks for a change with this token.
    pub fn post(&self, path: &str, token: &str) -> Result<(u16, String)> {
        let address = self.http.context("the proxy has no HTTP interface")?;
        let header = format!("Authorization: Bearer {token}\r\n");
        crate::cli::remote::exchange(address, "POST", path, &header)
    }

    /// Everything that the proxy has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log_path).unwrap_or_default()).into_owned()
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        if self.is_running() { self.process().as_ref().map(Child::id) } else { None }
    }

    pub fn is_running(&self) -> bool {
        self.process().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Sends a signal by name (`HUP`, `TERM`).
    pub fn signal(&self, name: &str) -> Result<()> {
        let pid = self.pid().context("the proxy is not running")?;
        super::servers::process::send(name, &[pid])
    }

    /// Waits until the process ends by itself.
    pub fn wait(&self) -> Result<ExitStatus> {
        wait_until(STOP_TIMEOUT, || !self.is_running()).context("the proxy does not end")?;
        let status = self.process().as_mut().map(Child::wait);
        Ok(status.context("the proxy was not running")??)
    }

    /// Replaces the configuration file; the running proxy reads it on `HUP`.
    pub fn write_config(&self, config: &Value) -> Result<()> {
        write_config(&self.config_path, config)
    }

    /// Ends the process at once.
    pub fn kill(&self) {
        if let Some(mut child) = self.process().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Of PostgreSQL's clients, or else MySQL's.
fn listening_port(config: &Value) -> Option<u16> {
    let listen = &config["listen"];
    let addresses = listen["postgres"].as_array().or(listen["mysql"].as_array())?;
    addresses.iter().find_map(|text| Some(text.as_str()?.parse::<SocketAddr>().ok()?.port()))
}

/// The file holds passwords: only its owner may read it.
fn write_config(path: &Path, config: &Value) -> Result<()> {
    let text = serde_yaml::to_string(config)?;
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}
