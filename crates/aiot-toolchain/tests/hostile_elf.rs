//! ELF bytes from outside: cut, flipped and made up. Reading them never panics.

use std::sync::OnceLock;

use aiot_toolchain::elf::{FloatAbi, Machine, inspect};
use proptest::prelude::*;

/// This test's own program, without its large sections: a real dynamic ELF file.
fn own_program() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| std::fs::read(std::env::current_exe().unwrap()).unwrap())
}

/// A 32-bit ARM file: header, and a build attributes section with `Tag_ABI_VFP_args` = `vfp_args`.
fn arm_file(flags: u32, vfp_args: u8) -> Vec<u8> {
    let attributes = {
        // Tag_CPU_name "7-A", Tag_CPU_arch 10, Tag_compatibility 0 "", Tag_ABI_VFP_args.
        let tags = [&b"\x05\x37-A\0"[..], b"\x06\x0a", b"\x20\x00\0", &[28, vfp_args]].concat();
        let file = [&[1][..], &(5 + tags.len() as u32).to_le_bytes(), &tags].concat();
        [
            b"A",
            &(4 + 6 + file.len() as u32).to_le_bytes()[..],
            b"aeabi\0",
            &file,
        ]
        .concat()
    };
    let names = b"\0.ARM.attributes\0.shstrtab\0";
    let attributes_at = 52;
    let names_at = attributes_at + attributes.len();
    let sections_at = (names_at + names.len()).next_multiple_of(4);
    let section = |name: u32, kind: u32, at: usize, length: usize| {
        [name, kind, 0, 0, at as u32, length as u32, 0, 0, 1, 0]
            .map(u32::to_le_bytes)
            .concat()
    };
    let mut bytes = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend([3u16, 40].map(u16::to_le_bytes).concat());
    bytes.extend(
        [1u32, 0, 0, sections_at as u32, flags]
            .map(u32::to_le_bytes)
            .concat(),
    );
    bytes.extend([52u16, 32, 0, 40, 3, 2].map(u16::to_le_bytes).concat());
    bytes.extend(&attributes);
    bytes.extend(names);
    bytes.resize(sections_at, 0);
    bytes.extend(section(0, 0, 0, 0));
    bytes.extend(section(1, 0x7000_0003, attributes_at, attributes.len()));
    bytes.extend(section(17, 3, names_at, names.len()));
    bytes
}

#[test]
fn the_float_abi_of_arm_files() {
    let check = |flags: u32, vfp_args: u8, expected: Option<FloatAbi>| {
        let facts = inspect(&arm_file(flags, vfp_args)).unwrap();
        assert_eq!((facts.machine, facts.word_bits), (Machine::Arm, 32));
        assert_eq!(facts.float_abi, expected, "{flags:x} {vfp_args}");
    };
    check(0x0500_0400, 9, Some(FloatAbi::Hard));
    check(0x0500_0200, 9, Some(FloatAbi::Soft));
    check(0x0500_0000, 1, Some(FloatAbi::Hard));
    check(0x0500_0000, 0, Some(FloatAbi::Soft));
    check(0x0500_0000, 3, None);
}

#[test]
fn this_test_is_a_dynamic_program() {
    let facts = inspect(own_program()).unwrap();
    assert!(facts.interpreter.is_some_and(|path| path.starts_with("/lib")));
    assert!(
        facts.needed.contains(&"libc.so.6".to_owned()),
        "{:?}",
        facts.needed
    );
    assert!(!facts.highest_glibc.unwrap().symbols.is_empty());
    assert!(!facts.is_static);
}

#[test]
fn what_is_no_elf_file_says_so() {
    let check = |bytes: &[u8], expected: &str| {
        let message = inspect(bytes).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    check(b"", "nothing, it is empty");
    check(b"#!/bin/sh", "it begins with 23 21 2f 62");
    check(b"\x7fELF", "neither 32 nor 64");
    check(b"\x7fELF\x09", "neither 32 nor 64");
    check(&own_program()[..40], "broken ELF file");
    check(&own_program()[..4096], "broken ELF file");
}

#[test]
fn bytes_at_odd_addresses_are_read() {
    let shifted = [b"x", own_program()].concat();
    assert_eq!(inspect(&shifted[1..]), inspect(own_program()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes(class in 1u8..3, data in 1u8..3, rest in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = inspect(&rest);
        let _ = inspect(&[&[0x7f, b'E', b'L', b'F', class, data, 1], &rest[..]].concat());
    }

    #[test]
    fn flipped_arm_files(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = arm_file(0, 1);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = inspect(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn flipped_programs(place in any::<prop::sample::Index>(), value in any::<u8>(), region in 0usize..4) {
        let mut bytes = own_program().to_vec();
        // Headers in front, section headers at the end, and the tables that the linker puts near the front.
        let length = bytes.len();
        let (from, to) = [(0, 64), (64, 1024), (1024, 16384), (length - 4096, length)][region];
        bytes[from + place.index(to - from)] = value;
        let _ = inspect(&bytes);
    }
}
