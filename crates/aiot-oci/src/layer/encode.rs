//! gzip and Zstandard with one possible output for one input.
//!
//! An encoder's output may depend on the sizes of the pieces that it is fed with (measured: zlib-rs 0.6 at level 6), so
//! it is fed in blocks of one fixed size, whatever the sizes of the writes. Header fields, levels and block size are
//! part of [`LAYER_FORMAT_VERSION`](super::LAYER_FORMAT_VERSION).

use std::io::{self, Write};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};

/// The encoder is fed in blocks of this many bytes, the last one being shorter.
const BLOCK_BYTES: usize = 256 << 10;

/// The levels of every compressed layer. Zstandard's highest level without larger windows: a layer is compressed once
/// and sent to many devices.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 19;

/// The OS byte of the header: unknown.
const OS_UNKNOWN: u8 = 255;

/// What compresses, and gives back what it wrote into.
pub trait Encoder: Write {
    /// What it wrote into.
    type Inner;

    /// Ends the stream.
    fn finish(self) -> io::Result<Self::Inner>;
}

impl<W: Write> Encoder for GzEncoder<W> {
    type Inner = W;

    fn finish(self) -> io::Result<W> {
        self.finish()
    }
}

impl<W: Write> Encoder for zstd::Encoder<'static, W> {
    type Inner = W;

    fn finish(self) -> io::Result<W> {
        self.finish()
    }
}

/// Feeds an encoder.
pub struct BlockWriter<E> {
    encoder: E,
    block: Vec<u8>,
}

/// Compresses into `inner` with gzip.
pub fn gzip<W: Write>(inner: W) -> BlockWriter<GzEncoder<W>> {
    let header = GzBuilder::new().mtime(0).operating_system(OS_UNKNOWN);
    BlockWriter::new(header.write(inner, Compression::new(GZIP_LEVEL)))
}

/// Compresses into `inner` with Zstandard: one frame, one thread, a checksum at its end.
///
/// # Errors
/// When there is no memory for it.
pub fn zstd<W: Write>(inner: W) -> io::Result<BlockWriter<zstd::Encoder<'static, W>>> {
    let mut encoder = zstd::Encoder::new(inner, ZSTD_LEVEL)?;
    encoder.include_checksum(true)?;
    Ok(BlockWriter::new(encoder))
}

impl<E: Encoder> BlockWriter<E> {
    fn new(encoder: E) -> BlockWriter<E> {
        BlockWriter {
            encoder,
            block: Vec::with_capacity(BLOCK_BYTES),
        }
    }

    /// Ends the stream and gives the inner writer back.
    pub fn finish(mut self) -> io::Result<E::Inner> {
        self.encoder.write_all(&self.block)?;
        self.encoder.finish()
    }
}

impl<E: Encoder> Write for BlockWriter<E> {
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
        let pieces = [7, 511, 4096, 65_536, BLOCK_BYTES, BLOCK_BYTES + 1, content.len()];
        fn encode<E: Encoder>(mut writer: BlockWriter<E>, content: &[u8], piece: usize) -> E::Inner {
            content
                .chunks(piece)
                .for_each(|part| writer.write_all(part).unwrap());
            writer.finish().unwrap()
        }
        let gzips = pieces.map(|piece| encode(gzip(Vec::new()), &content, piece));
        let zstds = pieces.map(|piece| encode(zstd(Vec::new()).unwrap(), &content, piece));
        for encoded in [&gzips, &zstds] {
            assert!(encoded.iter().all(|one| *one == encoded[0]));
        }
        let mut decoded = Vec::new();
        flate2::read::GzDecoder::new(gzips[0].as_slice())
            .read_to_end(&mut decoded)
            .unwrap();
        assert!(decoded == content);
        assert!(zstd::decode_all(zstds[0].as_slice()).unwrap() == content);
    }
}
