//! Bit-equality with Pillow, against the digests in `golden/pillow.json` (see `golden/make.py`).

use aiot_inference::preprocess::resample::{Pixels, resize};
use aiot_inference::preprocess::{Preparation, PrepareError};
use aiot_package::{Colour, Digest, ImageInput, ImageLayout, InputSpec, ResizeFilter};
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/pillow.json")).unwrap()
}

/// The picture that `make.py` makes.
fn noise<const C: usize>(width: usize, height: usize) -> Pixels<C> {
    let mut state = 12_345u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let data = (0..width * height)
        .map(|_| std::array::from_fn(|_| next()))
        .collect();
    Pixels { width, height, data }
}

fn resized<const C: usize>(sizes: [usize; 4], filter: ResizeFilter) -> String {
    let [width, height, new_width, new_height] = sizes;
    let pixels = resize(noise::<C>(width, height), new_width, new_height, filter);
    Digest::of(&pixels.data.concat()).hex()
}

#[test]
fn resizing_is_pillows() {
    let golden = golden();
    for case in golden["resize"].as_array().unwrap() {
        let filter: ResizeFilter = serde_json::from_value(case[0].clone()).unwrap();
        let sizes: [usize; 4] = std::array::from_fn(|index| case[2 + index].as_u64().unwrap() as usize);
        let got = if case[1] == 1 {
            resized::<1>(sizes, filter)
        } else {
            resized::<3>(sizes, filter)
        };
        assert_eq!(case[6], got, "{case}");
    }
}

fn input(width: u64, height: u64, colour: Colour) -> InputSpec {
    InputSpec::Image(ImageInput {
        width: width as u32,
        height: height as u32,
        colour,
        resize: ResizeFilter::Bilinear,
        fit: Default::default(),
        scale: 1.0,
        mean: vec![],
        std: vec![],
        layout: ImageLayout::Nhwc,
    })
}

fn prepare(spec: &InputSpec, bytes: &[u8]) -> Result<Vec<f32>, PrepareError> {
    let preparation = Preparation::new(spec).unwrap();
    let (_, tensor) = preparation.prepare(bytes)?.next().unwrap();
    Ok(tensor.into_values())
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().map(|value| *value as u8).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn every_kind_of_png_becomes_pillows_pixels() {
    let golden = golden();
    for (name, case) in golden["conversions"].as_object().unwrap() {
        let png = unhex(case["png"].as_str().unwrap());
        let (width, height) = (
            case["size"][0].as_u64().unwrap(),
            case["size"][1].as_u64().unwrap(),
        );
        for (colour, key) in [(Colour::Rgb, "rgb"), (Colour::Grey, "grey")] {
            let values = prepare(&input(width, height, colour), &png).unwrap();
            assert_eq!(case[key], Digest::of(&bytes_of(&values)).hex(), "{name} as {key}");
        }
    }
}

#[test]
fn colour_order_layout_and_normalization() {
    let golden = golden();
    let png = unhex(golden["conversions"]["rgb"]["png"].as_str().unwrap());
    let rgb = prepare(&input(6, 5, Colour::Rgb), &png).unwrap();
    let bgr = prepare(&input(6, 5, Colour::Bgr), &png).unwrap();
    let InputSpec::Image(spec) = input(6, 5, Colour::Rgb) else {
        unreachable!()
    };
    let planes = ImageInput {
        scale: 0.5,
        mean: vec![1.0, 2.0, 3.0],
        std: vec![2.0, 4.0, 8.0],
        layout: ImageLayout::Nchw,
        ..spec
    };
    let planes = prepare(&InputSpec::Image(planes), &png).unwrap();
    for pixel in 0..30 {
        assert_eq!(
            [rgb[pixel * 3], rgb[pixel * 3 + 2]],
            [bgr[pixel * 3 + 2], bgr[pixel * 3]]
        );
        for (channel, (mean, std)) in [(1.0, 2.0), (2.0, 4.0), (3.0, 8.0)].into_iter().enumerate() {
            assert_eq!(
                planes[channel * 30 + pixel],
                (rgb[pixel * 3 + channel] * 0.5 - mean) / std
            );
        }
    }
}

/// A PNG whose header promises `width`×`height` grey pixels; the data are missing.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    bytes.extend(width.to_be_bytes());
    bytes.extend(height.to_be_bytes());
    bytes.extend([8, 0, 0, 0, 0]);
    let mut crc = u32::MAX;
    for &byte in &bytes[12..] {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    bytes.extend((!crc).to_be_bytes());
    bytes.extend(b"\0\0\0\x00IDAT\x35\xaf\x06\x1e");
    bytes
}

#[test]
fn hostile_pictures_are_refused() {
    let spec = input(8, 8, Colour::Rgb);
    let whole = unhex(golden()["conversions"]["rgb"]["png"].as_str().unwrap());
    for (bytes, expected) in [
        (png_header(20_000, 20_000), "20000×20000 pixels; at most"),
        (png_header(0x7fff_ffff, 1), "cannot be decoded"),
        (png_header(0, 4), "cannot be decoded"),
        (png_header(4, 4), "cannot be decoded"),
        (whole[..whole.len() / 2].to_vec(), "cannot be decoded"),
        (b"GIF89a\x01\0\x01\0".to_vec(), "neither a PNG nor a JPEG"),
        (b"".to_vec(), "neither a PNG nor a JPEG"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF".to_vec(), "cannot be decoded"),
    ] {
        let error = prepare(&spec, &bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn every_cut_of_a_picture_gives_an_error_or_pixels() {
    let golden = golden();
    for case in golden["conversions"].as_object().unwrap().values() {
        let png = unhex(case["png"].as_str().unwrap());
        for length in 0..png.len() {
            let _ = prepare(&input(4, 4, Colour::Grey), &png[..length]);
        }
    }
}

/// Every byte of a JPEG picture and of recordings replaced by others: JPEG and CSV have no checksum that would stop
/// the reader early.
#[test]
fn every_damaged_byte_gives_an_error_or_a_tensor() {
    let mut jpeg = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_fn(20, 12, |x, y| image::Rgb([x as u8 * 9, y as u8 * 20, 77]));
    picture.write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
    let header = "{'descr': '<i2', 'fortran_order': False, 'shape': (8, 1), }";
    let mut npy = b"\x93NUMPY\x01\0".to_vec();
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.as_bytes());
    npy.extend([7; 16]);
    let csv = b"time\n1\n-2.5\n3e1\n4\n".to_vec();
    let signal: InputSpec =
        serde_json::from_str(r#"{"signal": {"channels": 1, "window": 2, "stride": 1}}"#).unwrap();
    for (spec, whole) in [
        (input(8, 8, Colour::Rgb), jpeg.into_inner()),
        (signal.clone(), npy),
        (signal, csv),
    ] {
        let preparation = Preparation::new(&spec).unwrap();
        assert!(preparation.prepare(&whole).is_ok());
        for at in 0..whole.len() {
            for value in [0, 0xff, whole[at] ^ 0x10] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                if let Ok(prepared) = preparation.prepare(&bytes) {
                    assert!(prepared.count() > 0);
                }
            }
            let _ = preparation.prepare(&whole[..at]);
        }
    }
}
