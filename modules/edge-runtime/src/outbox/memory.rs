//! The queue where nothing is writable: bounded, gone with the process.

use std::collections::VecDeque;

use super::{Confirmed, Queue, QueueError, Record};

/// What a record costs beside its bytes.
const OVERHEAD_BYTES: u64 = 64;

pub(super) struct MemoryQueue {
    /// From `confirmed.below` on.
    records: VecDeque<Vec<u8>>,
    confirmed: Confirmed,
    /// The next to give out.
    cursor: u64,
    bytes: u64,
    max_bytes: u64,
    dropped: u64,
}

impl MemoryQueue {
    pub(super) fn new(max_bytes: u64) -> MemoryQueue {
        MemoryQueue {
            records: VecDeque::new(),
            confirmed: Confirmed::default(),
            cursor: 0,
            bytes: 0,
            max_bytes,
            dropped: 0,
        }
    }

    /// The sequence of the next record to be pushed, when `below` is the first that is kept.
    fn end(&self, below: u64) -> u64 {
        below + self.records.len() as u64
    }

    /// Forgets records, until the first kept one is `confirmed.below`.
    fn forget(&mut self, before: u64) {
        for _ in before..self.confirmed.below {
            if let Some(record) = self.records.pop_front() {
                self.bytes -= record.len() as u64 + OVERHEAD_BYTES;
            }
        }
        self.cursor = self.cursor.max(self.confirmed.below);
    }
}

impl Queue for MemoryQueue {
    fn push(&mut self, bytes: &[u8]) -> Result<(), QueueError> {
        let cost = bytes.len() as u64 + OVERHEAD_BYTES;
        while self.bytes + cost > self.max_bytes && !self.records.is_empty() {
            let before = self.confirmed.below;
            self.dropped += self.confirmed.skip_to(before + 1);
            self.forget(before);
        }
        self.bytes += cost;
        self.records.push_back(bytes.to_vec());
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Record>, QueueError> {
        while self.cursor < self.end(self.confirmed.below) {
            let sequence = self.cursor;
            self.cursor += 1;
            if self.confirmed.contains(sequence) {
                continue;
            }
            let index = (sequence - self.confirmed.below) as usize;
            return Ok(self.records.get(index).map(|bytes| Record {
                sequence,
                bytes: bytes.clone(),
            }));
        }
        Ok(None)
    }

    fn rewind(&mut self) {
        self.cursor = self.confirmed.below;
    }

    fn confirm(&mut self, sequence: u64) -> Result<(), QueueError> {
        let before = self.confirmed.below;
        if sequence < self.end(before) && self.confirmed.add(sequence) {
            self.forget(before);
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), QueueError> {
        Ok(())
    }

    fn depth(&self) -> u64 {
        self.confirmed.open_until(self.end(self.confirmed.below))
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}
