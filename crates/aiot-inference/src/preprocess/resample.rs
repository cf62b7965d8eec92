//! Resizing 8-bit pictures, bit-equal to Pillow 9.5 to 12.x.
//!
//! Training code resizes with Pillow; other libraries differ from it by up to 50 grey levels (pass order, coefficient
//! precision, rounding between the passes), which costs accuracy. So this is Pillow's own algorithm: coefficients in
//! 22-bit fixed point, the horizontal pass first, rounded to 8 bits, then the vertical one. Pillow 13 swaps the passes
//! for strong height reductions; this does not.
//!
//! Source: `src/libImaging/Resample.c` of Pillow (MIT-CMU).

use aiot_package::ResizeFilter;

/// Fixed-point fraction bits: 32 minus 8 for the pixel minus 2 of head room for the negative lobes.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// An 8-bit picture of `C` interleaved channels, row-major, without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels<const C: usize> {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height` pixels.
    pub data: Vec<[u8; C]>,
}

/// `source` resized to `width`×`height`; a pass whose length stays the same is skipped, as in Pillow.
pub fn resize<const C: usize>(
    source: Pixels<C>,
    width: usize,
    height: usize,
    filter: ResizeFilter,
) -> Pixels<C> {
    let narrowed = if source.width == width {
        source
    } else {
        resize_rows(&source, width, filter)
    };
    if narrowed.height == height {
        narrowed
    } else {
        resize_columns(&narrowed, height, filter)
    }
}

/// The share of each source pixel in one target pixel.
struct Kernel {
    /// First source pixel.
    start: usize,
    /// Weights of the pixels from there on, in 22-bit fixed point.
    weights: Vec<i32>,
}

fn kernels(source_length: usize, target_length: usize, filter: ResizeFilter) -> Vec<Kernel> {
    let (weight, filter_support): (fn(f64) -> f64, f64) = match filter {
        ResizeFilter::Box => (box_weight, 0.5),
        ResizeFilter::Bilinear => (bilinear_weight, 1.0),
        ResizeFilter::Bicubic => (bicubic_weight, 2.0),
        ResizeFilter::Lanczos => (lanczos_weight, 3.0),
    };
    let scale = source_length as f64 / target_length as f64;
    let filter_scale = scale.max(1.0);
    let support = filter_support * filter_scale;
    let inverse_scale = 1.0 / filter_scale;
    (0..target_length)
        .map(|target| {
            let center = (target as f64 + 0.5) * scale;
            // Float to integer conversion truncates and saturates at 0, as Pillow's clamp does.
            let start = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(source_length);
            let mut weights: Vec<f64> = (start..end)
                .map(|source| weight((source as f64 - center + 0.5) * inverse_scale))
                .collect();
            let sum: f64 = weights.iter().sum();
            if sum != 0.0 {
                weights.iter_mut().for_each(|weight| *weight /= sum);
            }
            let fixed = |weight: f64| {
                let scaled = weight * f64::from(1u32 << PRECISION_BITS);
                (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
            };
            Kernel {
                start,
                weights: weights.into_iter().map(fixed).collect(),
            }
        })
        .collect()
}

fn resize_rows<const C: usize>(source: &Pixels<C>, width: usize, filter: ResizeFilter) -> Pixels<C> {
    let kernels = kernels(source.width, width, filter);
    let mut data = Vec::with_capacity(width * source.height);
    for row in source.data.chunks_exact(source.width) {
        for kernel in &kernels {
            let mut sums = [1i32 << (PRECISION_BITS - 1); C];
            for (pixel, &weight) in row[kernel.start..].iter().zip(&kernel.weights) {
                for channel in 0..C {
                    sums[channel] += i32::from(pixel[channel]) * weight;
                }
            }
            data.push(sums.map(to_byte));
        }
    }
    Pixels {
        width,
        height: source.height,
        data,
    }
}

fn resize_columns<const C: usize>(source: &Pixels<C>, height: usize, filter: ResizeFilter) -> Pixels<C> {
    let width = source.width;
    let mut data = Vec::with_capacity(width * height);
    let mut sums = vec![[0i32; C]; width];
    for kernel in kernels(source.height, height, filter) {
        sums.fill([1i32 << (PRECISION_BITS - 1); C]);
        // Whole rows at a time, so that the compiler can use vector instructions.
        for (row, &weight) in source
            .data
            .chunks_exact(width)
            .skip(kernel.start)
            .zip(&kernel.weights)
        {
            for (sum, pixel) in sums.iter_mut().zip(row) {
                for channel in 0..C {
                    sum[channel] += i32::from(pixel[channel]) * weight;
                }
            }
        }
        data.extend(sums.iter().map(|sum| sum.map(to_byte)));
    }
    Pixels { width, height, data }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

fn box_weight(x: f64) -> f64 {
    if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }
}

fn bilinear_weight(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn bicubic_weight(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn lanczos_weight(x: f64) -> f64 {
    if (-3.0..3.0).contains(&x) {
        sinc(x) * sinc(x / 3.0)
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERS: [ResizeFilter; 4] = [
        ResizeFilter::Box,
        ResizeFilter::Bilinear,
        ResizeFilter::Bicubic,
        ResizeFilter::Lanczos,
    ];

    fn grey(width: usize, height: usize, value: impl Fn(usize) -> u8) -> Pixels<1> {
        Pixels {
            width,
            height,
            data: (0..width * height).map(|index| [value(index)]).collect(),
        }
    }

    #[test]
    fn a_flat_picture_stays_flat() {
        for filter in FILTERS {
            for level in [0, 1, 127, 254, 255] {
                for (width, height) in [(1, 1), (7, 3), (40, 90)] {
                    let resized = resize(grey(13, 31, |_| level), width, height, filter);
                    assert!(
                        resized.data.iter().all(|&[got]| got == level),
                        "{filter:?} {level}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        let picture = grey(5, 4, |index| (index * 13) as u8);
        for filter in FILTERS {
            assert_eq!(resize(picture.clone(), 5, 4, filter), picture);
        }
    }

    #[test]
    fn box_halves_by_the_mean() {
        let picture = grey(4, 2, |index| [0, 10, 20, 30, 10, 20, 30, 41][index]);
        assert_eq!(resize(picture, 2, 1, ResizeFilter::Box).data, [[10], [31]]);
    }

    #[test]
    fn the_longest_allowed_side_does_not_overflow() {
        let longest = crate::limits::MAX_PICTURE_SIDE as usize;
        for filter in FILTERS {
            assert_eq!(
                resize(grey(longest, 1, |_| 255), 1, 1, filter).data,
                [[255]],
                "{filter:?}"
            );
            assert_eq!(
                resize(grey(1, longest, |_| 255), 1, 2, filter).data,
                [[255], [255]],
                "{filter:?}"
            );
        }
    }
}
