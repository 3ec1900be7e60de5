//! Each node's lag over the last minutes, for the API.

use crate::topology::{Lag, NodeId, Position, Snapshot};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Points kept per node: five minutes at one each half second, as much as a page can draw.
const POINTS_MAX: usize = 600;
/// More often than this nobody can see.
const POINT_GAP: Duration = Duration::from_millis(500);

/// A node's lag at one moment.
#[derive(Debug, Clone)]
pub struct Point {
    pub at: Instant,
    pub wall: SystemTime,
    pub lag: Lag,
    pub position: Option<Position>,
}

/// Lag histories of all nodes of one cluster.
#[derive(Debug, Default)]
pub struct Lags {
    nodes: Mutex<Vec<VecDeque<Point>>>,
}

impl Lags {
    /// The node's points, oldest first.
    pub fn of(&self, node: NodeId) -> Vec<Point> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes
            .get(usize::from(node.0))
            .map(|points| points.iter().cloned().collect())
            .unwrap_or_default()
    }

    pub(super) fn add(&self, snapshot: &Snapshot, now: Instant) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.resize_with(snapshot.nodes.len(), VecDeque::new);
        for (points, node) in nodes.iter_mut().zip(&snapshot.nodes) {
            let last = points.back().map(|point| point.at);
            if last.is_some_and(|last| now.saturating_duration_since(last) < POINT_GAP) {
                continue;
            }
            if points.len() >= POINTS_MAX {
                points.pop_front();
            }
            let wall = SystemTime::now();
            let position = node.position.clone();
            points.push_back(Point { at: now, wall, lag: node.lag, position });
        }
    }
}
