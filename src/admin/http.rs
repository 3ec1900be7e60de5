//! The HTTP server: the list of pages and what each answers. `docs/http.md` describes them.

use super::changes;
use super::connection::BoundedListener;
use super::view::{self, ClusterTopology};
use super::{AdminState, ClusterView, page};
use crate::metrics::ControlMetrics;
use crate::metrics::control::UPKEEP_INTERVAL;
use crate::metrics::text::CONTENT_TYPE;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE as CONTENT_TYPE_HEADER};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// How long requests and replies that have begun may go on once the server was told to end. A page
/// takes milliseconds.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The pages, for `/` and for whoever asks for one that does not exist.
const PATHS: [&str; 7] = [
    "/health",
    "/ready",
    "/metrics",
    "/api/v1/topology",
    "/api/v1/failovers",
    "/api/v1/lag",
    "/api/v1/pools",
];

/// What can be asked for with POST and the token.
const CHANGES: [&str; 5] =
    ["/api/v1/drain", "/api/v1/undrain", "/api/v1/pause", "/api/v1/resume", "/api/v1/switchover"];

type Shared = State<Arc<AdminState>>;

/// The HTTP address could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for HTTP on {address}: {source}")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// Takes the address; port 0 takes any free one.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError { address, source })
}

/// Serves the pages until `shutdown` resolves, then lets what has begun go on for at most a
/// second. Runs the recorder's upkeep meanwhile. Cancel safe: yes, with replies cut.
pub async fn serve(
    listener: TcpListener,
    state: Arc<AdminState>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let control = Arc::clone(&state.control);
    let (told, was_told) = oneshot::channel();
    let server = axum::serve(BoundedListener::new(listener), router(state));
    let server = server.with_graceful_shutdown(async move {
        shutdown.await;
        // The receiver lives as long as this function.
        let _ = told.send(());
    });
    let too_late = async {
        // An error means that the server has ended by itself.
        let _ = was_told.await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    tokio::select! {
        result = server => result,
        () = too_late => Ok(()),
        () = upkeep(&control) => Ok(()),
    }
}

/// Keeps the control plane's recorder small; never returns. `serve` does this itself: only a
/// program without an HTTP address needs to run it.
pub async fn upkeep(control: &ControlMetrics) {
    loop {
        tokio::time::sleep(UPKEEP_INTERVAL).await;
        control.upkeep();
    }
}

fn router(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/topology", get(topology))
        .route("/api/v1/failovers", get(failovers))
        .route("/api/v1/lag", get(lag))
        .route("/api/v1/pools", get(pools))
        .route("/api/v1/drain", post(drain))
        .route("/api/v1/undrain", post(undrain))
        .route("/api/v1/pause", post(pause))
        .route("/api/v1/resume", post(resume))
        .route("/api/v1/switchover", post(switchover))
        .fallback(no_such_page)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::middleware::map_response(never_cached))
        .with_state(state)
}

/// Every page is about this moment.
async fn never_cached(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn index() -> Json<Value> {
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({ "name": "tiffin", "version": version, "pages": PATHS, "changes": CHANGES }))
}

/// Alive: the control plane's runtime got to this line.
async fn health() -> Json<Value> {
    Json(json!({ "alive": true, "version": env!("CARGO_PKG_VERSION") }))
}

async fn ready(State(state): Shared) -> Response {
    let clusters = state.clusters.load();
    let needed = clusters.iter().filter(|view| view.needs_primary);
    let snapshots: Vec<_> = needed.map(|view| (&view.name, view.topology.load_full())).collect();
    let reasons = view::not_ready_because(
        state.draining.load(Ordering::Relaxed),
        snapshots.iter().map(|(name, snapshot)| (&***name, &**snapshot)),
    );
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": reasons.is_empty(), "reasons": reasons }))).into_response()
}

async fn metrics(State(state): Shared) -> Response {
    let text = page::metrics(&state, Instant::now());
    ([(CONTENT_TYPE_HEADER, CONTENT_TYPE)], text).into_response()
}

/// What may follow the `?` of an API page.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// Only this cluster.
    cluster: Option<String>,
}

type Filtered = Result<Query<Filter>, QueryRejection>;

/// What went wrong with a request, as the client sees it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) error: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.error, "pages": PATHS }))).into_response()
    }
}

/// The clusters that the request asks for.
fn chosen(state: &AdminState, filter: &Filter) -> Result<Vec<ClusterView>, Refusal> {
    let clusters = state.clusters.load();
    let Some(name) = &filter.cluster else { return Ok(clusters.to_vec()) };
    match clusters.iter().find(|view| *view.name == **name) {
        Some(view) => Ok(vec![view.clone()]),
        None => Err(Refusal {
            status: StatusCode::NOT_FOUND,
            error: format!("there is no cluster {name}"),
        }),
    }
}

