use super::*;
use proptest::prelude::*;

/// Packages `name@version`, with `!` for a macro and `~` for one of the workspace, and their dependencies:
/// `name`, `name?` for a build script's, `name*` for a test's.
fn metadata(packages: &[(&str, &[&str])]) -> String {
    let bare = |text: &str| text.split('@').next().unwrap().to_owned();
    let mut listed = Vec::new();
    let mut nodes = Vec::new();
    for (package, dependencies) in packages {
        let (name, rest) = package.split_once('@').unwrap();
        let version = rest.trim_end_matches(['!', '~']);
        let kind = if rest.contains('!') { "proc-macro" } else { "lib" };
        let source = (!rest.contains('~')).then_some("registry+https://example/crates.io-index");
        listed.push(serde_json::json!({
            "id": name, "name": name, "version": version, "source": source, "targets": [{ "kind": [kind] }],
        }));
        let deps: Vec<_> = dependencies
            .iter()
            .map(|dependency| {
                let kind = match dependency.chars().last() {
                    Some('?') => Some("build"),
                    Some('*') => Some("dev"),
                    _ => None,
                };
                let name = bare(dependency.trim_end_matches(['?', '*']));
                serde_json::json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] })
            })
            .collect();
        nodes.push(serde_json::json!({ "id": name, "deps": deps }));
    }
    serde_json::json!({ "packages": listed, "resolve": { "nodes": nodes } }).to_string()
}

#[track_caller]
fn check(packages: &[(&str, &[&str])], expected: &[&str]) {
    let list = CrateList::of_metadata(&metadata(packages), "app").unwrap();
    let found: Vec<String> = list
        .packages
        .iter()
        .map(|package| {
            let root = if package.root { " root" } else { "" };
            let CompiledCrate {
                name, source, kind, ..
            } = package;
            format!("{name} {source} {kind:?} {:?}{root}", package.dependencies)
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn crates_are_those_that_the_module_reaches() {
    check(
        &[
            ("app@1.0.0~", &["log", "derive", "cc?", "tempfile*"]),
            ("cc@1.0.0", &["shlex", "log"]),
            ("derive@1.0.0!", &["syn"]),
            ("log@0.4.0", &[]),
            ("shlex@1.0.0", &[]),
            ("syn@2.0.0", &[]),
            ("tempfile@3.0.0", &[]),
            ("unrelated@1.0.0", &["log"]),
        ],
        &[
            "app local Runtime [1, 2, 3] root",
            "cc crates.io Build [3, 4]",
            "derive crates.io Build [5]",
            "log crates.io Runtime []",
            "shlex crates.io Build []",
            "syn crates.io Build []",
        ],
    );
    // What runs and builds, runs; tests that use their own crate are no circle.
    check(
        &[
            ("app@1.0.0~", &["b?", "a", "app*"]),
            ("a@1.0.0", &["b"]),
            ("b@1.0.0", &["c"]),
            ("c@1.0.0", &[]),
        ],
        &[
            "a crates.io Runtime [2]",
            "app local Runtime [0, 2] root",
            "b crates.io Runtime [3]",
            "c crates.io Runtime []",
        ],
    );
}

#[test]
fn metadata_that_is_none_is_refused() {
    let check = |json: &str, expected: &str| {
        let error = CrateList::of_metadata(json, "app").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("", "cargo metadata: EOF");
    check("{\"packages\":[]}", "no package `app`");
    check(&metadata(&[("app@1.0.0~", &["gone"])]), "`gone`, is not among");
}

/// This test's own program: with section headers, as every program of a linker.
fn program() -> Vec<u8> {
    std::fs::read(std::env::current_exe().unwrap()).unwrap()
}

fn list() -> CrateList {
    CrateList::of_metadata(&metadata(&[("app@1.0.0~", &["a"]), ("a@1.2.3", &[])]), "app").unwrap()
}

#[test]
fn a_program_carries_its_list_and_is_else_the_same() {
    let program = program();
    let with = list().embed(&program).unwrap();
    assert_eq!(with, list().embed(&program).unwrap());
    assert_eq!(CrateList::read(&with).unwrap(), list());
    assert!(matches!(CrateList::read(&program), Err(CratesError::Missing)));
    assert_eq!(
        crate::elf::inspect(&with).unwrap(),
        crate::elf::inspect(&program).unwrap()
    );
    // All that the loader reads is where it was: only the header's pointer to the sections and their number differ.
    let changed: Vec<usize> = (0..program.len()).filter(|&at| program[at] != with[at]).collect();
    assert!(changed.iter().all(|at| (0x28..0x3e).contains(at)), "{changed:?}");
    // And it still runs.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program");
    std::fs::write(&path, &with).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = std::process::Command::new(&path).arg("--list").output().unwrap();
    assert!(output.status.success());
    // Twice is a mistake of ours: readers would take the first.
    let error = list().embed(&with).unwrap_err().to_string();
    assert!(error.contains("a section .dep-v0 already"), "{error}");
    assert!(list().embed(b"\x7fELF").is_err() && list().embed(b"").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_never_panics(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), tail in any::<bool>()) {
        let mut with = list().embed(&small()).unwrap();
        let length = with.len();
        for (place, byte) in flips {
            // Most of the damage in what we wrote and in the header.
            let at = if tail { length - 1 - place.index(length.min(400)) } else { place.index(64) };
            with[at] = byte;
        }
        let _ = CrateList::read(&with);
        let _ = list().embed(&with);
    }
}

/// A small 32-bit file of the other byte order: a header, names, two section headers.
fn small() -> Vec<u8> {
    let mut file = vec![0; 52];
    file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1, 2, 1]);
    file[0x13] = 40;
    file[0x17] = 1;
    file[0x29] = 52;
    file[0x23] = 64;
    file[0x2f] = 40;
    file[0x31] = 2;
    file[0x33] = 1;
    file.extend(b"\0.shstrtab\0\0");
    file.extend([0; 40]);
    let mut names = [0; 40];
    (names[3], names[7]) = (1, 3);
    (names[19], names[23]) = (52, 11);
    file.extend(names);
    file
}

#[test]
fn files_of_other_words_and_byte_orders_carry_it_too() {
    let with = list().embed(&small()).unwrap();
    assert_eq!(CrateList::read(&with).unwrap(), list());
    let file = object::File::parse(with.as_slice()).unwrap();
    let names: Vec<&str> = file.sections().map(|section| section.name().unwrap()).collect();
    assert_eq!(names, [".shstrtab", ".dep-v0"]);
}

#[test]
fn lists_that_are_damaged_or_endless_are_refused() {
    let with = |json: &[u8]| {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(json).unwrap();
        let packed = encoder.finish().unwrap();
        section::append(&small(), SECTION, &packed).unwrap()
    };
    let check = |program: Vec<u8>, expected: &str| {
        let error = CrateList::read(&program).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(with(&vec![b' '; 9 << 20]), "longer than 8388608 bytes");
    check(with(b"{"), "EOF");
    let outside = br#"{"packages":[{"name":"a","version":"1","source":"local","dependencies":[1]}]}"#;
    check(with(outside), "package 1 of 1");
    check(
        section::append(&small(), SECTION, b"no zlib").unwrap(),
        "cannot be read",
    );
}
