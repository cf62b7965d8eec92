use super::*;
use crate::document::{MediaType, to_bytes};

/// A manifest of layers with these files; ours never hold the whiteouts that others' do.
fn manifest(store: &Store, layers: &[&[(&str, &str)]]) -> ImageManifest {
    let blob = |bytes: &[u8], media_type| {
        let blob = store.put_bytes(bytes).unwrap();
        Descriptor::new(media_type, blob.digest, blob.size)
    };
    let layer = |files: &[(&str, &str)]| {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            archive.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        blob(&archive.into_inner().unwrap(), MediaType::LayerTar)
    };
    ImageManifest {
        schema_version: 2,
        media_type: Some(MediaType::ImageManifest),
        config: blob(&to_bytes(&0), MediaType::ImageConfig),
        layers: layers.iter().map(|files| layer(files)).collect(),
        annotations: BTreeMap::new(),
    }
}

fn check(before: &[&[(&str, &str)]], after: &[&[(&str, &str)]], expected: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).unwrap();
    let files = |layers| image_files(&store, &manifest(&store, layers)).unwrap();
    let found: Vec<String> = changes(&files(before), &files(after))
        .iter()
        .map(|(path, change)| match change {
            Change::Added(_) => format!("+{path}"),
            Change::Removed(_) => format!("-{path}"),
            Change::Changed(..) => format!("~{path}"),
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn differences_are_those_that_a_container_sees() {
    check(&[&[("a", "1")]], &[&[("a", "1")]], &[]);
    check(&[&[("a", "1")]], &[&[("a", "2")]], &["~a"]);
    check(&[&[("a", "1")]], &[&[("b", "1")]], &["-a", "+b"]);
    // Another cut into layers is no difference.
    check(&[&[("a", "1"), ("b", "2")]], &[&[("a", "1")], &[("b", "2")]], &[]);
    // A later layer wins.
    check(&[&[("a", "1")], &[("a", "2")]], &[&[("a", "2")]], &[]);
    // A whiteout hides, an opaque folder hides all below it.
    check(
        &[&[("d/a", "1")], &[("d/.wh.a", "")]],
        &[&[("d/a", "1")]],
        &["+d/a"],
    );
    check(
        &[
            &[("d/a", "1"), ("e", "")],
            &[("d/.wh..wh..opq", ""), ("d/b", "2")],
        ],
        &[&[("d/b", "2"), ("e", "")]],
        &[],
    );
    // A hidden folder takes what is below it along, and nothing that only begins alike.
    check(
        &[&[("d/a", "1"), ("de", "")], &[(".wh.d", "")]],
        &[&[("de", "")]],
        &[],
    );
}

#[test]
fn the_first_differing_bytes_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).unwrap();
    let check = |a: &str, b: &str, expected: Option<std::ops::Range<u64>>| {
        let (a, b) = (manifest(&store, &[&[("f", a)]]), manifest(&store, &[&[("f", b)]]));
        let found = first_difference("f", (&store, &a.layers[0]), (&store, &b.layers[0])).unwrap();
        assert_eq!(found, expected);
    };
    check("same", "same", None);
    check("abcdef", "abXYef", Some(2..4));
    check("abc", "abcdef", Some(3..6));
    check("abX", "abc", Some(2..3));
    check("", "a", Some(0..1));
    let one = manifest(&store, &[&[("f", "")]]);
    let missing = first_difference("g", (&store, &one.layers[0]), (&store, &one.layers[0]));
    assert!(missing.unwrap_err().to_string().contains("it has no g"));
}
