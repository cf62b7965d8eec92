use super::*;
use crate::layer::{Compression, FileMode, FileSource, LayerBuilder};

fn new_store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).unwrap();
    (dir, store)
}

fn layer(store: &Store, name: &str) -> Layer {
    let mut layer = LayerBuilder::new();
    layer
        .file(name, FileSource::Bytes(name.into()), FileMode::Plain)
        .unwrap();
    layer.build(store, Compression::None).unwrap()
}

fn text(store: &Store, digest: &Digest) -> String {
    let bytes = store.read_verified(digest, MAX_DOCUMENT_BYTES).unwrap();
    serde_json::to_string_pretty(&serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()).unwrap()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn an_image_is_what_its_spec_says() {
    let (_dir, store) = new_store();
    let layer = layer(&store, "a");
    let mut spec = ImageSpec::new("linux/arm".parse().unwrap());
    spec.layers.push(layer.clone());
    spec.entrypoint = vec!["/usr/bin/vision".into()];
    spec.cmd = vec!["serve".into()];
    spec.env = map(&[("RUST_LOG", "info"), ("A", "=1=")]);
    spec.user = Some("65532:65532".into());
    spec.working_dir = Some("/".into());
    spec.exposed_ports = vec!["9600/tcp".into(), "8080/tcp".into()];
    spec.labels = map(&[("b", "2"), ("a", "1")]);
    spec.annotations = map(&[("org.opencontainers.image.title", "digits")]);
    spec.stop_signal = Some("SIGTERM".into());
    let descriptor = assemble_image(&store, &spec).unwrap();
    assert_eq!(descriptor, assemble_image(&store, &spec).unwrap());
    let manifest = read_manifest(&store, &descriptor.digest).unwrap();
    assert_eq!(manifest.layers, std::slice::from_ref(&layer.descriptor));
    let config = store
        .read_verified(&manifest.config.digest, MAX_DOCUMENT_BYTES)
        .unwrap();
    assert_eq!(
        String::from_utf8(config).unwrap(),
        format!(
            "{{\"architecture\":\"arm\",\"os\":\"linux\",\"variant\":\"v7\",\"config\":{{\
             \"User\":\"65532:65532\",\"ExposedPorts\":{{\"8080/tcp\":{{}},\"9600/tcp\":{{}}}},\
             \"Env\":[\"A==1=\",\"RUST_LOG=info\"],\"Entrypoint\":[\"/usr/bin/vision\"],\"Cmd\":[\"serve\"],\
             \"WorkingDir\":\"/\",\"Labels\":{{\"a\":\"1\",\"b\":\"2\"}},\"StopSignal\":\"SIGTERM\"}},\
             \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{}\"]}}}}",
            layer.diff_id
        )
    );
    assert!(text(&store, &descriptor.digest).contains("\"org.opencontainers.image.title\": \"digits\""));
}

#[test]
fn an_image_on_a_base_overrides_it() {
    let (_dir, store) = new_store();
    let base_layer = layer(&store, "base");
    let config = br#"{"created":"2020-01-01T00:00:00Z","architecture":"arm64","variant":"v8","os":"linux",
        "config":{"Env":["PATH=/bin","LANG=C"],"Cmd":["sh"],"Entrypoint":["/init"],"Volumes":{"/data":{}},
        "User":"1000","Labels":{"x":"base","y":"base"}},"history":[{}],"rootfs":{"type":"layers","diff_ids":["DIFF"]}}"#;
    let config = String::from_utf8_lossy(config).replace("DIFF", &base_layer.diff_id.to_string());
    let config = store.put_bytes(config.as_bytes()).unwrap();
    let mut base_descriptor = base_layer.descriptor.clone();
    base_descriptor.media_type = MediaType::DockerLayerTar;
    let manifest = ImageManifest {
        schema_version: 2,
        media_type: Some(MediaType::DockerManifest),
        config: Descriptor::new(MediaType::DockerConfig, config.digest, config.size),
        layers: vec![base_descriptor],
        annotations: BTreeMap::new(),
    };
    let blob = store.put_bytes(&document::to_bytes(&manifest)).unwrap();
    let descriptor = Descriptor::new(MediaType::DockerManifest, blob.digest, blob.size);
    let base = BaseImage::read(&store, &descriptor).unwrap();

    let mut spec = ImageSpec::new("linux/arm64".parse().unwrap());
    spec.base = Some(base.clone());
    spec.layers.push(layer(&store, "own"));
    spec.env = map(&[("LANG", "C.UTF-8")]);
    spec.labels = map(&[("y", "own")]);
    let image = assemble_image(&store, &spec).unwrap();
    let manifest = read_manifest(&store, &image.digest).unwrap();
    assert_eq!(
        manifest.layers[0], base_layer.descriptor,
        "Docker's name became OCI's"
    );
    let config = read_config(&store, &manifest.config.digest).unwrap();
    assert_eq!(config.rootfs.diff_ids.len(), 2);
    assert_eq!(config.variant, None);
    assert_eq!(config.config.env, ["LANG=C.UTF-8", "PATH=/bin"]);
    assert_eq!(config.config.labels, map(&[("x", "base"), ("y", "own")]));
    assert_eq!(
        (config.config.user.as_str(), config.config.cmd.len()),
        ("1000", 1)
    );
    assert!(config.config.volumes.contains_key("/data"));

    spec.entrypoint = vec!["/own".into()];
    let image = assemble_image(&store, &spec).unwrap();
    let manifest = read_manifest(&store, &image.digest).unwrap();
    assert!(
        read_config(&store, &manifest.config.digest)
            .unwrap()
            .config
            .cmd
            .is_empty()
    );

    spec.platform = "linux/amd64".parse().unwrap();
    assert!(matches!(
        assemble_image(&store, &spec),
        Err(ImageError::BasePlatform { .. })
    ));
}

