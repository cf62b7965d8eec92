//! The bounds on what outsiders may send us. One place, so that they can be read together.

/// Bytes of one input file or message: 64 MiB.
pub const MAX_INPUT_BYTES: u64 = 64 << 20;

/// Pixels of a picture, checked before its memory is allocated: 32 Mi, above what factory cameras deliver.
pub const MAX_PICTURE_PIXELS: u64 = 32 << 20;

/// Pixels along one side of a picture; also keeps the resampler's 32-bit sums from overflowing.
pub const MAX_PICTURE_SIDE: u32 = 65_535;

/// Pixels along one side of a model's input.
pub const MAX_MODEL_SIDE: u32 = 8_192;

/// Windows that one recording may give.
pub const MAX_WINDOWS: usize = 100_000;

/// Values of a model's input tensor.
pub const MAX_INPUT_VALUES: usize = 64 << 20;

/// Bytes of `package.json`.
pub const MAX_PACKAGE_JSON_BYTES: u64 = 1 << 20;

/// Bytes of `golden.json` and of `labels.csv`.
pub const MAX_LIST_BYTES: u64 = 64 << 20;
