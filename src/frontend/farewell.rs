//! The last words to a client that is not let in.

use crate::backend::stream::Stream;
use crate::backend::wire::Wire;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// How long a refused client is given to read why, and to close.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a refused client may still have under way: closing with unread bytes would reset the
/// connection, and the client might never see the reason. More than a password message.
const FAREWELL_BYTES_MAX: usize = 128 * 1024;

/// Tells the client, and closes so that it can read that.
pub(super) async fn say(mut wire: Wire<Stream>, words: &[u8]) {
    // A client that does not read, or is gone, is not owed more than this.
    let _ = timeout(FAREWELL, async {
        wire.send(words).await.ok()?;
        wire.stream_mut().shutdown().await.ok()?;
        let mut rest = [0; 1024];
        let mut left = FAREWELL_BYTES_MAX;
        while left > 0 {
            let read = wire.stream_mut().read(&mut rest).await.ok().filter(|read| *read > 0)?;
            left = left.saturating_sub(read);
        }
        Some(())
    })
    .await;
}
