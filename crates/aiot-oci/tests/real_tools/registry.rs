//! Push and pull against a real registry.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};

use aiot_oci::{
    BaseImage, ClientOptions, Compression, Credentials, Descriptor, FileMode, FileSource, ImageSpec,
    LayerBuilder, PullLayers, PushEvent, PushOptions, Reference, RegistryClient, RegistryError, Store,
    assemble_image, read_layout, validate_layout,
};

use crate::support::{Registry, Workplace, block_on, client, have, image, run};

#[test]
fn a_pushed_image_comes_back_with_the_same_digest() {
    if !have(&["docker-registry", "skopeo"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (index, arm, _) = place.index();
    let repository = registry.repository("edge/defects");
    let (client, options) = (client(), PushOptions::default());

    let positions = Arc::new(Mutex::new(BTreeMap::new()));
    let listener = {
        let positions = positions.clone();
        PushOptions {
            on_event: Some(Arc::new(move |event| {
                if let PushEvent::Sent {
                    digest,
                    position_bytes,
                    size_bytes,
                } = event
                {
                    positions
                        .lock()
                        .unwrap()
                        .insert(*digest, (*position_bytes, *size_bytes));
                }
            })),
            ..PushOptions::default()
        }
    };
    let receipt = block_on(client.push(&place.store, &index, &repository, Some("1.0"), &listener)).unwrap();
    // Both images share both layers; each has a config of its own.
    assert_eq!(
        (
            receipt.blobs_uploaded,
            receipt.blobs_present,
            receipt.manifests_uploaded
        ),
        (4, 0, 3)
    );
    let positions = positions.lock().unwrap();
    assert!(positions.len() == 4 && positions.values().all(|(position, size)| position == size));
    assert_eq!(
        receipt.uploaded_bytes,
        positions.values().map(|(_, size)| size).sum::<u64>()
    );

    // Again: one request.
    let before = registry.requests().len();
    let again = block_on(client.push(&place.store, &index, &repository, Some("1.0"), &options)).unwrap();
    assert_eq!(again, Default::default());
    assert_eq!(
        registry.requests()[before..],
        ["HEAD /v2/edge/defects/manifests/1.0"]
    );

    // Back by skopeo, all images, into a layout that we accept.
    let source = format!("docker://{repository}:1.0");
    let copy = [
        "copy",
        "--all",
        "--preserve-digests",
        "--src-tls-verify=false",
        &source,
        "oci:back:x",
    ];
    run(place.path(), "skopeo", &copy);
    assert_eq!(
        read_layout(&place.path().join("back")).unwrap()[0].1.digest,
        index.digest
    );
    assert_eq!(validate_layout(&place.path().join("back")).unwrap(), []);

    // Back by ourselves, with another client that must ask for everything.
    let other = Store::create(&place.path().join("other")).unwrap();
    let reference: Reference = format!("{repository}:1.0").parse().unwrap();
    let platform = "linux/arm/v7".parse().unwrap();
    let pull = block_on(crate::support::client().pull_image(&other, &reference, &platform, PullLayers::All))
        .unwrap();
    assert_eq!(
        (pull.named.digest, pull.manifest.digest),
        (index.digest, arm.digest)
    );
    assert_eq!(pull.manifest, arm);
    assert!(
        pull.layers
            .iter()
            .all(|layer| other.contains(&layer.digest, layer.size))
    );
    // By digest and stored: no request any more.
    let before = registry.requests().len();
    let locked = Reference {
        tag: None,
        digest: Some(index.digest),
        ..reference.clone()
    };
    assert_eq!(
        block_on(client.pull_image(&other, &locked, &platform, PullLayers::All)).unwrap(),
        pull
    );
    assert_eq!(registry.requests().len(), before);

    let missing = "linux/riscv64".parse().unwrap();
    let error = block_on(client.pull_image(&other, &reference, &missing, PullLayers::None)).unwrap_err();
    assert!(
        error.to_string().contains("it has linux/amd64, linux/arm/v7"),
        "{error}"
    );
    let nothing: Reference = format!("{repository}:2.0").parse().unwrap();
    let error = block_on(client.resolve(&nothing)).unwrap_err();
    assert!(matches!(error, RegistryError::NotFound(_)), "{error}");
    assert_eq!(block_on(client.resolve(&reference)).unwrap().platforms.len(), 2);
}

#[test]
fn a_pulled_image_serves_as_base_and_its_layers_are_mounted() {
    if !have(&["docker-registry", "skopeo"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (index, ..) = place.index();
    let base_repository = registry.repository("base");
    block_on(client().push(
        &place.store,
        &index,
        &base_repository,
        Some("1"),
        &PushOptions::default(),
    ))
    .unwrap();

    let store = Store::create(&place.path().join("other")).unwrap();
    let client = client();
    let reference: Reference = format!("{base_repository}:1").parse().unwrap();
    let platform: aiot_oci::Platform = "linux/amd64".parse().unwrap();
    let pulled = block_on(client.pull_image(&store, &reference, &platform, PullLayers::All)).unwrap();
    let mut own = LayerBuilder::new();
    own.file(
        "model/other.onnx",
        FileSource::Bytes(b"own".to_vec()),
        FileMode::Plain,
    )
    .unwrap();
    let mut spec = ImageSpec::new(platform);
    spec.base = Some(BaseImage::read(&store, &pulled.manifest).unwrap());
    spec.layers.push(own.build(&store, Compression::None).unwrap());
    let image = assemble_image(&store, &spec).unwrap();

    let repository = registry.repository("edge/own");
    let receipt =
        block_on(client.push(&store, &image, &repository, Some("1"), &PushOptions::default())).unwrap();
    assert_eq!((receipt.blobs_mounted, receipt.blobs_uploaded), (2, 2));
    let source = format!("docker://{repository}:1");
    run(
        place.path(),
        "skopeo",
        &[
            "copy",
            "--src-tls-verify=false",
            "--preserve-digests",
            &source,
            "oci:back:x",
        ],
    );
    assert_eq!(validate_layout(&place.path().join("back")).unwrap(), []);
}

#[test]
fn a_tag_moves_only_when_asked() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (one, two) = (
        image(&place.store, "linux/arm64", "1"),
        image(&place.store, "linux/arm64", "2"),
    );
    let (repository, client) = (registry.repository("m"), client());
    let push = |image: &Descriptor, overwrite_tag| {
        let options = PushOptions {
            overwrite_tag,
            ..PushOptions::default()
        };
        block_on(client.push(&place.store, image, &repository, Some("1"), &options))
    };
    push(&one, false).unwrap();
    match push(&two, false) {
        Err(RegistryError::TagExists { found, wanted, .. }) => {
            assert_eq!((found, wanted), (one.digest, two.digest));
        }
        other => panic!("{other:?}"),
    }
    let uploads = registry
        .requests()
        .iter()
        .filter(|request| request.starts_with("POST"))
        .count();
    assert_eq!(uploads, 3, "nothing was sent for the tag that may not move");
    push(&two, true).unwrap();
    let reference: Reference = format!("{repository}:1").parse().unwrap();
    assert_eq!(
        block_on(client.resolve(&reference)).unwrap().descriptor.digest,
        two.digest
    );
    // Back to the first: all is there, only the tag is written.
    assert_eq!(push(&one, true).unwrap().manifests_uploaded, 1);
}

#[test]
fn corrupt_and_missing_blobs_do_not_leave_the_machine() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let image = image(&place.store, "linux/arm64", "1");
    let layer = BaseImage::read(&place.store, &image).unwrap().manifest.layers[1].clone();
    let path = place.store.path(&layer.digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, &bytes).unwrap();
    let repository = registry.repository("m");
    let push = || {
        block_on(client().push(
            &place.store,
            &image,
            &repository,
            Some("1"),
            &PushOptions::default(),
        ))
    };
    let error = push().unwrap_err().to_string();
    assert!(
        error.contains(&layer.digest.to_string()) && error.contains("is corrupt"),
        "{error}"
    );
    let error = push().unwrap_err().to_string();
    assert!(
        error.contains("has no blob") && error.contains(&layer.digest.to_string()),
        "{error}"
    );
    let reference: Reference = format!("{repository}:1").parse().unwrap();
    assert!(matches!(
        block_on(client().resolve(&reference)),
        Err(RegistryError::NotFound(_))
    ));
}

#[test]
fn user_and_password_are_asked_for_and_never_shown() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = Workplace::new();
    let users = place.path().join("users");
    // bcrypt of `sesame`, as `htpasswd -B` writes it.
    fs::write(
        &users,
        "ann:$2b$04$abcdefghijklmnopqrstuuinwY/tkBVrn3xrxQI/TgnMHhkvl85RW\n",
    )
    .unwrap();
    let registry = Registry::start(
        place.path(),
        &format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            users.display()
        ),
    );
    let image = image(&place.store, "linux/arm64", "1");
    let repository = registry.repository("m");
    let push = |credentials: Credentials| {
        let client = RegistryClient::new(ClientOptions {
            credentials,
            ..ClientOptions::default()
        });
        block_on(client.push(
            &place.store,
            &image,
            &repository,
            Some("1"),
            &PushOptions::default(),
        ))
    };
    let error = push(Credentials::anonymous()).unwrap_err().to_string();
    assert!(
        error.contains("no credentials for it were found") && error.contains("docker login"),
        "{error}"
    );
    let wrong = Credentials::anonymous().with_password(repository.registry(), "ann", "open-barley");
    let error = push(wrong).unwrap_err().to_string();
    assert!(
        error.contains("not accepted") && !error.contains("barley"),
        "{error}"
    );
    let config = place.path().join("config.json");
    // `ann:sesame`
    let text = format!(
        r#"{{"auths":{{"{}":{{"auth":"YW5uOnNlc2FtZQ=="}}}}}}"#,
        repository.registry()
    );
    fs::write(&config, text).unwrap();
    push(Credentials::from_files(&[config]).unwrap()).unwrap();
}

