//! Input bytes → tensors, exactly as the training code made them.
//!
//! [`Preparation`] is an [`InputSpec`] that was checked once. A picture gives one tensor, a sensor recording one per
//! window. Nothing here knows about models or engines.

mod npy;
mod picture;
pub mod resample;
mod signal;

pub use npy::{MAX_NPY_HEADER_BYTES, NpyHeader, npy_header};

use aiot_package::InputSpec;

use crate::drift::InputFacts;
use crate::limits::{MAX_PICTURE_PIXELS, MAX_WINDOWS};
use crate::tensor::Tensor;
use picture::PicturePreparation;
use signal::{Recording, SignalPreparation};

/// An input specification that cannot be obeyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Width or height outside of 1..=[`MAX_MODEL_SIDE`](crate::limits::MAX_MODEL_SIDE).
    #[error("the input picture of {width}×{height} pixels is empty or too large")]
    PictureSize {
        /// As declared.
        width: u32,
        /// As declared.
        height: u32,
    },
    /// Channels, window or stride are 0, or the window is too large.
    #[error("the input needs channels, window and stride above 0 and a window that fits into memory")]
    SignalSize,
    /// A list has not one entry per channel.
    #[error("`{field}` has {found} entries for {channels} channels")]
    PerChannel {
        /// `mean` or `std`.
        field: &'static str,
        /// Its length.
        found: usize,
        /// Channels of the input.
        channels: usize,
    },
    /// A number is infinite, NaN, or a divisor of 0.
    #[error("`{field}` holds a number that is not finite, or a divisor of 0")]
    NotFinite {
        /// `scale`, `mean` or `std`.
        field: &'static str,
    },
}

/// Input bytes that cannot become tensors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// Neither PNG nor JPEG.
    #[error("it is neither a PNG nor a JPEG picture")]
    NotAPicture,
    /// The decoder refuses.
    #[error("the picture cannot be decoded: {message}")]
    Undecodable {
        /// The decoder's message.
        message: String,
    },
    /// More pixels than are decoded.
    #[error("the picture has {width}×{height} pixels; at most {MAX_PICTURE_PIXELS} are decoded")]
    TooManyPixels {
        /// As its header says.
        width: u32,
        /// As its header says.
        height: u32,
    },
    /// So long and thin that resizing it would take more pixels than are decoded.
    #[error("the picture of {width}×{height} pixels is too elongated to be fitted to the model's input")]
    TooElongated {
        /// Of the upright picture.
        width: usize,
        /// Of the upright picture.
        height: usize,
    },
    /// A `.npy` file outside of what is read.
    #[error("the recording is not a usable .npy file: {message}")]
    Npy {
        /// What is wrong.
        message: String,
    },
    /// A CSV file outside of what is read.
    #[error("line {line} of the recording: {message}")]
    Csv {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A value is NaN or infinite.
    #[error("sample {sample}, channel {channel} of the recording is not a finite number")]
    NotFinite {
        /// Counted from 0.
        sample: usize,
        /// Counted from 0.
        channel: usize,
    },
    /// Shorter than one window.
    #[error("the recording has {samples} samples; one window needs {window}")]
    TooShort {
        /// Samples of the recording.
        samples: usize,
        /// Samples of a window.
        window: usize,
    },
    /// Too many windows.
    #[error("the recording gives {windows} windows; at most {MAX_WINDOWS} are taken from one")]
    TooManyWindows {
        /// How many it would give.
        windows: usize,
    },
}

/// How inputs become tensors, checked.
#[derive(Clone, Debug)]
pub struct Preparation {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Picture(Box<PicturePreparation>),
    Signal(SignalPreparation),
}

impl Preparation {
    /// Checks `spec`.
    ///
    /// # Errors
    /// [`SpecError`] when it cannot be obeyed.
    pub fn new(spec: &InputSpec) -> Result<Preparation, SpecError> {
        let kind = match spec {
            InputSpec::Image(image) => Kind::Picture(Box::new(PicturePreparation::new(image)?)),
            InputSpec::Signal(signal) => Kind::Signal(SignalPreparation::new(signal)?),
        };
        Ok(Preparation { kind })
    }

    /// Shape of every tensor that [`Preparation::prepare`] gives.
    pub fn shape(&self) -> Vec<usize> {
        match &self.kind {
            Kind::Picture(picture) => picture.shape(),
            Kind::Signal(signal) => signal.shape(),
        }
    }

    /// How many bytes an input file is before its preparation, as its header says: 3 a pixel of a picture. That of a
    /// damaged one is its length.
    pub fn unpacked_bytes(&self, bytes: &[u8]) -> usize {
        match &self.kind {
            Kind::Picture(_) => picture::unpacked_bytes(bytes),
            Kind::Signal(_) => bytes.len(),
        }
    }

    /// The tensors of one input file: one of a PNG or JPEG picture, one per window of a `.npy` or CSV recording.
    /// There is at least one.
    ///
    /// # Errors
    /// [`PrepareError`] says what is wrong with the bytes.
    pub fn prepare(&self, bytes: &[u8]) -> Result<Prepared<'_>, PrepareError> {
        Ok(match &self.kind {
            Kind::Picture(picture) => Prepared::Picture(Some(picture.prepare(bytes)?)),
            Kind::Signal(signal) => Prepared::Signal {
                preparation: signal,
                recording: signal.read(bytes)?,
                next: 0,
            },
        })
    }
}

/// Iterates over the tensors of one input; the windows of a recording are cut when they are asked for.
#[derive(Debug)]
pub enum Prepared<'a> {
    /// A picture that was not taken yet.
    #[doc(hidden)]
    Picture(Option<(Tensor, InputFacts)>),
    /// A recording and its next window.
    #[doc(hidden)]
    Signal {
        preparation: &'a SignalPreparation,
        recording: Recording,
        next: usize,
    },
}

impl Prepared<'_> {
    /// As the iterator's next, with what was measured of the input for the drift watch.
    pub fn next_measured(&mut self) -> Option<(Option<u32>, Tensor, InputFacts)> {
        match self {
            Prepared::Picture(picture) => picture.take().map(|(tensor, facts)| (None, tensor, facts)),
            Prepared::Signal {
                preparation,
                recording,
                next,
            } => {
                let facts = preparation.facts(recording, *next)?;
                self.next().map(|(window, tensor)| (window, tensor, facts))
            }
        }
    }
}

impl Iterator for Prepared<'_> {
    /// Index of the window (`None` for a picture) and its tensor.
    type Item = (Option<u32>, Tensor);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Prepared::Picture(picture) => picture.take().map(|(tensor, _)| (None, tensor)),
            Prepared::Signal {
                preparation,
                recording,
                next,
            } => {
                let tensor = preparation.window(recording, *next)?;
                let index = u32::try_from(*next).ok();
                *next += 1;
                Some((index, tensor))
            }
        }
    }
}

/// A list with one entry per channel, or `default` for all when it is empty.
fn per_channel(
    field: &'static str,
    values: &[f32],
    channels: usize,
    default: f32,
) -> Result<Vec<f32>, SpecError> {
    if values.is_empty() {
        return Ok(vec![default; channels]);
    }
    if values.len() != channels {
        return Err(SpecError::PerChannel {
            field,
            found: values.len(),
            channels,
        });
    }
    if values
        .iter()
        .any(|value| !value.is_finite() || (field == "std" && *value == 0.0))
    {
        return Err(SpecError::NotFinite { field });
    }
    Ok(values.to_vec())
}
