//! One more section at the end of an ELF file: for readers of the file, not for the loader.
//!
//! Nothing that is there moves: the content, a new table of names and a new table of sections are written behind the
//! file, and the header is pointed at them. So it works on a finished, stripped program of any linker.

use object::Endianness;
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, SectionHeader};

use super::{ELF_SIZE_LIMIT_BYTES, ElfError};

/// The most sections of a file: above it, ELF counts them in another way.
const SECTION_LIMIT: usize = 0xff00 - 1;

/// Where fields of header and section headers lie, and how long an address is.
struct Layout {
    address_bytes: usize,
    /// Of the file's header: offset of the table, number of sections.
    table_at: usize,
    count_at: usize,
    /// Of a section's header: its length, and where content, length and alignment are named.
    header_bytes: usize,
    offset_at: usize,
    size_at: usize,
    align_at: usize,
}

const BITS_32: Layout = Layout {
    address_bytes: 4,
    table_at: 0x20,
    count_at: 0x30,
    header_bytes: 40,
    offset_at: 16,
    size_at: 20,
    align_at: 32,
};

const BITS_64: Layout = Layout {
    address_bytes: 8,
    table_at: 0x28,
    count_at: 0x3c,
    header_bytes: 64,
    offset_at: 24,
    size_at: 32,
    align_at: 48,
};

/// The file with one more section. The same input gives the same bytes.
///
/// # Errors
/// [`ElfError`] for what is no ELF file, has no sections, or has one of that name already.
pub(crate) fn append(bytes: &[u8], name: &str, content: &[u8]) -> Result<Vec<u8>, ElfError> {
    if bytes.len() + content.len() > ELF_SIZE_LIMIT_BYTES {
        return Err(ElfError::TooLarge {
            size_bytes: bytes.len() + content.len(),
        });
    }
    match bytes.get(4) {
        Some(1) => append_class::<FileHeader32<Endianness>>(bytes, name, content, &BITS_32),
        Some(2) => append_class::<FileHeader64<Endianness>>(bytes, name, content, &BITS_64),
        _ => Err(broken("its class is neither 32 nor 64 bits")),
    }
}

fn append_class<Elf: FileHeader<Endian = Endianness>>(
    bytes: &[u8],
    name: &str,
    content: &[u8],
    layout: &Layout,
) -> Result<Vec<u8>, ElfError> {
    let header = Elf::parse(bytes)?;
    let endian = header.endian()?;
    let names = header
        .section_strings_index(endian, bytes)
        .map_err(ElfError::from)?
        .0;
    let sections = header.sections(endian, bytes)?;
    let (count, start) = (sections.len(), header.e_shoff(endian).into() as usize);
    if count == 0 || names == 0 || count >= SECTION_LIMIT {
        return Err(broken("it has no section headers, or too many"));
    }
    if sections.section_by_name(endian, name.as_bytes()).is_some() {
        return Err(broken(&format!("it has a section {name} already")));
    }
    let old_names = sections
        .section(object::SectionIndex(names))?
        .data(endian, bytes)?;
    let mut table = start
        .checked_add(count * layout.header_bytes)
        .and_then(|end| bytes.get(start..end))
        .ok_or_else(|| broken("its section headers lie outside the file"))?
        .to_vec();

    let mut out = bytes.to_vec();
    let content_at = out.len();
    out.extend(content);
    let names_at = out.len();
    out.extend(old_names);
    out.extend(name.as_bytes());
    out.push(0);
    let names_size = out.len() - names_at;
    out.resize(out.len().next_multiple_of(8), 0);
    let table_at = out.len();

    let is_little = header.is_little_endian();
    let put = |out: &mut [u8], at: usize, size: usize, value: usize| {
        let value = value as u64;
        if is_little {
            out[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        } else {
            out[at..at + size].copy_from_slice(&value.to_be_bytes()[8 - size..]);
        }
    };
    let address = layout.address_bytes;
    let of_names = names * layout.header_bytes;
    put(&mut table, of_names + layout.offset_at, address, names_at);
    put(&mut table, of_names + layout.size_at, address, names_size);
    let mut section = vec![0; layout.header_bytes];
    put(&mut section, 0, 4, old_names.len());
    put(&mut section, 4, 4, elf::SHT_PROGBITS.0 as usize);
    put(&mut section, layout.offset_at, address, content_at);
    put(&mut section, layout.size_at, address, content.len());
    put(&mut section, layout.align_at, address, 1);
    out.extend(table);
    out.extend(section);
    put(&mut out, layout.table_at, address, table_at);
    put(&mut out, layout.count_at, 2, count + 1);
    Ok(out)
}

fn broken(what: &str) -> ElfError {
    ElfError::Broken {
        what: what.to_owned(),
    }
}
