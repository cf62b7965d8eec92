//! Engines and bases: wheels, Debian packages, OCI images → libraries and layers.

use std::collections::{BTreeMap, BTreeSet};

use aiot_debian::{FileTree, PackageError, PackageSources, RuntimeFile, RuntimeFileKind};
use aiot_oci::{Digest, DirectoryMode, FileMode, FileSource, LayerBuilder};
use aiot_plan::action::Output;
use aiot_plan::declare::LayerCompression;
use aiot_plan::lock::{LockedPackage, LockedWheel};
use aiot_plan::workspace::Platform;
use aiot_toolchain::wheels;

use super::Task;
use super::earlier;
use super::image::{codec, layer_output};
use crate::error::BuildError;
use crate::events::Event;
use crate::lockfile::mirror;

/// What every program and engine of an image may ask for: C and C++ runtime, and glibc's stubs that older binaries
/// name. The loader itself is always there.
const RUNTIME_LIBRARIES: [&str; 7] = [
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libgcc_s.so.1",
    "libstdc++.so.6",
];

/// Empty folders of an image.
const FOLDERS: [(&str, DirectoryMode); 7] = [
    ("dev", DirectoryMode::Plain),
    ("etc", DirectoryMode::Plain),
    ("model", DirectoryMode::Plain),
    ("proc", DirectoryMode::Plain),
    ("run", DirectoryMode::Plain),
    ("sys", DirectoryMode::Plain),
    ("tmp", DirectoryMode::Sticky),
];

/// Locked packages, unpacked.
enum Unpacked {
    Files(FileTree),
    /// One of them is not to be had: which, who was asked, and all of that with what to do.
    Gone {
        what: String,
        error: String,
    },
}

const PASSWD: &str = "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\n";

