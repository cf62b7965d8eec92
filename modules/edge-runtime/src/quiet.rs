//! Keeps hundreds of harmless lines out of the log.
//!
//! Debian's ONNX Runtime registers the ONNX operators a second time at its first session and prints a line
//! `Schema error: …` for each. They come from C++ and go to file descriptor 2, so this replaces that descriptor by a
//! pipe while engine and model load and passes on every other line.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::thread;

/// Calls `work`; what it writes to stderr meanwhile goes through the filter. Without pipes or threads to spare it is
/// called all the same. No process may be started meanwhile: it would keep the pipe open.
pub(crate) fn without_schema_noise<T>(work: impl FnOnce() -> T) -> T {
    let Ok((saved, filter)) = begin() else {
        return work();
    };
    let result = work();
    // Closes the pipe's last writing end, which ends the filter.
    let _ = rustix::stdio::dup2_stderr(&saved);
    let _ = filter.join();
    result
}

fn begin() -> io::Result<(std::os::fd::OwnedFd, thread::JoinHandle<()>)> {
    let saved = io::stderr().as_fd().try_clone_to_owned()?;
    let target = saved.try_clone()?;
    let (reader, writer) = io::pipe()?;
    let filter = thread::Builder::new()
        .name("stderr-filter".to_owned())
        .spawn(move || {
            pass_on(BufReader::new(reader), std::fs::File::from(target));
        })?;
    rustix::stdio::dup2_stderr(&writer)?;
    Ok((saved, filter))
}

/// Copies all lines but `Schema error: …` and the empty line that may follow each of them.
fn pass_on(mut from: impl BufRead, mut to: impl Write) {
    let mut line = Vec::new();
    let mut dropped = false;
    while matches!(from.read_until(b'\n', &mut line), Ok(length) if length > 0) {
        let noise = line.starts_with(b"Schema error: ");
        let tail = dropped && line == b"\n";
        if !noise && !tail {
            let _ = to.write_all(&line);
        }
        dropped = noise;
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_schema_errors_only() {
        for (input, expected) in [
            ("", ""),
            ("Schema error: Trying to register\n\nreal\n", "real\n"),
            ("a\n\nSchema error: x\nSchema error: y\n\n\nb", "a\n\n\nb"),
            ("no Schema error: here\n", "no Schema error: here\n"),
        ] {
            let mut output = Vec::new();
            pass_on(input.as_bytes(), &mut output);
            assert_eq!(String::from_utf8(output).unwrap(), expected, "{input:?}");
        }
    }
}
