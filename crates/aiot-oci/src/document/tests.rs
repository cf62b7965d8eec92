use super::*;

#[test]
fn a_platform_has_one_spelling() {
    let check = |text: &str, expected: &str| {
        assert_eq!(
            text.parse::<Platform>().map(|platform| platform.to_string()),
            Ok(expected.to_owned())
        );
    };
    check("linux/arm", "linux/arm/v7");
    check("linux/arm/v7", "linux/arm/v7");
    check("linux/arm/7", "linux/arm/v7");
    check("linux/arm/v6", "linux/arm/v6");
    check("linux/arm64", "linux/arm64");
    check("linux/arm64/v8", "linux/arm64");
    check("linux/arm64/v9", "linux/arm64/v9");
    check("linux/amd64", "linux/amd64");
    for text in ["", "linux", "linux/", "/arm", "linux/arm/v7/x", "linux/a b"] {
        assert!(text.parse::<Platform>().is_err(), "{text}");
    }
}

#[test]
fn media_types_keep_their_names() {
    for (media_type, name) in &MEDIA_TYPES {
        assert_eq!(media_type.as_str(), *name);
        assert_eq!(&MediaType::from(*name), media_type);
    }
    assert_eq!(MediaType::from("text/plain").as_str(), "text/plain");
}

#[test]
fn a_descriptor_has_one_text() {
    let mut descriptor = Descriptor::new(MediaType::LayerTar, Digest::of(b""), 0);
    descriptor.platform = Some(Platform::new("linux", "arm", None));
    for key in ["b", "a", "c"] {
        descriptor.annotations.insert(key.into(), "1".into());
    }
    let text = String::from_utf8(to_bytes(&descriptor)).unwrap();
    assert_eq!(
        text,
        "{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\
         \"digest\":\"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\",\"size\":0,\
         \"platform\":{\"architecture\":\"arm\",\"os\":\"linux\",\"variant\":\"v7\"},\
         \"annotations\":{\"a\":\"1\",\"b\":\"1\",\"c\":\"1\"}}"
    );
    assert_eq!(serde_json::from_str::<Descriptor>(&text).unwrap(), descriptor);
}

#[test]
fn go_nulls_are_empty() {
    let config: ExecutionConfig =
        serde_json::from_str(r#"{"Env":null,"Labels":null,"Cmd":null,"ExposedPorts":null,"Shell":["x"]}"#)
            .unwrap();
    assert_eq!(config, ExecutionConfig::default());
}
