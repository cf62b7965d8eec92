//! Bakes one image of whole files, one layer each, into a store and a layout, and prints how long each step took.
//! For measuring: `bake STORE LAYOUT FILE…`.

use std::path::Path;
use std::time::Instant;

use aiot_oci::{
    Compression, FileMode, FileSource, ImageSpec, LayerBuilder, Platform, Store, assemble_image, write_layout,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, layout, files @ ..] = arguments.as_slice() else {
        return Err("usage: bake STORE LAYOUT FILE…".into());
    };
    let start = Instant::now();
    let store = Store::create(Path::new(store))?;
    let mut spec = ImageSpec::new(Platform::new("linux", "amd64", None));
    for file in files {
        let mut layer = LayerBuilder::new();
        let name = Path::new(file)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        layer.file(&name, FileSource::Path(file.into()), FileMode::Plain)?;
        spec.layers.push(layer.build(&store, Compression::None)?);
    }
    let image = assemble_image(&store, &spec)?;
    let baked = start.elapsed();
    let report = write_layout(Path::new(layout), &store, &[("image".to_owned(), image.clone())])?;
    println!(
        "{} bake {baked:?} layout {:?} {report:?}",
        image.digest,
        start.elapsed() - baked
    );
    Ok(())
}
