//! Frames of cameras that do not compress: YUYV, two pixels in four bytes, brightness of each and the colour of both.
//!
//! Colours as Video4Linux has them where a driver says nothing else: BT.601, brightness 16 to 235, colours 16 to 240.
//! Integer arithmetic, so that every processor makes the same pixels of a frame.

use aiot_inference::PredictError;
use aiot_inference::preprocess::PrepareError;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

/// Bytes that a driver may put behind each row, to begin the next at a round address.
const MOST_PADDING: usize = 63;

/// The frame as a PNG file, which all that follows reads and keeps like any other.
///
/// # Errors
/// [`PredictError::Prepare`] when the frame is not as long as one of this size is.
pub(super) fn file(frame: &[u8], width: u32, height: u32) -> Result<Vec<u8>, PredictError> {
    let undecodable = |message: String| PredictError::from(PrepareError::Undecodable { message });
    let pixels = pixels(frame, width as usize, height as usize).ok_or_else(|| {
        undecodable(format!(
            "the camera's frame has {} bytes, where {width}×{height} pixels in YUYV take {}",
            frame.len(),
            row_bytes(width as usize) * height as usize
        ))
    })?;
    let mut file = Vec::new();
    PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::NoFilter)
        .write_image(&pixels, width, height, ExtendedColorType::Rgb8)
        .map_err(|error| undecodable(error.to_string()))?;
    Ok(file)
}

/// Bytes of a row: a lone last pixel takes as many as two.
fn row_bytes(width: usize) -> usize {
    width.div_ceil(2) * 4
}

/// Red, green and blue of each pixel, row after row; `None` where the frame has another length.
fn pixels(frame: &[u8], width: usize, height: usize) -> Option<Vec<u8>> {
    let row = row_bytes(width);
    let stride = frame.len().checked_div(height)?;
    if row == 0 || stride * height != frame.len() || !(row..=row + MOST_PADDING).contains(&stride) {
        return None;
    }
    let mut pixels = Vec::with_capacity((width + 1) * height * 3);
    for line in frame.chunks_exact(stride) {
        let start = pixels.len();
        for &[first, blue, second, red] in line[..row].as_chunks::<4>().0 {
            for brightness in [first, second] {
                pixels.extend(rgb(brightness, blue, red));
            }
        }
        pixels.truncate(start + width * 3);
    }
    Some(pixels)
}

/// One pixel, in units of 1/256: 1.164 (Y - 16), 1.596 V, 0.392 U and 0.813 V, 2.017 U.
fn rgb(brightness: u8, blue: u8, red: u8) -> [u8; 3] {
    let brightness = 298 * (i32::from(brightness) - 16) + 128;
    let [blue, red] = [blue, red].map(|colour| i32::from(colour) - 128);
    [
        brightness + 409 * red,
        brightness - 100 * blue - 208 * red,
        brightness + 516 * blue,
    ]
    .map(|value| (value >> 8).clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_colour_is_the_one_of_bt_601() {
        for brightness in (0..=255).step_by(3) {
            for blue in (0..=255).step_by(5) {
                for red in (0..=255).step_by(5) {
                    // The standard's own definition: weights of red and blue in the brightness, ranges of 219 and 224.
                    let [kr, kb] = [0.299, 0.114];
                    let y = (f64::from(brightness) - 16.0) / 219.0;
                    let [cb, cr] = [blue, red].map(|colour| (f64::from(colour) - 128.0) / 224.0);
                    let r = y + 2.0 * (1.0 - kr) * cr;
                    let b = y + 2.0 * (1.0 - kb) * cb;
                    let g = (y - kr * r - kb * b) / (1.0 - kr - kb);
                    let found = rgb(brightness as u8, blue as u8, red as u8);
                    for (found, expected) in found.into_iter().zip([r, g, b]) {
                        let expected = (expected * 255.0).clamp(0.0, 255.0);
                        assert!(
                            (f64::from(found) - expected).abs() <= 1.5,
                            "{brightness} {blue} {red}: {found} for {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn rows_end_where_the_driver_ends_them() {
        // White and black beside each other, without colour.
        let row = [235, 128, 16, 128];
        let expected = [255, 255, 255, 0, 0, 0, 255, 255, 255, 0, 0, 0];
        assert_eq!(pixels(&row.repeat(2), 2, 2).unwrap(), expected);
        let padded = [&row[..], &[9; 12]].concat().repeat(2);
        assert_eq!(pixels(&padded, 2, 2).unwrap(), expected);
        // A lone last pixel.
        assert_eq!(pixels(&row, 1, 1).unwrap(), [255, 255, 255]);
        let three = [row, row].concat();
        assert_eq!(pixels(&three, 3, 1).unwrap().len(), 9);
        for (length, width, height) in [(0, 2, 2), (7, 2, 2), (4, 2, 2), (9, 2, 2), (400, 2, 2), (8, 2, 0)] {
            assert_eq!(pixels(&vec![1; length], width, height), None, "{length}");
        }
        let message = file(&[1; 7], 2, 2).unwrap_err().to_string();
        assert!(
            message.contains("has 7 bytes, where 2×2 pixels in YUYV take 8"),
            "{message}"
        );
    }
}
