//! Observes the workspace, executes the plan, keeps store and lock.
