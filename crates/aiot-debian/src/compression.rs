//! Decompression, streamed and bounded in memory.

use std::io::{self, Read};

use flate2::read::GzDecoder;
use lzma_rust2::XzReader;

/// Dictionary and overhead that an .xz may ask for: `xz -9` asks for 64 MiB, Debian's packages use at most that.
const XZ_MEMORY_LIMIT_KIB: u32 = 128 * 1024;

/// Opens the stream that the ending of `name` names (`.xz`, `.gz`, none of them = stored); `None` for another one.
pub(crate) fn open<'a>(name: &str, bytes: &'a [u8]) -> Option<Box<dyn Read + 'a>> {
    match name.rsplit_once('.') {
        Some((_, "xz")) => Some(Box::new(XzReader::new_mem_limit(
            bytes,
            true,
            XZ_MEMORY_LIMIT_KIB,
        ))),
        Some((_, "gz")) => Some(Box::new(GzDecoder::new(bytes))),
        Some((_, "tar")) | None => Some(Box::new(bytes)),
        Some(_) => None,
    }
}

/// A reader that fails, rather than ends, beyond its limit: what is cut must not look complete.
pub(crate) struct Limited<R> {
    inner: R,
    left_bytes: u64,
    limit_bytes: u64,
}

impl<R: Read> Limited<R> {
    pub(crate) fn new(inner: R, limit_bytes: u64) -> Self {
        Limited {
            inner,
            left_bytes: limit_bytes,
            limit_bytes,
        }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left_bytes = self.left_bytes.checked_sub(count as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "unpacks to more than the {} bytes that are allowed",
                    self.limit_bytes
                ),
            )
        })?;
        Ok(count)
    }
}
