//! The crates that a program is made of, readable from the program itself.
//!
//! A compiled module carries them in an ELF section in the format of cargo-auditable, so that `cargo audit bin`,
//! `rust-audit-info` and scanners of images find known vulnerabilities in what runs on a device, also when nobody has
//! the bill of materials any more. The section is added to the finished file: it works the same with every linker,
//! target and builder, is not loaded, and costs some kilobytes.
//!
//! | part | content |
//! | --- | --- |
//! | [`CrateList::of_metadata`] | `cargo metadata` for one target → the crates of one package |
//! | [`CrateList::embed`], [`CrateList::read`] | into and out of a program |
//!
//! Source of the format: cargo-auditable, "Parsing the data embedded by cargo auditable".

mod metadata;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use object::{Object as _, ObjectSection as _};
use serde::{Deserialize, Serialize};

use crate::elf::{ElfError, section};

/// The section's name.
const SECTION: &str = ".dep-v0";
/// The longest list that is read, unpacked.
const JSON_LIMIT_BYTES: u64 = 8 << 20;

/// The crates of a program, sorted by name and version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrateList {
    /// One entry a crate.
    pub packages: Vec<CompiledCrate>,
}

/// A crate of a program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CompiledCrate {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Where it comes from: `crates.io`, `registry` (another one), `git`, `local`.
    pub source: String,
    /// Whether its code is in the program, or it only helped to build it (build scripts, macros, and what they use).
    #[serde(default, skip_serializing_if = "CrateKind::is_runtime")]
    pub kind: CrateKind,
    /// The crates that it uses, by their places in the list, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<usize>,
    /// Whether it is the program's own package; exactly one is.
    #[serde(default, skip_serializing_if = "is_false")]
    pub root: bool,
}

/// What a crate does for a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CrateKind {
    /// It runs on the device.
    #[default]
    Runtime,
    /// It ran while the program was built.
    Build,
}

impl CrateKind {
    /// By reference, as serde asks.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    fn is_runtime(&self) -> bool {
        *self == CrateKind::Runtime
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

/// Why a program's crates could not be told.
#[derive(Debug, thiserror::Error)]
pub enum CratesError {
    /// cargo's description of the packages is none.
    #[error("cargo metadata: {0}")]
    Metadata(String),
    /// The program is no ELF file, or one that cannot take a section.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// The program has no list: it was not made by a release, or by one that wrote none.
    #[error(
        "the program carries no list of its crates (section {SECTION}); build it with `cargo xtask release`"
    )]
    Missing,
    /// The list in the program is damaged.
    #[error("the list of crates in the program cannot be read: {0}")]
    Damaged(String),
}

impl CrateList {
    /// The crates that `module` is made of, out of `cargo metadata --format-version 1 --filter-platform TRIPLE`.
    ///
    /// # Errors
    /// [`CratesError::Metadata`].
    pub fn of_metadata(json: &str, module: &str) -> Result<CrateList, CratesError> {
        metadata::crates(json, module).map_err(CratesError::Metadata)
    }

    /// The program with this list in it. The same program and list give the same bytes.
    ///
    /// # Errors
    /// [`CratesError::Elf`].
    pub fn embed(&self, program: &[u8]) -> Result<Vec<u8>, CratesError> {
        let json = serde_json::to_vec(self).expect("strings and numbers");
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        let packed = encoder
            .write_all(&json)
            .and_then(|()| encoder.finish())
            .expect("memory takes everything");
        Ok(section::append(program, SECTION, &packed)?)
    }

    /// The list in a program, ours or one of cargo-auditable's.
    ///
    /// # Errors
    /// [`CratesError::Elf`], [`CratesError::Missing`], [`CratesError::Damaged`]. Never panics.
    pub fn read(program: &[u8]) -> Result<CrateList, CratesError> {
        let file = object::File::parse(program).map_err(ElfError::from)?;
        let section = file.section_by_name(SECTION).ok_or(CratesError::Missing)?;
        let packed = section.data().map_err(ElfError::from)?;
        let mut json = Vec::new();
        flate2::read::ZlibDecoder::new(packed)
            .take(JSON_LIMIT_BYTES + 1)
            .read_to_end(&mut json)
            .map_err(|error| CratesError::Damaged(error.to_string()))?;
        if json.len() as u64 > JSON_LIMIT_BYTES {
            let reason = format!("it is longer than {JSON_LIMIT_BYTES} bytes");
            return Err(CratesError::Damaged(reason));
        }
        let list: CrateList =
            serde_json::from_slice(&json).map_err(|error| CratesError::Damaged(error.to_string()))?;
        let count = list.packages.len();
        let mut places = list.packages.iter().flat_map(|package| &package.dependencies);
        if let Some(place) = places.find(|place| **place >= count) {
            let reason = format!("it names package {place} of {count}");
            return Err(CratesError::Damaged(reason));
        }
        Ok(list)
    }

    /// Name and version of every crate → what it does.
    pub fn by_name(&self) -> BTreeMap<(&str, &str), CrateKind> {
        let names = self.packages.iter();
        names
            .map(|package| ((package.name.as_str(), package.version.as_str()), package.kind))
            .collect()
    }
}

#[cfg(test)]
mod tests;
