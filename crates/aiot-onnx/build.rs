//! Generates the ONNX types and the table of fields that they know from `proto/onnx.proto`, without protoc.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/onnx.proto");
    let files = protox::compile(["proto/onnx.proto"], ["proto"])?;

    // Every message by its full name, nested ones included, with (number, name, full name of the field's message).
    let mut messages: BTreeMap<String, Vec<(i32, String, Option<String>)>> = BTreeMap::new();
    let mut pending: Vec<_> = files
        .file
        .iter()
        .flat_map(|file| {
            file.message_type
                .iter()
                .map(|message| (format!(".{}", file.package()), message))
        })
        .collect();
    while let Some((prefix, message)) = pending.pop() {
        let name = format!("{prefix}.{}", message.name());
        pending.extend(message.nested_type.iter().map(|nested| (name.clone(), nested)));
        let fields = message.field.iter().map(|field| {
            let inner = (field.r#type() as i32 == 11).then(|| field.type_name().to_owned());
            (field.number(), field.name().to_owned(), inner)
        });
        messages.insert(name, fields.collect());
    }
    let index: BTreeMap<&str, usize> = messages
        .keys()
        .enumerate()
        .map(|(index, name)| (name.as_str(), index))
        .collect();
    let mut table = String::from("pub(crate) static MESSAGES: &[&[Field]] = &[\n");
    for (name, fields) in &messages {
        writeln!(table, "    // {name}\n    &[")?;
        for (number, field, inner) in fields {
            let inner = match inner {
                Some(inner) => format!("Some({})", index[inner.as_str()]),
                None => "None".to_owned(),
            };
            writeln!(
                table,
                "        Field {{ number: {number}, name: {field:?}, message: {inner} }},"
            )?;
        }
        table.push_str("    ],\n");
    }
    table.push_str("];\n");
    writeln!(
        table,
        "pub(crate) const MODEL: usize = {};",
        index[".onnx.ModelProto"]
    )?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("fields.rs"), table)?;

    // Weights are most of a file: as `Bytes` they are slices of the file instead of copies.
    // The comments are prose for people; as rustdoc their indented parts would become doctests.
    prost_build::Config::new()
        .bytes([".onnx.TensorProto.raw_data"])
        .disable_comments(["."])
        .compile_fds(files)?;
    Ok(())
}