#[test]
fn artifacts_are_attached_and_listed_under_a_tag_where_the_registry_keeps_no_list() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (_, arm, amd64) = place.index();
    let repository = registry.repository("m");
    let options = PushOptions::default();
    for image in [&arm, &amd64] {
        block_on(client().push(&place.store, image, &repository, None, &options)).unwrap();
    }
    let artifact = |kind: &str, text: &str| aiot_oci::Artifact {
        artifact_type: format!("application/{kind}"),
        title: format!("{kind}.json"),
        bytes: text.as_bytes().to_vec(),
    };
    let (bom, signature) = (artifact("bom", "{1}"), artifact("signature", "{2}"));
    let attach = |image, artifact| {
        block_on(client().attach(&place.store, &repository, image, artifact, &options)).unwrap()
    };
    assert_eq!(attach(&arm, &bom).manifests_uploaded, 1);
    assert_eq!(attach(&arm, &signature).manifests_uploaded, 1);
    assert_eq!(attach(&amd64, &bom).blobs_uploaded, 0, "its blobs are there");
    // Again: nothing sent.
    let writes = || {
        registry
            .requests()
            .iter()
            .filter(|line| line.starts_with('P'))
            .count()
    };
    let before = writes();
    assert_eq!(attach(&arm, &bom), aiot_oci::PushReceipt::default());
    assert_eq!(writes(), before);

    let list = |image: &aiot_oci::Descriptor| {
        let found = block_on(client().referrers(&repository, &image.digest)).unwrap();
        let mut kinds: Vec<String> = found
            .into_iter()
            .map(|found| found.artifact_type.unwrap())
            .collect();
        kinds.sort();
        kinds
    };
    assert_eq!(list(&arm), ["application/bom", "application/signature"]);
    assert_eq!(list(&amd64), ["application/bom"]);
    let other = aiot_oci::Digest::of(b"other");
    assert_eq!(block_on(client().referrers(&repository, &other)).unwrap(), []);

    // The manifest names the image, and the blob is what was attached.
    let found = block_on(client().referrers(&repository, &amd64.digest)).unwrap();
    let back = Store::create(&place.path().join("back")).unwrap();
    block_on(client().pull_blob(
        &back,
        &repository,
        &aiot_oci::Descriptor::new(
            aiot_oci::MediaType::Other(String::new()),
            aiot_oci::Digest::of(b"{1}"),
            3,
        ),
    ))
    .unwrap();
    let text = place.store.read_verified(&found[0].digest, 1 << 20).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains(&format!(
            "\"subject\":{{\"mediaType\":\"{}\",\"digest\":\"{}\"",
            amd64.media_type, amd64.digest
        )),
        "{text}"
    );
}
