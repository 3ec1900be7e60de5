//! The server on a real socket, with a client that writes bytes.

use super::super::connection::{CONNECTIONS_MAX, REQUEST_BYTES_MAX, REQUEST_TIMEOUT};
use super::super::http;
use super::{Fixture, exposition, fixture, snapshot, without_primary};
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// No answer takes this long on any machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    fixture: Fixture,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

async fn start() -> Server {
    let fixture = fixture();
    let listener = http::listen(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    let (stop, stopped) = oneshot::channel();
    let shutdown = async { drop(stopped.await) };
    let task = tokio::spawn(http::serve(listener, Arc::clone(&fixture.state), shutdown));
    Server { fixture, address, stop, task }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends the bytes and reads until the server closes.
async fn send(address: SocketAddr, bytes: &[u8]) -> io::Result<Reply> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(bytes).await?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await?;
        Ok::<_, io::Error>(reply)
    };
    let reply = timeout(PATIENCE, exchange).await.expect("an answer in time")?;
    let broken = || io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {reply:?}"));
    let (head, body) = reply.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(broken)?;
    Ok(Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

async fn request(server: &Server, method: &str, path: &str) -> Reply {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: tiffin\r\nConnection: close\r\n\r\n");
    send(server.address, request.as_bytes()).await.expect("a reply")
}

#[tokio::test]
async fn each_page_answers() {
    let server = start().await;
    let index = request(&server, "GET", "/").await.json();
    let pages = index["pages"].as_array().expect("a list of pages").clone();
    assert_eq!(pages.len(), 7);
    for page in pages {
        let path = page.as_str().expect("a path");
        let reply = request(&server, "GET", path).await;
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.head.contains("cache-control: no-store"), "{path}");
        if path == "/metrics" {
            assert!(reply.head.contains("content-type: text/plain; version=0.0.4"));
            exposition::read(&reply.body).expect("a valid page");
        } else {
            assert!(reply.head.contains("content-type: application/json"), "{path}");
            reply.json();
        }
    }
    assert_eq!(request(&server, "GET", "/health").await.json()["alive"], json!(true));
}

#[tokio::test]
async fn requests_that_cannot_be_answered_are_refused_in_json() {
    let server = start().await;
    let cases = [
        ("GET", "/nothing", 404, "there is no such page"),
        ("POST", "/nothing", 404, "there is no such page"),
        ("GET", "/api/v1/topology/", 404, "there is no such page"),
        ("GET", "/api/v1/topology?cluster=other", 404, "there is no cluster other"),
        ("GET", "/api/v1/pools?cluster=other", 404, "there is no cluster other"),
        ("POST", "/metrics", 405, "this page only answers GET and HEAD"),
        ("DELETE", "/api/v1/topology", 405, "this page only answers GET and HEAD"),
    ];
    for (method, path, status, error) in cases {
        let reply = request(&server, method, path).await;
        assert_eq!(reply.status, status, "{method} {path}");
        assert_eq!(reply.json()["error"], error, "{method} {path}");
        assert_eq!(reply.head.contains("allow: get"), status == 405, "{}", reply.head);
    }
    let reply = request(&server, "GET", "/api/v1/lag?clutser=main").await;
    assert_eq!(reply.status, 400);
    let error = reply.json()["error"].to_string();
    assert!(error.contains("clutser"), "{error}");
}

#[tokio::test]
async fn api_pages_show_what_was_given_in() {
    let server = start().await;
    for suffix in ["", "?cluster=main"] {
        let get = async |page: &str| {
            request(&server, "GET", &format!("/api/v1/{page}{suffix}")).await.json()
        };
        let topology = get("topology").await;
        assert_eq!(topology["clusters"][0]["nodes"][1]["position"], "1/2FFF000");
        let failovers = json!([{ "to": "pg-a" }]);
        let cluster = json!({ "name": "main", "failovers": failovers, "actions": [] });
        let expected = json!({ "clusters": [cluster] });
        assert_eq!(get("failovers").await, expected);
        let lag = json!({ "clusters": [{ "name": "main", "lag": { "pg-b": [[0, 12.5]] } }] });
        assert_eq!(get("lag").await, lag);
        assert_eq!(get("pools").await["pools"][0]["user"], "o\"brien");
    }
}

#[tokio::test]
async fn head_answers_without_a_body() {
    let server = start().await;
    let reply = request(&server, "HEAD", "/metrics").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, ""));
}

