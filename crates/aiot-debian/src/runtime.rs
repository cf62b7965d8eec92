//! The files that a program needs at run time, out of whole packages.
//!
//! Packages bring ten times what the dynamic loader asks for (locales, character sets, tools). Walking `DT_NEEDED`
//! keeps the rest: 8 files instead of 16 to 27 MB for the C and C++ runtime. What is kept stays accountable: each
//! package that gives a file also gives its control stanza (`var/lib/dpkg/status.d`, where vulnerability scanners
//! look, as distroless images have it) and its copyright file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use aiot_plan::architecture::Architecture;

use crate::elf::{ElfError, read_elf};
use crate::tree::{FileTree, FoundFile};

/// One path to bake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeFile {
    /// Path without a leading slash.
    pub path: String,
    /// What it is.
    pub kind: RuntimeFileKind,
    /// `0o644` or `0o755` for files, `0o777` for links.
    pub mode: u32,
    /// The package that it comes from; none for the links of the merged-/usr layout.
    pub package: Option<String>,
}

/// What a path to bake is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeFileKind {
    /// A file with its content.
    File(Arc<[u8]>),
    /// A symbolic link with its target.
    Symlink(String),
}

/// Why the files cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Libraries that no package brings.
    #[error("no package of the base brings {}; add the packages that do", join(missing))]
    Missing {
        /// Library → who needs it, sorted.
        missing: BTreeMap<String, BTreeSet<String>>,
    },
    /// A library that cannot be read.
    #[error("{path} of package {package}: {source}")]
    Elf {
        /// The library.
        path: String,
        /// Its package.
        package: String,
        /// Why.
        source: ElfError,
    },
    /// A library for another machine.
    #[error("{path} of package {package} is not for {expected}")]
    Machine {
        /// The library.
        path: String,
        /// Its package.
        package: String,
        /// The architecture asked for.
        expected: Architecture,
    },
    /// A name that is no file name.
    #[error("{needed_by} asks for the library {name:?}, which is no plain file name")]
    Name {
        /// As asked for.
        name: String,
        /// Who asks.
        needed_by: String,
    },
}

fn join(missing: &BTreeMap<String, BTreeSet<String>>) -> String {
    let one = |(name, needed_by): (&String, &BTreeSet<String>)| {
        let needed_by: Vec<_> = needed_by.iter().map(String::as_str).collect();
        format!("{name} (needed by {})", needed_by.join(", "))
    };
    missing.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The files to bake so that the loader finds `roots` and all that they need, sorted by path, folders left out.
///
/// `roots`: library file names, such as `libonnxruntime.so.1.21` or what [`read_elf`] says that the module needs;
/// the loader itself is always in. Each library is a plain file under the name that it is asked for in
/// `usr/lib/<multiarch>`, where Debian's loader looks without a cache. Further: the loader's path as the ABI wants
/// it, `lib -> usr/lib` and (amd64) `lib64 -> usr/lib64`, control stanzas and copyright files.
///
/// Libraries that are opened by name at run time (`dlopen`) are not seen: name them as roots. Those that a maintainer
/// script links into place (BLAS and others under `update-alternatives`) count as missing.
///
/// # Errors
/// [`RuntimeError`]; all missing libraries come at once, each with who needs it.
pub fn runtime_files(
    tree: &FileTree,
    architecture: Architecture,
    roots: &[String],
) -> Result<Vec<RuntimeFile>, RuntimeError> {
    let library_dir = format!("usr/lib/{}", architecture.multiarch());
    let mut files: BTreeMap<String, RuntimeFile> = BTreeMap::new();
    let mut missing: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut queue: VecDeque<(String, String)> = VecDeque::new();
    queue.push_back((architecture.loader().to_string(), "every program".to_string()));
    queue.extend(roots.iter().map(|root| (root.clone(), "the image".to_string())));
    while let Some((name, needed_by)) = queue.pop_front() {
        if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
            return Err(RuntimeError::Name { name, needed_by });
        }
        let path = format!("{library_dir}/{name}");
        if files.contains_key(&path) {
            continue;
        }
        let Some(found) = [&library_dir, "usr/lib"]
            .iter()
            .find_map(|dir| tree.find(&format!("{dir}/{name}")))
        else {
            missing.entry(name).or_default().insert(needed_by);
            continue;
        };
        let package = found.package.to_string();
        let library = read_elf(found.content).map_err(|source| RuntimeError::Elf {
            path: path.clone(),
            package: package.clone(),
            source,
        })?;
        if library.architecture != Some(architecture) {
            return Err(RuntimeError::Machine {
                path,
                package,
                expected: architecture,
            });
        }
        queue.extend(library.needed.into_iter().map(|needed| (needed, name.clone())));
        let mode = if name == architecture.loader() {
            0o755
        } else {
            0o644
        };
        insert_file(&mut files, path, &found, found.package, mode);
    }
    if !missing.is_empty() {
        return Err(RuntimeError::Missing { missing });
    }
    let packages: BTreeSet<String> = files.values().filter_map(|file| file.package.clone()).collect();
    for package in packages {
        let status = format!("{}\n", tree.control(&package).unwrap_or_default());
        let path = format!("var/lib/dpkg/status.d/{package}");
        let kind = RuntimeFileKind::File(status.into_bytes().into());
        files.insert(
            path.clone(),
            RuntimeFile {
                path,
                kind,
                mode: 0o644,
                package: Some(package.clone()),
            },
        );
        let path = format!("usr/share/doc/{package}/copyright");
        if let Some(found) = tree.find(&path) {
            insert_file(&mut files, path, &found, &package, 0o644);
        }
    }
    insert_loader_links(&mut files, architecture);
    Ok(files.into_values().collect())
}

