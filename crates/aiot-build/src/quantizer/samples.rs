//! Calibration inputs, one run of the graph at a time, so that memory does not grow with their number.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use aiot_inference::dataset::Dataset;
use aiot_inference::engine::{Array, GraphInput, Numbers};
use aiot_inference::preprocess::{MAX_NPY_HEADER_BYTES, Preparation, npy_header};
use aiot_package::InputSpec;

use crate::error::{BuildError, io};

/// Largest single input array.
const MAX_ARRAY_BYTES: usize = 1 << 30;

/// Where inputs come from.
pub enum Samples {
    /// A declared data set, prepared as on the device.
    Declared {
        /// The files.
        dataset: Dataset,
        /// How a file becomes tensors.
        preparation: Preparation,
    },
    /// One `.npy` file per graph input, first axis = samples.
    Arrays(Vec<ArrayFile>),
}

/// A `.npy` file with one array per sample.
pub struct ArrayFile {
    path: PathBuf,
    kind: String,
    /// Axes of one run's array.
    shape: Vec<usize>,
    samples: usize,
    data_offset: u64,
}

impl Samples {
    /// The inputs of a data set of files.
    ///
    /// # Errors
    /// When the specification or the data set is unusable.
    pub fn declared(dir: &Path, input: &InputSpec) -> Result<Samples, BuildError> {
        let dataset = Dataset::open(dir).map_err(BuildError::other)?;
        Ok(Samples::Declared {
            dataset,
            preparation: Preparation::new(input).map_err(BuildError::other)?,
        })
    }

    /// The files `<input>.npy` in a folder, whose samples are whole inputs or, with one axis less, what a batch of 1 holds.
    /// An input's name may hold characters that no file name can: those are replaced by `_`.
    ///
    /// # Errors
    /// When one is missing or is no array, or when they hold different numbers of samples.
    pub fn arrays(dir: &Path, inputs: &[GraphInput]) -> Result<Samples, BuildError> {
        let files = inputs
            .iter()
            .map(|input| Ok(ArrayFile::open(&dir.join(file_name(&input.name)))?.of_rank(input.shape.len())));
        let files = files.collect::<Result<Vec<_>, BuildError>>()?;
        let Some(first) = files.first() else {
            return Err(BuildError::Other(
                "the model has no inputs; there is nothing to calibrate with".to_owned(),
            ));
        };
        if let Some(other) = files.iter().find(|file| file.samples != first.samples) {
            let (one, two) = (first.path.display(), other.path.display());
            return Err(BuildError::Other(format!(
                "{one} holds {} samples, {two} {}; every input needs the same number",
                first.samples, other.samples
            )));
        }
        if first.samples == 0 {
            return Err(BuildError::Other(format!(
                "{} holds no samples",
                first.path.display()
            )));
        }
        Ok(Samples::Arrays(files))
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            Samples::Declared { dataset, .. } => dataset.samples().len(),
            Samples::Arrays(files) => files.first().map_or(0, |file| file.samples),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The runs of one sample: its arrays in the order of the graph's inputs. A recording has one run per window.
    ///
    /// # Errors
    /// When the sample cannot be read; it is named.
    pub fn runs(&self, sample: usize) -> Result<Vec<Vec<Array>>, BuildError> {
        match self {
            Samples::Declared { dataset, preparation } => {
                let sample = &dataset.samples()[sample];
                let bytes = dataset.read(sample).map_err(BuildError::other)?;
                let prepared = preparation
                    .prepare(&bytes)
                    .map_err(|error| BuildError::Other(format!("sample `{}`: {error}", sample.file)))?;
                let array = |tensor: aiot_inference::Tensor| {
                    let shape = tensor.shape().to_vec();
                    vec![Array {
                        shape,
                        numbers: Numbers::Float32(tensor.into_values()),
                    }]
                };
                Ok(prepared.into_iter().map(|(_, tensor)| array(tensor)).collect())
            }
            Samples::Arrays(files) => Ok(vec![
                files
                    .iter()
                    .map(|file| file.sample(sample))
                    .collect::<Result<_, _>>()?,
            ]),
        }
    }
}

/// The file of an input: its name with what no file name should hold replaced.
fn file_name(input: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '_'
        }
    };
    format!("{}.npy", input.chars().map(plain).collect::<String>())
}

impl ArrayFile {
    /// Reads the header.
    ///
    /// # Errors
    /// When it is no array with samples along its first axis.
    pub fn open(path: &Path) -> Result<ArrayFile, BuildError> {
        let file = File::open(path).map_err(io("read", path))?;
        let length = file.metadata().map_err(io("read", path))?.len();
        let mut head = Vec::new();
        file.take(MAX_NPY_HEADER_BYTES as u64)
            .read_to_end(&mut head)
            .map_err(io("read", path))?;
        let wrong = |reason: String| BuildError::Other(format!("{} is not usable: {reason}", path.display()));
        let header = npy_header(&head).map_err(wrong)?;
        let bytes = element_bytes(&header.kind).ok_or_else(|| {
            wrong(format!(
                "its type is `{}`; save it as f4, f8, i8, i4, u1, i1 or b1",
                header.kind
            ))
        })?;
        let Some((&samples, rest)) = header.shape.split_first() else {
            return Err(wrong("it has no axes; the first is the samples".to_owned()));
        };
        let needed = header
            .shape
            .iter()
            .try_fold(bytes, |product, &length| product.checked_mul(length));
        if needed.and_then(|needed| (needed as u64).checked_add(header.data_offset as u64)) != Some(length) {
            return Err(wrong(format!(
                "shape {:?} does not fit its {length} bytes",
                header.shape
            )));
        }
        let one = rest.iter().product::<usize>().saturating_mul(bytes);
        if one > MAX_ARRAY_BYTES {
            return Err(wrong(format!(
                "one sample of {one} bytes is more than {MAX_ARRAY_BYTES}"
            )));
        }
        Ok(ArrayFile {
            path: path.to_owned(),
            kind: header.kind,
            shape: [&[1], rest].concat(),
            samples,
            data_offset: header.data_offset as u64,
        })
    }

