//! Cross-compiling modules and reading what came out.