impl Task<'_> {
    pub(super) fn fetch_engine(&self, wheel: &LockedWheel) -> Result<BTreeMap<String, Output>, BuildError> {
        let path = self.fetch_wheel(wheel)?;
        let library = wheels::engine_library(&path).map_err(|error| self.fail(error))?;
        Ok(self.one("library", self.put(&library.bytes)?))
    }

    /// The file of a locked wheel, from the folder of downloads or by pip.
    pub(super) fn fetch_wheel(&self, wheel: &LockedWheel) -> Result<std::path::PathBuf, BuildError> {
        let downloads = self.context.paths.downloads();
        if self.context.network.is_none() && !downloads.join(&wheel.filename).is_file() {
            return Err(self.fail(format!("--offline, and {} is not in the store", wheel.filename)));
        }
        wheels::fetch_locked(wheel, &downloads).map_err(|error| self.fail(error))
    }

    pub(super) fn assemble_base(
        &self,
        architecture_word: &str,
        packages: &[LockedPackage],
        engine_library: Option<&str>,
        compression: LayerCompression,
    ) -> Result<BTreeMap<String, Output>, BuildError> {
        let architecture = architecture_word
            .parse()
            .map_err(|error: String| self.fail(error))?;
        let runtime: Vec<String> = RUNTIME_LIBRARIES.map(str::to_owned).to_vec();
        let tree = match self.unpack(packages)? {
            Unpacked::Files(tree) => tree,
            Unpacked::Gone { what, error } => {
                let engine = engine_library.map(|library| vec![library.to_owned()]);
                let wanted = earlier::Wanted {
                    architecture,
                    packages,
                    libraries: std::iter::once(runtime).chain(engine).collect(),
                    compression,
                };
                return self.take_earlier_release(&wanted, &what, &error);
            }
        };
        let files =
            aiot_debian::runtime_files(&tree, architecture, &runtime).map_err(|error| self.fail(error))?;
        let mut layer = LayerBuilder::new();
        for (path, mode) in FOLDERS {
            layer.directory(path, mode).map_err(|error| self.fail(error))?;
        }
        for (path, content) in [("etc/passwd", PASSWD), ("etc/group", GROUP)] {
            let source = FileSource::Bytes(content.as_bytes().to_vec());
            layer
                .file(path, source, FileMode::Plain)
                .map_err(|error| self.fail(error))?;
        }
        self.add_files(&mut layer, &files)?;
        let built = layer
            .build(self.context.store, codec(compression))
            .map_err(|error| self.fail(error))?;
        let mut outputs = self.one("layer", layer_output(&built));
        if let Some(library) = engine_library {
            let mut roots = runtime;
            roots.push(library.to_owned());
            let all =
                aiot_debian::runtime_files(&tree, architecture, &roots).map_err(|error| self.fail(error))?;
            let known: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
            let engine: Vec<RuntimeFile> = all
                .into_iter()
                .filter(|file| !known.contains(file.path.as_str()))
                .collect();
            let mut layer = LayerBuilder::new();
            self.add_files(&mut layer, &engine)?;
            let built = layer
                .build(self.context.store, codec(compression))
                .map_err(|error| self.fail(error))?;
            outputs.insert("engine-layer".to_owned(), layer_output(&built));
        }
        Ok(outputs)
    }

    /// The layers that an earlier release baked of the same packages.
    fn take_earlier_release(
        &self,
        wanted: &earlier::Wanted<'_>,
        what: &str,
        error: &str,
    ) -> Result<BTreeMap<String, Output>, BuildError> {
        let found = self
            .earlier_layers(wanted)
            .map_err(|reasons| self.fail(format!("{error}\nno earlier release has its layer: {reasons}")))?;
        let digests: Vec<String> = found.layers.iter().map(|layer| layer.digest.short()).collect();
        (self.context.events)(Event::Warning(format!(
            "{}: {what}; taken instead, with the same packages and bytes: {} of {}. `cargo xtask update base` moves the \
             lock to what the mirror has now",
            self.id,
            match digests.as_slice() {
                [one] => format!("layer {one}"),
                some => format!("layers {}", some.join(" and ")),
            },
            found.image
        )));
        let names = ["layer", "engine-layer"].map(str::to_owned);
        Ok(names.into_iter().zip(found.layers).collect())
    }

    fn add_files(&self, layer: &mut LayerBuilder, files: &[RuntimeFile]) -> Result<(), BuildError> {
        for file in files {
            match &file.kind {
                RuntimeFileKind::File(bytes) => layer.file(
                    &file.path,
                    FileSource::Bytes(bytes.to_vec()),
                    FileMode::from_unix(file.mode),
                ),
                RuntimeFileKind::Symlink(target) => layer.symlink(&file.path, target),
            }
            .map_err(|error| self.fail(error))?;
        }
        Ok(())
    }

    fn unpack(&self, packages: &[LockedPackage]) -> Result<Unpacked, BuildError> {
        let mut tree = FileTree::new();
        // Asked for only when something must be fetched: a full store needs no mirror.
        let mirror = match self.context.network {
            Some(_) => mirror(self.context.workspace).ok(),
            None => None,
        };
        let snapshot = self
            .context
            .workspace
            .environments
            .values()
            .find_map(|environment| environment.debian_snapshot.as_deref());
        let store = PackageStore(self.context.store);
        let sources = PackageSources {
            store: &store,
            fetch: self
                .context
                .network
                .map(|network| network as &dyn aiot_debian::Fetch),
            mirror: mirror.as_ref().map(|mirror| mirror.url.as_str()),
            snapshot,
        };
        for package in packages {
            let fetched = match aiot_debian::fetch_package(package, &sources) {
                Ok(fetched) => fetched,
                Err(error) => return self.not_fetched(error),
            };
            tree.add_package(package, &fetched.bytes)
                .map_err(|error| self.fail(error))?;
        }
        Ok(Unpacked::Files(tree))
    }

    fn not_fetched(&self, error: PackageError) -> Result<Unpacked, BuildError> {
        let mut text = error.to_string();
        // Without a mirror that is what the user must hear.
        if self.context.network.is_some()
            && let Err(no_mirror) = mirror(self.context.workspace)
        {
            text = format!("{text}\n{no_mirror}");
        }
        let PackageError::Gone { package, attempts } = &error else {
            return Err(self.fail(text));
        };
        let answers: Vec<String> = attempts.iter().map(ToString::to_string).collect();
        Ok(Unpacked::Gone {
            what: format!(
                "{} {} ({}) is not to be had ({})",
                package.name,
                package.version,
                package.architecture,
                answers.join("; ")
            ),
            error: text,
        })
    }

    pub(super) fn fetch_base_image(
        &self,
        reference: &str,
        platform: &Platform,
    ) -> Result<BTreeMap<String, Output>, BuildError> {
        let Some(network) = self.context.network else {
            return Err(self.fail("--offline, and the base image is not in the store"));
        };
        let pulled = crate::registry::pull_base(network, self.context.store, reference, platform)
            .map_err(|error| self.fail(error))?;
        Ok(pulled)
    }
}

/// Packages by digest in the store of blobs.
struct PackageStore<'a>(&'a aiot_oci::Store);

impl aiot_debian::Store for PackageStore<'_> {
    fn get(&self, digest: &Digest) -> std::io::Result<Option<Vec<u8>>> {
        // A missing or damaged blob is fetched again.
        Ok(self.0.read_verified(digest, super::BLOB_LIMIT_BYTES).ok())
    }

    fn put(&self, _digest: &Digest, bytes: &[u8]) -> std::io::Result<()> {
        self.0.put_bytes(bytes).map(|_| ()).map_err(std::io::Error::other)
    }
}
