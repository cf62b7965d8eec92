//! What is in an image's layers, and whether a device could run it: programs, loader and libraries are there and for
//! the right processor, and the user that runs them can change none of them.
//!
//! A layer is looked into once per release, however many images share it. Files of layers that this release made are
//! all looked at; of a base image's, only the programs that were named, since such images hold other things too.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use aiot_oci::layer::{Whiteout, visit_layer};
use aiot_oci::{Descriptor, Digest, EntryKind, LayerEntry, LayerError, LayerLimits, Platform, Store};
use aiot_toolchain::elf::{self, Machine};
use serde_json::Value;

/// The number of the user and group that runs an image.
pub const RUN_USER: u64 = 65532;
/// Names in a message.
const SHOWN: usize = 5;
/// Symbolic links that are followed for one path.
const MAX_LINKS: usize = 40;
/// Permission bits: writable by owner, group, everybody; only owners delete.
const OWNER_WRITES: u32 = 0o200;
const GROUP_WRITES: u32 = 0o020;
const ALL_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// What an ELF file asks for.
#[derive(Debug)]
struct Elf {
    machine: Machine,
    word_bits: u8,
    interpreter: Option<String>,
    needed: Vec<String>,
}

/// A path of a layer.
#[derive(Debug)]
struct Entry {
    /// Where a symbolic link points.
    link: Option<String>,
    /// Of programs and libraries that are looked at.
    elf: Option<Elf>,
    /// Whether the run user could change it.
    is_writable: bool,
}

/// What a container sees of all layers, by path.
type Image<'a> = BTreeMap<&'a str, &'a Entry>;

/// What is in a layer.
#[derive(Debug, Default)]
pub struct LayerContent {
    /// By path, without the first `/`.
    entries: BTreeMap<String, Entry>,
    /// What it hides of the layers below.
    whiteouts: Vec<Whiteout>,
    /// Digest of the archive.
    pub diff_id: Option<Digest>,
    /// Length of the archive in bytes.
    pub unpacked_size_bytes: u64,
}

impl LayerContent {
    /// Looks into a layer. `programs`: paths without the first `/` that are looked at in any layer; `is_ours`: whether
    /// all other programs and libraries are, too.
    ///
    /// # Errors
    /// As [`visit_layer`].
    pub fn read(
        store: &Store,
        layer: &Descriptor,
        programs: &[String],
        is_ours: bool,
    ) -> Result<LayerContent, LayerError> {
        let mut content = LayerContent::default();
        let (diff_id, unpacked_size_bytes) =
            visit_layer(store, layer, LayerLimits::default(), |entry, reader| {
                let wanted = is_ours || programs.contains(&entry.path);
                content.take(layer, entry, reader, wanted)
            })?;
        content.diff_id = Some(diff_id);
        content.unpacked_size_bytes = unpacked_size_bytes;
        Ok(content)
    }

    fn take(
        &mut self,
        layer: &Descriptor,
        entry: &LayerEntry,
        reader: &mut dyn Read,
        is_wanted: bool,
    ) -> Result<(), LayerError> {
        if let Some(whiteout) = Whiteout::of(&entry.path) {
            self.whiteouts.push(whiteout);
            return Ok(());
        }
        let mut found = Entry {
            link: None,
            elf: None,
            is_writable: is_writable(entry),
        };
        if let EntryKind::Symlink { target } = &entry.kind {
            found.link = Some(target.clone());
        }
        if let EntryKind::File { size_bytes } = entry.kind
            && is_wanted
            && size_bytes <= elf::ELF_SIZE_LIMIT_BYTES as u64
        {
            let failed = |error: std::io::Error| LayerError::Unreadable {
                digest: layer.digest,
                reason: error.to_string(),
            };
            let mut bytes = Vec::new();
            reader.take(4).read_to_end(&mut bytes).map_err(failed)?;
            // Models and documents are not held in memory.
            if bytes == *b"\x7fELF" {
                reader.read_to_end(&mut bytes).map_err(failed)?;
                if let Ok(facts) = elf::inspect(&bytes) {
                    found.elf = Some(Elf {
                        machine: facts.machine,
                        word_bits: facts.word_bits,
                        interpreter: facts.interpreter,
                        needed: facts.needed,
                    });
                }
            }
        }
        // Of entries with one path the last counts.
        self.entries.insert(entry.path.clone(), found);
        Ok(())
    }
}

/// Whether the run user could write a file, or replace files of a folder. In a folder with the sticky bit (`/tmp`) it
/// can only make its own.
fn is_writable(entry: &LayerEntry) -> bool {
    let by_mode = (entry.uid == RUN_USER && entry.mode & OWNER_WRITES != 0)
        || (entry.gid == RUN_USER && entry.mode & GROUP_WRITES != 0)
        || entry.mode & ALL_WRITE != 0;
    match entry.kind {
        EntryKind::File { .. } => by_mode,
        EntryKind::Directory => by_mode && entry.mode & STICKY == 0,
        // A link's own mode means nothing, its file is an entry of its own; devices are made by the device's engine.
        EntryKind::Symlink { .. } | EntryKind::HardLink { .. } | EntryKind::Special => false,
    }
}

