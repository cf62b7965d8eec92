//! Log lines on stderr, in the form that edgeAgent reads when somebody asks for a module's logs by level:
//! `<6> 2026-11-23 04:05:06.789 +00:00 [INF] - text`, the first number being syslog's severity.

use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
    line(Level::Info, (6, "INF"), message);
}

pub(crate) fn warn(message: &str) {
    line(Level::Warning, (4, "WRN"), message);
}

pub(crate) fn error(message: &str) {
    line(Level::Error, (3, "ERR"), message);
}

/// Something that may happen many times a second and is to be told once a minute.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    told: Option<Instant>,
    untold: u64,
}

impl Seldom {
    pub(crate) fn new() -> Seldom {
        Seldom::default()
    }

    /// It happened. Where that is to be told: what to say of those that were not, to be put behind the line.
    pub(crate) fn tell(&mut self, now: Instant) -> Option<String> {
        const PAUSE: Duration = Duration::from_secs(60);
        if self
            .told
            .is_some_and(|told| now.saturating_duration_since(told) < PAUSE)
        {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        Some(match std::mem::take(&mut self.untold) {
            0 => String::new(),
            untold => format!(" (and {untold} more since this was logged last)"),
        })
    }
}

fn line(level: Level, name: (u8, &str), message: &str) {
    if level as u8 > LEVEL.load(Relaxed) {
        return;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // A closed stderr is no reason to stop.
    let _ = std::io::stderr().write_all(text(name, now.as_millis() as u64, message).as_bytes());
}

/// One line a message, whatever an outsider put into it.
fn text((severity, name): (u8, &str), unix_ms: u64, message: &str) -> String {
    let clean: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let time = crate::flow::time_text(unix_ms);
    let (date, clock) = time.trim_end_matches('Z').split_once('T').unwrap_or_default();
    format!("<{severity}> {date} {clock} +00:00 [{name}] - {clean}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_all_the_time_is_told_once_a_minute() {
        let start = Instant::now();
        let mut seldom = Seldom::new();
        let told: Vec<(u64, String)> = (0..130)
            .filter_map(|second| Some((second, seldom.tell(start + Duration::from_secs(second))?)))
            .collect();
        let more = " (and 59 more since this was logged last)".to_owned();
        assert_eq!(told, [(0, String::new()), (60, more.clone()), (120, more)]);
    }

    #[test]
    fn edge_agent_reads_the_lines() {
        assert_eq!(
            text((4, "WRN"), 1_795_369_299_007, "a\nb\u{1b}[31m"),
            "<4> 2026-11-22 17:41:39.007 +00:00 [WRN] - a b [31m\n"
        );
    }
}
