//! Preprocessing, engine, postprocessing, evaluation: the same code on the build host and on the device.