/// Folders that create options mount something over, without the first `/`: what lies there in the image is not seen.
pub fn mount_points(create_options: &[&Value]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut add = |path: &str| found.insert(path.trim_matches('/').to_owned());
    for options in create_options {
        let host = &options["HostConfig"];
        for bind in host["Binds"].as_array().into_iter().flatten() {
            let parts = bind.as_str().unwrap_or_default().split(':');
            parts.skip(1).take(1).for_each(|path| {
                add(path);
            });
        }
        for mount in host["Mounts"].as_array().into_iter().flatten() {
            mount["Target"].as_str().map(&mut add);
        }
        for folders in [&host["Tmpfs"], &options["Volumes"]] {
            for path in folders.as_object().into_iter().flat_map(|map| map.keys()) {
                add(path);
            }
        }
    }
    found.remove("");
    found
}

/// Everything that would keep an image from running, or let it be changed while it runs. `layers`: lowest first;
/// `programs`: paths of the program and the engine.
pub fn problems(
    layers: &[Arc<LayerContent>],
    programs: &[String],
    platform: &Platform,
    mounts: &BTreeSet<String>,
) -> Vec<String> {
    let mut problems = Vec::new();
    let image = merge(layers);
    for program in programs {
        if resolve(&image, program).is_none() {
            problems.push(format!("the image has no /{program}"));
        }
    }
    let is_mounted = |path: &str| {
        mounts.iter().any(|mount| {
            path == mount
                || path
                    .strip_prefix(mount.as_str())
                    .is_some_and(|rest| rest.starts_with('/'))
        })
    };
    let writable: Vec<&str> = image
        .iter()
        .filter(|(path, entry)| entry.is_writable && !is_mounted(path))
        .map(|(path, _)| *path)
        .collect();
    if !writable.is_empty() {
        let shown: Vec<String> = writable
            .iter()
            .take(SHOWN)
            .map(|path| format!("/{path}"))
            .collect();
        problems.push(format!(
            "its user {RUN_USER} could change {} ({} in all); take the write permission away, or declare a mount there \
             in create-options",
            shown.join(", "),
            writable.len()
        ));
    }
    if let Some(expected) = machine(platform) {
        let wrong: Vec<String> = image
            .iter()
            .filter_map(|(path, entry)| Some((path, entry.elf.as_ref()?)))
            .filter(|(_, elf)| (elf.machine, elf.word_bits) != expected)
            .map(|(path, elf)| format!("/{path} is for {} ({} bits)", elf.machine, elf.word_bits))
            .take(SHOWN)
            .collect();
        if !wrong.is_empty() {
            problems.push(format!("the image is for {platform}, but {}", wrong.join(", ")));
        }
    }
    problems.extend(missing(&image, programs));
    problems
}

/// What a container sees: of each path the last layer's entry, without what a later layer hides.
fn merge(layers: &[Arc<LayerContent>]) -> Image<'_> {
    let mut image = Image::new();
    for layer in layers {
        for whiteout in &layer.whiteouts {
            whiteout.apply(&mut image);
        }
        image.extend(layer.entries.iter().map(|(path, entry)| (path.as_str(), entry)));
    }
    image
}

/// Loader and libraries that the programs and their libraries name and that the image lacks.
fn missing(image: &Image<'_>, programs: &[String]) -> Vec<String> {
    // By file name, as a loader finds them in its folders.
    let mut by_name: BTreeMap<&str, &str> = BTreeMap::new();
    for path in image.keys() {
        by_name
            .entry(path.rsplit('/').next().unwrap_or_default())
            .or_insert(path);
    }
    let mut problems = Vec::new();
    let (mut waiting, mut seen) = (Vec::new(), BTreeSet::new());
    waiting.extend(programs.iter().filter_map(|program| resolve(image, program)));
    while let Some(path) = waiting.pop() {
        let Some(elf) = image.get(path.as_str()).and_then(|entry| entry.elf.as_ref()) else {
            continue;
        };
        if !seen.insert(path.clone()) {
            continue;
        }
        if let Some(interpreter) = &elf.interpreter
            && resolve(image, interpreter.trim_start_matches('/')).is_none()
        {
            problems.push(format!("the image lacks {interpreter} (the loader of /{path})"));
        }
        for library in &elf.needed {
            match by_name.get(library.as_str()) {
                Some(found) => waiting.extend(resolve(image, found)),
                None => problems.push(format!("the image lacks {library} (needed by /{path})")),
            }
        }
    }
    problems.sort();
    problems
}

/// Where a path leads when its links are followed; `None` where it leads to nothing.
fn resolve(image: &Image<'_>, path: &str) -> Option<String> {
    let mut waiting: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut found: Vec<String> = Vec::new();
    let mut followed = 0;
    while let Some(part) = waiting.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                found.pop();
                continue;
            }
            _ => found.push(part),
        }
        let here = found.join("/");
        if let Some(target) = image.get(here.as_str()).and_then(|entry| entry.link.as_ref()) {
            followed += 1;
            if followed > MAX_LINKS {
                return None;
            }
            if target.starts_with('/') {
                found.clear();
            } else {
                found.pop();
            }
            waiting.extend(target.split('/').rev().map(str::to_owned));
        }
    }
    let end = found.join("/");
    image.contains_key(end.as_str()).then_some(end)
}

/// What programs of a platform are made for; `None` where we do not know.
fn machine(platform: &Platform) -> Option<(Machine, u8)> {
    match platform.architecture() {
        "amd64" => Some((Machine::X86_64, 64)),
        "386" => Some((Machine::X86, 32)),
        "arm64" => Some((Machine::Aarch64, 64)),
        "arm" => Some((Machine::Arm, 32)),
        "riscv64" => Some((Machine::RiscV, 64)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
