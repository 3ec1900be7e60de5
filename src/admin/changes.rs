//! Changes that operators ask for: a node out of service and back, a cluster paused and resumed.
//!
//! Each is an order for the monitor and takes effect with its next snapshot; asking twice changes
//! nothing. What goes on is not waited for here: `tiffin drain` and `tiffin pause` look at
//! `/api/v1/pools` until nothing is active any more.

use super::ClusterView;
use super::http::Refusal;
use arc_swap::ArcSwapOption;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::time::Duration;

/// How long writes are held for a switchover unless the request says otherwise: less than the
/// gate's default.
const SWITCHOVER_TIMEOUT: Duration = Duration::from_secs(8);

/// Whether the request shows the token (`Authorization: Bearer …`).
pub(super) fn authorise(
    token: &ArcSwapOption<SecretString>,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let refuse = |status, error: &str| Err(Refusal { status, error: error.to_owned() });
    let Some(token) = &*token.load() else {
        return refuse(StatusCode::FORBIDDEN, "nobody may: the configuration has no `api.token`");
    };
    let shown = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
    let Some(shown) = shown.and_then(|value| value.strip_prefix(b"Bearer ")) else {
        return refuse(StatusCode::UNAUTHORIZED, "this needs `Authorization: Bearer <token>`");
    };
    let token = token.expose_secret().as_bytes();
    match aws_lc_rs::constant_time::verify_slices_are_equal(token, shown) {
        Ok(()) => Ok(()),
        Err(_) => refuse(StatusCode::UNAUTHORIZED, "this is not the token (`api.token`)"),
    }
}

/// Takes a node out of service, or puts it back.
pub(super) fn drain(
    cluster: &ClusterView,
    node: Option<&str>,
    out: bool,
) -> Result<Value, Refusal> {
    let refuse = |status, error: String| Err(Refusal { status, error });
    let Some(name) = node else {
        return refuse(StatusCode::BAD_REQUEST, "this needs `node`".to_owned());
    };
    let snapshot = cluster.topology.load_full();
    let Some(node) = snapshot.node_by_name(name) else {
        return refuse(StatusCode::NOT_FOUND, format!("there is no node {name}"));
    };
    if out && snapshot.primary == Some(node.id) {
        let error = format!("{name} is the primary: change it first, or pause the cluster");
        return refuse(StatusCode::CONFLICT, error);
    }
    let name = node.name.clone();
    cluster.topology.order(|orders| {
        if out {
            orders.drained.insert(name.clone());
        } else {
            orders.drained.remove(&name);
        }
    });
    Ok(json!({ "cluster": *cluster.name, "node": *name, "drained": out }))
}

/// Holds all requests of a cluster at its gate, or lets them go on.
pub(super) fn pause(
    cluster: &ClusterView,
    node: Option<&str>,
    hold: bool,
) -> Result<Value, Refusal> {
    if node.is_some() {
        let error = "a cluster is paused as a whole; a single node can be drained".to_owned();
        return Err(Refusal { status: StatusCode::BAD_REQUEST, error });
    }
    cluster.topology.order(|orders| orders.paused = hold);
    Ok(json!({ "cluster": *cluster.name, "paused": hold }))
}

/// Begins to make a replica the primary; the number of the record that tells how it goes.
pub(super) async fn switch_over(
    cluster: &ClusterView,
    node: Option<&str>,
    timeout_ms: Option<u64>,
) -> Result<Value, Refusal> {
    let refuse = |status, error: &str| Refusal { status, error: error.to_owned() };
    let node = node.ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "this needs `node`"))?;
    let Some(control) = &cluster.control else {
        return Err(refuse(StatusCode::CONFLICT, "this cluster's primary cannot be changed here"));
    };
    let timeout = timeout_ms.map_or(SWITCHOVER_TIMEOUT, Duration::from_millis);
    match control.switch_over(node, timeout).await {
        Ok(id) => Ok(json!({ "cluster": *cluster.name, "action": id })),
        Err(error) => Err(refuse(StatusCode::CONFLICT, &error)),
    }
}
