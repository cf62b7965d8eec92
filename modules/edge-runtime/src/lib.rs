//! What every inference module shares.
