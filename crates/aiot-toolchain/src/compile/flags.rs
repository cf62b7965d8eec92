//! What makes the bytes independent of this machine's folders: prefix maps for Rust and for C, and the proof.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folders whose names must not reach the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folders {
    pub(super) stage: PathBuf,
    pub(super) cargo_home: PathBuf,
    pub(super) target: PathBuf,
    /// Where rustup unpacks the standard library's sources, if asked to, and the name that they have in a standard
    /// library without sources. With them installed, rustc would write their folder instead.
    pub(super) rust_sources: (PathBuf, String),
    /// Whether cross may show the stage to the compiler under its own name for it.
    pub(super) is_container: bool,
}

/// Where cross mounts a workspace in its containers (its newer versions keep the folder's own name).
const CONTAINER_STAGE: &str = "/project";

impl Folders {
    /// (folder, its name in the program), the longest last: where several fit, compilers take the last.
    fn maps(&self) -> Vec<(String, String)> {
        let folders = [
            (&self.stage, "/src"),
            (&self.cargo_home, "/cargo"),
            (&self.target, "/target"),
            (&self.rust_sources.0, self.rust_sources.1.as_str()),
        ];
        let mut maps = Vec::new();
        for (folder, name) in folders {
            maps.extend(
                spellings(folder)
                    .into_iter()
                    .map(|spelling| (spelling, name.to_owned())),
            );
        }
        if self.is_container {
            maps.push((CONTAINER_STAGE.to_owned(), "/src".to_owned()));
        }
        maps.sort_by(|a, b| (a.0.len(), a).cmp(&(b.0.len(), b)));
        maps.dedup();
        maps
    }
}

/// A folder as it was given and as the system resolves it: tools write either.
fn spellings(folder: &Path) -> Vec<String> {
    let mut spellings = vec![std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())];
    spellings.extend(folder.canonicalize());
    let texts = spellings.iter().filter_map(|path| path.to_str());
    // The root folder, or none, would map everything.
    texts
        .map(|text| text.trim_end_matches('/').to_owned())
        .filter(|text| text.len() > 1)
        .collect()
}

/// Sets the compilers' flags for a target.
pub(super) fn set(command: &mut Command, triple: &str, folders: &Folders) {
    let maps = folders.maps();
    let rust: Vec<String> = maps
        .iter()
        .map(|(from, to)| format!("--remap-path-prefix={from}={to}"))
        .collect();
    command.env("CARGO_ENCODED_RUSTFLAGS", rust.join("\u{1f}"));
    let c: Vec<String> = maps
        .iter()
        .map(|(from, to)| shell_quoted(&format!("-ffile-prefix-map={from}={to}")))
        .collect();
    for name in ["CFLAGS", "CXXFLAGS"] {
        command.env(format!("{name}_{}", variable_name(triple)), c.join(" "));
    }
    // The crate `cc` splits flags at blanks unless told that they are quoted.
    command.env("CC_SHELL_ESCAPED_FLAGS", "1");
}

/// `aarch64_unknown_linux_gnu`, as in names of variables.
pub(super) fn variable_name(triple: &str) -> String {
    triple.replace('-', "_")
}

fn shell_quoted(flag: &str) -> String {
    let is_plain = flag
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_=/.,+@%".contains(&byte));
    if is_plain {
        flag.to_owned()
    } else {
        format!("'{}'", flag.replace('\'', "'\\''"))
    }
}

/// The first text in `bytes` that names one of the folders, up to 200 bytes of it.
pub(super) fn host_path(bytes: &[u8], folders: &[&Path]) -> Option<String> {
    for needle in folders.iter().flat_map(|folder| spellings(folder)) {
        if let Some(at) = find(bytes, needle.as_bytes()) {
            let text = bytes[at..]
                .iter()
                .take(200)
                .take_while(|byte| (0x20..0x7f).contains(*byte));
            return Some(text.map(|&byte| char::from(byte)).collect());
        }
    }
    None
}

/// Position of `needle` as a whole path prefix: `/a/b` is not found in `/a/bc`.
fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(step) = bytes[from..].iter().position(|&byte| byte == first) {
        let at = from + step;
        let rest = &bytes[at..];
        let is_whole =
            |after: Option<&u8>| !after.is_some_and(|it| it.is_ascii_alphanumeric() || b"._-".contains(it));
        if rest.starts_with(needle) && is_whole(rest.get(needle.len())) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders() -> Folders {
        Folders {
            stage: PathBuf::from("/no-such/a b/stage"),
            cargo_home: PathBuf::from("/no-such"),
            target: PathBuf::from("/no-such/a b/stage/target/"),
            rust_sources: (PathBuf::from("/no-such/rust"), "/rustc/5980".to_owned()),
            is_container: false,
        }
    }

    fn variable(command: &Command, name: &str) -> String {
        let value = command
            .get_envs()
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value);
        value.unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn longer_folders_come_later() {
        let mut command = Command::new("true");
        set(&mut command, "aarch64-unknown-linux-gnu", &folders());
        let rust = variable(&command, "CARGO_ENCODED_RUSTFLAGS");
        let rust: Vec<&str> = rust.split('\u{1f}').collect();
        assert_eq!(
            rust,
            [
                "--remap-path-prefix=/no-such=/cargo",
                "--remap-path-prefix=/no-such/rust=/rustc/5980",
                "--remap-path-prefix=/no-such/a b/stage=/src",
                "--remap-path-prefix=/no-such/a b/stage/target=/target",
            ]
        );
        let c = variable(&command, "CFLAGS_aarch64_unknown_linux_gnu");
        assert!(c.starts_with("-ffile-prefix-map=/no-such=/cargo "), "{c}");
        assert!(
            c.ends_with(" '-ffile-prefix-map=/no-such/a b/stage/target=/target'"),
            "{c}"
        );
    }

    #[test]
    fn host_paths_are_found_whole() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(
                host_path(text.as_bytes(), &[Path::new("/no-such/x")]).as_deref(),
                expected,
                "{text:?}"
            );
        };
        check("a\0/no-such/x/src/lib.rs\0b", Some("/no-such/x/src/lib.rs"));
        check("//no-such/x", Some("/no-such/x"));
        check("/no-such/x", Some("/no-such/x"));
        check("/no-such/xy", None);
        check("/no-such/", None);
        check("", None);
        assert_eq!(host_path(b"/", &[Path::new("/")]), None);
    }
}
