//! Root filesystems for user namespaces, where both crates that it takes meet: `images` mounts, `runtime` maps the ids.

#![allow(clippy::unwrap_used)]

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use gantry_images::layout::{self, Settings};
use gantry_images::{Config, IdRange, LayerForm, RootfsDriver, SetIdMap, Shift, Store};
use gantry_runtime::sys::mount::{Depth, MountAttr, attr, mount_setattr};

/// A process in a user namespace that maps 0..65536 to 100000; ended with the test, its directory removed.
struct House {
    dir: PathBuf,
    holder: Child,
}

impl House {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("gantry-shift-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        // `cat` ends with its input: also if this process is killed.
        let mut holder = Command::new("unshare");
        let mut holder = holder.args(["--user", "sh", "-c", "echo; exec cat"]);
        holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = holder.spawn().unwrap();
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0; 1]).unwrap();
        for map in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{}/{map}", holder.id()), "0 100000 65536").unwrap();
        }
        Self { dir, holder }
    }

    fn shift(&self, set: Arc<SetIdMap>) -> Shift {
        let userns = std::fs::File::open(format!("/proc/{}/ns/user", self.holder.id())).unwrap();
        let ids = vec![IdRange { inside: 0, outside: 100_000, count: 65_536 }];
        Shift { userns: Arc::new(userns.into()), uids: ids.clone(), gids: ids, set }
    }

    /// What a command says that runs as root of the namespace, in a directory.
    fn inside(&self, dir: &Path, script: &str) -> String {
        let user = format!("--user=/proc/{}/ns/user", self.holder.id());
        let mut command = Command::new("nsenter");
        let command = command.args([user.as_str(), "-S", "0", "-G", "0", "sh", "-ec", script]).current_dir(dir);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points: Vec<&str> = table.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        let left: Vec<_> = points.into_iter().filter(|point| Path::new(point).starts_with(&self.dir)).collect();
        for point in left.iter().rev() {
            let _ = nix::mount::umount2(*point, nix::mount::MntFlags::MNT_DETACH);
        }
        drop(std::fs::remove_dir_all(&self.dir));
        if !std::thread::panicking() {
            assert!(left.is_empty(), "left mounted: {left:?}");
        }
    }
}

fn kernel() -> Arc<SetIdMap> {
    Arc::new(|mount, userns| {
        let map = MountAttr { set: attr::IDMAP, userns_fd: userns.as_raw_fd() as u64, ..MountAttr::default() };
        mount_setattr(mount, c"", Depth::One, &map).map_err(|why| std::io::Error::from_raw_os_error(why.raw()))
    })
}

/// As a kernel or filesystem that maps nothing.
fn refusing() -> Arc<SetIdMap> {
    Arc::new(|_, _| Err(std::io::Error::from_raw_os_error(libc::EINVAL)))
}

/// Two layers, so that more than one mount may be needed.
fn image(house: &House) -> PathBuf {
    let tree = house.dir.join("tree");
    std::fs::create_dir_all(tree.join("home/user")).unwrap();
    std::fs::write(tree.join("home/user/file"), "mine").unwrap();
    std::fs::write(tree.join("root-file"), "root's").unwrap();
    chown(tree.join("home/user"), Some(1000), Some(1000)).unwrap();
    chown(tree.join("home/user/file"), Some(1000), Some(1001)).unwrap();
    let out = house.dir.join("oci");
    let settings = Settings { cmd: vec!["/bin/sh".into()], ..Settings::default() };
    layout::write(&tree, &settings, &out, &"shift:1".parse().unwrap()).unwrap();
    out
}

async fn shifted(house: &House, config: Config, set: Arc<SetIdMap>, mounts: bool) {
    let name = format!("{:?} {:?}", config.layers, config.rootfs);
    let store = Store::open(config).unwrap();
    let image = store.import(&house.dir.join("oci"), None).await.unwrap().remove(0);
    let shift = house.shift(set);
    let root = store.rootfs_shifted(&image.id, "c", Some(shift.clone())).await.unwrap().path;
    let owner = |path: &str| {
        let meta = std::fs::symlink_metadata(root.join(path)).unwrap();
        (meta.uid(), meta.gid())
    };
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let points: Vec<&Path> = points.map(Path::new).filter(|point| point.starts_with(root.parent().unwrap())).collect();
    let wanted = if mounts { vec![root.as_path()] } else { vec![] };
    assert_eq!(points, wanted, "{name}: an overlay or a copy, and mapped layers no longer");
    assert_eq!((owner(""), owner("root-file")), ((100_000, 100_000), (100_000, 100_000)), "{name}");
    assert_eq!((owner("home/user"), owner("home/user/file")), ((101_000, 101_000), (101_000, 101_001)), "{name}");
    let seen = house.inside(&root, "stat -c %u:%g . root-file home/user/file; id -u");
    assert_eq!(seen, "0:0\n0:0\n1000:1001\n0\n", "{name}");
    house.inside(&root, "echo more >> root-file; touch new; chown 7:8 home/user/file; rm -r home/user; mkdir d");
    assert_eq!((owner("new"), owner("root-file")), ((100_000, 100_000), (100_000, 100_000)), "{name}");
    assert!(!root.join("home/user").exists());
    // As a layer the owners are those of the namespace.
    let layer = store.diff("c", Some(shift.clone()), Vec::new()).await.unwrap();
    let mut archive = tar::Archive::new(layer.as_slice());
    let mut owners = archive.entries().unwrap().map(|entry| entry.unwrap().header().uid().unwrap());
    assert!(owners.all(|uid| uid == 0), "{name}");
    // Another container without a namespace of its own shares the layers, which did not change.
    let plain = store.rootfs(&image.id, "plain").await.unwrap().path;
    assert_eq!(std::fs::metadata(plain.join("home/user/file")).unwrap().uid(), 1000);
    // The machine reboots.
    if mounts {
        nix::mount::umount(&root).unwrap();
    }
    store.rootfs_shifted(&image.id, "c", Some(shift)).await.unwrap();
    assert_eq!(std::fs::read_to_string(root.join("root-file")).unwrap(), "root'smore\n");
    for key in ["c", "plain"] {
        store.release_rootfs(key).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_an_image_show_the_ids_of_the_namespace() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED files_of_an_image_show_the_ids_of_the_namespace: needs root");
        return;
    }
    let house = House::new("ids");
    image(&house);
    let config = |name: &str| Config::at(house.dir.join(name));
    shifted(&house, config("files"), kernel(), true).await;
    shifted(&house, config("refused"), refusing(), false).await;
    shifted(&house, Config { rootfs: RootfsDriver::Copy, ..config("copy") }, kernel(), false).await;
    let erofs = Config { layers: LayerForm::Erofs, ..config("erofs") };
    match Store::open(erofs.clone()) {
        Ok(_) => shifted(&house, erofs, kernel(), true).await,
        Err(why) => eprintln!("SKIPPED images of layers in a namespace: {why}"),
    }
}
