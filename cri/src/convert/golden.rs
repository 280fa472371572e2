//! Whole specifications as text: what CRI says on the left, what the runtime reads on the right.

use std::collections::BTreeSet;
use std::path::Path;

use gantry_cri_api as api;
use gantry_images::ImageConfiguration;
use serde_json::{Value, json};

use super::*;

fn image() -> ImageConfiguration {
    let text = json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []},
        "config": {"Labels": {"run.oci.handler": "evil", "io.kubernetes.cri.sandbox-id": "evil", "dev.gantry.x": "evil"},
            "Env": ["PATH=/bin", "FROM=image"], "Entrypoint": ["/entry"], "Cmd": ["run"], "WorkingDir": "/srv"},
    });
    serde_json::from_value(text).unwrap()
}

fn places() -> Places {
    Places {
        net: Some("/run/p/net".into()),
        ipc: Some("/run/p/ipc".into()),
        uts: Some("/run/p/uts".into()),
        pid: None,
        hostname: "/run/p/hostname".into(),
        hosts: "/run/p/hosts".into(),
        resolv_conf: "/run/p/resolv.conf".into(),
        shm: "/run/p/shm".into(),
    }
}

fn spec(change: impl FnOnce(&mut api::ContainerConfig, &mut api::PodSandboxConfig, &mut Places)) -> Result<Value> {
    let mut config = api::ContainerConfig::default();
    let options = api::NamespaceOption { pid: NamespaceMode::Container as i32, ..Default::default() };
    security(&mut config).namespace_options = Some(options);
    let mut pod = api::PodSandboxConfig { hostname: "web".into(), ..Default::default() };
    let mut places = places();
    change(&mut config, &mut pod, &mut places);
    let host = Host {
        capabilities: ALL_CAPABILITIES.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(),
        oom_score_floor: Some(-5),
        ..Host::default()
    };
    container(&Input {
        id: "c1",
        pod_id: "p1",
        pod: &pod,
        config: &config,
        image: &image(),
        user: &User { uid: 33, gid: 34, groups: vec![34, 50], home: "/srv".into() },
        rootfs: Path::new("/images/c1"),
        places: &places,
        cgroup: "/pods/c1",
        seccomp: &Seccomp { localhost: None, unset: DefaultSeccomp::RuntimeDefault },
        devices: &[],
        host: &host,
    })
}

fn security(config: &mut api::ContainerConfig) -> &mut api::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// One line a mount: destination, source, options.
fn mounts(spec: &Value) -> String {
    let line = |mount: &Value| {
        let options: Vec<_> = mount["options"].as_array().unwrap().iter().map(|o| o.as_str().unwrap()).collect();
        let word = |field: &str| mount[field].as_str().unwrap().to_owned();
        format!("{} {} {}\n", word("destination"), word("source"), options.join(","))
    };
    spec["mounts"].as_array().unwrap().iter().map(line).collect()
}

#[test]
fn a_container_that_asks_for_nothing() {
    let spec = spec(|_, _, _| {}).unwrap();
    let process = &spec["process"];
    assert_eq!(process["args"], json!(["/entry", "run"]));
    assert_eq!(process["env"], json!(["PATH=/bin", "HOSTNAME=web", "FROM=image", "HOME=/srv"]));
    assert_eq!(process["cwd"], json!("/srv"));
    assert_eq!(process["user"], json!({"uid": 33, "gid": 34, "additionalGids": [34, 50]}));
    assert_eq!((&process["terminal"], &process["noNewPrivileges"]), (&json!(false), &json!(false)));
    assert_eq!(spec["root"], json!({"path": "/images/c1", "readonly": false}));
    let namespaces = json!([
        {"type": "mount"}, {"type": "pid"}, {"type": "network", "path": "/run/p/net"},
        {"type": "ipc", "path": "/run/p/ipc"}, {"type": "uts", "path": "/run/p/uts"}, {"type": "cgroup"},
    ]);
    assert_eq!(spec["linux"]["namespaces"], namespaces);
    assert_eq!(spec["linux"]["cgroupsPath"], json!("/pods/c1"));
    assert_eq!(spec["linux"]["resources"], json!({"devices": [{"allow": false, "access": "rwm"}]}));
    assert!(spec["linux"]["seccomp"]["defaultAction"].is_string());
    assert_eq!(
        mounts(&spec),
        "/proc proc nosuid,noexec,nodev\n\
         /dev tmpfs nosuid,strictatime,mode=755,size=65536k\n\
         /dev/pts devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5\n\
         /sys sysfs nosuid,noexec,nodev,ro\n\
         /sys/fs/cgroup cgroup nosuid,noexec,nodev,relatime,ro\n\
         /dev/mqueue mqueue nosuid,noexec,nodev\n\
         /dev/shm /run/p/shm rbind,rprivate,rw,nosuid,noexec,nodev\n\
         /etc/hostname /run/p/hostname rbind,rprivate,rw\n\
         /etc/hosts /run/p/hosts rbind,rprivate,rw\n\
         /etc/resolv.conf /run/p/resolv.conf rbind,rprivate,rw\n"
    );
}

