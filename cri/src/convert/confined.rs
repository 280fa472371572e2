//! SECURITY_CASES 26 as a property: over every security context, what was not opened by name stays closed, at the start
//! of a container, at its next start (the same conversion, of the same words) and for every exec into it.

use std::collections::BTreeSet;

use gantry_cri_api as api;
use gantry_cri_api::security_profile::ProfileType;
use serde_json::{Value, json};

use super::*;

/// A security context, and what is read from disk for it.
#[derive(Clone, Debug)]
struct Wish {
    profile: Option<ProfileType>,
    localhost: Option<Value>,
    unset: DefaultSeccomp,
    privileged: bool,
    no_new_privs: bool,
    add: Vec<&'static str>,
    drop: Vec<&'static str>,
}

/// Every combination.
fn wishes() -> Vec<Wish> {
    let mut all = Vec::new();
    let profiles =
        [None, Some(ProfileType::Unconfined), Some(ProfileType::RuntimeDefault), Some(ProfileType::Localhost)];
    let files = [
        None,
        Some(json!(null)),
        Some(json!({})),
        Some(json!([])),
        Some(json!({"defaultAction": ""})),
        Some(json!({"defaultAction": 7})),
        Some(json!({"defaultAction": "SCMP_ACT_ERRNO"})),
    ];
    let names: [(Vec<&str>, Vec<&str>); 4] =
        [(vec![], vec![]), (vec!["ALL"], vec![]), (vec![], vec!["ALL"]), (vec!["SYS_ADMIN"], vec!["KILL"])];
    for profile in profiles {
        for localhost in &files {
            for unset in [DefaultSeccomp::RuntimeDefault, DefaultSeccomp::Unconfined] {
                for bits in 0..4 {
                    for (add, drop) in names.clone() {
                        let (privileged, no_new_privs) = (bits & 1 != 0, bits & 2 != 0);
                        let localhost = localhost.clone();
                        all.push(Wish { profile, localhost, unset, privileged, no_new_privs, add, drop });
                    }
                }
            }
        }
    }
    all
}

fn convert(wish: &Wish) -> Result<Value> {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let seccomp = wish.profile.map(|kind| api::SecurityProfile { profile_type: kind as i32, ..Default::default() });
    let capabilities = api::Capability {
        add_capabilities: list(&wish.add),
        drop_capabilities: list(&wish.drop),
        ..Default::default()
    };
    let security = LinuxContainerSecurityContext {
        seccomp,
        privileged: wish.privileged,
        no_new_privs: wish.no_new_privs,
        capabilities: Some(capabilities),
        namespace_options: Some(api::NamespaceOption { pid: NamespaceMode::Container as i32, ..Default::default() }),
        ..Default::default()
    };
    let config = ContainerConfig {
        linux: Some(api::LinuxContainerConfig { security_context: Some(security), ..Default::default() }),
        command: vec!["/bin/true".into()],
        ..Default::default()
    };
    // A privileged container needs such a pod.
    let of_pod = api::LinuxSandboxSecurityContext { privileged: wish.privileged, ..Default::default() };
    let of_pod = api::LinuxPodSandboxConfig { security_context: Some(of_pod), ..Default::default() };
    let pod = PodSandboxConfig { linux: Some(of_pod), ..Default::default() };
    let all: BTreeSet<String> = ALL_CAPABILITIES.iter().map(|name| (*name).to_owned()).collect();
    let image = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
    container(&Input {
        id: "c1",
        pod_id: "p1",
        pod: &pod,
        config: &config,
        image: &serde_json::from_value(image).unwrap(),
        user: &User { uid: 33, gid: 34, groups: vec![34], home: "/".into() },
        rootfs: Path::new("/images/c1"),
        places: &places(),
        cgroup: "/pods/c1",
        seccomp: &Seccomp { localhost: wish.localhost.clone(), unset: wish.unset },
        devices: &[],
        host: &Host { capabilities: all, ..Host::default() },
    })
}

fn places() -> Places {
    let at = |name: &str| PathBuf::from(format!("/run/p/{name}"));
    Places {
        net: Some(at("net")),
        ipc: Some(at("ipc")),
        uts: Some(at("uts")),
        pid: None,
        hostname: at("hostname"),
        hosts: at("hosts"),
        resolv_conf: at("resolv.conf"),
        shm: at("shm"),
    }
}

/// What nobody asked to be open: a filter there is, or an error.
fn may_be_open(wish: &Wish) -> bool {
    let unset = wish.profile.is_none() && matches!(wish.unset, DefaultSeccomp::Unconfined);
    wish.privileged || unset || wish.profile == Some(ProfileType::Unconfined)
}

#[test]
fn case_26_what_nobody_opened_is_closed() {
    let (mut refused, mut confined) = (0, 0);
    for wish in wishes() {
        let spec = match convert(&wish) {
            Ok(spec) => spec,
            Err(why) => {
                refused += 1;
                assert_eq!(wish.profile, Some(ProfileType::Localhost), "only a file can be wrong: {why}, {wish:?}");
                continue;
            }
        };
        let filter = &spec["linux"]["seccomp"];
        let action = filter["defaultAction"].as_str().unwrap_or_default();
        assert!(may_be_open(&wish) || action.starts_with("SCMP_ACT_"), "{wish:?}: {filter}");
        confined += usize::from(!filter.is_null());
        let process = &spec["process"];
        assert_eq!(process["noNewPrivileges"], json!(wish.no_new_privs), "{wish:?}");
        let count = |set: &str| process["capabilities"][set].as_array().unwrap().len();
        assert_eq!((count("inheritable"), count("ambient")), (0, 0), "{wish:?}");
        assert!(wish.privileged || wish.add == ["ALL"] || count("bounding") < ALL_CAPABILITIES.len(), "{wish:?}");
        assert!(wish.privileged || spec["linux"]["maskedPaths"].as_array().is_some_and(|l| !l.is_empty()), "{wish:?}");
        assert_eq!(convert(&wish).unwrap(), spec, "the next start is as the first: {wish:?}");
        // What an exec may do is what the container may.
        let exec = exec_process(&spec, &["/bin/sh".into()], false).unwrap();
        for field in ["noNewPrivileges", "capabilities", "user", "apparmorProfile", "selinuxLabel", "rlimits"] {
            assert_eq!(exec[field], process[field], "{field}: {wish:?}");
        }
    }
    assert!(refused > 50 && confined > 50, "{refused} refused, {confined} confined");
}
