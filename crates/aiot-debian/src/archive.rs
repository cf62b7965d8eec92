//! Reads a `.deb`: an `ar` archive of `debian-binary`, `control.tar.*` and `data.tar.*`.
//!
//! In: the bytes of a package, checked against the lock by the caller. Out: its control stanza and its entries, in
//! memory. Nothing is written to disk, so no path can lead out of anywhere; hostile ones are refused all the same,
//! since they end up in an image. zstd is not read: Debian's archive holds .xz. Source: deb(5).

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use tar::{Archive, EntryType};

use crate::compression::{self, Limited};
use crate::stanza::Stanza;

/// All entries of one package together, unpacked. The largest library package of Debian 13 has 0.5 GB.
const UNPACKED_LIMIT_BYTES: u64 = 2 << 30;
const CONTROL_LIMIT_BYTES: u64 = 16 << 20;
const ENTRIES_LIMIT: usize = 200_000;
/// The kernel's `PATH_MAX`.
const PATH_LIMIT_BYTES: usize = 4096;

/// A package, unpacked in memory.
#[derive(Clone, Debug)]
pub struct Package {
    /// The control stanza, without blank lines around it.
    pub control: String,
    /// The entries of `data.tar`, in its order.
    pub entries: Vec<Entry>,
}

/// One entry of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path without leading `/` or `./` and without `..`, such as `usr/lib/libc.so.6`.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, `0o000..=0o7777`.
    pub mode: u32,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file with its content; also a hard link, which gets the content of its target.
    File(Arc<[u8]>),
    /// A folder.
    Directory,
    /// A symbolic link with its target as written.
    Symlink(String),
}

/// Why bytes are no package that may be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The outer `ar` archive is not one, or not that of a package.
    #[error("not a .deb: {0}")]
    Format(String),
    /// A member uses a compression that is not read.
    #[error("the member {0} is compressed in a way that is not read here (.xz, .gz and none are)")]
    Compression(String),
    /// A member cannot be unpacked, or is larger than allowed.
    #[error("{member}: {source}")]
    Read {
        /// `control.tar.*` or `data.tar.*`.
        member: String,
        /// Why.
        source: io::Error,
    },
    /// An entry that no package may hold.
    #[error("the entry {path:?} is refused: {reason}")]
    Entry {
        /// As written, cut at 200 characters.
        path: String,
        /// Why.
        reason: String,
    },
}

