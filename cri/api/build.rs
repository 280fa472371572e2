//! Compiles `proto/api.proto` to Rust: protox parses (no protoc needed), tonic-prost-build writes client and server.

use std::error::Error;

/// Messages that make up the wish for a pod or a container. They are also kept on disk and shown by `crictl inspect`,
/// as JSON with the names of the proto.
const KEPT: &[&str] = &[
    "Capability",
    "CDIDevice",
    "ContainerConfig",
    "ContainerMetadata",
    "DNSConfig",
    "Device",
    "HugepageLimit",
    "IDMapping",
    "ImageSpec",
    "Int64Value",
    "KeyValue",
    "LinuxContainerConfig",
    "LinuxContainerResources",
    "LinuxContainerSecurityContext",
    "LinuxPodSandboxConfig",
    "LinuxSandboxSecurityContext",
    "Mount",
    "NamespaceOption",
    "PodSandboxConfig",
    "PodSandboxMetadata",
    "PortMapping",
    "SELinuxOption",
    "SecurityProfile",
    "UserNamespace",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/api.proto");
    let descriptors = protox::compile(["api.proto"], ["proto"])?;
    // Secrets of AuthConfig must not reach a log through {:?}: redact.rs writes its Debug by hand.
    let mut build = tonic_prost_build::configure().skip_debug(["runtime.v1.AuthConfig"]);
    for name in KEPT {
        let derive = "#[derive(serde::Serialize, serde::Deserialize)] #[serde(default)]";
        build = build.message_attribute(format!("runtime.v1.{name}"), derive);
    }
    build.compile_fds(descriptors)?;
    Ok(())
}
