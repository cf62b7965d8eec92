//! A look at the engine's file before the dynamic loader maps it.
//!
//! The loader maps a truncated library without complaint and the process dies of SIGBUS when it touches the missing
//! part, and a half-downloaded file is the most common damage. So: is it ELF, and are all its segments in the file?

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Why a file is not a usable library.
#[derive(Debug, thiserror::Error)]
pub enum LibraryFault {
    /// The file cannot be read.
    #[error("it cannot be read ({0})")]
    Unreadable(#[from] io::Error),
    /// The file does not begin like a little-endian ELF file.
    #[error("it is not an ELF library")]
    NotElf,
    /// A part that the loader would map lies beyond the end.
    #[error("it is cut off: {needed_bytes} bytes are declared, {found_bytes} are there")]
    CutOff {
        /// Where the last segment ends.
        needed_bytes: u64,
        /// Length of the file.
        found_bytes: u64,
    },
    /// The loader's or the library's own reason.
    #[error("{0}")]
    Refused(String),
}

const MAX_PROGRAM_HEADERS: u16 = 256;

pub(super) fn check(path: &Path) -> Result<(), LibraryFault> {
    let mut file = File::open(path)?;
    let found_bytes = file.metadata()?.len();
    let mut header = Vec::new();
    file.by_ref().take(64).read_to_end(&mut header)?;
    // Sources: System V ABI, chapters 4 and 5. 32-bit and 64-bit headers differ in their offsets only.
    let wide = match header.get(..6) {
        Some([0x7f, b'E', b'L', b'F', 1, 1]) => false,
        Some([0x7f, b'E', b'L', b'F', 2, 1]) => true,
        _ => return Err(LibraryFault::NotElf),
    };
    let cut_off = |needed_bytes| LibraryFault::CutOff {
        needed_bytes,
        found_bytes,
    };
    if header.len() < if wide { 64 } else { 52 } {
        return Err(cut_off(64));
    }
    let (table_offset, entry_bytes, entries) = if wide {
        (
            number(&header, 32, 8),
            number(&header, 54, 2),
            number(&header, 56, 2),
        )
    } else {
        (
            number(&header, 28, 4),
            number(&header, 42, 2),
            number(&header, 44, 2),
        )
    };
    // The section table is not mapped, but it is the last part of a file, so every cut shows here.
    let (sections_offset, sections_bytes) = if wide {
        (
            number(&header, 40, 8),
            number(&header, 58, 2) * number(&header, 60, 2),
        )
    } else {
        (
            number(&header, 32, 4),
            number(&header, 46, 2) * number(&header, 48, 2),
        )
    };
    if entries > u64::from(MAX_PROGRAM_HEADERS) || entry_bytes < if wide { 56 } else { 32 } {
        return Err(LibraryFault::NotElf);
    }
    let table_bytes = entries * entry_bytes;
    let table_end = table_offset.saturating_add(table_bytes);
    for end in [table_end, sections_offset.saturating_add(sections_bytes)] {
        if end > found_bytes {
            return Err(cut_off(end));
        }
    }
    file.seek(SeekFrom::Start(table_offset))?;
    let mut table = Vec::new();
    file.take(table_bytes).read_to_end(&mut table)?;
    for entry in table.chunks_exact(entry_bytes as usize) {
        let (offset, size) = if wide {
            (number(entry, 8, 8), number(entry, 32, 8))
        } else {
            (number(entry, 4, 4), number(entry, 16, 4))
        };
        let end = offset.saturating_add(size);
        if end > found_bytes {
            return Err(cut_off(end));
        }
    }
    Ok(())
}

/// Little-endian number of `length` bytes; the caller has checked that they are there.
fn number(bytes: &[u8], offset: usize, length: usize) -> u64 {
    bytes[offset..offset + length]
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(bytes: &[u8]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("library.so");
        std::fs::write(&path, bytes).unwrap();
        check(&path).err().map(|fault| fault.to_string())
    }

    #[test]
    fn refuses_what_the_loader_would_crash_on() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(fault(&own), None);
        for (bytes, expected) in [
            (&b""[..], "not an ELF"),
            (b"not a library", "not an ELF"),
            (&own[..20], "cut off"),
            (&own[..100], "cut off"),
            (&own[..own.len() / 4], "cut off"),
            (&own[..own.len() - 1], "cut off"),
        ] {
            let found = fault(bytes).unwrap_or_default();
            assert!(found.contains(expected), "{} bytes: {found}", bytes.len());
        }
    }
}
