//! Log lines on stderr. The container runtime adds the time.

use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use serde::Serialize;

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Error,
    Warning,
    Info,
}

impl Level {
    /// From its name.
    pub(crate) fn of(name: &str) -> Option<Level> {
        match name {
            "error" => Some(Level::Error),
            "warning" => Some(Level::Warning),
            "info" => Some(Level::Info),
            _ => None,
        }
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// Logs this level and worse from now on.
pub(crate) fn set_level(level: Level) {
    LEVEL.store(level as u8, Relaxed);
}

pub(crate) fn info(message: &str) {
    line(Level::Info, "INF", message);
}

pub(crate) fn warn(message: &str) {
    line(Level::Warning, "WRN", message);
}

pub(crate) fn error(message: &str) {
    line(Level::Error, "ERR", message);
}

/// One line a message, whatever an outsider put into it; a closed stderr is no reason to stop.
fn line(level: Level, name: &str, message: &str) {
    if level as u8 > LEVEL.load(Relaxed) {
        return;
    }
    let clean: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let _ = writeln!(std::io::stderr(), "[{name}] {clean}");
}
