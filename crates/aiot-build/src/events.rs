//! What a running release tells: plain data, rendered by whoever owns the terminal.

use aiot_plan::action::DirtyReason;

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// This many actions are known; `to_run` of them are not done yet.
    Planned {
        /// All actions.
        total: usize,
        /// Those that may have to run.
        to_run: usize,
    },
    /// An action starts.
    Started {
        /// Its id.
        id: String,
        /// Why it runs.
        reasons: Vec<DirtyReason>,
    },
    /// An action ran.
    Finished {
        /// Its id.
        id: String,
        /// Time that it took, for people; never part of an output.
        millis: u128,
    },
    /// How far a push is. Bytes that are sent twice, or not at all since the registry has them, count once.
    Sent {
        /// Bytes of blobs that the registry has.
        there_bytes: u64,
        /// Bytes of all blobs.
        total_bytes: u64,
    },
    /// Something that people should know.
    Note(String),
    /// Something that people should look at.
    Warning(String),
}

/// Takes events; called from several threads.
pub type Sink<'a> = &'a (dyn Fn(Event) + Sync);
