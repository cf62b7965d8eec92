//! Initializers: how long their data must be, and reading and writing it.
//!
//! ONNX keeps the same numbers either as little-endian `raw_data` or in a typed field; readers here take both, writers
//! make `raw_data`.

use bytes::Bytes;

use crate::error::OnnxError;
use crate::proto::TensorProto;
use crate::proto::tensor_proto::{DataLocation, DataType};

/// Bits per element in `raw_data`, `None` for strings and for types whose packing is not settled.
pub(crate) fn bits(data_type: DataType) -> Option<usize> {
    use DataType::*;
    Some(match data_type {
        Uint8 | Int8 | Bool | Float8e4m3fn | Float8e4m3fnuz | Float8e5m2 | Float8e5m2fnuz | Float8e8m0 => 8,
        Uint16 | Int16 | Float16 | Bfloat16 => 16,
        Float | Int32 | Uint32 => 32,
        Double | Int64 | Uint64 | Complex64 => 64,
        Complex128 => 128,
        Uint4 | Int4 | Float4e2m1 => 4,
        Uint2 | Int2 => 2,
        Undefined | String | Float6e2m3 | Float6e3m2 => return None,
    })
}

/// Number of elements of a shape; `None` when a dimension is negative or the product does not fit.
pub(crate) fn element_count(dims: &[i64]) -> Option<usize> {
    dims.iter().try_fold(1usize, |count, &dim| {
        count.checked_mul(usize::try_from(dim).ok()?)
    })
}

/// Bytes that the data of `count` elements takes in a file, 0 for types without a fixed size.
pub(crate) fn data_bytes(data_type: i32, count: usize) -> usize {
    let bits = DataType::try_from(data_type).ok().and_then(bits).unwrap_or(0);
    count.checked_mul(bits).map_or(0, |bits| bits.div_ceil(8))
}

/// Checks that a tensor's data fits its dims and type.
pub(crate) fn check(tensor: &TensorProto) -> Result<(), OnnxError> {
    let bad = |reason: String| OnnxError::BadTensor {
        name: tensor.name().to_owned(),
        reason,
    };
    if tensor.data_location() == DataLocation::External || !tensor.external_data.is_empty() {
        let location = tensor
            .external_data
            .iter()
            .find(|entry| entry.key() == "location");
        return Err(OnnxError::ExternalData {
            name: tensor.name().to_owned(),
            location: location.map_or(String::new(), |entry| entry.value().to_owned()),
        });
    }
    let data_type = DataType::try_from(tensor.data_type.unwrap_or(0))
        .ok()
        .filter(|data_type| *data_type != DataType::Undefined)
        .ok_or_else(|| bad(format!("data type {} is unknown", tensor.data_type.unwrap_or(0))))?;
    let count = element_count(&tensor.dims)
        .ok_or_else(|| bad(format!("dims {:?} are negative or overflow", tensor.dims)))?;
    let Some(bits) = bits(data_type) else {
        return match data_type {
            DataType::String if tensor.string_data.len() != count => Err(bad(format!(
                "dims {:?} need {count} strings, it holds {}",
                tensor.dims,
                tensor.string_data.len()
            ))),
            _ => Ok(()),
        };
    };
    let bytes = count
        .checked_mul(bits)
        .map(|bits| bits.div_ceil(8))
        .ok_or_else(|| bad(format!("dims {:?} overflow", tensor.dims)))?;
    if let Some(raw) = &tensor.raw_data {
        if raw.len() != bytes {
            return Err(bad(format!(
                "dims {:?} need {bytes} bytes, it holds {}",
                tensor.dims,
                raw.len()
            )));
        }
        return Ok(());
    }
    let (held, needed) = match data_type {
        DataType::Float => (tensor.float_data.len(), count),
        DataType::Complex64 => (tensor.float_data.len(), count.saturating_mul(2)),
        DataType::Double => (tensor.double_data.len(), count),
        DataType::Complex128 => (tensor.double_data.len(), count.saturating_mul(2)),
        DataType::Int64 => (tensor.int64_data.len(), count),
        DataType::Uint32 | DataType::Uint64 => (tensor.uint64_data.len(), count),
        _ if bits < 8 => (tensor.int32_data.len(), bytes),
        _ => (tensor.int32_data.len(), count),
    };
    if held != needed {
        return Err(bad(format!(
            "dims {:?} need {needed} numbers, it holds {held}",
            tensor.dims
        )));
    }
    Ok(())
}

