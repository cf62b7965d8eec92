//! Packages and libraries that tests make.

use std::io::Write;

use aiot_package::Digest;
use aiot_plan::lock::LockedPackage;
use flate2::{Compression, write::GzEncoder};
use lzma_rust2::{XzOptions, XzWriter};
use tar::{EntryType, Header};

/// A `.deb` in the making; architecture armhf, version 1.
#[derive(Clone)]
pub(crate) struct Deb {
    name: String,
    control: String,
    entries: Vec<(Header, Vec<u8>)>,
}

impl Deb {
    pub(crate) fn new(name: &str) -> Self {
        let control = format!("Package: {name}\nVersion: 1\nArchitecture: armhf\n");
        Deb {
            name: name.to_string(),
            control,
            entries: Vec::new(),
        }
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.push(path.as_bytes(), EntryType::Directory, "", 0o755, b"")
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Self {
        self.file_with_mode(path, content, 0o644)
    }

    pub(crate) fn file_with_mode(self, path: &str, content: &[u8], mode: u32) -> Self {
        self.push(path.as_bytes(), EntryType::Regular, "", mode, content)
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        self.push(path.as_bytes(), EntryType::Symlink, target, 0o777, b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.push(path.as_bytes(), EntryType::Link, target, 0o644, b"")
    }

    pub(crate) fn entry(self, path: &str, kind: EntryType, target: &str) -> Self {
        self.push(path.as_bytes(), kind, target, 0o644, b"")
    }

    pub(crate) fn raw_entry(self, path: &[u8]) -> Self {
        self.push(path, EntryType::Regular, "", 0o644, b"")
    }

    /// A control file beyond its limit.
    pub(crate) fn big_control(mut self) -> Self {
        self.control.push_str(&" ".repeat(20 << 20));
        self
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        self.build_with(".xz")
    }

    pub(crate) fn build_with(&self, ending: &str) -> Vec<u8> {
        let pack = |bytes: &[u8]| match ending {
            ".xz" => xz(bytes),
            ".gz" => {
                let mut writer = GzEncoder::new(Vec::new(), Compression::fast());
                writer.write_all(bytes).unwrap();
                writer.finish().unwrap()
            }
            _ => bytes.to_vec(),
        };
        let entries: Vec<_> = self
            .entries
            .iter()
            .map(|(header, content)| (header.clone(), content.as_slice()))
            .collect();
        ar(&[
            ("debian-binary", b"2.0\n"),
            (&format!("control.tar{ending}"), &pack(&self.control_tar())),
            (&format!("data.tar{ending}"), &pack(&tar(&entries))),
        ])
    }

    pub(crate) fn control_tar(&self) -> Vec<u8> {
        let content = self.control.as_bytes();
        tar(&[(
            tar_header(b"./control", EntryType::Regular, "", 0o644, content.len() as u64),
            content,
        )])
    }

    /// The lock entry that fits [`Deb::build`]'s control file; size and digest are not looked at by the tree.
    pub(crate) fn locked(&self) -> LockedPackage {
        LockedPackage {
            name: self.name.clone(),
            version: "1".into(),
            architecture: "armhf".into(),
            filename: format!("pool/{}.deb", self.name),
            size_bytes: 1,
            digest: Digest::from_bytes([0; 32]),
        }
    }

    fn push(mut self, path: &[u8], kind: EntryType, target: &str, mode: u32, content: &[u8]) -> Self {
        if path.len() > 100 {
            let header = tar_header(
                b"././@LongLink",
                EntryType::GNULongName,
                "",
                0o644,
                path.len() as u64,
            );
            self.entries.push((header, path.to_vec()));
        }
        let short = &path[..path.len().min(100)];
        self.entries.push((
            tar_header(short, kind, target, mode, content.len() as u64),
            content.to_vec(),
        ));
        self
    }
}

/// A header whose path and target are written as they are, as an attacker would.
pub(crate) fn tar_header(path: &[u8], kind: EntryType, target: &str, mode: u32, size_bytes: u64) -> Header {
    let mut header = Header::new_gnu();
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..path.len()].copy_from_slice(path);
    gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size_bytes);
    header.set_cksum();
    header
}

pub(crate) fn tar(entries: &[(Header, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (header, content) in entries {
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

pub(crate) fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in members {
        let fixed = format!("{:<12}{:<6}{:<6}{:<8}", 0, 0, 0, "100644");
        writeln!(bytes, "{name:<16}{fixed}{:<10}`", content.len()).unwrap();
        bytes.extend_from_slice(content);
        if content.len() % 2 == 1 {
            bytes.push(b'\n');
        }
    }
    bytes
}

pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut writer = XzWriter::new(Vec::new(), XzOptions::with_preset(1)).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// A little-endian ELF file with a load segment, a dynamic segment and these `DT_NEEDED`.
pub(crate) fn elf(machine: u16, needed: &[&str]) -> Vec<u8> {
    let wide = machine != 40;
    let (header_size, segment_size, word) = if wide { (64, 56, 8) } else { (52, 32, 4) };
    let mut strings = vec![0];
    let mut dynamic: Vec<u64> = Vec::new();
    for name in needed {
        dynamic.extend([1, strings.len() as u64]);
        strings.extend_from_slice(name.as_bytes());
        strings.push(0);
    }
    let dynamic_offset = (header_size + 2 * segment_size) as u64;
    let strings_offset = dynamic_offset + (dynamic.len() as u64 + 6) * word as u64;
    dynamic.extend([5, strings_offset, 10, strings.len() as u64, 0, 0]);
    let size = strings_offset + strings.len() as u64;

    let mut bytes = b"\x7fELF".to_vec();
    bytes.extend([if wide { 2 } else { 1 }, 1, 1, 0]);
    bytes.resize(16, 0);
    let push = |bytes: &mut Vec<u8>, value: u64, width: usize| {
        bytes.extend_from_slice(&value.to_le_bytes()[..width]);
    };
    for (value, width) in [
        (3, 2),
        (u64::from(machine), 2),
        (1, 4),
        (0, word),
        (header_size as u64, word),
        (0, word),
    ] {
        push(&mut bytes, value, width);
    }
    for (value, width) in [
        (0, 4),
        (header_size as u64, 2),
        (segment_size as u64, 2),
        (2, 2),
        (0, 2),
        (0, 2),
        (0, 2),
    ] {
        push(&mut bytes, value, width);
    }
    for (kind, offset, length) in [
        (1u64, 0, size),
        (2, dynamic_offset, strings_offset - dynamic_offset),
    ] {
        // Virtual addresses are file offsets here.
        let fields: &[(u64, usize)] = if wide {
            &[
                (kind, 4),
                (4, 4),
                (offset, 8),
                (offset, 8),
                (offset, 8),
                (length, 8),
                (length, 8),
                (8, 8),
            ]
        } else {
            &[
                (kind, 4),
                (offset, 4),
                (offset, 4),
                (offset, 4),
                (length, 4),
                (length, 4),
                (4, 4),
                (4, 4),
            ]
        };
        for (value, width) in fields {
            push(&mut bytes, *value, *width);
        }
    }
    for value in dynamic {
        push(&mut bytes, value, word);
    }
    bytes.extend_from_slice(&strings);
    bytes
}
