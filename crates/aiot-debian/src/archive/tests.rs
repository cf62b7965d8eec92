use super::*;
use crate::test_support::{Deb, ar, tar, tar_header};
use proptest::prelude::*;

/// The entries of a package as `mode kind path`, or the error.
fn listing(bytes: &[u8]) -> Vec<String> {
    match read_package(bytes) {
        Err(error) => vec![error.to_string()],
        Ok(package) => {
            let show = |entry: &Entry| match &entry.kind {
                EntryKind::File(content) => {
                    format!("{:o} {} = {}", entry.mode, entry.path, content.len())
                }
                EntryKind::Directory => format!("{:o} {}/", entry.mode, entry.path),
                EntryKind::Symlink(target) => format!("{:o} {} -> {target}", entry.mode, entry.path),
            };
            package.entries.iter().map(show).collect()
        }
    }
}

#[test]
fn reads_every_kind_of_entry_and_compression() {
    let deb = Deb::new("libx")
        .dir("./")
        .dir("./usr/")
        .file("./usr/a", b"abc")
        .link("./usr/b", "a");
    let deb = deb
        .hard_link("./usr/c", "./usr/a")
        .file_with_mode("./usr/d", b"", 0o4755);
    let expected = [
        "755 usr/",
        "644 usr/a = 3",
        "777 usr/b -> a",
        "644 usr/c = 3",
        "4755 usr/d = 0",
    ]
    .map(str::to_string);
    for ending in ["", ".gz", ".xz"] {
        assert_eq!(listing(&deb.build_with(ending)), expected, "{ending}");
    }
    let package = read_package(&deb.build()).unwrap();
    assert_eq!(package.control, "Package: libx\nVersion: 1\nArchitecture: armhf");
}

#[test]
fn long_names_are_read() {
    let long = format!("usr/{}", "n".repeat(300));
    assert_eq!(
        listing(&Deb::new("a").file(&long, b"").build()),
        [format!("644 {long} = 0")]
    );
}

#[test]
fn hostile_entries_are_refused() {
    let long_path = "x/".repeat(3000);
    for (path, kind, target, reason) in [
        ("../etc/passwd", EntryType::Regular, "", "a path with `..`"),
        ("./usr/../../x", EntryType::Regular, "", "a path with `..`"),
        ("/etc/passwd", EntryType::Regular, "", "an absolute path"),
        ("a\nb", EntryType::Regular, "", "a path with control characters"),
        (
            &long_path,
            EntryType::Regular,
            "",
            "a path longer than 4096 bytes",
        ),
        (
            "dev/null",
            EntryType::Char,
            "",
            "a device node, pipe, sparse file or unknown kind",
        ),
        (
            "dev/sda",
            EntryType::Block,
            "",
            "a device node, pipe, sparse file or unknown kind",
        ),
        (
            "pipe",
            EntryType::Fifo,
            "",
            "a device node, pipe, sparse file or unknown kind",
        ),
        (
            "odd",
            EntryType::new(b'Z'),
            "",
            "a device node, pipe, sparse file or unknown kind",
        ),
        ("a", EntryType::Symlink, "", "a link without a target"),
        (
            "a",
            EntryType::Link,
            "absent",
            "a hard link to what is no earlier file of the package",
        ),
        ("a", EntryType::Link, "/etc/passwd", "an absolute path"),
    ] {
        let bytes = Deb::new("a").entry(path, kind, target).build();
        let shown = listing(&bytes).join("\n");
        assert!(
            shown.ends_with(&format!("is refused: {reason}")),
            "{path}: {shown}"
        );
    }
    let twice = Deb::new("a").file("usr/a", b"1").file("./usr/a", b"2").build();
    assert!(listing(&twice)[0].ends_with("the same path twice"));
    let not_utf8 = Deb::new("a").raw_entry(b"usr/\xff").build();
    assert!(listing(&not_utf8)[0].ends_with("a path that is no UTF-8"));
}

#[test]
fn a_size_beyond_the_archive_is_no_allocation() {
    let mut header = tar_header(b"usr/a", EntryType::Regular, "", 0o644, 0);
    header.set_size(u64::MAX / 2);
    header.set_cksum();
    let control = Deb::new("a").control_tar();
    let bytes = ar(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar", &control),
        ("data.tar", header.as_bytes()),
    ]);
    assert_eq!(listing(&bytes).len(), 1);
    assert!(read_package(&bytes).is_err());
}

#[test]
fn bombs_are_cut() {
    let zeros = vec![0; 4 << 20];
    let bomb = tar(&[(
        tar_header(b"a", EntryType::Regular, "", 0o644, zeros.len() as u64),
        &zeros,
    )]);
    let compressed = crate::test_support::xz(&bomb);
    assert!(compressed.len() < bomb.len() / 1000);
    let error = read_tar("data.tar.xz", &compressed, 1 << 20)
        .unwrap_err()
        .to_string();
    assert!(error.contains("more than the 1048576 bytes"), "{error}");
    let error = read_package(&Deb::new("a").big_control().build())
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("control.tar.xz: "), "{error}");
}

#[test]
fn what_is_no_package_is_refused() {
    let control = Deb::new("a").control_tar();
    let empty = tar(&[]);
    for (bytes, reason) in [
        (b"".to_vec(), "not a .deb: no `ar` archive"),
        (b"<html>".to_vec(), "not a .deb: no `ar` archive"),
        (ar(&[]), "not a .deb: it has no members"),
        (
            ar(&[("x", b"")]),
            "not a .deb: the first member is not `debian-binary` with format 2",
        ),
        (
            ar(&[("debian-binary", b"3.0\n")]),
            "not a .deb: the first member is not `debian-binary` with format 2",
        ),
        (
            ar(&[("debian-binary", b"2.0\n")]),
            "not a .deb: it has no member control.tar",
        ),
        (
            ar(&[("debian-binary", b"2.0\n"), ("control.tar", &empty)]),
            "not a .deb: control.tar has no file `control`",
        ),
        (
            ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control)]),
            "not a .deb: it has no member data.tar",
        ),
        (
            ar(&[
                ("debian-binary", b"2.0\n"),
                ("control.tar", &control),
                ("data.tar.zst", b""),
            ]),
            "the member data.tar.zst is compressed in a way that is not read here (.xz, .gz and none are)",
        ),
        (
            ar(&[
                ("debian-binary", b"2.0\n"),
                ("control.tar", &control),
                ("control.tar.gz", b""),
            ]),
            "not a .deb: it has two members control.tar",
        ),
    ] {
        assert_eq!(read_package(&bytes).unwrap_err().to_string(), reason);
    }
    let whole = Deb::new("a").file("usr/a", b"abc").build();
    for length in 0..whole.len() - 1 {
        // The last byte may be padding; without any other one the package is no package.
        assert!(read_package(&whole[..length]).is_err(), "cut at {length}");
    }
}

proptest! {
    #[test]
    fn damage_never_panics(position in 0usize..2000, byte: u8) {
        for ending in ["", ".gz", ".xz"] {
            let mut bytes = Deb::new("a").file("usr/a", b"abc").link("usr/b", "a").build_with(ending);
            let position = position % bytes.len();
            bytes[position] = byte;
            let _ = read_package(&bytes);
        }
    }

    #[test]
    fn any_bytes_after_the_magic_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_package(&[b"!<arch>\n".as_slice(), &bytes].concat());
    }
}
