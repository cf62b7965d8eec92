//! Declarations, workspace, plan: pure.
