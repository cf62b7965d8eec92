//! One USTAR header, field by field (POSIX.1-1988 `ustar`), so that no library's defaults get into a digest.

/// The unit of a tar archive.
pub const BLOCK_BYTES: usize = 512;

/// The longest name that is written. USTAR could split longer ones over two fields and GNU could extend them; both
/// have broken some reader, so a longer name is an error.
pub const MAX_NAME_BYTES: usize = 100;

/// The largest file: eleven octal digits.
pub const MAX_FILE_BYTES: u64 = 0o77_777_777_777;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Symlink,
    Directory,
}

/// The header of an entry. The caller has checked that `name` and `target` fit into [`MAX_NAME_BYTES`] and `size`
/// into [`MAX_FILE_BYTES`].
pub fn encode(name: &str, kind: Kind, mode: u32, size: u64, target: &str) -> [u8; BLOCK_BYTES] {
    assert!(name.len() <= MAX_NAME_BYTES && target.len() <= MAX_NAME_BYTES && size <= MAX_FILE_BYTES);
    let mut header = [0; BLOCK_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| header[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0"); // owner
    put(116, b"0000000\0"); // group
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0"); // time of the last change
    put(148, b"        "); // the checksum counts as blanks in its own sum
    put(
        156,
        match kind {
            Kind::File => b"0",
            Kind::Symlink => b"2",
            Kind::Directory => b"5",
        },
    );
    put(157, target.as_bytes());
    put(257, b"ustar\x0000");
    // Names of owner and group stay empty: an engine would look them up in the image.
    put(329, b"0000000\0"); // device, major
    put(337, b"0000000\0"); // device, minor
    let checksum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{checksum:06o}\0 ").as_bytes());
    header
}
