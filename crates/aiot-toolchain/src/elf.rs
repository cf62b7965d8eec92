//! Reading a finished ELF file: is it for this device?
//!
//! [`inspect`] turns bytes into [`ElfFacts`] and never panics, whatever the bytes; [`check`](check()) compares the
//! facts with what a target needs and names the symbol or field that does not fit. Nothing is executed or resolved:
//! which libraries an image holds is the base's business.

mod check;
mod inspect;
pub(crate) mod section;

use std::fmt;

pub use check::{ElfProblem, Expectation, check};
pub use inspect::{ElfError, inspect};

use crate::GlibcVersion;

/// The longest file that is inspected.
pub const ELF_SIZE_LIMIT_BYTES: usize = 1 << 30;

/// What an ELF file says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElfFacts {
    /// The processor.
    pub machine: Machine,
    /// 32 or 64.
    pub word_bits: u8,
    /// True for the byte order of every supported device.
    pub is_little_endian: bool,
    /// How float arguments are passed; `None` where the processor has one way only or the file does not say.
    pub float_abi: Option<FloatAbi>,
    /// The dynamic loader that the kernel starts; `None` for libraries and static programs.
    pub interpreter: Option<String>,
    /// Names of the libraries that the loader must find (DT_NEEDED), in the file's order.
    pub needed: Vec<String>,
    /// A library's own name (DT_SONAME).
    pub soname: Option<String>,
    /// The newest GNU C library that the file asks for.
    pub highest_glibc: Option<GlibcNeed>,
    /// Whether the file has no dynamic section: it runs without loader and libraries and cannot load an engine.
    pub is_static: bool,
}

/// A demand for a C library version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlibcNeed {
    /// The version.
    pub version: GlibcVersion,
    /// The symbol version as written, `GLIBC_2.34` (or a marker such as `GLIBC_ABI_DT_RELR`).
    pub symbol_version: String,
    /// The symbols that carry it, sorted, at most [`SYMBOLS_NAMED`]; empty for markers that no symbol carries.
    pub symbols: Vec<String>,
}

/// How many symbols a [`GlibcNeed`] names.
pub const SYMBOLS_NAMED: usize = 5;

impl fmt::Display for GlibcNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.symbols.is_empty() {
            return f.write_str(&self.symbol_version);
        }
        write!(f, "{}@{}", self.symbols.join(", "), self.symbol_version)
    }
}

/// Processors that an ELF file can be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM.
    Arm,
    /// 32- or 64-bit RISC-V.
    RiscV,
    /// 32-bit x86.
    X86,
    /// 64-bit x86.
    X86_64,
    /// Anything else, by its ELF number.
    Other(u16),
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Machine::Aarch64 => f.write_str("aarch64"),
            Machine::Arm => f.write_str("arm"),
            Machine::RiscV => f.write_str("riscv"),
            Machine::X86 => f.write_str("x86"),
            Machine::X86_64 => f.write_str("x86_64"),
            Machine::Other(number) => write!(f, "ELF machine {number}"),
        }
    }
}

/// How float arguments are passed. Files of different kinds cannot call each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatAbi {
    /// In float registers (`gnueabihf`, `lp64d`).
    Hard,
    /// In integer registers (`gnueabi`).
    Soft,
}

impl fmt::Display for FloatAbi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FloatAbi::Hard => "hard",
            FloatAbi::Soft => "soft",
        })
    }
}
