//! features: what this runtime can do, in the words of runtime-spec's features.md and features-linux.md.
//!
//! Asked of the code rather than told twice: a word stands in the answer if the reader of `config.json` takes it, a
//! feature if a configuration that uses it passes the checks. The lists below are the specification's words to try.

use oci_spec::runtime::{
    Arch, LinuxNamespaceType, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator, MemoryPolicyFlagType,
    MemoryPolicyModeType, Spec,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::output;
use super::parse::Call;
use crate::error::{Error, Kind, Result};
use crate::{cgroup, create, plan, seccomp, spec, sys};

const HOOKS: &[&str] = &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
const NAMESPACES: &[&str] = &["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];
const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
const OPERATORS: &[&str] =
    &["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];
const ARCHS: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];
const FILTER_FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];
const MEMORY_MODES: &[&str] = &[
    "MPOL_DEFAULT",
    "MPOL_BIND",
    "MPOL_INTERLEAVE",
    "MPOL_WEIGHTED_INTERLEAVE",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_LOCAL",
];
const MEMORY_FLAGS: &[&str] = &["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

/// Annotations of `config.json` that change what the runtime does on the host.
const UNSAFE_ANNOTATIONS: &[&str] = &[cgroup::systemd::ANNOTATION_PREFIX];

pub(super) fn features(_call: &Call) -> Result<i32> {
    output::print(&output::pretty(&document()?)?).map(|()| 0)
}

fn document() -> Result<Value> {
    Ok(json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": spec::VERSION,
        "hooks": HOOKS,
        "mountOptions": plan::option_words(),
        "linux": {
            "namespaces": read::<LinuxNamespaceType>(NAMESPACES),
            "capabilities": capabilities(),
            "cgroup": {
                "v1": true,
                "v2": true,
                "systemd": true,
                "systemdUser": true,
                "rdma": cgroup::Controller::named("rdma", cgroup::Version::V2).is_some(),
            },
            "seccomp": seccomp_part()?,
            "apparmor": { "enabled": takes("process", json!({ "apparmorProfile": "x" }))? },
            "selinux": { "enabled": takes("process", json!({ "selinuxLabel": "x" }))? },
            "memoryPolicy": {
                "modes": read::<MemoryPolicyModeType>(MEMORY_MODES),
                "flags": read::<MemoryPolicyFlagType>(MEMORY_FLAGS),
            },
            "intelRdt": {
                "enabled": takes("linux", json!({ "intelRdt": { "closID": "x" } }))?,
                "schemata": takes("linux", json!({ "intelRdt": { "schemata": ["MB:0=50"] } }))?,
                "monitoring": takes("linux", json!({ "intelRdt": { "enableMonitoring": true } }))?,
            },
            "mountExtensions": { "idmap": { "enabled": plan::option_words().iter().any(|word| word == "idmap") } },
            "netDevices": { "enabled": takes("linux", json!({ "netDevices": { "eth0": {} } }))? },
        },
        "annotations": annotations(),
        "potentiallyUnsafeConfigAnnotations": UNSAFE_ANNOTATIONS,
    }))
}

fn annotations() -> Value {
    json!({ "org.opencontainers.runc.checkpoint.enabled": "true", "dev.gantry.runtime.version": env!("CARGO_PKG_VERSION") })
}

fn capabilities() -> Vec<String> {
    let mut all: Vec<_> = caps::all().into_iter().collect();
    all.sort_by_key(caps::Capability::index);
    all.iter().map(ToString::to_string).collect()
}

fn seccomp_part() -> Result<Value> {
    let mut actions = Vec::new();
    for action in read::<LinuxSeccompAction>(ACTIONS) {
        let calls = json!([{ "names": ["getpid"], "action": action }]);
        let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": calls, "listenerPath": "/x" });
        if takes("linux", json!({ "seccomp": profile }))? {
            actions.push(action);
        }
    }
    let known = read::<LinuxSeccompFilterFlag>(FILTER_FLAGS);
    let supported: Vec<&str> = known.iter().copied().filter(|flag| kernel_takes(flag)).collect();
    Ok(json!({
        "enabled": true,
        "actions": actions,
        "operators": read::<LinuxSeccompOperator>(OPERATORS),
        "archs": read::<Arch>(ARCHS),
        "knownFlags": known,
        "supportedFlags": supported,
    }))
}

fn kernel_takes(flag: &str) -> bool {
    let flag = serde_json::from_value(json!(flag)).ok();
    flag.and_then(seccomp::flag_bit).is_some_and(sys::process::knows_filter_flag)
}

/// The words that `config.json` may use for this type.
fn read<T: DeserializeOwned>(words: &[&'static str]) -> Vec<&'static str> {
    words.iter().copied().filter(|word| serde_json::from_value::<T>(json!(word)).is_ok()).collect()
}

/// Whether a configuration with these fields in `part` is one that the runtime can carry out, as far as it knows before
/// it does.
fn takes(part: &str, fields: Value) -> Result<bool> {
    let broken = |why: serde_json::Error| Error::new(Kind::System, format!("the template: {why}"));
    let mut config: Value = serde_json::from_str(spec::TEMPLATE).map_err(broken)?;
    if let (Some(into), Value::Object(fields)) = (config[part].as_object_mut(), fields) {
        into.extend(fields);
    }
    let Ok(spec) = spec::parse::<Spec>(&config.to_string()) else { return Ok(false) };
    let able = |why: Error| why.kind() != Kind::Unsupported;
    Ok(spec::check(&spec).map_or_else(able, |()| true) && create::compile(&spec).map_or_else(able, |_| true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_the_keys_of_the_specification() {
        let document = document().unwrap();
        let mut keys: Vec<&String> = document["linux"].as_object().unwrap().keys().collect();
        keys.sort();
        let expected = [
            "apparmor",
            "capabilities",
            "cgroup",
            "intelRdt",
            "memoryPolicy",
            "mountExtensions",
            "namespaces",
            "netDevices",
            "seccomp",
            "selinux",
        ];
        assert_eq!(keys, expected);
        let seccomp: Vec<&String> = document["linux"]["seccomp"].as_object().unwrap().keys().collect();
        assert_eq!(seccomp.len(), 6);
        assert_eq!(document["linux"]["namespaces"].as_array().unwrap().len(), 8);
        assert_eq!(document["linux"]["capabilities"].as_array().unwrap().len(), 41);
        assert_eq!(document["linux"]["memoryPolicy"]["modes"].as_array().unwrap().len(), 7);
    }

    #[test]
    fn what_the_checks_refuse_is_not_claimed() {
        assert!(!takes("linux", json!({ "rootfsPropagation": 7 })).unwrap(), "cannot be read either");
        assert!(!takes("linux", json!({ "seccomp": 7 })).unwrap(), "cannot be read");
        assert!(takes("linux", json!({})).unwrap());
        assert_eq!(read::<LinuxSeccompAction>(&["SCMP_ACT_ALLOW", "SCMP_ACT_FROB"]), ["SCMP_ACT_ALLOW"]);
    }

    #[test]
    fn the_kernel_knows_the_oldest_flag_and_no_invented_one() {
        assert!(kernel_takes("SECCOMP_FILTER_FLAG_LOG"));
        assert!(!sys::process::knows_filter_flag(1 << 30));
        assert!(!kernel_takes("SECCOMP_FILTER_FLAG_FROB"));
    }
}
