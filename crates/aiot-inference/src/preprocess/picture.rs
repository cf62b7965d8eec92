//! Pictures: file bytes → decoded 8-bit pixels → colour → size → float32 tensor.

use std::io::Cursor;

use aiot_package::{Colour, Fit, ImageInput, ImageLayout, ResizeFilter};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::resample::{self, Pixels};
use super::{PrepareError, SpecError};
use crate::drift::{InputFacts, picture_facts};
use crate::limits::{MAX_MODEL_SIDE, MAX_PICTURE_PIXELS, MAX_PICTURE_SIDE};
use crate::tensor::Tensor;

/// Grey level around a picture that is fitted by [`Fit::Contain`].
const PADDING: u8 = 114;

/// The checked preparation of pictures for one model.
#[derive(Clone, Debug)]
pub(super) struct PicturePreparation {
    spec: ImageInput,
    /// `(pixel * scale - mean) / std` for every channel of the tensor and every pixel value.
    levels: Vec<[f32; 256]>,
}

impl PicturePreparation {
    pub(super) fn new(spec: &ImageInput) -> Result<Self, SpecError> {
        let sides = 1..=MAX_MODEL_SIDE;
        if !sides.contains(&spec.width) || !sides.contains(&spec.height) {
            return Err(SpecError::PictureSize {
                width: spec.width,
                height: spec.height,
            });
        }
        let channels = spec.colour.channels();
        let mean = super::per_channel("mean", &spec.mean, channels, 0.0)?;
        let std = super::per_channel("std", &spec.std, channels, 1.0)?;
        if !spec.scale.is_finite() {
            return Err(SpecError::NotFinite { field: "scale" });
        }
        let levels = mean
            .iter()
            .zip(&std)
            .map(|(mean, std)| std::array::from_fn(|pixel| (pixel as f32 * spec.scale - mean) / std))
            .collect();
        Ok(PicturePreparation {
            spec: spec.clone(),
            levels,
        })
    }

    pub(super) fn shape(&self) -> Vec<usize> {
        let (channels, height, width) = (
            self.spec.colour.channels(),
            self.spec.height as usize,
            self.spec.width as usize,
        );
        match self.spec.layout {
            ImageLayout::Nchw => vec![1, channels, height, width],
            ImageLayout::Nhwc => vec![1, height, width, channels],
        }
    }

    pub(super) fn prepare(&self, bytes: &[u8]) -> Result<(Tensor, InputFacts), PrepareError> {
        let picture = decode(bytes)?;
        let (values, facts) = match self.spec.colour {
            Colour::Grey => self.levels_of(fit(grey(picture), &self.spec)?),
            Colour::Rgb => self.levels_of(fit(rgb(picture), &self.spec)?),
            Colour::Bgr => {
                let mut pixels = fit(rgb(picture), &self.spec)?;
                pixels.data.iter_mut().for_each(|pixel| pixel.reverse());
                self.levels_of(pixels)
            }
        };
        let tensor = Tensor::new(self.shape(), values).expect("the pixels fill the spec's shape");
        Ok((tensor, facts))
    }

    fn levels_of<const C: usize>(&self, pixels: Pixels<C>) -> (Vec<f32>, InputFacts) {
        let facts = picture_facts(&pixels.data);
        let mut values = Vec::with_capacity(pixels.data.len() * C);
        match self.spec.layout {
            ImageLayout::Nchw => {
                for (channel, levels) in self.levels.iter().enumerate().take(C) {
                    let level = |pixel: &[u8; C]| levels[usize::from(pixel[channel])];
                    values.extend(pixels.data.iter().map(level));
                }
            }
            ImageLayout::Nhwc => {
                for pixel in &pixels.data {
                    let level = |channel: usize| self.levels[channel][usize::from(pixel[channel])];
                    values.extend_from_slice(&std::array::from_fn::<f32, C, _>(level));
                }
            }
        }
        (values, facts)
    }
}

/// What a PNG or JPEG file is unpacked to: 3 bytes a pixel, as its header says; its length where that says nothing.
pub(super) fn unpacked_bytes(bytes: &[u8]) -> usize {
    let size = image::guess_format(bytes)
        .and_then(|format| ImageReader::with_format(Cursor::new(bytes), format).into_dimensions());
    size.map_or(bytes.len(), |(width, height)| {
        (width as usize).saturating_mul(height as usize).saturating_mul(3)
    })
}

