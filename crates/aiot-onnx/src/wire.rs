//! Notices what the generated types would silently drop or could be made to blow up on.
//!
//! prost skips fields that it does not know, so a file from a newer ONNX would be written back without them. This
//! walks the encoded bytes beside the schema before anything is decoded: an unknown field is an error that names its
//! place, nesting is bounded, and so is the number of messages (an empty message costs two bytes in a file and some
//! hundred in memory). It does not look at values: that is prost's part, and [`crate::check`]'s.

use crate::error::OnnxError;

/// One field of a message: its number, its name and, for a field that holds messages, their index in [`MESSAGES`].
pub(crate) struct Field {
    number: u32,
    name: &'static str,
    message: Option<usize>,
}

include!(concat!(env!("OUT_DIR"), "/fields.rs"));

/// Deeper than any real graph; subgraphs nest four messages per level.
const MAX_DEPTH: usize = 64;
/// A graph of 100,000 nodes with ten attributes each stays below it.
const MAX_MESSAGES: usize = 2_000_000;

/// Checks that every field of an encoded `ModelProto` is one that the generated types hold.
pub(crate) fn check_fields(bytes: &[u8]) -> Result<(), OnnxError> {
    let mut walk = Walk {
        path: vec!["model"],
        messages: 0,
    };
    walk.message(bytes, MODEL)
}

struct Walk {
    path: Vec<&'static str>,
    messages: usize,
}

impl Walk {
    fn message(&mut self, mut bytes: &[u8], message: usize) -> Result<(), OnnxError> {
        self.messages += 1;
        if self.messages > MAX_MESSAGES {
            return Err(OnnxError::TooManyMessages { limit: MAX_MESSAGES });
        }
        if self.path.len() > MAX_DEPTH {
            return Err(OnnxError::TooDeep { limit: MAX_DEPTH });
        }
        while !bytes.is_empty() {
            let key = self.varint(&mut bytes)?;
            let number = u32::try_from(key >> 3).unwrap_or(u32::MAX);
            let Some(field) = MESSAGES[message].iter().find(|field| field.number == number) else {
                return Err(OnnxError::UnknownField {
                    path: self.path.join("."),
                    number,
                });
            };
            match key & 7 {
                0 => {
                    self.varint(&mut bytes)?;
                }
                1 => {
                    self.take(&mut bytes, 8)?;
                }
                5 => {
                    self.take(&mut bytes, 4)?;
                }
                2 => {
                    let length = self.varint(&mut bytes)?;
                    let inner = self.take(&mut bytes, length)?;
                    if let Some(message) = field.message {
                        self.path.push(field.name);
                        self.message(inner, message)?;
                        self.path.pop();
                    }
                }
                wire_type => {
                    return Err(OnnxError::NotProtobuf {
                        reason: format!("wire type {wire_type} in {}.{}", self.path.join("."), field.name),
                    });
                }
            }
        }
        Ok(())
    }

    fn truncated(&self) -> OnnxError {
        OnnxError::Truncated {
            path: self.path.join("."),
        }
    }

    fn varint(&self, bytes: &mut &[u8]) -> Result<u64, OnnxError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = bytes.split_first().ok_or_else(|| self.truncated())?;
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(OnnxError::NotProtobuf {
            reason: format!("number of more than ten bytes in {}", self.path.join(".")),
        })
    }

    fn take<'a>(&self, bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], OnnxError> {
        let length = usize::try_from(length).map_err(|_| self.truncated())?;
        let (taken, rest) = bytes.split_at_checked(length).ok_or_else(|| self.truncated())?;
        *bytes = rest;
        Ok(taken)
    }
}
