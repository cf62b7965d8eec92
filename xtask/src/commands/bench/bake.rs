//! Bake: files → layers, image and layout, against reading, hashing and writing their bytes once.

use std::fs;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use aiot_build::BuildError;
use aiot_oci::{
    Compression, Descriptor, FileMode, FileSource, ImageSpec, Layer, LayerBuilder, Platform, Store,
    assemble_image, write_layout,
};

use super::floor;
use super::measure::{Aim, Row, timed};

/// What a typical image holds, with sizes in MiB.
const FILES: [(&str, usize); 3] = [("module", 10), ("libonnxruntime.so", 20), ("model.onnx", 100)];

/// Name of the image in the layout.
pub const IMAGE: &str = "image";

/// Writes the three files: bytes that do not shrink, the same in every run.
///
/// # Errors
/// When they cannot be written.
pub fn write_files(dir: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let mut files = Vec::new();
    for (seed, (name, size_mib)) in FILES.into_iter().enumerate() {
        let path = dir.join(name);
        write_noise(&path, size_mib << 20, seed as u64)?;
        files.push(path);
    }
    Ok(files)
}

/// Writes a file of bytes that do not shrink, others for each seed.
///
/// # Errors
/// When it cannot be written.
pub fn write_noise(path: &Path, size_bytes: usize, seed: u64) -> Result<(), BuildError> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ (seed << 8);
    let mut bytes = Vec::with_capacity(size_bytes);
    while bytes.len() < size_bytes {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    fs::write(path, bytes).map_err(BuildError::other)
}

/// A store and a layout with one image.
pub struct Baked {
    /// Its blobs.
    pub store: Store,
    /// Its manifest.
    pub image: Descriptor,
    /// Its layers.
    pub layers: Vec<Layer>,
}

/// Bakes an image of one plain layer per file, into `dir/store` and `dir/layout`. Layers in `known` are taken as they
/// are, as a release takes those whose inputs did not change.
///
/// # Errors
/// When a file cannot be read or written.
pub fn bake(dir: &Path, known: &[Layer], files: &[PathBuf]) -> Result<Baked, BuildError> {
    let store = Store::create(&dir.join("store")).map_err(BuildError::other)?;
    let mut spec = ImageSpec::new(Platform::new("linux", "amd64", None));
    spec.layers = known.to_vec();
    for file in files {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut layer = LayerBuilder::new();
        layer
            .file(&name, FileSource::Path(file.clone()), FileMode::Plain)
            .map_err(BuildError::other)?;
        spec.layers.push(
            layer
                .build(&store, Compression::None)
                .map_err(BuildError::other)?,
        );
    }
    let image = assemble_image(&store, &spec).map_err(BuildError::other)?;
    write_layout(&dir.join("layout"), &store, &[(IMAGE.to_owned(), image.clone())])
        .map_err(BuildError::other)?;
    Ok(Baked {
        store,
        image,
        layers: spec.layers,
    })
}

/// Measures.
pub fn run(runs: usize) -> Result<Vec<Row>, BuildError> {
    eprintln!("bake: 130 MiB in three layers, {runs} pairs");
    let temporary = tempfile::tempdir().map_err(BuildError::other)?;
    let files = write_files(temporary.path())?;
    let (ours, floor_dir) = (temporary.path().join("ours"), temporary.path().join("floor"));
    let fresh = |dir: &Path| {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).map_err(BuildError::other)
    };
    let copy = |files: &[PathBuf]| -> Result<(), BuildError> {
        files.iter().enumerate().try_for_each(|(index, file)| {
            floor::copy_and_hash(file, &floor_dir.join(index.to_string())).map(|_| ())
        })
    };
    let (mut cold, mut changed, mut nothing) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=runs {
        fresh(&ours)?;
        fresh(&floor_dir)?;
        // Who goes first changes, so that neither always finds warm caches.
        let (here, baked, there) = if round % 2 == 0 {
            let (here, baked) = timed(|| bake(&ours, &[], &files))?;
            (here, baked, timed(|| copy(&files))?.0)
        } else {
            let (there, ()) = timed(|| copy(&files))?;
            let (here, baked) = timed(|| bake(&ours, &[], &files))?;
            (here, baked, there)
        };
        let (again, _) = timed(|| bake(&ours, &baked.layers, &[]))?;
        let (rest, model) = (&baked.layers[..2], &files[2..]);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .open(&model[0])
            .map_err(BuildError::other)?;
        file.rewind()
            .and_then(|()| file.write_all(&[round as u8; 32]))
            .map_err(BuildError::other)?;
        drop(file);
        fresh(&floor_dir)?;
        let change = (timed(|| bake(&ours, rest, model))?.0, timed(|| copy(model))?.0);
        // The first round only fills the caches.
        if round > 0 {
            cold.push((here, there));
            changed.push(change);
            nothing.push(again);
        }
    }
    Ok(vec![
        Row::pairs(
            "bake, all new",
            "read, hash, write once",
            &cold,
            Some(Aim::Ratio(1.3)),
        ),
        Row::pairs(
            "bake, model changed",
            "read, hash, write it once",
            &changed,
            Some(Aim::Ratio(1.3)),
        ),
        Row::alone("bake, nothing changed", &nothing, None),
    ])
}
