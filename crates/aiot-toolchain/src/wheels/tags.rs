//! The tags in a wheel's file name: for which Python, ABI and platform it is.
//!
//! Source: the packaging specification "Platform compatibility tags".

/// The tags of one wheel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WheelTags {
    /// `cp312`, or `py3` (several when joined by dots).
    pub python: Vec<String>,
    /// `cp312`, `abi3` or `none`.
    pub abi: Vec<String>,
    /// `manylinux_2_28_aarch64`, …
    pub platforms: Vec<String>,
}

impl WheelTags {
    /// Reads `name-version[-build]-python-abi-platform.whl`; `None` for anything else.
    pub fn parse(filename: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+!".contains(&byte);
        let stem = filename
            .strip_suffix(".whl")
            .filter(|stem| stem.bytes().all(is_plain))?;
        let parts: Vec<&str> = stem.split('-').collect();
        if !(5..=6).contains(&parts.len()) || parts.iter().any(|part| part.is_empty()) {
            return None;
        }
        let tags = |part: &str| part.split('.').map(str::to_owned).collect::<Vec<_>>();
        let [python, abi, platforms] =
            [parts.len() - 3, parts.len() - 2, parts.len() - 1].map(|it| tags(parts[it]));
        Some(WheelTags {
            python,
            abi,
            platforms,
        })
    }

    /// Whether a machine of this kind (in Rust's words, `linux`, `aarch64`) can run the wheel's programs.
    pub fn fits(&self, os: &str, arch: &str) -> bool {
        self.platforms.iter().any(|platform| {
            let is_os = match os {
                "linux" => ["manylinux", "musllinux", "linux"]
                    .iter()
                    .any(|it| platform.starts_with(it)),
                "macos" => platform.starts_with("macosx"),
                "windows" => platform.starts_with("win"),
                _ => false,
            };
            let arch_tags: &[&str] = match (os, arch) {
                ("macos", "aarch64") => &["_arm64", "_universal2"],
                ("macos", "x86_64") => &["_x86_64", "_universal2"],
                ("windows", "x86_64") => &["_amd64"],
                ("windows", "aarch64") => &["_arm64"],
                (_, "x86") => &["_i686", "_i386"],
                (_, "arm") => &["_armv7l", "_armv6l"],
                (_, "x86_64") => &["_x86_64"],
                (_, "aarch64") => &["_aarch64"],
                (_, "riscv64") => &["_riscv64"],
                _ => &[],
            };
            platform == "any" || is_os && arch_tags.iter().any(|tag| platform.ends_with(tag))
        })
    }

    /// The flags that make pip choose a wheel with these tags on any machine.
    pub(super) fn pip_flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        for platform in self.platforms.iter().filter(|platform| *platform != "any") {
            flags.extend(["--platform".to_owned(), platform.clone()]);
        }
        let cpython = self.python.iter().find_map(|tag| tag.strip_prefix("cp"));
        if let Some((major, minor)) = cpython.and_then(|digits| digits.split_at_checked(1)) {
            if !minor.is_empty() {
                flags.extend(["--python-version".to_owned(), format!("{major}.{minor}")]);
            }
            flags.extend(["--implementation".to_owned(), "cp".to_owned()]);
            flags.extend(self.abi.iter().flat_map(|abi| ["--abi".to_owned(), abi.clone()]));
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZIG: &str =
        "ziglang-0.17.1-py3-none-manylinux_2_12_x86_64.manylinux2010_x86_64.musllinux_1_1_x86_64.whl";
    const ENGINE: &str = "onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_aarch64.whl";

    #[test]
    fn file_names_tell_the_machine() {
        let check = |filename: &str, os: &str, arch: &str, expected: bool| {
            assert_eq!(
                WheelTags::parse(filename).unwrap().fits(os, arch),
                expected,
                "{filename} {os} {arch}"
            );
        };
        check(ZIG, "linux", "x86_64", true);
        check(ZIG, "linux", "aarch64", false);
        check(ZIG, "macos", "x86_64", false);
        check(ENGINE, "linux", "aarch64", true);
        check(
            "ziglang-0.17.1-py3-none-macosx_12_0_arm64.whl",
            "macos",
            "aarch64",
            true,
        );
        check("ziglang-0.17.1-py3-none-win_amd64.whl", "windows", "x86_64", true);
        check("a-1-2-py3-none-any.whl", "linux", "riscv64", true);
    }

    #[test]
    fn names_that_are_no_wheels() {
        for filename in [
            "",
            "a.whl",
            "a-1-py3-none-any.tar.gz",
            "a-1-py3--any.whl",
            "../a-1-py3-none-any.whl",
        ] {
            assert_eq!(WheelTags::parse(filename), None, "{filename}");
        }
    }

    #[test]
    fn flags_ask_for_the_same_wheel() {
        let check = |filename: &str, expected: &str| {
            assert_eq!(
                WheelTags::parse(filename).unwrap().pip_flags().join(" "),
                expected
            );
        };
        check(
            ENGINE,
            "--platform manylinux_2_28_aarch64 --python-version 3.12 --implementation cp --abi cp312",
        );
        check("a-1-py3-none-any.whl", "");
        check(
            "a-1-cp3-abi3-win_amd64.whl",
            "--platform win_amd64 --implementation cp --abi abi3",
        );
    }
}
