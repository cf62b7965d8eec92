//! gzip with one possible output for one input.
//!
//! The encoder's output depends on the sizes of the pieces that it is fed with (measured: zlib-rs 0.6 at level 6), so
//! it is fed in blocks of one fixed size, whatever the sizes of the writes. Header fields, level and block size are
//! part of [`LAYER_FORMAT_VERSION`](super::LAYER_FORMAT_VERSION).

use std::io::{self, Write};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};

/// The encoder is fed in blocks of this many bytes, the last one being shorter.
const BLOCK_BYTES: usize = 256 << 10;

/// The level of every compressed layer.
const LEVEL: u32 = 6;

/// The OS byte of the header: unknown.
const OS_UNKNOWN: u8 = 255;

/// Compresses into `W`.
pub struct GzipWriter<W: Write> {
    encoder: GzEncoder<W>,
    block: Vec<u8>,
}

impl<W: Write> GzipWriter<W> {
    pub fn new(inner: W) -> GzipWriter<W> {
        let header = GzBuilder::new().mtime(0).operating_system(OS_UNKNOWN);
        GzipWriter {
            encoder: header.write(inner, Compression::new(LEVEL)),
            block: Vec::with_capacity(BLOCK_BYTES),
        }
    }

    /// Ends the stream and gives the inner writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.encoder.write_all(&self.block)?;
        self.encoder.finish()
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&bytes[..length]);
        if self.block.len() == BLOCK_BYTES {
            self.encoder.write_all(&self.block)?;
            self.block.clear();
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_sizes_of_the_writes_do_not_matter() {
        let mut state = 1u64;
        let content: Vec<u8> = (0..600_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ((state >> 60) * (state >> 40 & 3)) as u8
            })
            .collect();
        let encode = |piece: usize| {
            let mut writer = GzipWriter::new(Vec::new());
            content
                .chunks(piece)
                .for_each(|part| writer.write_all(part).unwrap());
            writer.finish().unwrap()
        };
        let whole = encode(content.len());
        for piece in [7, 511, 4096, 65_536, BLOCK_BYTES, BLOCK_BYTES + 1] {
            assert!(encode(piece) == whole, "{piece}");
        }
        let mut decoded = Vec::new();
        flate2::read::GzDecoder::new(whole.as_slice())
            .read_to_end(&mut decoded)
            .unwrap();
        assert!(decoded == content);
    }
}
