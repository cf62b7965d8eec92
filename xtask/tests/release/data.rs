//! A model whose weights lie in a file beside it, as torch's exporter writes them today.

use aiot_oci::Digest;
use aiot_oci::image::read_manifest;
use aiot_oci::{Store, read_layout};
use aiot_onnx::proto::StringStringEntryProto;
use aiot_onnx::proto::tensor_proto::DataLocation;
use aiot_plan::Model;
use aiot_testkit::released::{Copy, Released};
use prost::Message;

use crate::common::{XTASK, declared, release, smallest_model};

/// Moves the weights of a model to `weights/part.bin` beside it, and declares the new model file.
fn move_weights(copy: &Copy, model: &Model) -> String {
    let bytes = std::fs::read(copy.root.join(&model.path)).unwrap();
    let mut proto = aiot_onnx::Model::parse(bytes).unwrap().into_proto();
    let mut data = Vec::new();
    for tensor in &mut proto.graph.as_mut().unwrap().initializer {
        let Some(raw) = tensor.raw_data.take() else {
            continue;
        };
        let entries = [
            ("location", "weights/part.bin".to_owned()),
            ("offset", data.len().to_string()),
            ("length", raw.len().to_string()),
        ];
        tensor.data_location = Some(DataLocation::External as i32);
        tensor.external_data = entries
            .map(|(key, value)| StringStringEntryProto {
                key: Some(key.to_owned()),
                value: Some(value),
            })
            .to_vec();
        data.extend_from_slice(&raw);
    }
    assert!(data.len() > 1000);
    let bytes = proto.encode_to_vec();
    copy.write(&model.path, &bytes);
    copy.replace("models.toml", &model.digest.hex(), &Digest::of(&bytes).hex());
    let folder = model.path.rsplit_once('/').unwrap().0;
    let path = format!("{folder}/weights/part.bin");
    copy.write(&path, &data);
    path
}

/// The digests of the model layers of a model's images.
fn model_layers(copy: &Copy, model: &Model) -> Vec<Digest> {
    let images = copy.root.join("dist/images");
    let store = Store::open_read_only(&images).unwrap();
    let layout = read_layout(&images).unwrap();
    let own = layout
        .into_iter()
        .filter(|(name, _)| name.starts_with(&format!("{}-{}-", model.name, model.version)));
    let layers = own.map(|(_, descriptor)| {
        let manifest = read_manifest(&store, &descriptor.digest).unwrap();
        let mut plain = manifest.layers.into_iter();
        plain
            .find(|layer| layer.media_type.to_string().ends_with(".tar"))
            .unwrap()
            .digest
    });
    layers.collect()
}

#[test]
fn weights_beside_a_model_are_declared_checked_and_put_into_it() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let model = smallest_model(&copy, |model| model.labels_path.is_some());
    release(&copy, &[]);
    let before = model_layers(&copy, &model);
    assert!(!before.is_empty());
    let data = move_weights(&copy, &model);

    // What is missing is told as it is to be written.
    let text = copy.run(XTASK, &["check"]).expect(1).stderr;
    assert!(text.contains("files::data"), "{text}");
    let help = text.split_once("source.file:").unwrap().1;
    let words: Vec<&str> = help.split_once('}').unwrap().0.split_whitespace().collect();
    let entry = format!("{} }}", words.join(" "));
    let sha256 = Digest::of(&std::fs::read(copy.root.join(&data)).unwrap()).hex();
    assert_eq!(entry, format!("data = {{ \"weights/part.bin\" = \"{sha256}\" }}"));
    let hex = declared(&copy.root).models[&model.name].digest.hex();
    copy.replace(
        "models.toml",
        &format!("\"{hex}\" }}"),
        &format!("\"{hex}\", {entry} }}"),
    );
    copy.run(XTASK, &["check"]).expect(0);

    // A file that no weight is in has no business there.
    let declarations = copy.read("models.toml");
    let labels = model.labels_path.as_deref().unwrap();
    let name = labels.rsplit_once('/').unwrap().1;
    let digest = Digest::of(copy.read(labels).as_bytes()).hex();
    let extra = format!("data = {{ \"{name}\" = \"{digest}\",");
    copy.replace("models.toml", "data = {", &extra);
    let text = copy.run(XTASK, &["check"]).expect(1).stderr;
    assert!(text.contains(&format!("does not use {name}")), "{text}");
    copy.write("models.toml", declarations);

    // The same model came together: what the images hold of it is as before.
    let report = release(&copy, &[]);
    assert!(
        report.written().contains(&"aiot.lock".to_owned()),
        "another source"
    );
    assert_eq!(model_layers(&copy, &model), before);
    assert_eq!(release(&copy, &["--locked"]).ran(), 0);

    // Other weights below the same graph are another model.
    let mut other = std::fs::read(copy.root.join(&data)).unwrap();
    other[0] ^= 1;
    copy.write(&data, &other);
    let text = copy.run(XTASK, &["check"]).expect(1).stderr;
    assert!(
        text.contains("files::digest") && text.contains("weights/part.bin"),
        "{text}"
    );
    copy.replace("models.toml", &sha256, &Digest::of(&other).hex());
    let refused = copy
        .run(XTASK, &["release", "--offline", "--locked"])
        .expect(1)
        .stderr;
    assert!(refused.contains(model.name.as_str()), "{refused}");
    std::fs::remove_file(copy.root.join(&data)).unwrap();
    let text = copy.run(XTASK, &["check"]).expect(1).stderr;
    assert!(text.contains("files::model"), "{text}");
}