/// Decodes PNG or JPEG, upright. The size in the header is checked before memory is taken.
pub(super) fn decode(bytes: &[u8]) -> Result<DynamicImage, PrepareError> {
    let fail = |error: image::ImageError| PrepareError::Undecodable {
        message: error.to_string(),
    };
    let format = image::guess_format(bytes).map_err(|_| PrepareError::NotAPicture)?;
    if !matches!(format, ImageFormat::Png | ImageFormat::Jpeg) {
        return Err(PrepareError::NotAPicture);
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_PICTURE_SIDE);
    limits.max_image_height = Some(MAX_PICTURE_SIDE);
    // 16 bits in four channels are the widest pixel that the decoders know.
    limits.max_alloc = Some(MAX_PICTURE_PIXELS * 8 + (1 << 20));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(fail)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PICTURE_PIXELS {
        return Err(PrepareError::TooManyPixels { width, height });
    }
    if width == 0 || height == 0 {
        return Err(PrepareError::Undecodable {
            message: format!("it is {width}×{height} pixels"),
        });
    }
    // A damaged EXIF block does not make the pixels unusable.
    let orientation = decoder
        .orientation()
        .unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(fail)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// Pillow's `convert("RGB")`: grey is repeated, transparency is dropped (not composited). Of 16 bits the high byte.
fn rgb(picture: DynamicImage) -> Pixels<3> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let data = match picture {
        DynamicImage::ImageRgb8(pixels) => pixels.as_raw().as_chunks().0.to_vec(),
        DynamicImage::ImageRgba8(pixels) => pixels.pixels().map(|pixel| first(pixel.0)).collect(),
        DynamicImage::ImageLuma8(pixels) => pixels.pixels().map(|pixel| [pixel.0[0]; 3]).collect(),
        DynamicImage::ImageLumaA8(pixels) => pixels.pixels().map(|pixel| [pixel.0[0]; 3]).collect(),
        DynamicImage::ImageLuma16(pixels) => pixels.pixels().map(|pixel| [high(pixel.0[0]); 3]).collect(),
        DynamicImage::ImageLumaA16(pixels) => pixels.pixels().map(|pixel| [high(pixel.0[0]); 3]).collect(),
        DynamicImage::ImageRgb16(pixels) => pixels.pixels().map(|pixel| pixel.0.map(high)).collect(),
        DynamicImage::ImageRgba16(pixels) => pixels.pixels().map(|pixel| first(pixel.0).map(high)).collect(),
        // PNG and JPEG have no other kinds.
        other => other.into_rgb8().pixels().map(|pixel| pixel.0).collect(),
    };
    Pixels { width, height, data }
}

/// Pillow's `convert("L")`: ITU-R 601-2 luma in 16-bit fixed point. Grey pictures stay as they are.
fn grey(picture: DynamicImage) -> Pixels<1> {
    if let DynamicImage::ImageLuma8(pixels) = &picture {
        return Pixels {
            width: picture.width() as usize,
            height: picture.height() as usize,
            data: pixels.as_raw().as_chunks().0.to_vec(),
        };
    }
    let rgb = rgb(picture);
    let luma = |[red, green, blue]: [u8; 3]| {
        let sum = u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471;
        [((sum + 0x8000) >> 16) as u8]
    };
    Pixels {
        width: rgb.width,
        height: rgb.height,
        data: rgb.data.into_iter().map(luma).collect(),
    }
}

fn first<T: Copy>([red, green, blue, _]: [T; 4]) -> [T; 3] {
    [red, green, blue]
}

fn high(value: u16) -> u8 {
    (value >> 8) as u8
}

/// [`resample::resize`] within bounds: a picture one pixel high may not grow to gigabytes on the way.
fn resize<const C: usize>(
    source: Pixels<C>,
    width: usize,
    height: usize,
    filter: ResizeFilter,
) -> Result<Pixels<C>, PrepareError> {
    let most = width as u64 * height.max(source.height) as u64;
    if most > MAX_PICTURE_PIXELS {
        return Err(PrepareError::TooElongated {
            width: source.width,
            height: source.height,
        });
    }
    Ok(resample::resize(source, width, height, filter))
}

fn fit<const C: usize>(source: Pixels<C>, spec: &ImageInput) -> Result<Pixels<C>, PrepareError> {
    let (width, height, filter) = (spec.width as usize, spec.height as usize, spec.resize);
    match spec.fit {
        Fit::Stretch => resize(source, width, height, filter),
        Fit::Cover => cover(source, width, height, filter),
        Fit::Contain => contain(source, width, height, filter),
    }
}

