//! The whole way against the mirror that this host's apt is set up with: index, closure, packages, files.
//!
//! Without a mirror, gpgv or emulator the test says `SKIPPED`, and fails where `AIOT_TEST_REQUIRE_TOOLS=1`. A mirror
//! that is between two updates under each of its names for the suite is skipped everywhere: no machine can mend it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use aiot_debian::{
    Fetch, FetchError, FileTree, Index, IndexError, PackageSources, RuntimeFile, RuntimeFileKind, Signature,
    SignatureError, Store, Verifier, choose_mirror, fetch_index, fetch_package, read_apt_sources, read_elf,
    resolve, runtime_files,
};
use aiot_package::Digest;
use aiot_plan::architecture::Architecture;
use aiot_plan::lock::LockedPackage;

struct Web(reqwest::blocking::Client);

impl Web {
    fn new() -> Self {
        // Another test of this process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::blocking::Client::builder().timeout(Duration::from_secs(300));
        Web(builder.build().expect("an HTTP client"))
    }
}

impl Fetch for Web {
    fn fetch(&self, url: &str, limit_bytes: u64) -> Result<Vec<u8>, FetchError> {
        let failed = |reason: String| FetchError::Failed {
            reason,
            retry_may_help: true,
        };
        let response = self
            .0
            .get(url)
            .send()
            .map_err(|error| failed(error.to_string()))?;
        match response.status().as_u16() {
            200 => {}
            404 | 410 => return Err(FetchError::NotFound),
            status => return Err(failed(format!("HTTP {status}"))),
        }
        let mut bytes = Vec::new();
        response
            .take(limit_bytes + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| failed(error.to_string()))?;
        if bytes.len() as u64 > limit_bytes {
            return Err(failed(format!("more than {limit_bytes} bytes")));
        }
        Ok(bytes)
    }
}

/// Keeps nothing: each test fetches for itself.
struct NoStore;

