//! The one owner of stderr while a release runs: a bar on a terminal, one line per event elsewhere.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::Mutex;

use aiot_build::events::Event;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Renders events.
pub struct Progress {
    bar: Option<ProgressBar>,
    running: Mutex<BTreeSet<String>>,
}

impl Progress {
    /// For this process's stderr.
    pub fn new() -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {elapsed} {wide_msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Progress {
            bar,
            running: Mutex::default(),
        }
    }

    /// Shows one event.
    pub fn show(&self, event: Event) {
        match event {
            Event::Planned { total, to_run } => {
                if let Some(bar) = &self.bar {
                    bar.set_length(to_run as u64);
                }
                if to_run > 0 {
                    self.line(&format!("{total} actions, {to_run} to look at"));
                }
            }
            Event::Started { id, reasons } => {
                let words: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                if self.bar.is_none() {
                    self.line(&format!("{id}: {}", words.join(", ")));
                }
                self.running.lock().expect("no panic while held").insert(id);
                self.message();
            }
            Event::Finished { id, millis } => {
                self.running.lock().expect("no panic while held").remove(&id);
                if let Some(bar) = &self.bar {
                    bar.inc(1);
                }
                if millis >= 1000 || self.bar.is_none() {
                    self.line(&format!("{id}: done in {:.1} s", millis as f64 / 1000.0));
                }
                self.message();
            }
            Event::Sent {
                there_bytes,
                total_bytes,
            } => {
                if let Some(bar) = &self.bar {
                    bar.set_message(format!(
                        "pushing: {} of {}",
                        crate::output::bytes(there_bytes),
                        crate::output::bytes(total_bytes)
                    ));
                }
            }
            Event::Note(text) => self.line(&text),
            Event::Warning(text) => self.line(&format!("warning: {text}")),
        }
    }

    /// Takes the bar off the terminal.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    fn message(&self) {
        if let Some(bar) = &self.bar {
            let running = self.running.lock().expect("no panic while held");
            bar.set_message(running.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
        }
    }
}