fn insert_file(
    files: &mut BTreeMap<String, RuntimeFile>,
    path: String,
    found: &FoundFile<'_>,
    package: &str,
    mode: u32,
) {
    let kind = RuntimeFileKind::File(found.content.clone());
    files.insert(
        path.clone(),
        RuntimeFile {
            path,
            kind,
            mode,
            package: Some(package.to_string()),
        },
    );
}

/// `/lib/ld-linux-armhf.so.3` and its like, through the links that base-files has in a whole system.
fn insert_loader_links(files: &mut BTreeMap<String, RuntimeFile>, architecture: Architecture) {
    let (loader, multiarch) = (architecture.loader(), architecture.multiarch());
    let mut links = vec![("lib".to_string(), "usr/lib".to_string(), None)];
    let owner = files
        .get(&format!("usr/lib/{multiarch}/{loader}"))
        .and_then(|file| file.package.clone());
    if architecture.loader_dir() == "lib64" {
        links.push(("lib64".to_string(), "usr/lib64".to_string(), None));
        links.push((
            format!("usr/lib64/{loader}"),
            format!("../lib/{multiarch}/{loader}"),
            owner,
        ));
    } else {
        links.push((
            format!("usr/lib/{loader}"),
            format!("{multiarch}/{loader}"),
            owner,
        ));
    }
    for (path, target, package) in links {
        let kind = RuntimeFileKind::Symlink(target);
        files.insert(
            path.clone(),
            RuntimeFile {
                path,
                kind,
                mode: 0o777,
                package,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Deb, elf};

    const ARM: u16 = 40;
    const DIR: &str = "usr/lib/arm-linux-gnueabihf";

    /// A C library with its loader.
    fn libc() -> Deb {
        Deb::new("libc6")
            .file_with_mode(&format!("{DIR}/ld-linux-armhf.so.3"), &elf(ARM, &[]), 0o755)
            .link(
                "usr/lib/ld-linux-armhf.so.3",
                "arm-linux-gnueabihf/ld-linux-armhf.so.3",
            )
            .file_with_mode(
                &format!("{DIR}/libc.so.6"),
                &elf(ARM, &["ld-linux-armhf.so.3"]),
                0o4755,
            )
            .file(&format!("{DIR}/gconv/UTF-16.so"), &elf(ARM, &["libc.so.6"]))
            .file("usr/share/doc/libc6/copyright", b"LGPL")
    }

    fn pick(packages: &[Deb], roots: &[&str]) -> Result<Vec<RuntimeFile>, RuntimeError> {
        let mut tree = FileTree::new();
        for package in packages {
            tree.add_package(&package.locked(), &package.build()).unwrap();
        }
        let roots: Vec<_> = roots.iter().map(|root| root.to_string()).collect();
        runtime_files(&tree, Architecture::Armhf, &roots)
    }

    #[test]
    fn keeps_what_the_loader_asks_for() {
        let x = Deb::new("libx1")
            .file(
                &format!("{DIR}/libx.so.1.2.3"),
                &elf(ARM, &["libc.so.6", "liby.so.1"]),
            )
            .link(&format!("{DIR}/libx.so.1"), "libx.so.1.2.3")
            .file(&format!("{DIR}/libx-unused.so.1"), &elf(ARM, &[]))
            .link("usr/share/doc/libx1", "x-base");
        let base = Deb::new("x-base").file("usr/share/doc/x-base/copyright", b"MIT");
        let y = Deb::new("liby1").file("usr/lib/liby.so.1", &elf(ARM, &["libx.so.1"]));
        let files = pick(&[libc(), x, base, y], &["libx.so.1", "libc.so.6"]).unwrap();
        let show = |file: &RuntimeFile| {
            let package = file.package.as_deref().unwrap_or("-");
            match &file.kind {
                RuntimeFileKind::File(_) => format!("{:o} {} {package}", file.mode, file.path),
                RuntimeFileKind::Symlink(target) => {
                    format!("{:o} {} -> {target} {package}", file.mode, file.path)
                }
            }
        };
        let shown: Vec<_> = files.iter().map(show).collect();
        let expected = [
            "777 lib -> usr/lib -",
            "755 usr/lib/arm-linux-gnueabihf/ld-linux-armhf.so.3 libc6",
            "644 usr/lib/arm-linux-gnueabihf/libc.so.6 libc6",
            "644 usr/lib/arm-linux-gnueabihf/libx.so.1 libx1",
            "644 usr/lib/arm-linux-gnueabihf/liby.so.1 liby1",
            "777 usr/lib/ld-linux-armhf.so.3 -> arm-linux-gnueabihf/ld-linux-armhf.so.3 libc6",
            "644 usr/share/doc/libc6/copyright libc6",
            "644 usr/share/doc/libx1/copyright libx1",
            "644 var/lib/dpkg/status.d/libc6 libc6",
            "644 var/lib/dpkg/status.d/libx1 libx1",
            "644 var/lib/dpkg/status.d/liby1 liby1",
        ];
        assert_eq!(shown, expected);
        let status = files
            .iter()
            .find(|file| file.path == "var/lib/dpkg/status.d/libc6")
            .unwrap();
        let text = b"Package: libc6\nVersion: 1\nArchitecture: armhf\n".as_slice();
        assert_eq!(status.kind, RuntimeFileKind::File(text.into()));
    }

    #[test]
    fn errors_name_who_needs_what() {
        let check = |packages: &[Deb], roots: &[&str], expected: &str| {
            assert_eq!(pick(packages, roots).unwrap_err().to_string(), expected);
        };
        let library = |name: &str, content: &[u8]| Deb::new("libx1").file(&format!("{DIR}/{name}"), content);
        check(
            &[
                libc(),
                library("libx.so.1", &elf(ARM, &["liby.so.1", "libz.so.1"])),
            ],
            &["libx.so.1", "libz.so.1"],
            "no package of the base brings liby.so.1 (needed by libx.so.1); libz.so.1 (needed by libx.so.1, the \
             image); add the packages that do",
        );
        check(
            &[],
            &[],
            "no package of the base brings ld-linux-armhf.so.3 (needed by every program); add the packages that do",
        );
        check(
            &[libc(), library("libx.so.1", &elf(183, &[]))],
            &["libx.so.1"],
            "usr/lib/arm-linux-gnueabihf/libx.so.1 of package libx1 is not for armhf",
        );
        check(
            &[libc(), library("libx.so", b"INPUT(libx.so.1)")],
            &["libx.so"],
            "usr/lib/arm-linux-gnueabihf/libx.so of package libx1: not a readable ELF file: Unknown file magic",
        );
        check(
            &[libc(), library("libx.so.1", &elf(ARM, &["../../x"]))],
            &["libx.so.1"],
            "libx.so.1 asks for the library \"../../x\", which is no plain file name",
        );
    }
}
