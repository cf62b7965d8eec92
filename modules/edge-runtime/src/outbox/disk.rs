//! The queue on disk: a folder of append-only segments and a list of confirmations.
//!
//! | file | content |
//! | --- | --- |
//! | `<first sequence, 20 digits>.segment` | records: length (u32), CRC-32 (u32), sequence (u64), bytes; little endian |
//! | `confirmed` | entries: sequence below which all are done (u64), its CRC-32 (u32); the last whole one counts |
//! | `lock` | held while a process uses the folder |
//!
//! A record is written with one call, so a killed process leaves at most one torn record at the end, which is cut
//! off when the queue is opened. A power cut loses what was written since the last [`Queue::sync`].

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Confirmed, MAX_RECORD_BYTES, Queue, QueueError, Record};
use crate::log;

const HEAD_BYTES: u64 = 16;
const CONFIRMATION_BYTES: u64 = 12;
/// The list of confirmations is begun anew when it is longer.
const MAX_CONFIRMATIONS_BYTES: u64 = 64 << 10;
/// More records than a segment holds: a name like that is not one of ours.
const LARGEST_GAP: u64 = 1 << 20;
const ENDING: &str = ".segment";

/// Where in the queue reading goes on.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    /// First sequence of the segment.
    segment: u64,
    /// Of the next record, in its file.
    offset: u64,
}

pub(super) struct DiskQueue {
    directory: PathBuf,
    /// First sequence → bytes. The last one is written to; there is always one.
    segments: BTreeMap<u64, u64>,
    writer: File,
    reader: Option<(u64, File)>,
    cursor: Cursor,
    confirmed: Confirmed,
    confirmations: File,
    confirmations_bytes: u64,
    /// Sequence of the next record to be pushed.
    end: u64,
    max_bytes: u64,
    segment_bytes: u64,
    dropped: u64,
    dirty: bool,
    lock: File,
}

