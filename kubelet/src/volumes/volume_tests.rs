//! Volumes on a real file system; those that mount need root and say so when they are skipped.

use super::*;
use crate::testing::TempDir;
use serde_json::json;

fn volume(of: serde_json::Value) -> Volume {
    serde_json::from_value(of).expect("a volume")
}

#[test]
fn an_empty_dir_is_open_to_all_and_taken_down() {
    let dir = TempDir::new("emptydir");
    let v = volume(json!({"name": "v", "emptyDir": {}}));
    let path = make(dir.path(), "u", &v, None, None).expect("made");
    assert!(path.ends_with("pods/u/volumes/kubernetes.io~empty-dir/v"));
    assert_eq!(fs::metadata(&path).expect("dir").permissions().mode() & 0o7777, 0o777);
    fs::write(path.join("f"), "x").expect("write");
    make(dir.path(), "u", &v, None, None).expect("again");
    assert!(path.join("f").exists(), "a second set-up keeps what is there");
    tear_down(dir.path(), "u").expect("down");
    assert!(!pod_dir(dir.path(), "u").exists());
    for uid in ["u", "w"] {
        make(dir.path(), uid, &volume(json!({"name": "m", "emptyDir": {"medium": "Memory"}})), None, None)
            .expect("memory");
    }
    tear_down_all(dir.path()).expect("all down");
    assert!(mounts_below(dir.path()).is_empty() && !dir.path().join("pods").exists());
    tear_down_all(dir.path()).expect("nothing is there any more");
    assert!(tear_down(dir.path(), "../etc").is_err());
    assert!(tear_down(dir.path(), "").is_err());
}

#[test]
fn unsupported_kinds_are_refused() {
    let dir = TempDir::new("unsupported");
    for v in [
        json!({"name": "v", "nfs": {"server": "s", "path": "/"}}),
        json!({"name": "v", "gitRepo": {"repository": "r"}}),
        json!({"name": "v", "emptyDir": {"medium": "HugePages"}}),
    ] {
        assert_eq!(
            make(dir.path(), "u", &volume(v.clone()), None, None).expect_err("refused").kind(),
            crate::Kind::Pod,
            "{v}"
        );
    }
}

#[test]
fn memory_and_secrets_are_on_tmpfs() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED memory_and_secrets_are_on_tmpfs: needs root to mount");
        return;
    }
    let dir = TempDir::new("tmpfs");
    let v = volume(json!({"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}));
    let path = make(dir.path(), "u", &v, None, None).expect("memory");
    assert!(is_mount_point(&path));
    let too_much = fs::write(path.join("big"), vec![0u8; 2 << 20]);
    assert!(too_much.is_err(), "sizeLimit holds");
    let v = volume(json!({"name": "s", "secret": {"secretName": "s"}}));
    let file = Payload { path: "k".into(), data: b"v".to_vec(), mode: 0o600, owner: None };
    let path = make(dir.path(), "u", &v, Some(&vec![file]), Some(4242)).expect("secret");
    assert!(is_mount_point(&path));
    let sub = subpath::bind(&path, "k", &pod_dir(dir.path(), "u").join("volume-subpaths/s/c/0")).expect("subpath");
    assert_eq!(fs::read_to_string(sub).expect("bound"), "v");
    tear_down(dir.path(), "u").expect("down");
    assert!(!pod_dir(dir.path(), "u").exists());
}

#[test]
fn blanks_in_mount_points() {
    assert_eq!(unescape("/a\\040b"), Path::new("/a b"));
}
