//! A timer that exists only while somebody keeps us waiting.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// Started by the first [`Stall::poll`], forgotten by [`Stall::clear`].
#[derive(Debug, Default)]
pub struct Stall {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    #[inline]
    pub fn clear(&mut self) {
        if self.timer.is_some() {
            self.timer = None;
        }
    }

    /// Ready when `limit` has passed since the first call after the last `clear`.
    pub fn poll(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        timer.as_mut().poll(cx)
    }
}