#[test]
fn every_result_is_a_valid_specification() {
    let privileged = spec(|config, pod, _| {
        security(config).privileged = true;
        pod.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    });
    for spec in [spec(|_, _, _| {}), privileged] {
        serde_json::from_value::<oci_spec::runtime::Spec>(spec.unwrap()).unwrap();
    }
}

#[test]
fn command_and_arguments_follow_kubernetes_table() {
    let args = |command: &[&str], args: &[&str]| {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let (command, args) = (list(command), list(args));
        spec(|config, _, _| (config.command, config.args) = (command, args)).unwrap()["process"]["args"].clone()
    };
    assert_eq!(args(&[], &[]), json!(["/entry", "run"]));
    assert_eq!(args(&["a"], &[]), json!(["a"]));
    assert_eq!(args(&[], &["b"]), json!(["/entry", "b"]));
    assert_eq!(args(&["a"], &["b"]), json!(["a", "b"]));
}

#[test]
fn variables_replace_those_before_them() {
    let with = |key: &str, value: &str| {
        let pair = api::KeyValue { key: key.into(), value: value.into() };
        spec(|config, _, _| config.envs = vec![pair])
    };
    assert_eq!(with("FROM", "cri").unwrap()["process"]["env"][2], json!("FROM=cri"));
    assert_eq!(with("HOME", "/x").unwrap()["process"]["env"][3], json!("HOME=/x"));
    for bad in ["", "A=B", "A\0"] {
        assert_eq!(with(bad, "").unwrap_err().kind(), Kind::Invalid, "{bad:?}");
    }
}

#[test]
fn mounts_that_are_asked_for_replace_ours_and_come_outer_first() {
    let mount = |path: &str, change: fn(&mut api::Mount)| {
        let mut mount = api::Mount { container_path: path.into(), host_path: "/h".into(), ..Default::default() };
        change(&mut mount);
        mount
    };
    let spec = spec(|config, _, _| {
        config.mounts = vec![
            mount("/data/deep", |m| m.readonly = true),
            mount("/data", |m| m.set_propagation(api::MountPropagation::PropagationHostToContainer)),
            mount("/etc/hosts/", |_| {}),
            mount("/rro", |m| (m.readonly, m.recursive_read_only) = (true, true)),
        ];
    })
    .unwrap();
    let text = mounts(&spec);
    assert_eq!(text.matches("/etc/hosts ").count(), 1, "{text}");
    assert!(text.ends_with("/data /h rbind,rslave,rw\n/rro /h rbind,rprivate,rro\n/data/deep /h rbind,rprivate,ro\n/etc/hosts /h rbind,rprivate,rw\n"), "{text}");
    assert_eq!(spec["linux"]["rootfsPropagation"], json!("rslave"));
}

