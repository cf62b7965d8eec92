use super::*;
use crate::image::{ImageSpec, assemble_image, assemble_index};
use crate::layer::{Compression, FileMode, FileSource, LayerBuilder};
use crate::validate::validate_layout;

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store")).unwrap();
        Bench { dir, store }
    }

    fn layout(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    fn image(&self, content: &str) -> Descriptor {
        let mut layer = LayerBuilder::new();
        layer
            .file(
                "model/model.onnx",
                FileSource::Bytes(content.into()),
                FileMode::Plain,
            )
            .unwrap();
        let mut spec = ImageSpec::new("linux/arm".parse().unwrap());
        spec.layers
            .push(layer.build(&self.store, Compression::Gzip).unwrap());
        assemble_image(&self.store, &spec).unwrap()
    }

    fn write(&self, entries: &[(&str, &Descriptor)]) -> Result<LayoutReport, LayoutError> {
        let entries: Vec<_> = entries
            .iter()
            .map(|(name, image)| ((*name).to_owned(), (*image).clone()))
            .collect();
        write_layout(&self.layout(), &self.store, &entries)
    }
}

#[test]
fn a_layout_holds_what_its_entries_reach() {
    let bench = Bench::new();
    let (one, two) = (bench.image("one"), bench.image("two"));
    let index = assemble_index(&bench.store, &[one.clone(), two.clone()], BTreeMap::new()).unwrap();
    let report = bench.write(&[("m:1", &index), ("m:1-arm", &one)]).unwrap();
    assert_eq!(
        (
            report.index_changed,
            report.blobs_added,
            report.blobs_removed,
            report.blobs
        ),
        (true, 7, 0, 7)
    );
    let layout_store = Store::open_read_only(&bench.layout()).unwrap();
    assert_eq!(layout_store.digests().unwrap().len(), 7);
    assert!(report.size_bytes > 0);
    let names: Vec<String> = read_layout(&bench.layout())
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["m:1", "m:1-arm"]);
    assert!(validate_layout(&bench.layout()).unwrap().is_empty());

    let again = bench.write(&[("m:1-arm", &one), ("m:1", &index)]).unwrap();
    assert_eq!(
        (again.index_changed, again.blobs_added, again.blobs_removed),
        (false, 0, 0)
    );

    let fewer = bench.write(&[("m:1", &two)]).unwrap();
    assert_eq!(
        (
            fewer.index_changed,
            fewer.blobs_added,
            fewer.blobs_removed,
            fewer.blobs
        ),
        (true, 0, 4, 3)
    );
    assert!(validate_layout(&bench.layout()).unwrap().is_empty());
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    assert_eq!(
        inode(layout_store.path(&two.digest)),
        inode(bench.store.path(&two.digest)),
        "hard link"
    );
}

#[test]
fn a_blob_made_anew_replaces_the_corrupt_one() {
    let bench = Bench::new();
    let image = bench.image("one");
    bench.write(&[("m", &image)]).unwrap();
    let layer = image::read_manifest(&bench.store, &image.digest).unwrap().layers[0].digest;
    let (path, linked) = (
        bench.store.path(&layer),
        bench.layout().join("blobs/sha256").join(layer.hex()),
    );
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    fs::set_permissions(&path, permissions).unwrap();
    fs::write(&path, &bytes).unwrap();
    assert_eq!(fs::read(&linked).unwrap(), bytes, "both names are one file");
    assert_eq!(bench.store.verify_all().unwrap().len(), 1);
    assert!(matches!(
        bench.write(&[("m", &image)]),
        Err(LayoutError::Store(StoreError::Missing { .. }))
    ));
    assert_eq!(bench.image("one"), image);
    assert_eq!(bench.write(&[("m", &image)]).unwrap().blobs_added, 1);
    assert!(validate_layout(&bench.layout()).unwrap().is_empty());
}

#[test]
fn names_follow_the_specification() {
    let bench = Bench::new();
    let image = bench.image("one");
    for name in ["", "a b", "-a", "a--b", "a/", "ä", &"x".repeat(256)] {
        assert!(
            matches!(bench.write(&[(name, &image)]), Err(LayoutError::RefName(_))),
            "{name}"
        );
    }
    let twice = bench.write(&[("a", &image), ("a", &image)]);
    assert!(matches!(twice, Err(LayoutError::DuplicateRefName(_))));
    assert!(!bench.layout().exists());
    assert!(matches!(
        read_layout(&bench.layout()),
        Err(LayoutError::NotALayout { .. })
    ));
}

#[test]
fn an_index_in_itself_many_times_is_refused() {
    let bench = Bench::new();
    let mut inner = bench.image("one");
    for _ in 0..=MAX_INDEX_DEPTH {
        let platform = inner.platform.take().or("linux/arm".parse().ok());
        inner.platform = platform;
        inner = assemble_index(&bench.store, &[inner], BTreeMap::new()).unwrap();
    }
    assert!(matches!(
        bench.write(&[("a", &inner)]),
        Err(LayoutError::TooDeep(_))
    ));
}
