//! Changes that operators ask for: a node or a cluster out of service and back, paused and resumed.
//!
//! Each is an order for the monitor and takes effect with its next snapshot; asking twice changes
//! nothing. What goes on is not waited for here: `tiffin drain` and `tiffin pause` look at
//! `/api/v1/pools` until nothing is active any more.

use super::ClusterView;
use super::http::Refusal;
use crate::topology::Node;
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

/// The node of this name.
fn known(cluster: &ClusterView, name: &str) -> Result<Node, Refusal> {
    let error = || format!("there is no node {name}");
    let found = cluster.topology.load().node_by_name(name).cloned();
    found.ok_or_else(|| Refusal { status: StatusCode::NOT_FOUND, error: error() })
}

/// Takes a node out of service, or puts it back; without a node the cluster's clients are sent
/// away, or let in again.
pub(super) fn drain(
    cluster: &ClusterView,
    node: Option<&str>,
    out: bool,
) -> Result<Value, Refusal> {
    let Some(name) = node else {
        cluster.topology.order(|orders| orders.closed = out);
        return Ok(json!({ "cluster": *cluster.name, "drained": out }));
    };
    let node = known(cluster, name)?;
    if out && cluster.topology.load().primary == Some(node.id) {
        let error = format!("{name} is the primary: change it first, or pause it");
        return Err(Refusal { status: StatusCode::CONFLICT, error });
    }
    let name = node.name;
    cluster.topology.order(|orders| {
        if out {
            orders.drained.insert(name.clone());
        } else {
            orders.drained.remove(&name);
        }
    });
    Ok(json!({ "cluster": *cluster.name, "node": *name, "drained": out }))
}

/// Holds all requests of a cluster at its gate, or what would go to one node, or lets them go on.
pub(super) fn pause(
    cluster: &ClusterView,
    node: Option<&str>,
    hold: bool,
) -> Result<Value, Refusal> {
    let Some(name) = node else {
        cluster.topology.order(|orders| orders.paused = hold);
        return Ok(json!({ "cluster": *cluster.name, "paused": hold }));
    };
    let name = known(cluster, name)?.name;
    if hold && cluster.topology.orders().switching {
        let error = "the primary is being changed: ask again when that is over".to_owned();
        return Err(Refusal { status: StatusCode::CONFLICT, error });
    }
    cluster.topology.order(|orders| {
        if hold {
            orders.paused_nodes.insert(name.clone());
        } else {
            orders.paused_nodes.remove(&name);
        }
    });
    Ok(json!({ "cluster": *cluster.name, "node": *name, "paused": hold }))
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