    /// For an input with so many axes: where the file has one more, a sample is all of the input.
    fn of_rank(mut self, rank: usize) -> ArrayFile {
        if self.shape.len() == rank + 1 {
            self.shape.remove(0);
        }
        self
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// One sample, with a batch of 1 unless it is a whole input.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sample(&self, sample: usize) -> Result<Array, BuildError> {
        let count = self.shape.iter().product::<usize>();
        let bytes = element_bytes(&self.kind).unwrap_or(1) * count;
        let mut data = vec![0; bytes];
        let mut file = File::open(&self.path).map_err(io("read", &self.path))?;
        let offset = self.data_offset + (sample as u64) * (bytes as u64);
        file.seek(SeekFrom::Start(offset))
            .map_err(io("read", &self.path))?;
        file.read_exact(&mut data).map_err(io("read", &self.path))?;
        Ok(Array {
            shape: self.shape.clone(),
            numbers: numbers(&self.kind, &data),
        })
    }
}

fn element_bytes(kind: &str) -> Option<usize> {
    Some(match kind {
        "<f4" | "<i4" => 4,
        "<f8" | "<i8" => 8,
        "|u1" | "|i1" | "|b1" => 1,
        _ => return None,
    })
}

fn numbers(kind: &str, data: &[u8]) -> Numbers {
    match kind {
        "<f4" => Numbers::Float32(
            data.as_chunks()
                .0
                .iter()
                .map(|&bytes| f32::from_le_bytes(bytes))
                .collect(),
        ),
        "<i4" => Numbers::Int32(
            data.as_chunks()
                .0
                .iter()
                .map(|&bytes| i32::from_le_bytes(bytes))
                .collect(),
        ),
        "<f8" => Numbers::Float64(
            data.as_chunks()
                .0
                .iter()
                .map(|&bytes| f64::from_le_bytes(bytes))
                .collect(),
        ),
        "<i8" => Numbers::Int64(
            data.as_chunks()
                .0
                .iter()
                .map(|&bytes| i64::from_le_bytes(bytes))
                .collect(),
        ),
        "|i1" => Numbers::Int8(data.iter().map(|&byte| byte.cast_signed()).collect()),
        "|b1" => Numbers::Bool(data.iter().map(|&byte| byte != 0).collect()),
        _ => Numbers::Uint8(data.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(kind: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
        [
            b"\x93NUMPY\x01\x00",
            (header.len() as u16).to_le_bytes().as_slice(),
            header.as_bytes(),
            data,
        ]
        .concat()
    }

    fn open(kind: &str, shape: &str, data: &[u8]) -> Result<(Vec<usize>, Vec<Array>), String> {
        open_for(None, kind, shape, data)
    }

    fn open_for(
        rank: Option<usize>,
        kind: &str,
        shape: &str,
        data: &[u8],
    ) -> Result<(Vec<usize>, Vec<Array>), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(file_name("a/b:0"));
        assert!(path.ends_with("a_b_0.npy"));
        std::fs::write(&path, npy(kind, shape, data)).unwrap();
        let mut file = ArrayFile::open(&path).map_err(|error| error.to_string())?;
        if let Some(rank) = rank {
            file = file.of_rank(rank);
        }
        let samples = (0..file.samples())
            .map(|sample| file.sample(sample).unwrap())
            .collect();
        Ok((file.shape.clone(), samples))
    }

    #[test]
    fn samples_are_read_one_by_one() {
        let floats: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let (shape, samples) = open("<f4", "(2, 2)", &floats).unwrap();
        assert_eq!(shape, [1, 2]);
        assert_eq!(samples[1].numbers, Numbers::Float32(vec![3.0, 4.0]));
        let (shape, samples) = open("<i8", "(1,)", &7i64.to_le_bytes()).unwrap();
        assert_eq!(
            (shape.as_slice(), &samples[0].numbers),
            ([1].as_slice(), &Numbers::Int64(vec![7]))
        );
        let (_, samples) = open("|b1", "(1, 2)", &[0, 1]).unwrap();
        assert_eq!(samples[0].numbers, Numbers::Bool(vec![false, true]));
    }

    #[test]
    fn a_sample_is_a_batch_of_one_or_the_whole_input() {
        for (rank, expected) in [(3, &[1, 2, 1][..]), (2, &[2, 1]), (1, &[1, 2, 1])] {
            let (shape, samples) = open_for(Some(rank), "|u1", "(3, 2, 1)", &[1, 2, 3, 4, 5, 6]).unwrap();
            assert_eq!((&shape[..], &samples[2].shape[..]), (expected, expected));
            assert_eq!(samples[2].numbers, Numbers::Uint8(vec![5, 6]));
        }
    }

    #[test]
    fn unusable_files_say_why() {
        for (kind, shape, data, expected) in [
            ("<c8", "(1,)", 8, "its type is `<c8`"),
            ("<f4", "()", 4, "no axes"),
            ("<f4", "(2, 2)", 12, "does not fit"),
            ("<f4", "(99999999999, 99999999999)", 4, "does not fit"),
        ] {
            let error = open(kind, shape, &vec![0; data]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
