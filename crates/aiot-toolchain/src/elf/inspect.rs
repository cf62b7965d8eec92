//! Bytes → [`ElfFacts`].
//!
//! Section headers are used for symbols and versions (they survive stripping); a file without them is still read for
//! header, interpreter and nothing else, and says so with an error rather than with "no demands".

use std::collections::{BTreeMap, BTreeSet};

use object::Endianness;
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{AttributeReader, FileHeader, ProgramHeader, SectionHeader, SectionTable, Sym};

use super::{ELF_SIZE_LIMIT_BYTES, ElfFacts, FloatAbi, GlibcNeed, Machine, SYMBOLS_NAMED};
use crate::GlibcVersion;

/// Longest list of needed libraries, version demands or symbol names that is read.
const LIST_LIMIT: usize = 65_536;
/// Longest name that is read, in bytes.
const NAME_LIMIT_BYTES: usize = 4096;

/// Why bytes could not be read as an ELF file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// The magic number is missing.
    #[error("not an ELF file (it begins with {start})")]
    NotElf {
        /// The first bytes in hexadecimal.
        start: String,
    },
    /// Larger than [`ELF_SIZE_LIMIT_BYTES`].
    #[error("an ELF file of {size_bytes} bytes is not read; the limit is {ELF_SIZE_LIMIT_BYTES}")]
    TooLarge {
        /// Its size.
        size_bytes: usize,
    },
    /// A part of the file contradicts another.
    #[error("broken ELF file: {what}; it was cut or damaged, fetch or build it again")]
    Broken {
        /// What is wrong.
        what: String,
    },
}

impl From<object::read::Error> for ElfError {
    fn from(error: object::read::Error) -> Self {
        ElfError::Broken {
            what: error.to_string(),
        }
    }
}

fn broken(what: &str) -> ElfError {
    ElfError::Broken {
        what: what.to_owned(),
    }
}

/// Reads what an ELF program or library says about itself.
///
/// # Errors
/// [`ElfError`] for anything that is no whole ELF file. Never panics.
pub fn inspect(bytes: &[u8]) -> Result<ElfFacts, ElfError> {
    if bytes.len() > ELF_SIZE_LIMIT_BYTES {
        return Err(ElfError::TooLarge {
            size_bytes: bytes.len(),
        });
    }
    if !bytes.starts_with(&elf::ELFMAG) {
        let start = bytes
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>();
        let start = if start.is_empty() {
            "nothing, it is empty".to_owned()
        } else {
            start.join(" ")
        };
        return Err(ElfError::NotElf { start });
    }
    match bytes.get(4) {
        Some(1) => inspect_class::<FileHeader32<Endianness>>(bytes),
        Some(2) => inspect_class::<FileHeader64<Endianness>>(bytes),
        _ => Err(broken("its class is neither 32 nor 64 bits")),
    }
}

fn inspect_class<Elf: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Result<ElfFacts, ElfError> {
    let header = Elf::parse(bytes)?;
    let endian = header.endian()?;
    let machine = machine(header.e_machine(endian));

    let mut interpreter = None;
    let mut has_dynamic_segment = false;
    for segment in header.program_headers(endian, bytes)? {
        if let Some(path) = segment.interpreter(endian, bytes)? {
            interpreter = Some(text(path)?);
        }
        has_dynamic_segment |= segment.p_type(endian) == elf::PT_DYNAMIC;
    }

    let sections = header.sections(endian, bytes)?;
    let dynamic = sections.dynamic_table(endian, bytes)?;
    if has_dynamic_segment && dynamic.is_empty() {
        return Err(broken(
            "it has a dynamic segment but no section headers that describe it",
        ));
    }
    let mut needed = Vec::new();
    let mut soname = None;
    for entry in dynamic.iter().take(LIST_LIMIT) {
        if entry.tag == elf::DT_NEEDED {
            needed.push(text(dynamic.string(entry)?)?);
        } else if entry.tag == elf::DT_SONAME {
            soname = Some(text(dynamic.string(entry)?)?);
        }
    }

    Ok(ElfFacts {
        machine,
        word_bits: if header.is_type_64() { 64 } else { 32 },
        is_little_endian: header.is_little_endian(),
        float_abi: float_abi(machine, header.e_flags(endian).0, endian, bytes, &sections),
        interpreter,
        needed,
        soname,
        highest_glibc: highest_glibc::<Elf>(endian, bytes, &sections)?,
        is_static: dynamic.is_empty(),
    })
}

fn machine(machine: elf::Machine) -> Machine {
    match machine {
        elf::EM_AARCH64 => Machine::Aarch64,
        elf::EM_ARM => Machine::Arm,
        elf::EM_RISCV => Machine::RiscV,
        elf::EM_386 => Machine::X86,
        elf::EM_X86_64 => Machine::X86_64,
        other => Machine::Other(other.0),
    }
}

fn text(bytes: &[u8]) -> Result<String, ElfError> {
    if bytes.len() > NAME_LIMIT_BYTES {
        return Err(broken("a name is longer than 4096 bytes"));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => Ok(text.to_owned()),
        _ => Err(broken("a name is not readable text")),
    }
}

