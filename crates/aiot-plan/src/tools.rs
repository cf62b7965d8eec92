//! The tools that a release fetches by itself, by exact version: they decide bytes, so they are not "the latest".

use crate::lock::WheelRequest;

/// ONNX Runtime on the build host: calibration and evaluation.
pub const HOST_ENGINE_VERSION: &str = "1.32.0";
/// The pip package that is the C linker of every module.
pub const ZIG_VERSION: &str = "0.17.1";
/// What drives it.
pub const ZIGBUILD_VERSION: &str = "0.24.0";

/// The wheel of the host's engine; `architecture` as in `x86_64`, `aarch64`.
pub fn host_engine(architecture: &str) -> WheelRequest {
    WheelRequest {
        package: "onnxruntime".to_owned(),
        version: HOST_ENGINE_VERSION.to_owned(),
        platform: format!("manylinux_2_28_{architecture}"),
    }
}

/// Prefix of the platform of wheels that run on the build host itself: pip chooses the file.
pub const HOST_PLATFORM: &str = "host_";

/// The wheels that compile modules on a host.
pub fn zig_wheels(architecture: &str) -> [WheelRequest; 2] {
    [
        WheelRequest {
            package: "ziglang".to_owned(),
            version: ZIG_VERSION.to_owned(),
            platform: format!("{HOST_PLATFORM}{architecture}"),
        },
        WheelRequest {
            package: "cargo-zigbuild".to_owned(),
            version: ZIGBUILD_VERSION.to_owned(),
            platform: format!("{HOST_PLATFORM}{architecture}"),
        },
    ]
}
