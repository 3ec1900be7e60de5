//! A real etcd on loopback, gone with the test.

use super::PATIENCE;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tiffin::cli::sandbox::servers::process::free_port;

pub struct Etcd {
    process: Child,
    pub address: String,
    /// The port for TLS, if it has one.
    pub secure: Option<u16>,
}

impl Etcd {
    /// One member whose data is in this folder; whoever ends what runs there ends it too.
    pub fn start(folder: PathBuf) -> Etcd {
        Etcd::start_with(folder, None)
    }

    /// The same, with one more port for TLS: certificate, key, and the authority of the clients'
    /// certificates.
    pub fn start_with(folder: PathBuf, tls: Option<[&Path; 3]>) -> Etcd {
        std::fs::create_dir_all(&folder).unwrap();
        let (client, peer) = (free_port().unwrap(), free_port().unwrap());
        let secure = tls.map(|_| free_port().unwrap());
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let mut clients = url(client);
        clients.extend(secure.map(|port| format!(",https://127.0.0.1:{port}")));
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(folder.join("data")).current_dir(&folder);
        command.args(["--listen-client-urls", &clients]);
        command.args(["--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &url(peer)]);
        command.args(["--initial-advertise-peer-urls", &url(peer)]);
        command.args(["--initial-cluster", &format!("default={}", url(peer))]);
        if let Some([certificate, key, authority]) = tls {
            command.arg("--client-cert-auth").arg("--cert-file").arg(certificate);
            command.arg("--key-file").arg(key).arg("--trusted-ca-file").arg(authority);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let process = command.spawn().expect("etcd is installed (scripts/install-deps.sh)");
        Etcd { process, address: format!("127.0.0.1:{client}"), secure }
    }

    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a page on this port answers; `body` makes it a POST.
pub fn exchange(port: u16, page: &str, body: Option<&Value>) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let method = if body.is_some() { "POST" } else { "GET" };
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    write!(stream, "{method} /{page} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
