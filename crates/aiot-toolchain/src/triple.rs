//! The Rust targets that modules are compiled for, and what each means for linkers and ELF headers.
//!
//! One table, because five places need it. Only targets with the GNU C library: ONNX Runtime is loaded at run time,
//! and a static musl program cannot load anything.

use crate::elf::{FloatAbi, Machine};

/// What is known about one Rust target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TripleFacts {
    /// The Rust target, `aarch64-unknown-linux-gnu`.
    pub triple: &'static str,
    /// The ELF machine.
    pub machine: Machine,
    /// 32 or 64.
    pub word_bits: u8,
    /// How float arguments are passed, where a processor has more than one way.
    pub float_abi: Option<FloatAbi>,
    /// Path of the dynamic loader in the ELF file.
    pub interpreter: &'static str,
    /// Prefix of the GNU cross tools: `aarch64-linux-gnu` in `aarch64-linux-gnu-gcc`.
    pub gnu_prefix: &'static str,
    /// The Debian packages that bring compiler and C library for it.
    pub debian_packages: &'static str,
}

const TRIPLES: [TripleFacts; 5] = [
    TripleFacts {
        triple: "aarch64-unknown-linux-gnu",
        machine: Machine::Aarch64,
        word_bits: 64,
        float_abi: None,
        interpreter: "/lib/ld-linux-aarch64.so.1",
        gnu_prefix: "aarch64-linux-gnu",
        debian_packages: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    },
    TripleFacts {
        triple: "arm-unknown-linux-gnueabihf",
        machine: Machine::Arm,
        word_bits: 32,
        float_abi: Some(FloatAbi::Hard),
        interpreter: "/lib/ld-linux-armhf.so.3",
        gnu_prefix: "arm-linux-gnueabihf",
        debian_packages: "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
    },
    TripleFacts {
        triple: "armv7-unknown-linux-gnueabihf",
        machine: Machine::Arm,
        word_bits: 32,
        float_abi: Some(FloatAbi::Hard),
        interpreter: "/lib/ld-linux-armhf.so.3",
        gnu_prefix: "arm-linux-gnueabihf",
        debian_packages: "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
    },
    TripleFacts {
        triple: "riscv64gc-unknown-linux-gnu",
        machine: Machine::RiscV,
        word_bits: 64,
        float_abi: Some(FloatAbi::Hard),
        interpreter: "/lib/ld-linux-riscv64-lp64d.so.1",
        gnu_prefix: "riscv64-linux-gnu",
        debian_packages: "gcc-riscv64-linux-gnu libc6-dev-riscv64-cross",
    },
    TripleFacts {
        triple: "x86_64-unknown-linux-gnu",
        machine: Machine::X86_64,
        word_bits: 64,
        float_abi: None,
        interpreter: "/lib64/ld-linux-x86-64.so.2",
        gnu_prefix: "x86_64-linux-gnu",
        debian_packages: "gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
    },
];

/// A Rust target that modules cannot be compiled for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("modules cannot be compiled for `{triple}`; known are {}", known_triples().join(", "))]
pub struct UnknownTriple {
    /// The target as asked for.
    pub triple: String,
}

/// Looks a Rust target up.
///
/// # Errors
/// [`UnknownTriple`], listing the known ones.
pub fn triple_facts(triple: &str) -> Result<&'static TripleFacts, UnknownTriple> {
    TRIPLES
        .iter()
        .find(|facts| facts.triple == triple)
        .ok_or_else(|| UnknownTriple {
            triple: triple.chars().take(80).collect(),
        })
}

/// Every Rust target that modules can be compiled for, sorted.
pub fn known_triples() -> Vec<&'static str> {
    TRIPLES.iter().map(|facts| facts.triple).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_found() {
        let names = known_triples();
        assert!(names.is_sorted());
        for name in names {
            assert_eq!(triple_facts(name).unwrap().triple, name);
        }
    }

    #[test]
    fn an_unknown_triple_lists_the_known() {
        let message = triple_facts("aarch64-unknown-linux-musl")
            .unwrap_err()
            .to_string();
        assert!(message.contains("`aarch64-unknown-linux-musl`"), "{message}");
        assert!(
            message.contains("armv7-unknown-linux-gnueabihf, riscv64gc"),
            "{message}"
        );
    }
}
