//! What a library asks of the dynamic loader.

use aiot_plan::architecture::Architecture;
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, FileKind};

/// More than any library has; a table beyond it is damage.
const NEEDED_LIMIT: usize = 1024;

/// The loader's view of an ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElfLibrary {
    /// For which architecture; `None` = none that images are made for.
    pub architecture: Option<Architecture>,
    /// `DT_NEEDED`, in the file's order.
    pub needed: Vec<String>,
}

/// Why a file is no library.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a readable ELF file: {0}")]
pub struct ElfError(String);

/// Reads machine and `DT_NEEDED` by the program headers, as the loader does: section headers may be stripped.
///
/// A file without a dynamic segment needs nothing.
///
/// # Errors
/// [`ElfError`] on what is no ELF file or is damaged.
pub fn read_elf(bytes: &[u8]) -> Result<ElfLibrary, ElfError> {
    match FileKind::parse(bytes).map_err(error)? {
        FileKind::Elf32 => read::<FileHeader32<Endianness>>(bytes),
        FileKind::Elf64 => read::<FileHeader64<Endianness>>(bytes),
        _ => Err(ElfError("another kind of object file".to_string())),
    }
}

fn error(error: object::read::Error) -> ElfError {
    ElfError(error.to_string())
}

fn read<Elf: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Result<ElfLibrary, ElfError> {
    let header = Elf::parse(bytes).map_err(error)?;
    let endian = header.endian().map_err(error)?;
    let little = endian == Endianness::Little;
    let architecture = match header.e_machine(endian) {
        elf::EM_X86_64 if little && header.is_class_64() => Some(Architecture::Amd64),
        elf::EM_AARCH64 if little && header.is_class_64() => Some(Architecture::Arm64),
        elf::EM_ARM if little && header.is_class_32() => Some(Architecture::Armhf),
        _ => None,
    };
    let segments = header.program_headers(endian, bytes).map_err(error)?;
    let mut dynamic: &[Elf::Dyn] = &[];
    for segment in segments {
        if let Some(found) = segment.dynamic(endian, bytes).map_err(error)? {
            dynamic = found;
            break;
        }
    }
    let entries = || {
        let pairs = dynamic.iter().map(|entry| (entry.tag(endian), entry.val(endian)));
        pairs.take_while(|(tag, _)| *tag != elf::DT_NULL)
    };
    let offsets: Vec<u64> = entries()
        .filter(|(tag, _)| *tag == elf::DT_NEEDED)
        .map(|(_, offset)| offset)
        .take(NEEDED_LIMIT)
        .collect();
    if offsets.is_empty() {
        return Ok(ElfLibrary {
            architecture,
            needed: Vec::new(),
        });
    }
    let value = |wanted| entries().find(|(tag, _)| *tag == wanted).map(|(_, value)| value);
    let (Some(address), Some(size)) = (value(elf::DT_STRTAB), value(elf::DT_STRSZ)) else {
        return Err(ElfError("DT_NEEDED without a string table".to_string()));
    };
    let strings = segments
        .iter()
        .filter(|segment| segment.p_type(endian) == elf::PT_LOAD)
        .find_map(|segment| segment.data_range(endian, bytes, address, size).ok().flatten())
        .ok_or_else(|| ElfError("the string table is outside the file".to_string()))?;
    let names = offsets.into_iter().map(|offset| {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| strings.get(offset..))?;
        let name = std::str::from_utf8(rest.split(|byte| *byte == 0).next()?).ok()?;
        (!name.is_empty()).then(|| name.to_string())
    });
    let needed = names
        .collect::<Option<_>>()
        .ok_or_else(|| ElfError("a DT_NEEDED is no name".to_string()))?;
    Ok(ElfLibrary { architecture, needed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::elf;
    use proptest::prelude::*;

    #[test]
    fn reads_machine_and_needed() {
        for (machine, architecture) in [
            (62, Some(Architecture::Amd64)),
            (183, Some(Architecture::Arm64)),
            (40, Some(Architecture::Armhf)),
            (243, None),
        ] {
            let library = read_elf(&elf(machine, &["libc.so.6", "libm.so.6"])).unwrap();
            assert_eq!(library.architecture, architecture);
            assert_eq!(library.needed, ["libc.so.6", "libm.so.6"]);
            assert_eq!(read_elf(&elf(machine, &[])).unwrap().needed, [""; 0]);
        }
    }

    #[test]
    fn what_is_no_elf_is_refused() {
        for bytes in [b"".as_slice(), b"\x7fELF", b"#!/bin/sh\n", b"GROUP ( libc.so.6 )"] {
            assert!(read_elf(bytes).is_err());
        }
        let whole = elf(62, &["libc.so.6"]);
        for length in 0..whole.len() - 10 {
            assert!(read_elf(&whole[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn the_tests_themselves_run_on_what_this_reads() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needed = read_elf(&program).unwrap().needed;
        assert!(
            needed.iter().any(|name| name.starts_with("libc.so")),
            "{needed:?}"
        );
    }

    proptest! {
        #[test]
        fn damage_never_panics(position in 0usize..1000, byte: u8, narrow: bool) {
            let mut bytes = elf(if narrow { 40 } else { 62 }, &["libc.so.6", "libm.so.6"]);
            let position = position % bytes.len();
            bytes[position] = byte;
            let _ = read_elf(&bytes);
        }
    }
}