#[test]
fn mounts_that_make_no_sense_are_refused() {
    let refused = |change: fn(&mut api::Mount)| {
        let mut mount = api::Mount { container_path: "/d".into(), host_path: "/h".into(), ..Default::default() };
        change(&mut mount);
        spec(|config, _, _| config.mounts = vec![mount]).unwrap_err().to_string()
    };
    for (text, change) in [
        ("absolute", (|m| m.container_path = "d".into()) as fn(&mut api::Mount)),
        ("..", |m| m.container_path = "/a/../b".into()),
        ("over the root", |m| m.container_path = "//".into()),
        ("host_path", |m| m.host_path = "h".into()),
        ("privileged", |m| m.set_propagation(api::MountPropagation::PropagationBidirectional)),
        ("needs readonly", |m| m.recursive_read_only = true),
        ("not allowed", |m| m.mount_options = vec!["suid".into()]),
        ("idmapped", |m| m.uid_mappings = vec![api::IdMapping::default()]),
    ] {
        let said = refused(change);
        assert!(said.contains(text), "{said}");
    }
}

#[test]
fn privileged_opens_what_it_should_and_needs_a_privileged_pod() {
    let alone = spec(|config, _, _| security(config).privileged = true);
    assert_eq!(alone.unwrap_err().kind(), Kind::Invalid);
    let spec = spec(|config, pod, _| {
        security(config).privileged = true;
        pod.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    })
    .unwrap();
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert_eq!(spec["linux"]["seccomp"], Value::Null);
    assert_eq!(spec["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
    assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), ALL_CAPABILITIES.len());
    assert!(mounts(&spec).contains("/sys sysfs nosuid,noexec,nodev,rw\n"));
}

#[test]
fn namespaces_of_the_host_and_of_others() {
    let kinds = |spec: &Value| -> Vec<String> {
        let list = spec["linux"]["namespaces"].as_array().unwrap();
        list.iter()
            .map(|n| format!("{}{}", n["type"].as_str().unwrap(), if n["path"].is_null() { "" } else { "@" }))
            .collect()
    };
    let with = |mode: NamespaceMode, pid: Option<&str>| {
        spec(|config, _, places| {
            let options = api::NamespaceOption { pid: mode as i32, ..Default::default() };
            security(config).namespace_options = Some(options);
            (places.net, places.uts, places.ipc) = (None, None, None);
            places.pid = pid.map(Into::into);
        })
    };
    assert_eq!(kinds(&with(NamespaceMode::Node, None).unwrap()), ["mount", "cgroup"]);
    assert_eq!(kinds(&with(NamespaceMode::Container, None).unwrap()), ["mount", "pid", "cgroup"]);
    assert_eq!(kinds(&with(NamespaceMode::Pod, Some("/proc/7/ns/pid")).unwrap()), ["mount", "pid@", "cgroup"]);
    assert!(with(NamespaceMode::Pod, None).is_err());
    assert_eq!(with(NamespaceMode::Target, None).unwrap_err().kind(), Kind::Invalid);
    let users = spec(|config, _, _| {
        let user = api::UserNamespace { mode: NamespaceMode::Pod as i32, ..Default::default() };
        security(config).namespace_options.as_mut().unwrap().userns_options = Some(user);
    });
    assert_eq!(users.unwrap_err().kind(), Kind::Unsupported);
}

#[test]
fn the_oom_score_has_a_floor_without_the_capability() {
    let with = |score: i64| {
        let spec = spec(|config, _, _| {
            let resources = api::LinuxContainerResources { oom_score_adj: score, ..Default::default() };
            config.linux.get_or_insert_default().resources = Some(resources);
        });
        spec.unwrap()["process"]["oomScoreAdj"].clone()
    };
    assert_eq!(with(-997), json!(-5));
    assert_eq!(with(1000), json!(1000));
}

#[test]
fn case_21_annotations_of_users_do_not_reach_the_runtime() {
    let spec = spec(|config, pod, _| {
        config.annotations.insert("run.oci.handler".into(), "evil".into());
        pod.annotations.insert("io.kubernetes.cri.sandbox-id".into(), "evil".into());
        config.labels.insert("io.kubernetes.cri.container-type".into(), "sandbox".into());
    });
    let annotations = spec.unwrap()["annotations"].to_string();
    assert!(!annotations.contains("evil") && annotations.contains("\"p1\""), "{annotations}");
}
