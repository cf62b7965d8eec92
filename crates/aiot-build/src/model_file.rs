//! Reads ONNX files, with the files beside them that hold their tensors' data.

use std::io::Read;
use std::path::Path;

use aiot_onnx::{Model, OnnxError};

use crate::error::{BuildError, io};

/// Longest model that is read, with the files of its data: protobuf's own limit, and the engine's.
pub const MODEL_LIMIT_BYTES: u64 = 2 << 30;

/// Reads a model file, and the data files that it names.
///
/// # Errors
/// When it is too large, or no sound ONNX file.
pub fn read_model(path: &Path) -> Result<Model, BuildError> {
    let named = |error| BuildError::Other(format!("{}: {error}", path.display()));
    read_model_with(path, |_, _| Ok(()))?.map_err(named)
}

/// As [`read_model`]; `look` sees each data file first, by its place relative to the model's folder, and may refuse it.
///
/// # Errors
/// When the file cannot be read; within, what is wrong with the model, its data, or what `look` says of that.
pub fn read_model_with(
    path: &Path,
    mut look: impl FnMut(&str, &[u8]) -> Result<(), String>,
) -> Result<Result<Model, OnnxError>, BuildError> {
    let mut left = MODEL_LIMIT_BYTES;
    let bytes = read_within(path, &mut left).map_err(io("read", path))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize().map_err(io("read", folder))?;
    let beside = |location: &str| {
        // A link may lead anywhere; the reader has refused the other ways out.
        let file = folder
            .join(location)
            .canonicalize()
            .map_err(|error| error.to_string())?;
        if !file.starts_with(&folder) {
            return Err("it is a link that leads out of the model's folder".to_owned());
        }
        let bytes = read_within(&file, &mut left).map_err(|error| error.to_string())?;
        look(location, &bytes)?;
        Ok(bytes)
    };
    Ok(Model::parse_with(bytes, beside))
}

/// A file of at most `left` bytes, which are fewer afterwards.
fn read_within(path: &Path, left: &mut u64) -> std::io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    let too_long = || {
        std::io::Error::other(format!(
            "it has {length} bytes; of a model and the files of its data at most {MODEL_LIMIT_BYTES} bytes are read: \
             the engine takes no larger one"
        ))
    };
    if length > *left {
        return Err(too_long());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(|_| too_long())?);
    file.take(*left + 1).read_to_end(&mut bytes)?;
    *left = left.checked_sub(bytes.len() as u64).ok_or_else(too_long)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use aiot_onnx::proto::tensor_proto::{DataLocation, DataType};
    use aiot_onnx::proto::{GraphProto, ModelProto, StringStringEntryProto, TensorProto, ValueInfoProto};
    use prost::Message;

    use super::*;

    /// A model that hands out two numbers, which it keeps in another file.
    fn model(location: &str) -> Vec<u8> {
        let entry = StringStringEntryProto {
            key: Some("location".to_owned()),
            value: Some(location.to_owned()),
        };
        let tensor = TensorProto {
            name: Some("w".to_owned()),
            data_type: Some(DataType::Float as i32),
            dims: vec![2],
            data_location: Some(DataLocation::External as i32),
            external_data: vec![entry],
            ..TensorProto::default()
        };
        let output = ValueInfoProto {
            name: Some("w".to_owned()),
            ..ValueInfoProto::default()
        };
        ModelProto {
            ir_version: Some(8),
            graph: Some(GraphProto {
                initializer: vec![tensor],
                output: vec![output],
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn data_beside_the_model_is_read_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let models = folder.path().join("models");
        std::fs::create_dir(&models).unwrap();
        let data = [1.5f32, -2.0].map(f32::to_le_bytes).concat();
        std::fs::write(models.join("w.bin"), &data).unwrap();
        std::fs::write(folder.path().join("secret"), &data).unwrap();
        std::os::unix::fs::symlink("../secret", models.join("link")).unwrap();
        let read = |location: &str| {
            let path = models.join("model.onnx");
            std::fs::write(&path, model(location)).unwrap();
            read_model(&path)
        };
        let held = read("w.bin").unwrap();
        let tensor = &held.proto().graph.as_ref().unwrap().initializer[0];
        assert_eq!(tensor.raw_data.as_deref(), Some(data.as_slice()));
        for (location, expected) in [
            ("../secret", "no plain relative path"),
            ("link", "leads out of the model's folder"),
            ("gone", "No such file"),
        ] {
            let error = read(location).unwrap_err().to_string();
            assert!(error.contains(expected), "{location}: {error}");
        }
    }

    #[test]
    fn reading_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 10]).unwrap();
        let mut left = 15;
        assert_eq!(read_within(&path, &mut left).unwrap().len(), 10);
        assert_eq!(left, 5);
        let error = read_within(&path, &mut left).unwrap_err().to_string();
        assert!(error.starts_with("it has 10 bytes"), "{error}");
    }
}