/// The side that decides is exact, the other one truncated and cut in the middle with halves to even: as
/// torchvision's `Resize(n)` and `CenterCrop(n)` do for square inputs.
fn cover<const C: usize>(
    source: Pixels<C>,
    width: usize,
    height: usize,
    filter: ResizeFilter,
) -> Result<Pixels<C>, PrepareError> {
    let (scaled_width, scaled_height) = if source.width * height >= source.height * width {
        ((source.width * height / source.height).max(width), height)
    } else {
        (width, (source.height * width / source.width).max(height))
    };
    let scaled = resize(source, scaled_width, scaled_height, filter)?;
    let (left, top) = (
        half_to_even(scaled_width - width),
        half_to_even(scaled_height - height),
    );
    let data = (top..top + height)
        .flat_map(|row| scaled.data[row * scaled_width + left..][..width].iter().copied())
        .collect();
    Ok(Pixels { width, height, data })
}

fn half_to_even(length: usize) -> usize {
    let half = length / 2;
    half + (length % 2) * (half % 2)
}

/// The side that decides is exact, the other one rounded, the picture in the middle (towards the top left).
fn contain<const C: usize>(
    source: Pixels<C>,
    width: usize,
    height: usize,
    filter: ResizeFilter,
) -> Result<Pixels<C>, PrepareError> {
    let rounded = |length: usize, factor: usize, divisor: usize| {
        ((2 * length * factor + divisor) / (2 * divisor)).max(1)
    };
    let (scaled_width, scaled_height) = if source.width * height >= source.height * width {
        (width, rounded(source.height, width, source.width).min(height))
    } else {
        (rounded(source.width, height, source.height).min(width), height)
    };
    let scaled = resize(source, scaled_width, scaled_height, filter)?;
    let (left, top) = ((width - scaled_width) / 2, (height - scaled_height) / 2);
    let mut data = vec![[PADDING; C]; width * height];
    for (row, pixels) in scaled.data.chunks_exact(scaled_width).enumerate() {
        data[(top + row) * width + left..][..scaled_width].copy_from_slice(pixels);
    }
    Ok(Pixels { width, height, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(width: usize, height: usize) -> Pixels<1> {
        Pixels {
            width,
            height,
            data: (0..width * height).map(|index| [(index % width) as u8]).collect(),
        }
    }

    #[test]
    fn a_header_tells_how_much_a_picture_is() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg] {
            let mut file = Cursor::new(Vec::new());
            DynamicImage::new_luma8(300, 200)
                .write_to(&mut file, format)
                .unwrap();
            let file = file.into_inner();
            assert_eq!(unpacked_bytes(&file), 180_000, "{format:?}");
            assert_eq!(unpacked_bytes(&file[..10]), 10, "{format:?}");
        }
        assert_eq!(unpacked_bytes(b"no picture"), 10);
    }

    #[test]
    fn halves_go_to_even() {
        for (length, expected) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3), (7, 4)] {
            assert_eq!(half_to_even(length), expected, "{length}");
        }
    }

    #[test]
    fn cover_cuts_the_middle() {
        let covered = cover(columns(8, 4), 4, 4, ResizeFilter::Box).unwrap();
        assert_eq!(covered.data[..4], [[2], [3], [4], [5]]);
        let covered = cover(columns(4, 8), 4, 4, ResizeFilter::Box).unwrap();
        assert_eq!((covered.width, covered.height, covered.data.len()), (4, 4, 16));
    }

    #[test]
    fn contain_pads_with_grey() {
        let contained = contain(columns(4, 2), 4, 4, ResizeFilter::Box).unwrap();
        let rows: Vec<Vec<u8>> = contained
            .data
            .chunks(4)
            .map(|row| row.iter().map(|pixel| pixel[0]).collect())
            .collect();
        assert_eq!(
            rows,
            [vec![114; 4], vec![0, 1, 2, 3], vec![0, 1, 2, 3], vec![114; 4]]
        );
        let thin = contain(columns(1000, 1), 4, 4, ResizeFilter::Bilinear).unwrap();
        assert!(cover(columns(60_000, 1), 224, 224, ResizeFilter::Bilinear).is_err());
        assert_eq!((thin.width, thin.height, thin.data.len()), (4, 4, 16));
    }
}
