//! Facts against what a target needs.

use super::{ElfFacts, FloatAbi, GlibcNeed, Machine};
use crate::GlibcVersion;
use crate::triple::TripleFacts;

/// What a file for a device must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// The Rust target.
    pub triple: &'static TripleFacts,
    /// The oldest C library that it will meet.
    pub glibc_floor: GlibcVersion,
    /// Whether it is a program (a loader must be named) or a library (none may be).
    pub is_program: bool,
}

/// One reason why a file does not run on a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfProblem {
    /// Compiled for another processor.
    #[error("it is for {found} ({found_bits} bits), the target is {expected} ({expected_bits} bits)")]
    Machine {
        /// The file's machine.
        found: Machine,
        /// The file's word.
        found_bits: u8,
        /// The target's machine.
        expected: Machine,
        /// The target's word.
        expected_bits: u8,
    },
    /// Big-endian.
    #[error("its byte order is big-endian, the target's is little-endian")]
    ByteOrder,
    /// Float arguments are passed another way.
    #[error("it passes floats the {found} way, the target's libraries expect the {expected} way")]
    FloatAbi {
        /// The file's way.
        found: FloatAbi,
        /// The target's way.
        expected: FloatAbi,
    },
    /// Another dynamic loader, or one where none may be.
    #[error("its loader is {found}, the target's is {expected}")]
    Interpreter {
        /// What the file names, `none` if nothing.
        found: String,
        /// The target's.
        expected: String,
    },
    /// A static program cannot load the inference engine.
    #[error(
        "it is linked statically and cannot load the inference engine; link it with the C library as a library"
    )]
    Static,
    /// A symbol is newer than the device's C library.
    #[error(
        "it needs {need}, the target has C library {floor}; use the builder `zigbuild`, which links against that \
         version, or raise the target's least C library version"
    )]
    Glibc {
        /// What is too new.
        need: GlibcNeed,
        /// The target's floor.
        floor: GlibcVersion,
    },
}

/// Every reason why a file with these facts does not run on such a device; empty when it does.
pub fn check(facts: &ElfFacts, expectation: &Expectation) -> Vec<ElfProblem> {
    let triple = expectation.triple;
    let mut problems = Vec::new();
    if (facts.machine, facts.word_bits) != (triple.machine, triple.word_bits) {
        problems.push(ElfProblem::Machine {
            found: facts.machine,
            found_bits: facts.word_bits,
            expected: triple.machine,
            expected_bits: triple.word_bits,
        });
    }
    if !facts.is_little_endian {
        problems.push(ElfProblem::ByteOrder);
    }
    if let (Some(found), Some(expected)) = (facts.float_abi, triple.float_abi)
        && found != expected
    {
        problems.push(ElfProblem::FloatAbi { found, expected });
    }
    if facts.is_static {
        problems.push(ElfProblem::Static);
    } else {
        let expected = expectation.is_program.then_some(triple.interpreter);
        if facts.interpreter.as_deref() != expected {
            problems.push(ElfProblem::Interpreter {
                found: facts.interpreter.clone().unwrap_or_else(|| "none".to_owned()),
                expected: expected.unwrap_or("none").to_owned(),
            });
        }
    }
    if let Some(need) = &facts.highest_glibc
        && need.version > expectation.glibc_floor
    {
        problems.push(ElfProblem::Glibc {
            need: need.clone(),
            floor: expectation.glibc_floor,
        });
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::triple::triple_facts;

    fn armv7() -> ElfFacts {
        ElfFacts {
            machine: Machine::Arm,
            word_bits: 32,
            is_little_endian: true,
            float_abi: Some(FloatAbi::Hard),
            interpreter: Some("/lib/ld-linux-armhf.so.3".to_owned()),
            needed: vec!["libc.so.6".to_owned()],
            soname: None,
            highest_glibc: Some(GlibcNeed {
                version: GlibcVersion::new(2, 30),
                symbol_version: "GLIBC_2.30".to_owned(),
                symbols: vec!["gettid".to_owned()],
            }),
            is_static: false,
        }
    }

    #[track_caller]
    fn expect(facts: ElfFacts, triple: &str, floor: (u16, u16), expected: &[&str]) {
        let expectation = Expectation {
            triple: triple_facts(triple).unwrap(),
            glibc_floor: GlibcVersion::new(floor.0, floor.1),
            is_program: true,
        };
        let problems: Vec<String> = check(&facts, &expectation)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, part) in problems.iter().zip(expected) {
            assert!(problem.contains(part), "{problem:?} does not say {part:?}");
        }
    }

    const ARMV7: &str = "armv7-unknown-linux-gnueabihf";

    #[test]
    fn a_fitting_file_has_no_problem() {
        expect(armv7(), ARMV7, (2, 31), &[]);
        expect(armv7(), ARMV7, (2, 30), &[]);
        expect(
            ElfFacts {
                float_abi: None,
                ..armv7()
            },
            ARMV7,
            (2, 31),
            &[],
        );
    }

    #[test]
    fn problems_name_what_does_not_fit() {
        expect(
            armv7(),
            ARMV7,
            (2, 28),
            &["gettid@GLIBC_2.30, the target has C library 2.28"],
        );
        expect(
            armv7(),
            "aarch64-unknown-linux-gnu",
            (2, 31),
            &["for arm (32 bits)", "ld-linux-armhf.so.3"],
        );
        expect(
            ElfFacts {
                float_abi: Some(FloatAbi::Soft),
                ..armv7()
            },
            ARMV7,
            (2, 31),
            &["the soft way"],
        );
        expect(
            ElfFacts {
                interpreter: None,
                ..armv7()
            },
            ARMV7,
            (2, 31),
            &["its loader is none"],
        );
        expect(
            ElfFacts {
                is_static: true,
                interpreter: None,
                ..armv7()
            },
            ARMV7,
            (2, 31),
            &["statically"],
        );
        expect(
            ElfFacts {
                is_little_endian: false,
                ..armv7()
            },
            ARMV7,
            (2, 31),
            &["big-endian"],
        );
    }
}
