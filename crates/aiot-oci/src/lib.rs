//! Content store, layers, images, indexes, layouts, registries.