#[tokio::test]
async fn readiness_follows_the_primary_and_the_drain() {
    let server = start().await;
    let now = server.fixture.now;
    let ready = async || {
        let reply = request(&server, "GET", "/ready").await;
        (reply.status, reply.json()["reasons"].as_array().map(Vec::len))
    };
    assert_eq!(ready().await, (200, Some(0)));

    server.fixture.topology.publish(without_primary(now));
    assert_eq!(ready().await, (503, Some(1)));
    // A proxy that cannot serve is alive all the same: restarting it would help nobody.
    assert_eq!(request(&server, "GET", "/health").await.status, 200);

    let mut optional = server.fixture.state.clusters.load()[0].clone();
    optional.needs_primary = false;
    server.fixture.state.clusters.store(Arc::new(vec![optional]));
    assert_eq!(ready().await, (200, Some(0)));

    server.fixture.topology.publish(snapshot(now));
    server.fixture.state.draining.store(true, Ordering::Relaxed);
    assert_eq!(ready().await, (503, Some(1)));
}

#[tokio::test]
async fn garbage_and_large_requests_end_their_connection_only() {
    let server = start().await;
    let many_headers: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    let long_line = format!("GET /{} HTTP/1.1\r\nHost: tiffin\r\n\r\n", "x".repeat(1 << 20));
    let endless = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(REQUEST_BYTES_MAX));
    let cases = [
        "\0\u{1}\u{2}garbage\r\n\r\n".to_owned(),
        "GET /health HTTP/9.9\r\n\r\n".to_owned(),
        format!("GET /health HTTP/1.1\r\n{many_headers}\r\n"),
        long_line,
        endless,
    ];
    for case in &cases {
        // Refused with a status, or the connection is cut.
        if let Ok(reply) = send(server.address, case.as_bytes()).await {
            assert!((400..500).contains(&reply.status), "{reply:?}");
        }
        assert_eq!(request(&server, "GET", "/health").await.status, 200);
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let server = start().await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(TcpStream::connect(server.address).await.expect("a place in the queue"));
    }
    let mut late = TcpStream::connect(server.address).await.expect("a place in the queue");
    late.write_all(b"GET /health HTTP/1.0\r\n\r\n").await.expect("a request");
    let mut reply = String::new();
    // If the limit holds, no answer ever comes here, however long one waits.
    let early = timeout(Duration::from_millis(100), late.read_to_string(&mut reply)).await;
    assert!(early.is_err(), "answered beyond the limit");
    drop(silent.pop());
    timeout(PATIENCE, late.read_to_string(&mut reply)).await.expect("in time").expect("a reply");
    assert!(reply.starts_with("HTTP/1.0 200"), "{reply}");
}

#[tokio::test]
async fn the_server_ends_when_told_although_clients_stay() {
    let server = start().await;
    let mut idle = TcpStream::connect(server.address).await.expect("a connection");
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: tiffin\r\n\r\n").await.expect("a request");
    let mut first = [0; 1];
    idle.read_exact(&mut first).await.expect("the reply begins");
    let _silent = TcpStream::connect(server.address).await.expect("a connection");
    let mut stalled = TcpStream::connect(server.address).await.expect("a connection");
    stalled.write_all(b"GET /health HT").await.expect("half a request");
    // Served after the half request was received: accepted in order, on one thread.
    assert_eq!(request(&server, "GET", "/health").await.status, 200);
    let told = Instant::now();
    server.stop.send(()).expect("the server runs");
    let ended = timeout(PATIENCE, server.task).await.expect("in time");
    ended.expect("no panic").expect("no error");
    // Not only because the stalled request has run into its own deadline.
    assert!(told.elapsed() < REQUEST_TIMEOUT, "{:?}", told.elapsed());
    assert!(TcpStream::connect(server.address).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let server = start().await;
    let error = http::listen(server.address).await.expect_err("the address is taken");
    assert!(error.to_string().contains(&server.address.to_string()), "{error}");
}

/// The page in `docs/` is what people rely on: it must name every page and every field.
#[tokio::test]
async fn the_documentation_tells_every_page_and_field() {
    let server = start().await;
    let text = include_str!("../../../docs/http.md");
    let index = request(&server, "GET", "/").await.json();
    for page in index["pages"].as_array().expect("a list of pages") {
        let row = format!("| `{}` |", page.as_str().expect("a path"));
        assert!(text.contains(&row), "docs/http.md lacks {row}");
    }
    let topology = request(&server, "GET", "/api/v1/topology").await.json();
    let pools = request(&server, "GET", "/api/v1/pools").await.json();
    let cluster = &topology["clusters"][0];
    for object in [cluster, &cluster["nodes"][0], &cluster["last_change"], &pools["pools"][0]] {
        for field in object.as_object().expect("an object").keys() {
            assert!(text.contains(&format!("\"{field}\":")), "docs/http.md lacks {field}");
        }
    }
}