fn accepted(filter: Filtered) -> Result<Filter, Refusal> {
    match filter {
        Ok(Query(filter)) => Ok(filter),
        Err(rejection) => {
            Err(Refusal { status: StatusCode::BAD_REQUEST, error: rejection.body_text() })
        }
    }
}

async fn topology(State(state): Shared, filter: Filtered) -> Result<Json<Value>, Refusal> {
    let clusters = chosen(&state, &accepted(filter)?)?;
    let now = Instant::now();
    let snapshots: Vec<_> =
        clusters.iter().map(|view| (&*view.name, view.topology.load_full())).collect();
    let views: Vec<ClusterTopology<'_>> =
        snapshots.iter().map(|(name, snapshot)| view::cluster(name, snapshot, now)).collect();
    Ok(Json(json!({ "clusters": views })))
}

async fn failovers(State(state): Shared, filter: Filtered) -> Result<Json<Value>, Refusal> {
    let clusters = chosen(&state, &accepted(filter)?)?;
    Ok(from_sources(&clusters, |view| {
        json!({
            "name": *view.name,
            "failovers": (view.failovers)(),
            "actions": (view.actions)(),
        })
    }))
}

async fn lag(State(state): Shared, filter: Filtered) -> Result<Json<Value>, Refusal> {
    let clusters = chosen(&state, &accepted(filter)?)?;
    Ok(from_sources(&clusters, |view| json!({ "name": *view.name, "lag": (view.lag_history)() })))
}

/// `{"clusters": […]}`.
fn from_sources(clusters: &[ClusterView], source: fn(&ClusterView) -> Value) -> Json<Value> {
    let clusters: Vec<_> = clusters.iter().map(source).collect();
    Json(json!({ "clusters": clusters }))
}

async fn pools(State(state): Shared, filter: Filtered) -> Result<Json<Value>, Refusal> {
    let filter = accepted(filter)?;
    chosen(&state, &filter)?;
    let numbers = state.pools.numbers();
    let pools = view::pools(&numbers, filter.cluster.as_deref());
    Ok(Json(json!({ "pools": pools })))
}

/// What may follow the `?` of a change.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    cluster: String,
    node: Option<String>,
    /// How long writes may be held for a switchover.
    timeout_ms: Option<u64>,
}

type Change = Result<Query<Asked>, QueryRejection>;

/// The cluster and the rest of the request, if whoever asks knows the token.
fn asked(
    state: &AdminState,
    headers: &HeaderMap,
    change: Change,
) -> Result<(ClusterView, Asked), Refusal> {
    changes::authorise(&state.token, headers)?;
    let Query(asked) = change.map_err(|rejection| Refusal {
        status: StatusCode::BAD_REQUEST,
        error: rejection.body_text(),
    })?;
    let filter = Filter { cluster: Some(asked.cluster.clone()) };
    let mut clusters = chosen(state, &filter)?;
    // Exactly one was chosen.
    Ok((clusters.remove(0), asked))
}

async fn drain(State(state): Shared, headers: HeaderMap, change: Change) -> Answer {
    let (cluster, asked) = asked(&state, &headers, change)?;
    changes::drain(&cluster, asked.node.as_deref(), true).map(Json)
}

async fn undrain(State(state): Shared, headers: HeaderMap, change: Change) -> Answer {
    let (cluster, asked) = asked(&state, &headers, change)?;
    changes::drain(&cluster, asked.node.as_deref(), false).map(Json)
}

async fn pause(State(state): Shared, headers: HeaderMap, change: Change) -> Answer {
    let (cluster, asked) = asked(&state, &headers, change)?;
    changes::pause(&cluster, asked.node.as_deref(), true).map(Json)
}

async fn resume(State(state): Shared, headers: HeaderMap, change: Change) -> Answer {
    let (cluster, asked) = asked(&state, &headers, change)?;
    changes::pause(&cluster, asked.node.as_deref(), false).map(Json)
}

async fn switchover(State(state): Shared, headers: HeaderMap, change: Change) -> Answer {
    let (cluster, asked) = asked(&state, &headers, change)?;
    changes::switch_over(&cluster, asked.node.as_deref(), asked.timeout_ms).await.map(Json)
}

type Answer = Result<Json<Value>, Refusal>;

async fn no_such_page() -> Refusal {
    Refusal { status: StatusCode::NOT_FOUND, error: "there is no such page".to_owned() }
}

async fn method_not_allowed(uri: Uri) -> Refusal {
    let methods = if CHANGES.contains(&uri.path()) { "POST" } else { "GET and HEAD" };
    let error = format!("this page only answers {methods}");
    Refusal { status: StatusCode::METHOD_NOT_ALLOWED, error }
}