/// Reads a `.deb`.
///
/// # Errors
/// [`ArchiveError`]: wrong format, absolute paths or `..`, device nodes and pipes, more than 2 GiB or 200,000 entries.
pub fn read_package(bytes: &[u8]) -> Result<Package, ArchiveError> {
    let members = read_ar(bytes)?;
    let (first, version) = members.first().ok_or_else(|| format_error("it has no members"))?;
    if first != "debian-binary" || !version.starts_with(b"2.") {
        return Err(format_error(
            "the first member is not `debian-binary` with format 2",
        ));
    }
    let member = |prefix: &str| {
        let mut found = members.iter().filter(|(name, _)| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        match (found.next(), found.next()) {
            (Some((name, bytes)), None) => Ok((name.as_str(), *bytes)),
            (None, _) => Err(format_error(&format!("it has no member {prefix}"))),
            _ => Err(format_error(&format!("it has two members {prefix}"))),
        }
    };
    let (name, control_bytes) = member("control.tar")?;
    let control_entries = read_tar(name, control_bytes, CONTROL_LIMIT_BYTES)?;
    let control = control_entries.into_iter().find_map(|entry| match entry.kind {
        EntryKind::File(content) if entry.path == "control" => Some(content),
        _ => None,
    });
    let control = control.ok_or_else(|| format_error("control.tar has no file `control`"))?;
    let control =
        std::str::from_utf8(&control).map_err(|_| format_error("the file `control` is no UTF-8"))?;
    let control = control.trim().to_string();
    if Stanza::new(&control).field("Package").is_none() {
        return Err(format_error("the file `control` names no package"));
    }
    let (name, data_bytes) = member("data.tar")?;
    Ok(Package {
        control,
        entries: read_tar(name, data_bytes, UNPACKED_LIMIT_BYTES)?,
    })
}

fn format_error(reason: &str) -> ArchiveError {
    ArchiveError::Format(reason.to_string())
}

/// The members of an `ar` archive by name; 60-byte headers, bodies padded to even length. Source: ar(5).
fn read_ar(bytes: &[u8]) -> Result<Vec<(String, &[u8])>, ArchiveError> {
    let mut rest = bytes
        .strip_prefix(b"!<arch>\n")
        .ok_or_else(|| format_error("no `ar` archive"))?;
    let mut members = Vec::new();
    while !rest.is_empty() {
        if rest.len() < 60 || &rest[58..60] != b"`\n" || members.len() == 64 {
            return Err(format_error(
                "a damaged `ar` header, or bytes after the last member",
            ));
        }
        let (header, body) = rest.split_at(60);
        let text = |range: Range<usize>| std::str::from_utf8(&header[range]).map(str::trim_end).ok();
        let name = text(0..16).map(|name| name.strip_suffix('/').unwrap_or(name));
        let size = text(48..58).and_then(|size| size.parse::<usize>().ok());
        let (Some(name), Some(size)) = (name, size) else {
            return Err(format_error("an `ar` header without name or size"));
        };
        let content = body
            .get(..size)
            .ok_or_else(|| format_error(&format!("member {name} is cut off")))?;
        members.push((name.to_string(), content));
        rest = body.get(size + size % 2..).unwrap_or_default();
    }
    Ok(members)
}

fn read_tar(member: &str, bytes: &[u8], limit_bytes: u64) -> Result<Vec<Entry>, ArchiveError> {
    let stream =
        compression::open(member, bytes).ok_or_else(|| ArchiveError::Compression(member.to_string()))?;
    // The limit is on the whole stream, headers and long names included, so that nothing inside can exceed it.
    let mut archive = Archive::new(Limited::new(stream, limit_bytes));
    let read_error = |source| ArchiveError::Read {
        member: member.to_string(),
        source,
    };
    let mut entries: Vec<Entry> = Vec::new();
    let mut positions: BTreeMap<String, usize> = BTreeMap::new();
    for tar_entry in archive.entries().map_err(read_error)? {
        let mut tar_entry = tar_entry.map_err(read_error)?;
        let raw_path = tar_entry.path_bytes().into_owned();
        let refuse = |reason: &str| ArchiveError::Entry {
            path: String::from_utf8_lossy(&raw_path).chars().take(200).collect(),
            reason: reason.to_string(),
        };
        if entries.len() == ENTRIES_LIMIT {
            return Err(refuse("too many entries"));
        }
        let Some(path) = clean_path(&raw_path).map_err(refuse)? else {
            continue;
        };
        let link = || -> Result<String, ArchiveError> {
            let target = tar_entry
                .link_name_bytes()
                .ok_or_else(|| refuse("a link without a target"))?;
            let target =
                std::str::from_utf8(&target).map_err(|_| refuse("a link target that is no UTF-8"))?;
            if target.is_empty() || target.len() > PATH_LIMIT_BYTES || target.contains(char::is_control) {
                return Err(refuse("a link target that is no path"));
            }
            Ok(target.to_string())
        };
        let mut mode = tar_entry.header().mode().map_err(read_error)? & 0o7777;
        let kind = match tar_entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                let mut content = Vec::new();
                tar_entry.read_to_end(&mut content).map_err(read_error)?;
                EntryKind::File(content.into())
            }
            EntryType::Directory => EntryKind::Directory,
            EntryType::Symlink => EntryKind::Symlink(link()?),
            EntryType::Link => {
                let target = clean_path(link()?.as_bytes())
                    .map_err(refuse)?
                    .unwrap_or_default();
                let earlier = positions.get(&target).map(|position| &entries[*position]);
                let Some(Entry {
                    kind: kind @ EntryKind::File(_),
                    mode: target_mode,
                    ..
                }) = earlier
                else {
                    return Err(refuse("a hard link to what is no earlier file of the package"));
                };
                mode = *target_mode;
                kind.clone()
            }
            // Policy 10.6: packages hold no device files or named pipes. Sparse files could claim any size.
            _ => return Err(refuse("a device node, pipe, sparse file or unknown kind")),
        };
        if let Some(before) = positions.insert(path.clone(), entries.len())
            && (kind != EntryKind::Directory || entries[before].kind != EntryKind::Directory)
        {
            return Err(refuse("the same path twice"));
        }
        entries.push(Entry { path, kind, mode });
    }
    Ok(entries)
}

/// The path without `./` and trailing `/`; `None` for the root folder itself. The error is the reason to refuse it.
fn clean_path(path: &[u8]) -> Result<Option<String>, &'static str> {
    let path = std::str::from_utf8(path).map_err(|_| "a path that is no UTF-8")?;
    if path.len() > PATH_LIMIT_BYTES {
        return Err("a path longer than 4096 bytes");
    }
    if path.starts_with('/') {
        return Err("an absolute path");
    }
    if path.contains(char::is_control) {
        return Err("a path with control characters");
    }
    let parts: Vec<_> = path
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    if parts.contains(&"..") {
        return Err("a path with `..`");
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

#[cfg(test)]
mod tests;