#[test]
fn values_that_mean_nothing_are_refused() {
    let (_dir, store) = new_store();
    let check = |change: &dyn Fn(&mut ImageSpec)| {
        let mut spec = ImageSpec::new("linux/amd64".parse().unwrap());
        change(&mut spec);
        assert!(matches!(
            assemble_image(&store, &spec),
            Err(ImageError::Value { .. })
        ));
    };
    check(&|spec| spec.env = map(&[("A=B", "")]));
    check(&|spec| spec.env = map(&[("", "x")]));
    check(&|spec| spec.exposed_ports = vec!["9600".into()]);
    check(&|spec| spec.exposed_ports = vec!["99999/tcp".into()]);
    check(&|spec| spec.working_dir = Some("model".into()));
}

#[test]
fn an_index_is_ordered_by_platform() {
    let (_dir, store) = new_store();
    let image = |platform: &str, label: &str| {
        let mut spec = ImageSpec::new(platform.parse().unwrap());
        spec.labels = map(&[("label", label)]);
        assemble_image(&store, &spec).unwrap()
    };
    let (arm, arm64, jetson, amd64) = (
        image("linux/arm", ""),
        image("linux/arm64", ""),
        image("linux/arm64", "gpu"),
        image("linux/amd64", ""),
    );
    let index = |manifests: &[&Descriptor]| {
        let manifests: Vec<Descriptor> = manifests.iter().map(|&manifest| manifest.clone()).collect();
        assemble_index(&store, &manifests, BTreeMap::new()).unwrap()
    };
    let descriptor = index(&[&arm, &arm64, &jetson, &amd64]);
    assert_eq!(descriptor, index(&[&arm64, &amd64, &jetson, &arm, &amd64]));
    assert_ne!(descriptor, index(&[&arm, &jetson, &arm64, &amd64]));
    let read = read_index(&store, &descriptor.digest).unwrap();
    assert_eq!(read.manifests, [amd64, arm.clone(), arm64, jetson]);
    let mut bare = arm;
    bare.platform = None;
    assert!(matches!(
        assemble_index(&store, &[bare], BTreeMap::new()),
        Err(ImageError::NoPlatform { .. })
    ));
}

#[test]
fn documents_that_are_none() {
    for text in ["", "{}", "[]", "{\"schemaVersion\":1,\"manifests\":[]}"] {
        assert!(
            parse_manifest(text.as_bytes()).is_err() && parse_index(text.as_bytes()).is_err(),
            "{text}"
        );
    }
    let nested = "[".repeat(100_000);
    assert!(parse_index(nested.as_bytes()).is_err());
}
