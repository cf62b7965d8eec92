//! NumPy's `.npy` format, as far as recordings need it: little-endian f32, f64 or i16, C order, one or two axes.
//!
//! Source: NumPy's `numpy/lib/format.py`, format versions 1 to 3.

use super::PrepareError;

pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// A NumPy array header is a line of Python; real ones are below 200 bytes.
const MAX_HEADER_BYTES: usize = 4096;

/// No `.npy` file that is read has more bytes before its data.
pub const MAX_NPY_HEADER_BYTES: usize = MAX_HEADER_BYTES + 12;

/// Rows × columns; a one-dimensional array is one column.
pub(super) fn read(bytes: &[u8]) -> Result<(usize, usize, Vec<f32>), PrepareError> {
    parse(bytes).map_err(|message| PrepareError::Npy { message })
}

/// What a `.npy` file says of its data, which begins at `data_offset`: little-endian, C order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NpyHeader {
    /// NumPy's code of the element type, `<f4`; structured types have none and are refused.
    pub kind: String,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Bytes before the data.
    pub data_offset: usize,
}

/// Reads the header of a `.npy` file from its first bytes ([`MAX_NPY_HEADER_BYTES`] are always enough).
///
/// # Errors
/// What is wrong, in words.
pub fn npy_header(bytes: &[u8]) -> Result<NpyHeader, String> {
    let cut_off = || "the file is cut off".to_owned();
    let rest = bytes.strip_prefix(MAGIC).ok_or("it does not begin like one")?;
    let (header_bytes, rest) = match *rest {
        [1, _, a, b, ref rest @ ..] => (usize::from(u16::from_le_bytes([a, b])), rest),
        [2 | 3, _, a, b, c, d, ref rest @ ..] => (u32::from_le_bytes([a, b, c, d]) as usize, rest),
        [version, ..] if version > 3 => return Err(format!("format version {version} is not known")),
        _ => return Err(cut_off()),
    };
    if header_bytes > MAX_HEADER_BYTES {
        return Err(format!("its header of {header_bytes} bytes is too long"));
    }
    let header = rest.get(..header_bytes).ok_or_else(cut_off)?;
    let data_offset = bytes.len() - rest.len() + header_bytes;
    let header = std::str::from_utf8(header).map_err(|_| "its header is not text".to_owned())?;

    let field = |name: &str| {
        let start = header
            .find(&format!("'{name}':"))
            .ok_or_else(|| format!("its header lacks `{name}`"))?;
        Ok::<&str, String>(header[start + name.len() + 3..].trim_start())
    };
    let kind = field("descr")?
        .strip_prefix('\'')
        .and_then(|text| text.split('\'').next())
        .ok_or("its type is not a plain one")?;
    if !field("fortran_order")?.starts_with("False") {
        return Err("it is in Fortran order; save numpy.ascontiguousarray(…)".to_owned());
    }
    let shape = field("shape")?
        .strip_prefix('(')
        .and_then(|text| text.split_once(')'))
        .ok_or("its shape is not a tuple")?
        .0
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(|text| {
            text.parse::<usize>()
                .map_err(|_| format!("its shape holds `{text}`"))
        })
        .collect::<Result<Vec<usize>, String>>()?;
    Ok(NpyHeader {
        kind: kind.to_owned(),
        shape,
        data_offset,
    })
}

fn parse(bytes: &[u8]) -> Result<(usize, usize, Vec<f32>), String> {
    let NpyHeader {
        kind,
        shape,
        data_offset,
    } = npy_header(bytes)?;
    let data = &bytes[data_offset..];
    let (value_bytes, value): (usize, fn(&[u8]) -> f32) = match kind.as_str() {
        "<f4" => (4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        "<f8" => (8, |b| {
            f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32
        }),
        "<i2" => (2, |b| f32::from(i16::from_le_bytes([b[0], b[1]]))),
        other => return Err(format!("its type is `{other}`; `<f4`, `<f8` and `<i2` are read")),
    };
    let (rows, columns) = match shape[..] {
        [rows] => (rows, 1),
        [rows, columns] => (rows, columns),
        _ => {
            return Err(format!(
                "it has {} axes; [samples, channels] is wanted",
                shape.len()
            ));
        }
    };
    let needed = rows
        .checked_mul(columns)
        .and_then(|count| count.checked_mul(value_bytes));
    if needed != Some(data.len()) {
        return Err(format!(
            "shape {shape:?} does not fit its {} bytes of data",
            data.len()
        ));
    }
    Ok((rows, columns, data.chunks_exact(value_bytes).map(value).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = [MAGIC, &[1, 0]].concat();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn check(header: &str, data: &[u8], expected: Result<(usize, usize, Vec<f32>), &str>) {
        match (parse(&file(header, data)), expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{header}"),
            (Err(got), Err(expected)) => assert!(got.contains(expected), "{header}: {got}"),
            (got, expected) => panic!("{header}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn reads_what_numpy_writes() {
        let two = [1.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat();
        check(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n",
            &two,
            Ok((2, 1, vec![1.5, -2.0])),
        );
        check(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }",
            &two,
            Ok((1, 2, vec![1.5, -2.0])),
        );
        check(
            "{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }",
            &[1, 0, 255, 255],
            Ok((2, 1, vec![1.0, -1.0])),
        );
        let wide = 0.25f64.to_le_bytes();
        check(
            "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1), }",
            &wide,
            Ok((1, 1, vec![0.25])),
        );
    }

    #[test]
    fn refuses_the_rest() {
        check(
            "{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }",
            &[0; 8],
            Err("Fortran"),
        );
        check(
            "{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }",
            &[0; 8],
            Err("`>f4`"),
        );
        check(
            "{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (2,), }",
            &[0; 8],
            Err("plain"),
        );
        check(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }",
            &[0; 8],
            Err("does not fit"),
        );
        check(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 2), }",
            &[0; 8],
            Err("3 axes"),
        );
        check(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
            &[],
            Err("`-1`"),
        );
        check(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999999, 9999999999), }",
            &[],
            Err("fit"),
        );
        check("{'shape': (2,)}", &[0; 8], Err("`descr`"));
        check("", &[], Err("lacks"));
        for bytes in [
            &b""[..],
            b"\x93NUMPY",
            b"\x93NUMPY\x01\x00\xff",
            b"\x93NUMPY\x01\x00\xff\x00",
            b"\x93NUMPY\x09\x00",
        ] {
            assert!(parse(bytes).is_err());
        }
    }
}