impl Store for NoStore {
    fn get(&self, _: &Digest) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn put(&self, _: &Digest, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Says so loudly, or fails where nothing may be skipped.
fn skip(reason: &str) {
    assert_ne!(
        std::env::var("AIOT_TEST_REQUIRE_TOOLS").as_deref(),
        Ok("1"),
        "{reason}"
    );
    eprintln!("SKIPPED: {reason}");
}

fn mirror() -> Option<String> {
    let environment = std::env::var(aiot_debian::MIRROR_VARIABLE).ok();
    let sources = read_apt_sources(Path::new("/etc/apt")).expect("readable apt configuration");
    match choose_mirror(None, environment.as_deref(), &sources) {
        Ok(mirror) => Some(mirror.url),
        Err(error) => {
            skip(&error.to_string());
            None
        }
    }
}

struct Base {
    closure: Vec<LockedPackage>,
    unpacked_bytes: u64,
    files: Vec<RuntimeFile>,
}

impl Base {
    fn names(&self) -> Vec<&str> {
        self.closure.iter().map(|package| package.name.as_str()).collect()
    }

    fn libraries(&self) -> Vec<&str> {
        let library = |file: &&RuntimeFile| matches!(&file.kind, RuntimeFileKind::File(content) if content.starts_with(b"\x7fELF"));
        self.files
            .iter()
            .filter(library)
            .filter_map(|file| file.path.rsplit('/').next())
            .collect()
    }

    fn library_bytes(&self) -> usize {
        let size = |file: &RuntimeFile| match &file.kind {
            RuntimeFileKind::File(content) if content.starts_with(b"\x7fELF") => content.len(),
            _ => 0,
        };
        self.files.iter().map(size).sum()
    }
}

/// The index of Debian 13, by the first of its names whose files belong together. Two days after a point release a
/// mirror was seen with the new `InRelease` and the old index as `trixie`, and both of them old as `stable`.
fn index(web: &Web, mirror: &str, architecture: Architecture) -> Option<Index> {
    let verifier = Verifier::default();
    for suite in ["trixie", "stable"] {
        match fetch_index(web, mirror, suite, architecture, &verifier) {
            Ok((index, signature)) => {
                if verifier.keyring.exists() {
                    assert!(matches!(signature, Signature::Verified { .. }), "{signature}");
                }
                return Some(index);
            }
            Err(error @ IndexError::Unlisted { .. }) => eprintln!("{suite}: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
    eprintln!("SKIPPED: the mirror has no index of {architecture} that its own InRelease lists");
    None
}

/// Resolves, fetches, unpacks and picks; `None` = skipped.
fn base(architecture: Architecture, packages: &[&str], libraries: &[&str]) -> Option<Base> {
    let mirror = mirror()?;
    let web = Web::new();
    let index = index(&web, &mirror, architecture)?;
    let roots: Vec<_> = packages.iter().map(|name| name.to_string()).collect();
    let closure = resolve(&index, &roots, &BTreeSet::new()).unwrap_or_else(|error| panic!("{error}"));
    let sources = PackageSources {
        store: &NoStore,
        fetch: Some(&web),
        mirror: Some(&mirror),
        snapshot: None,
    };
    let mut tree = FileTree::new();
    for package in &closure {
        let fetched = fetch_package(package, &sources).unwrap_or_else(|error| panic!("{error}"));
        tree.add_package(package, &fetched.bytes)
            .unwrap_or_else(|error| panic!("{error}"));
    }
    let roots: Vec<_> = libraries.iter().map(|name| name.to_string()).collect();
    let files = runtime_files(&tree, architecture, &roots).unwrap_or_else(|error| panic!("{error}"));
    let base = Base {
        closure,
        unpacked_bytes: tree.size_bytes(),
        files,
    };
    eprintln!(
        "{architecture}: {} packages, {} bytes, unpacked {}; {} libraries {}; {} paths\n  {}",
        base.closure.len(),
        base.closure.iter().map(|package| package.size_bytes).sum::<u64>(),
        base.unpacked_bytes,
        base.libraries().len(),
        base.library_bytes(),
        base.files.len(),
        base.names().join(" "),
    );
    Some(base)
}

const RUNTIME_PACKAGES: [&str; 3] = ["libc6", "libstdc++6", "libgcc-s1"];
/// What a module and the wheel's ONNX Runtime ask for.
const RUNTIME_LIBRARIES: [&str; 7] = [
    "libc.so.6",
    "libm.so.6",
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
];

#[track_caller]
fn check_runtime(architecture: Architecture) {
    let Some(base) = base(architecture, &RUNTIME_PACKAGES, &RUNTIME_LIBRARIES) else {
        return;
    };
    assert_eq!(base.names(), ["gcc-14-base", "libc6", "libgcc-s1", "libstdc++6"]);
    let mut expected = RUNTIME_LIBRARIES.to_vec();
    expected.push(architecture.loader());
    expected.sort_unstable();
    let mut libraries = base.libraries();
    libraries.sort_unstable();
    assert_eq!(libraries, expected);
    assert!(
        (4_000_000..7_000_000).contains(&base.library_bytes()),
        "{}",
        base.library_bytes()
    );
    let paths: Vec<_> = base.files.iter().map(|file| file.path.as_str()).collect();
    for package in RUNTIME_PACKAGES {
        assert!(
            paths.contains(&format!("var/lib/dpkg/status.d/{package}").as_str()),
            "{package}: {paths:?}"
        );
        assert!(
            paths.contains(&format!("usr/share/doc/{package}/copyright").as_str()),
            "{package}: {paths:?}"
        );
    }
}

#[test]
fn the_c_and_cpp_runtime_of_amd64_is_eight_files() {
    check_runtime(Architecture::Amd64);
}

#[test]
fn the_c_and_cpp_runtime_of_arm64_is_eight_files() {
    check_runtime(Architecture::Arm64);
}

#[test]
fn onnx_runtime_of_armhf_comes_with_all_that_it_needs() {
    let packages = [RUNTIME_PACKAGES.as_slice(), &["libonnxruntime1.21"]].concat();
    let libraries = [RUNTIME_LIBRARIES.as_slice(), &["libonnxruntime.so.1.21"]].concat();
    let Some(base) = base(Architecture::Armhf, &packages, &libraries) else {
        return;
    };
    assert!((10..=20).contains(&base.closure.len()), "{:?}", base.names());
    // 10 MB of ONNX Runtime, 13 MB beside it.
    assert!(
        (18_000_000..30_000_000).contains(&base.library_bytes()),
        "{}",
        base.library_bytes()
    );
    let found = base.libraries();
    assert!(found.contains(&"libonnxruntime.so.1.21"), "{found:?}");
    // Nothing that is baked asks for what is not.
    for file in &base.files {
        if let RuntimeFileKind::File(content) = &file.kind
            && let Ok(elf) = read_elf(content)
        {
            for needed in elf.needed {
                assert!(found.contains(&needed.as_str()), "{} needs {needed}", file.path);
            }
        }
    }
    check_with_the_loader(&base);
}

/// Asks the baked loader itself, under emulation, which libraries it finds for ONNX Runtime.
fn check_with_the_loader(base: &Base) {
    let root = tempfile::tempdir().unwrap();
    for file in &base.files {
        let path = root.path().join(&file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match &file.kind {
            RuntimeFileKind::File(content) => {
                fs::write(&path, content).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(file.mode)).unwrap();
            }
            RuntimeFileKind::Symlink(target) => symlink(target, &path).unwrap(),
        }
    }
    let architecture = Architecture::Armhf;
    let loader = root
        .path()
        .join(architecture.loader_dir())
        .join(architecture.loader());
    let library = root
        .path()
        .join("usr/lib")
        .join(architecture.multiarch())
        .join("libonnxruntime.so.1.21");
    let command = Command::new("qemu-arm-static")
        .arg("-L")
        .arg(root.path())
        .arg(loader)
        .arg("--list")
        .arg(library)
        .output();
    let output = match command {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return skip("qemu-arm-static is not installed (package qemu-user-static)");
        }
        output => output.unwrap(),
    };
    let listed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && !listed.contains("not found"),
        "{listed}{output:?}"
    );
    // The three stubs for older modules and ONNX Runtime itself are no needs of it.
    assert!(
        listed.matches(" => ").count() + 5 >= base.libraries().len(),
        "{listed}"
    );
}

#[test]
fn a_changed_release_file_is_refused() {
    let Some(mirror) = mirror() else { return };
    let verifier = Verifier::default();
    let signed = Web::new()
        .fetch(&format!("{mirror}/dists/trixie/InRelease"), 4 << 20)
        .unwrap();
    let signed = String::from_utf8(signed).unwrap();
    let (text, signature) = verifier.verify(signed.as_bytes()).unwrap();
    if !matches!(signature, Signature::Verified { .. }) {
        return skip(&signature.to_string());
    }
    assert!(text.starts_with("Origin: Debian\n"), "{}", &text[..200]);
    // Text outside the signature is not what was signed.
    let prefixed = format!("Origin: Evil\n\n{signed}");
    assert!(
        !verifier
            .verify(prefixed.as_bytes())
            .is_ok_and(|(text, _)| text.contains("Evil"))
    );
    let changed = signed.replacen("Codename: trixie", "Codename: trixia", 1);
    assert_ne!(changed, signed);
    for changed in [
        changed.as_str(),
        &signed[..signed.len() / 2],
        "<html>login</html>",
        "",
    ] {
        let error = verifier.verify(changed.as_bytes()).unwrap_err();
        assert!(matches!(error, SignatureError::Refused { .. }), "{error}");
    }
}
