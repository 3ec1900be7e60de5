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
