//! Archives written byte by byte, since no library writes these; a store that is looked at afterwards.

use std::io::Write as _;

use aiot_oci::{Descriptor, Digest, MediaType, Store};

/// One block of an archive. `size` is written as it is: twelve bytes.
pub fn header(name: &[u8], kind: u8, size: &[u8; 12], target: &[u8]) -> Vec<u8> {
    let mut header = vec![0_u8; 512];
    header[..name.len()].copy_from_slice(name);
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..136].copy_from_slice(size);
    header[136..147].copy_from_slice(b"00000000000");
    header[156] = kind;
    header[157..157 + target.len()].copy_from_slice(target);
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// A size as archives write it.
pub fn octal(size: u64) -> [u8; 12] {
    format!("{size:011o}\0").into_bytes().try_into().unwrap()
}

/// An entry with its content, filled up to whole blocks.
pub fn entry(name: &[u8], kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, kind, &octal(content.len() as u64), b"");
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A link of either kind.
pub fn link(name: &[u8], kind: u8, target: &[u8]) -> Vec<u8> {
    header(name, kind, &octal(0), target)
}

/// One record of a PAX header, with its own length in front.
pub fn pax(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend(value);
    record.push(b'\n');
    record
}

/// The end of an archive.
pub const END: [u8; 1024] = [0; 1024];

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A store in a folder of its own; when it goes, all that lies in the folder is what a store has.
pub struct Place {
    dir: tempfile::TempDir,
    pub store: Store,
}

impl Place {
    pub fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store")).unwrap();
        Place { dir, store }
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    pub fn blob(&self, media_type: MediaType, bytes: &[u8]) -> Descriptor {
        let blob = self.store.put_bytes(bytes).unwrap();
        Descriptor::new(media_type, blob.digest, blob.size)
    }

    /// Nothing lies outside the store, nothing unfinished in it, and every blob is what its name says.
    #[track_caller]
    pub fn is_clean(&self) {
        let names = |dir: &std::path::Path| -> Vec<String> {
            let entries = std::fs::read_dir(dir).unwrap();
            let mut names: Vec<String> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(self.dir.path()), ["store"]);
        let root = self.path("store");
        assert_eq!(names(&root), ["blobs", "incoming"]);
        assert_eq!(names(&root.join("incoming")), [""; 0]);
        assert_eq!(names(&root.join("blobs")), ["sha256"]);
        for name in names(&root.join("blobs/sha256")) {
            let bytes = std::fs::read(root.join("blobs/sha256").join(&name)).unwrap();
            assert_eq!(Digest::of(&bytes).hex(), name);
        }
    }
}
