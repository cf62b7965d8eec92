//! IoT Edge deployment manifests, service limits, summaries.