impl Drop for DiskQueue {
    fn drop(&mut self) {
        // Said and not left to the closing: a child process that is about to start may hold the file open too.
        let _ = self.lock.unlock();
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> QueueError + '_ {
    move |source| QueueError::Io {
        path: path.to_owned(),
        source,
    }
}

fn segment_path(directory: &Path, first: u64) -> PathBuf {
    directory.join(format!("{first:020}{ENDING}"))
}

fn checksum(sequence: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// The record at a reader's place. `None`: the file ends here, or what follows is not a whole record.
fn read_record(reader: &mut impl Read) -> io::Result<Option<Record>> {
    let mut head = [0; HEAD_BYTES as usize];
    if let Err(error) = reader.read_exact(&mut head) {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => Ok(None),
            _ => Err(error),
        };
    }
    let [length, crc] = [0, 4].map(|at| u32::from_le_bytes(head[at..at + 4].try_into().expect("four")));
    let sequence = u64::from_le_bytes(head[8..].try_into().expect("eight"));
    if length as usize > MAX_RECORD_BYTES {
        return Ok(None);
    }
    let mut bytes = vec![0; length as usize];
    match reader.read_exact(&mut bytes) {
        Ok(()) if checksum(sequence, &bytes) == crc => Ok(Some(Record { sequence, bytes })),
        Ok(()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

impl DiskQueue {
    pub(super) fn open(directory: &Path, max_bytes: u64) -> Result<DiskQueue, QueueError> {
        fs::create_dir_all(directory).map_err(at(directory))?;
        let lock = File::create(directory.join("lock")).map_err(at(directory))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(QueueError::InUse {
                    path: directory.to_owned(),
                });
            }
            Err(fs::TryLockError::Error(error)) => return Err(at(directory)(error)),
        }
        let mut found: Vec<u64> = Vec::new();
        for entry in fs::read_dir(directory).map_err(at(directory))? {
            let name = entry.map_err(at(directory))?.file_name();
            let first: Option<u64> = name
                .to_str()
                .and_then(|name| name.strip_suffix(ENDING))
                .filter(|digits| digits.len() == 20)
                .and_then(|digits| digits.parse().ok());
            found.extend(first);
        }
        found.sort_unstable();

        let (below, confirmations, confirmations_bytes) = open_confirmations(directory)?;
        let mut confirmed = Confirmed::default();
        confirmed.skip_to(below);
        let (mut segments, mut dropped, mut end) = (BTreeMap::new(), 0, below);
        let mut written = below;
        for first in found {
            // Between segments nothing is missing but what was confirmed, unless one of them is damaged.
            if first > end {
                dropped += skip_gap(&mut confirmed, end, first);
            }
            let (bytes, next) = scan(&segment_path(directory, first), first)?;
            segments.insert(first, bytes);
            written = next;
            end = end.max(next);
        }
        // Records of one file follow each other.
        if segments.is_empty() || written != end {
            segments.insert(end, 0);
        }
        if dropped > 0 {
            log::error(&format!(
                "queue `{}`: {dropped} messages were damaged and are lost",
                directory.display()
            ));
        }
        let last = *segments.keys().next_back().expect("one at least");
        let writer = open_segment(directory, last)?;
        let first = *segments.keys().next().expect("one at least");
        let mut queue = DiskQueue {
            directory: directory.to_owned(),
            segments,
            writer,
            reader: None,
            cursor: Cursor {
                segment: first,
                offset: 0,
            },
            confirmed,
            confirmations,
            confirmations_bytes,
            end,
            max_bytes,
            segment_bytes: (max_bytes / 8).clamp(16 << 10, 4 << 20),
            dropped,
            dirty: false,
            lock,
        };
        queue.remove_confirmed()?;
        if queue.depth() > 0 {
            log::info(&format!(
                "queue `{}`: {} messages wait from before",
                directory.display(),
                queue.depth()
            ));
        }
        Ok(queue)
    }

    fn bytes(&self) -> u64 {
        self.segments.values().sum()
    }

    /// Begins a new segment, unless the last is empty.
    fn roll(&mut self) -> Result<(), QueueError> {
        if self.segments.contains_key(&self.end) {
            return Ok(());
        }
        self.sync()?;
        self.writer = open_segment(&self.directory, self.end)?;
        self.segments.insert(self.end, 0);
        Ok(())
    }

    /// Sequence after the last record of a segment.
    fn end_of(&self, first: u64) -> u64 {
        let after = self.segments.range(first + 1..).next();
        after.map_or(self.end, |(next, _)| *next)
    }

    fn remove(&mut self, first: u64) -> Result<(), QueueError> {
        self.segments.remove(&first);
        if self.reader.as_ref().is_some_and(|(open, _)| *open == first) {
            self.reader = None;
        }
        if self.cursor.segment <= first {
            let next = self.segments.keys().next().copied();
            self.cursor = Cursor {
                segment: next.unwrap_or(self.end),
                offset: 0,
            };
        }
        let path = segment_path(&self.directory, first);
        fs::remove_file(&path).map_err(at(&path))
    }

    /// Removes segments with nothing left to send; never the one that is written to.
    fn remove_confirmed(&mut self) -> Result<(), QueueError> {
        while self.segments.len() > 1 {
            let Some(first) = self.segments.keys().next().copied() else {
                break;
            };
            if self.end_of(first) > self.confirmed.below {
                break;
            }
            self.remove(first)?;
        }
        Ok(())
    }

    fn write_confirmation(&mut self) -> Result<(), QueueError> {
        let path = self.directory.join("confirmed");
        let entry = confirmation(self.confirmed.below);
        if self.confirmations_bytes + CONFIRMATION_BYTES > MAX_CONFIRMATIONS_BYTES {
            let beside = self.directory.join("confirmed.new");
            fs::write(&beside, entry).map_err(at(&beside))?;
            fs::rename(&beside, &path).map_err(at(&path))?;
            self.confirmations = OpenOptions::new().append(true).open(&path).map_err(at(&path))?;
            self.confirmations_bytes = CONFIRMATION_BYTES;
            return Ok(());
        }
        self.confirmations.write_all(&entry).map_err(at(&path))?;
        self.confirmations_bytes += CONFIRMATION_BYTES;
        self.dirty = true;
        Ok(())
    }
}

/// Marks the records from `end` to `first` as gone; returns how many.
fn skip_gap(confirmed: &mut Confirmed, end: u64, first: u64) -> u64 {
    if first - end > LARGEST_GAP {
        return confirmed.skip_to(first);
    }
    for sequence in end..first {
        confirmed.add(sequence);
    }
    first - end
}

/// Bytes of whole records, and the sequence after the last; a torn end is cut off.
fn scan(path: &Path, first: u64) -> Result<(u64, u64), QueueError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(at(path))?;
    let length = file.metadata().map_err(at(path))?.len();
    let mut reader = BufReader::new(&file);
    let (mut bytes, mut next) = (0, first);
    while let Some(record) = read_record(&mut reader).map_err(at(path))? {
        if record.sequence != next {
            break;
        }
        bytes += HEAD_BYTES + record.bytes.len() as u64;
        next += 1;
    }
    if bytes < length {
        file.set_len(bytes).map_err(at(path))?;
    }
    Ok((bytes, next))
}

fn open_segment(directory: &Path, first: u64) -> Result<File, QueueError> {
    let path = segment_path(directory, first);
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(at(&path))
}

fn confirmation(below: u64) -> [u8; CONFIRMATION_BYTES as usize] {
    let mut entry = [0; CONFIRMATION_BYTES as usize];
    entry[..8].copy_from_slice(&below.to_le_bytes());
    entry[8..].copy_from_slice(&crc32fast::hash(&below.to_le_bytes()).to_le_bytes());
    entry
}

/// Below which sequence all are done, and the list to go on with.
fn open_confirmations(directory: &Path) -> Result<(u64, File, u64), QueueError> {
    let path = directory.join("confirmed");
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(&path)
        .map_err(at(&path))?;
    let mut bytes = Vec::new();
    let limit = 2 * MAX_CONFIRMATIONS_BYTES;
    (&mut file)
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(at(&path))?;
    let (mut below, mut whole) = (0, 0);
    for entry in bytes.chunks_exact(CONFIRMATION_BYTES as usize) {
        let value = u64::from_le_bytes(entry[..8].try_into().expect("eight"));
        if entry != confirmation(value) {
            break;
        }
        below = below.max(value);
        whole += CONFIRMATION_BYTES;
    }
    // A torn entry would hide all that follow.
    file.set_len(whole).map_err(at(&path))?;
    Ok((below, file, whole))
}

impl Queue for DiskQueue {
    fn push(&mut self, bytes: &[u8]) -> Result<(), QueueError> {
        let size = HEAD_BYTES + bytes.len() as u64;
        let last = *self.segments.keys().next_back().expect("one at least");
        if self.segments[&last] + size > self.segment_bytes {
            self.roll()?;
            self.remove_confirmed()?;
        }
        while self.bytes() + size > self.max_bytes && self.bytes() > 0 {
            self.roll()?;
            let first = *self.segments.keys().next().expect("one at least");
            let lost = self.confirmed.skip_to(self.end_of(first));
            self.dropped += lost;
            self.remove(first)?;
            self.write_confirmation()?;
            if lost > 0 {
                log::error(&format!(
                    "queue `{}` is full: the oldest {lost} messages are dropped, {} in all",
                    self.directory.display(),
                    self.dropped
                ));
            }
        }
        let mut record = Vec::with_capacity(size as usize);
        record.extend((bytes.len() as u32).to_le_bytes());
        record.extend(checksum(self.end, bytes).to_le_bytes());
        record.extend(self.end.to_le_bytes());
        record.extend(bytes);
        let last = *self.segments.keys().next_back().expect("one at least");
        let whole = self.segments[&last];
        if let Err(error) = self.writer.write_all(&record) {
            // A full disk may have taken a part, which would hide what follows.
            let _ = self.writer.set_len(whole);
            return Err(at(&self.directory)(error));
        }
        self.segments.insert(last, whole + size);
        self.end += 1;
        self.dirty = true;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Record>, QueueError> {
        loop {
            let Cursor { segment, offset } = self.cursor;
            let known = self.segments.get(&segment).copied().unwrap_or(0);
            if offset >= known {
                let Some((next, _)) = self.segments.range(segment + 1..).next() else {
                    return Ok(None);
                };
                self.cursor = Cursor {
                    segment: *next,
                    offset: 0,
                };
                continue;
            }
            let path = segment_path(&self.directory, segment);
            if self.reader.as_ref().is_none_or(|(open, _)| *open != segment) {
                self.reader = Some((segment, File::open(&path).map_err(at(&path))?));
            }
            let (_, file) = self.reader.as_mut().expect("opened above");
            file.seek(SeekFrom::Start(offset)).map_err(at(&path))?;
            let Some(record) = read_record(file).map_err(at(&path))? else {
                // It was whole when it was written or opened: the disk has changed it. What follows in this segment
                // cannot be found any more.
                let lost = self.confirmed.skip_to(self.end_of(segment));
                self.dropped += lost;
                self.cursor.offset = known;
                log::error(&format!(
                    "`{}` is damaged: {lost} messages are lost",
                    path.display()
                ));
                self.roll()?;
                self.write_confirmation()?;
                continue;
            };
            self.cursor.offset += HEAD_BYTES + record.bytes.len() as u64;
            if !self.confirmed.contains(record.sequence) {
                return Ok(Some(record));
            }
        }
    }

    fn rewind(&mut self) {
        let first = *self.segments.keys().next().expect("one at least");
        self.cursor = Cursor {
            segment: first,
            offset: 0,
        };
    }

    fn confirm(&mut self, sequence: u64) -> Result<(), QueueError> {
        if sequence < self.end && self.confirmed.add(sequence) {
            self.write_confirmation()?;
            self.remove_confirmed()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), QueueError> {
        if self.dirty {
            self.writer.sync_data().map_err(at(&self.directory))?;
            self.dirty = false;
        }
        Ok(())
    }

    fn depth(&self) -> u64 {
        self.confirmed.open_until(self.end)
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}
