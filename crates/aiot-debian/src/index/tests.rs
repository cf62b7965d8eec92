use std::path::PathBuf;

use super::*;
use crate::test_support::xz;
use proptest::prelude::*;

const PACKAGES: &str = "Package: liba\nVersion: 1\nArchitecture: armhf\nProvides: virtual (= 3), other\n\
    Filename: pool/main/a/liba_1_armhf.deb\nSize: 10\n\
    SHA256: 00000000000000000000000000000000000000000000000000000000000000aa\n\n\
    Package: liba\nVersion: 2\nArchitecture: all\nDepends: libb (>= 1)\nPre-Depends: libc\n\n\
    Package: liba\nVersion: 9\nArchitecture: arm64\n\n\
    Package: liba-dev\nVersion: 1\nArchitecture: armhf\nProvides: broken (\n\n\
    Package: nameless version\n";

fn index() -> Index {
    Index::new(PACKAGES.to_string(), Architecture::Armhf)
}

#[test]
fn finds_packages_of_its_architecture_latest_first() {
    let index = index();
    let versions: Vec<_> = index
        .packages("liba")
        .iter()
        .map(|record| record.version())
        .collect();
    assert_eq!(versions, ["2", "1"]);
    assert_eq!(index.packages("lib").len(), 0);
    assert_eq!(index.len(), 2);
    assert_eq!(index.providers("virtual")[0].version(), "1");
    assert_eq!(index.providers("broken").len(), 0);
    assert_eq!(index.similar_names("liba3.4"), ["liba", "liba-dev"]);
}

#[test]
fn reads_what_the_lock_and_the_closure_need() {
    let index = index();
    let [second, first] = index.packages("liba")[..] else {
        panic!("two versions")
    };
    let shown: Vec<_> = second
        .dependencies()
        .unwrap()
        .iter()
        .flatten()
        .map(|relation| relation.to_string())
        .collect();
    assert_eq!(shown, ["libc", "libb (>= 1)"]);
    let locked = first.locked().unwrap();
    assert_eq!(
        (locked.filename.as_str(), locked.size_bytes),
        ("pool/main/a/liba_1_armhf.deb", 10)
    );
    let error = second.locked().unwrap_err().to_string();
    assert!(error.contains("package `liba`: `filename` is ``"), "{error}");
}

/// A mirror in memory; each file as `(path, bytes)`.
struct Files(Vec<(String, Vec<u8>)>);

impl Fetch for Files {
    fn fetch(&self, url: &str, limit_bytes: u64) -> Result<Vec<u8>, FetchError> {
        let path = url
            .strip_prefix("http://m.example/debian/dists/trixie/")
            .ok_or(FetchError::NotFound)?;
        let file = self
            .0
            .iter()
            .find(|(name, _)| name == path)
            .ok_or(FetchError::NotFound)?;
        assert!(file.1.len() as u64 <= limit_bytes);
        Ok(file.1.clone())
    }
}

/// Fetches from a mirror whose release file is `release`, `HASH` and `SIZE` filled in; shows the outcome.
fn fetched(release: &str, by_hash: bool, packages: &[u8]) -> String {
    let genuine = xz(PACKAGES.as_bytes());
    let hash = Digest::of(&genuine).hex();
    let release = release
        .replace("HASH", &hash)
        .replace("SIZE", &genuine.len().to_string());
    let signed = format!("-----BEGIN PGP SIGNED MESSAGE-----\n\n{release}\n-----BEGIN PGP SIGNATURE-----\n");
    let path = match by_hash {
        true => format!("main/binary-armhf/by-hash/SHA256/{hash}"),
        false => "main/binary-armhf/Packages.xz".to_string(),
    };
    let files = Files(vec![
        ("InRelease".to_string(), signed.into_bytes()),
        (path, packages.to_vec()),
    ]);
    let verifier = Verifier {
        gpgv: PathBuf::from("gpgv"),
        keyring: PathBuf::from("/nonexistent"),
    };
    match fetch_index(
        &files,
        "http://m.example/debian/",
        "trixie",
        Architecture::Armhf,
        &verifier,
    ) {
        Ok((index, Signature::Unverified { .. })) => format!("{} packages", index.len()),
        Ok((_, signature)) => signature.to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn fetches_by_hash_or_name_and_checks() {
    let release = "Codename: trixie\nArchitectures: armhf\nSHA256:\n HASH SIZE main/binary-armhf/Packages.xz";
    let genuine = xz(PACKAGES.as_bytes());
    assert_eq!(fetched(release, true, &genuine), "2 packages");
    assert_eq!(fetched(release, false, &genuine), "2 packages");
    assert_eq!(
        fetched(&release.replace("Codename", "Suite"), true, &genuine),
        "2 packages"
    );
    for (release, packages, expected) in [
        (release.to_string(), genuine[1..].to_vec(), "bytes came, expected"),
        (release.to_string(), vec![0; genuine.len()], "SHA-256 is"),
        (
            release.replace("trixie", "bookworm"),
            genuine.clone(),
            "the release file of `bookworm`, not of `trixie`",
        ),
        (
            release.replace("binary-armhf", "binary-arm64"),
            genuine.clone(),
            "(its architectures: armhf)",
        ),
        (
            release.replace("SIZE", "many"),
            genuine.clone(),
            "the size of main/binary-armhf/Packages.xz is `many`",
        ),
        (
            release.replace("SIZE", "99999999999"),
            genuine.clone(),
            "too many for an index",
        ),
        (release.replace("HASH", "../x"), genuine.clone(), "is `../x`"),
        ("Codename: trixie".to_string(), genuine.clone(), "no SHA256 list"),
    ] {
        let shown = fetched(&release, true, &packages);
        assert!(shown.contains(expected), "{shown}");
    }
}

#[test]
fn a_suite_is_a_name() {
    for suite in ["../x", "", "a/b", "a?b"] {
        let result = fetch_index(
            &Files(vec![]),
            "http://m.example/debian",
            suite,
            Architecture::Armhf,
            &Verifier::default(),
        );
        assert!(matches!(result, Err(IndexError::Suite(_))), "{suite}");
    }
}

proptest! {
    #[test]
    fn any_text_is_an_index(text in "(Package|Version|Provides|:| |\n|[a-z(=)]|é)*") {
        let index = Index::new(text, Architecture::Armhf);
        for record in index.packages("a") {
            let _ = (record.dependencies().is_ok(), record.locked().is_ok());
        }
    }
}