/// The newest `GLIBC_` version in the version needs, with the undefined symbols that carry it.
fn highest_glibc<Elf: FileHeader<Endian = Endianness>>(
    endian: Endianness,
    bytes: &[u8],
    sections: &SectionTable<'_, Elf>,
) -> Result<Option<GlibcNeed>, ElfError> {
    let Some((mut needs, link)) = sections.gnu_verneed(endian, bytes)? else {
        return Ok(None);
    };
    let strings = sections.strings(endian, bytes, link)?;
    let mut by_index = BTreeMap::new();
    let mut entries = 0;
    while let Some((_, mut versions)) = needs.next()? {
        while let Some(version) = versions.next()? {
            entries += 1;
            if entries > LIST_LIMIT {
                return Err(broken("it asks for more than 65536 symbol versions"));
            }
            // The loader only warns when a weak need is missing.
            if version.vna_flags.get(endian).contains(elf::VER_FLG_WEAK) {
                continue;
            }
            let name = text(version.name(endian, strings)?)?;
            if let Some(glibc) = GlibcVersion::of_symbol_version(&name) {
                by_index.insert(version.vna_other(endian).index().0, (glibc, name));
            }
        }
    }
    let Some((version, symbol_version)) = by_index.values().max().cloned() else {
        return Ok(None);
    };

    let mut symbols = BTreeSet::new();
    if let Some((indexes, link)) = sections.gnu_versym(endian, bytes)? {
        let table = sections.symbol_table_by_index(endian, bytes, link)?;
        for (symbol, index) in table.iter().zip(indexes) {
            let index = index.0.get(endian).index().0;
            let is_highest = by_index
                .get(&index)
                .is_some_and(|(_, name)| *name == symbol_version);
            if is_highest && symbol.is_undefined(endian) {
                symbols.insert(text(symbol.name(endian, table.strings())?)?);
                if symbols.len() > SYMBOLS_NAMED {
                    symbols.pop_last();
                }
            }
        }
    }
    Ok(Some(GlibcNeed {
        version,
        symbol_version,
        symbols: symbols.into_iter().collect(),
    }))
}

/// The header's flags decide; where a linker left them unset, ARM's build attributes do.
fn float_abi<Elf: FileHeader<Endian = Endianness>>(
    machine: Machine,
    flags: u32,
    endian: Endianness,
    bytes: &[u8],
    sections: &SectionTable<'_, Elf>,
) -> Option<FloatAbi> {
    match machine {
        Machine::Arm if flags & elf::EF_ARM_ABI_FLOAT_HARD != 0 => Some(FloatAbi::Hard),
        Machine::Arm if flags & elf::EF_ARM_ABI_FLOAT_SOFT != 0 => Some(FloatAbi::Soft),
        Machine::Arm => arm_attributes(endian, bytes, sections),
        Machine::RiscV if flags & elf::EF_RISCV_FLOAT_ABI == elf::EF_RISCV_FLOAT_ABI_SOFT.0 => {
            Some(FloatAbi::Soft)
        }
        Machine::RiscV => Some(FloatAbi::Hard),
        _ => None,
    }
}

/// `Tag_ABI_VFP_args` of the file's build attributes. Source: ARM IHI 0045, "Addenda to the ABI".
fn arm_attributes<Elf: FileHeader<Endian = Endianness>>(
    endian: Endianness,
    bytes: &[u8],
    sections: &SectionTable<'_, Elf>,
) -> Option<FloatAbi> {
    const TAG_FILE: u8 = 1;
    let section = sections
        .iter()
        .find(|section| section.sh_type(endian) == elf::SHT_ARM_ATTRIBUTES)?;
    let mut subsections = section.attributes(endian, bytes).ok()?.subsections().ok()?;
    while let Some(subsection) = subsections.next().ok()? {
        if subsection.vendor() != b"aeabi" {
            continue;
        }
        let mut parts = subsection.subsubsections();
        while let Some(part) = parts.next().ok()? {
            if part.tag().0 == TAG_FILE {
                return vfp_args(part.attributes());
            }
        }
    }
    None
}

fn vfp_args(mut reader: AttributeReader<'_>) -> Option<FloatAbi> {
    const TAG_CPU_RAW_NAME: u64 = 4;
    const TAG_CPU_NAME: u64 = 5;
    const TAG_ABI_VFP_ARGS: u64 = 28;
    const TAG_COMPATIBILITY: u64 = 32;
    while let Some(tag) = reader.read_tag().ok()? {
        match tag {
            TAG_ABI_VFP_ARGS => {
                return match reader.read_integer().ok()? {
                    0 => Some(FloatAbi::Soft),
                    1 => Some(FloatAbi::Hard),
                    _ => None,
                };
            }
            TAG_COMPATIBILITY => {
                reader.read_integer().ok()?;
                reader.read_string().ok()?;
            }
            TAG_CPU_RAW_NAME | TAG_CPU_NAME => drop(reader.read_string().ok()?),
            // Above 32, odd tags hold text and even tags numbers.
            tag if tag > 32 && tag % 2 == 1 => drop(reader.read_string().ok()?),
            _ => drop(reader.read_integer().ok()?),
        }
    }
    None
}