/// The values of a float32 tensor in row-major order, `None` for other types.
pub(crate) fn floats(tensor: &TensorProto) -> Option<Vec<f32>> {
    values(tensor, DataType::Float, &tensor.float_data, f32::from_le_bytes)
}

/// The values of an int64 tensor in row-major order, `None` for other types.
pub(crate) fn integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    values(tensor, DataType::Int64, &tensor.int64_data, i64::from_le_bytes)
}

fn values<T: Clone, const LENGTH: usize>(
    tensor: &TensorProto,
    data_type: DataType,
    typed: &[T],
    value: impl Fn([u8; LENGTH]) -> T,
) -> Option<Vec<T>> {
    (tensor.data_type() == data_type as i32).then(|| match &tensor.raw_data {
        Some(raw) => from_raw(raw, value),
        None => typed.to_vec(),
    })
}

/// The values of raw data, which is little-endian.
pub(crate) fn from_raw<T, const LENGTH: usize>(raw: &[u8], value: impl Fn([u8; LENGTH]) -> T) -> Vec<T> {
    raw.as_chunks().0.iter().map(|&bytes| value(bytes)).collect()
}

/// The value of a boolean scalar.
pub(crate) fn boolean(tensor: &TensorProto) -> Option<bool> {
    if tensor.data_type() != DataType::Bool as i32 {
        return None;
    }
    match &tensor.raw_data {
        Some(raw) => raw.first().map(|&value| value != 0),
        None => tensor.int32_data.first().map(|&value| value != 0),
    }
}

fn new(name: &str, dims: &[i64], data_type: DataType, raw: Vec<u8>) -> TensorProto {
    TensorProto {
        dims: dims.to_vec(),
        data_type: Some(data_type as i32),
        name: Some(name.to_owned()),
        raw_data: Some(Bytes::from(raw)),
        ..TensorProto::default()
    }
}

/// Raw data of values.
pub(crate) fn raw<const LENGTH: usize>(values: impl Iterator<Item = [u8; LENGTH]>) -> Vec<u8> {
    values.collect::<Vec<_>>().into_flattened()
}

/// A float32 tensor; `dims` must hold as many elements as `values`.
pub(crate) fn from_floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    new(
        name,
        dims,
        DataType::Float,
        raw(values.iter().map(|value| value.to_le_bytes())),
    )
}

/// A float16 tensor.
pub(crate) fn from_halves(name: &str, dims: &[i64], values: &[half::f16]) -> TensorProto {
    new(
        name,
        dims,
        DataType::Float16,
        raw(values.iter().map(|value| value.to_le_bytes())),
    )
}

/// An int8 tensor.
pub(crate) fn from_i8(name: &str, dims: &[i64], values: &[i8]) -> TensorProto {
    new(
        name,
        dims,
        DataType::Int8,
        values.iter().map(|value| value.cast_unsigned()).collect(),
    )
}

/// A uint8 tensor.
pub(crate) fn from_u8(name: &str, dims: &[i64], values: &[u8]) -> TensorProto {
    new(name, dims, DataType::Uint8, values.to_vec())
}

/// An int32 tensor.
pub(crate) fn from_i32(name: &str, dims: &[i64], values: &[i32]) -> TensorProto {
    new(
        name,
        dims,
        DataType::Int32,
        raw(values.iter().map(|value| value.to_le_bytes())),
    )
}

/// An int64 tensor.
pub(crate) fn from_i64(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    new(
        name,
        dims,
        DataType::Int64,
        raw(values.iter().map(|value| value.to_le_bytes())),
    )
}
