//! Log lines on stderr. The container runtime adds the time.

use std::io::Write;

pub(crate) fn info(message: &str) {
    line("INF", message);
}

pub(crate) fn warn(message: &str) {
    line("WRN", message);
}

pub(crate) fn error(message: &str) {
    line("ERR", message);
}

/// One line a message, whatever an outsider put into it; a closed stderr is no reason to stop.
fn line(level: &str, message: &str) {
    let clean: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let _ = writeln!(std::io::stderr(), "[{level}] {clean}");
}
