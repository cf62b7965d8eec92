//! zig and cargo-zigbuild out of their wheels: a linker and C libraries for every target, without root rights.

use std::fs;
use std::path::{Path, PathBuf};

use super::archive::{ArchiveError, extract};

/// Where the unpacked tools lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZigTools {
    /// The program `zig`, beside its `lib` folder.
    pub zig: PathBuf,
    /// The program `cargo-zigbuild`.
    pub cargo_zigbuild: PathBuf,
    /// Where both keep what they compile once per target (C start files, library stubs).
    pub cache_dir: PathBuf,
}

/// Unpacks both wheels into folders of their own below `dest`, unless they are there already, and returns where the
/// programs are. The folders carry the wheels' names, so another version does not mix with this one.
///
/// # Errors
/// [`ArchiveError`], also when a wheel does not hold its program.
pub fn zig_tools(zig_wheel: &Path, zigbuild_wheel: &Path, dest: &Path) -> Result<ZigTools, ArchiveError> {
    let unpacked = |wheel: &Path, wanted: &dyn Fn(&str) -> bool| -> Result<PathBuf, ArchiveError> {
        let folder = dest.join(wheel.file_stem().unwrap_or_default());
        extract(wheel, wanted, &folder)?;
        Ok(folder)
    };
    let zig_folder = unpacked(zig_wheel, &is_needed_for_linux)?;
    let zigbuild_folder = unpacked(zigbuild_wheel, &|name| name.contains(".data/scripts/"))?;

    let missing = |wheel: &Path, wanted: &str| ArchiveError::Missing {
        path: wheel.to_owned(),
        wanted: format!("the program {wanted}"),
    };
    let suffix = std::env::consts::EXE_SUFFIX;
    let zig = zig_folder.join("ziglang").join(format!("zig{suffix}"));
    if !zig.is_file() {
        return Err(missing(zig_wheel, "ziglang/zig"));
    }
    let program = format!("cargo-zigbuild{suffix}");
    let scripts = fs::read_dir(&zigbuild_folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let cargo_zigbuild = scripts
        .map(|entry| entry.path().join("scripts").join(&program))
        .find(|path| path.is_file());
    let Some(cargo_zigbuild) = cargo_zigbuild else {
        return Err(missing(zigbuild_wheel, "scripts/cargo-zigbuild"));
    };
    // Named like the unpacked zig, since objects of one zig version mean nothing to another.
    let cache_dir = dest.join(format!(
        "{}.cache",
        zig_wheel.file_stem().unwrap_or_default().to_string_lossy()
    ));
    Ok(ZigTools {
        zig,
        cargo_zigbuild,
        cache_dir,
    })
}

/// zig brings the headers of many systems; modules run on Linux. Half of the files stay packed.
fn is_needed_for_linux(name: &str) -> bool {
    const OTHER_SYSTEMS: [&str; 8] = [
        "-windows-",
        "darwin",
        "freebsd",
        "netbsd",
        "openbsd",
        "-wasi-",
        "libc/mingw",
        "libc/wasi",
    ];
    let is_library = name.starts_with("ziglang/lib/libc/");
    name.starts_with("ziglang/")
        && !name.starts_with("ziglang/lib/docs/")
        && !(is_library && OTHER_SYSTEMS.iter().any(|system| name.contains(system)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_other_systems_stay_packed() {
        let check = |name: &str, expected: bool| assert_eq!(is_needed_for_linux(name), expected, "{name}");
        check("ziglang/zig", true);
        check("ziglang/lib/std/os/windows.zig", true);
        check("ziglang/lib/libc/include/generic-glibc/stdio.h", true);
        check("ziglang/lib/libc/include/arm-linux-gnueabihf/x.h", true);
        check("ziglang/lib/libc/include/any-windows-any/windows.h", false);
        check("ziglang/lib/libc/mingw/x.c", false);
        check("ziglang/lib/libc/include/generic-freebsd/x.h", false);
        check("ziglang-0.17.1.dist-info/RECORD", false);
    }
}
