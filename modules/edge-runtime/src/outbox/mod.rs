//! Store and forward: predictions wait here for one sink, in order, until it has confirmed them.
//!
//! Bytes in, [`Record`]s out. On disk where a folder is declared, so that they survive the process; in memory
//! otherwise. Bounded: at the bound the oldest are dropped and counted, never silently. What it does not do: send.

mod disk;
mod memory;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use disk::DiskQueue;
use memory::MemoryQueue;

/// The largest record: more than any sink takes.
pub(crate) const MAX_RECORD_BYTES: usize = 1 << 20;

/// A queue that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueueError {
    /// The file system refuses.
    #[error("queue `{path}`: {source}; it needs a writable volume with room", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// Another process has it.
    #[error("queue `{path}` is in use by another process: give each module its own folder", path = path.display())]
    InUse { path: PathBuf },
    /// Larger than [`MAX_RECORD_BYTES`].
    #[error("a message of {bytes} bytes is too large for a queue, {MAX_RECORD_BYTES} are the most")]
    TooLarge { bytes: usize },
}

/// One waiting message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Position in the queue; rises by one from record to record.
    pub(crate) sequence: u64,
    /// As pushed.
    pub(crate) bytes: Vec<u8>,
}

/// What both kinds of queue do.
trait Queue: Send {
    fn push(&mut self, bytes: &[u8]) -> Result<(), QueueError>;
    /// The next record that was not given out since the last rewind.
    fn next(&mut self) -> Result<Option<Record>, QueueError>;
    /// What was given out and is not confirmed will be given out again.
    fn rewind(&mut self);
    fn confirm(&mut self, sequence: u64) -> Result<(), QueueError>;
    /// Brings what was written to the disk.
    fn sync(&mut self) -> Result<(), QueueError>;
    /// Records that are not confirmed.
    fn depth(&self) -> u64;
    /// Records that were dropped at the bound or found damaged.
    fn dropped(&self) -> u64;
}

/// The queue of one sink, shared between who predicts and who sends.
pub(crate) struct Outbox {
    name: String,
    queue: Mutex<Box<dyn Queue>>,
    pushed: Notify,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Outbox {
    /// The queue `name` in the folder `directory`, which is made; in memory without one.
    pub(crate) fn open(name: &str, directory: Option<&Path>, max_bytes: u64) -> Result<Outbox, QueueError> {
        let queue: Box<dyn Queue> = match directory {
            Some(directory) => Box::new(DiskQueue::open(&directory.join(name), max_bytes)?),
            None => Box::new(MemoryQueue::new(max_bytes)),
        };
        Ok(Outbox {
            name: name.to_owned(),
            queue: Mutex::new(queue),
            pushed: Notify::new(),
        })
    }

    fn queue(&self) -> MutexGuard<'_, Box<dyn Queue>> {
        // A panic elsewhere leaves the queue whole: each change ends with the field that makes it count.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a message; when this returns, it survives the end of the process (if on disk).
    pub(crate) fn push(&self, bytes: &[u8]) -> Result<(), QueueError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(QueueError::TooLarge { bytes: bytes.len() });
        }
        self.queue().push(bytes)?;
        self.pushed.notify_one();
        Ok(())
    }

    /// Completes when something may have been pushed.
    pub(crate) async fn pushed(&self) {
        self.pushed.notified().await;
    }

    pub(crate) fn next(&self) -> Result<Option<Record>, QueueError> {
        self.queue().next()
    }

    pub(crate) fn rewind(&self) {
        self.queue().rewind();
    }

    pub(crate) fn confirm(&self, sequence: u64) -> Result<(), QueueError> {
        self.queue().confirm(sequence)
    }

    pub(crate) fn sync(&self) -> Result<(), QueueError> {
        self.queue().sync()
    }

    pub(crate) fn depth(&self) -> u64 {
        self.queue().depth()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.queue().dropped()
    }
}

/// Confirmations that come out of order: which records are done, and up to which all are.
#[derive(Debug, Default)]
struct Confirmed {
    /// All records below are done.
    below: u64,
    /// Done records at or above.
    beyond: std::collections::BTreeSet<u64>,
}

impl Confirmed {
    /// Marks one; whether `below` moved.
    fn add(&mut self, sequence: u64) -> bool {
        if sequence < self.below {
            return false;
        }
        self.beyond.insert(sequence);
        let before = self.below;
        while self.beyond.remove(&self.below) {
            self.below += 1;
        }
        self.below > before
    }

    /// Everything below `sequence` is done or gone; returns how many of these were not done.
    fn skip_to(&mut self, sequence: u64) -> u64 {
        if sequence <= self.below {
            return 0;
        }
        let rest = self.beyond.split_off(&sequence);
        let done = std::mem::replace(&mut self.beyond, rest).len() as u64;
        let gone = sequence - self.below - done;
        self.below = sequence;
        while self.beyond.remove(&self.below) {
            self.below += 1;
        }
        gone
    }

    fn contains(&self, sequence: u64) -> bool {
        sequence < self.below || self.beyond.contains(&sequence)
    }

    /// Records at or above `below` that are not done, of those up to `next`.
    fn open_until(&self, next: u64) -> u64 {
        next.saturating_sub(self.below) - self.beyond.len() as u64
    }
}

#[cfg(test)]
mod tests;
