//! The initial file system of the test machine: busybox, the kernel modules that a container host needs, the test
//! programs, and an `/init` that runs them and reports.

use crate::machine::Kernel;
use crate::{Guest, Programs, debian};
use gantry_tests::tools;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Modules of Debian's cloud kernel that the tests use, in loading order; `modprobe` follows their dependencies.
/// The last ones are what criu asks about sockets and connections.
const MODULES: [&str; 16] = [
    "virtio_pci",
    "virtio_blk",
    "overlay",
    "veth",
    "bridge",
    "nf_tables",
    "nft_masq",
    "br_netfilter",
    "unix_diag",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "af_packet_diag",
    "netlink_diag",
    "nf_conntrack_netlink",
];

/// The machine's first process. A container runtime cannot `pivot_root` away from the initial rootfs, so everything
/// moves to a tmpfs first.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mkdir -p /new && mount -t tmpfs -o size=90% tmpfs /new
for each in /*; do case $each in /new|/proc|/dev|/sys) ;; *) cp -a $each /new/ ;; esac; done
mkdir -p /new/proc /new/sys /new/dev /new/tmp /new/run
umount /proc
exec switch_root /new $(cat /first)
"#;

/// The first process of the plain guest: mounts what an init mounts, then runs the tests.
const FIRST: &str = r#"#!/bin/busybox sh
export PATH=/bin:/sbin HOME=/
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm && mount -t devpts devpts /dev/pts && mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --make-rshared /
exec /start
"#;

/// The tests, in either guest. Where systemd runs, the containers' tests run a second time with its driver.
const START: &str = r#"#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/ RUST_BACKTRACE=1
ip link set lo up
for module in $(cat /modules); do modprobe $module 2>/dev/null || echo "module $module: not loaded"; done
# The programs may lie below /tmp themselves.
mkdir -p /disk && mount -t ext4 /dev/vda /disk && cp -a /tmp/. /disk/ && mount --bind /disk /tmp || echo "VM: no disk: /tmp is a tmpfs"
chmod 1777 /tmp
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then cgroups="v2: $(cat /sys/fs/cgroup/cgroup.controllers)"; else cgroups="v1: $(ls /sys/fs/cgroup | xargs)"; fi
echo "VM: kernel $(uname -r), first process $(cat /proc/1/comm), cgroups $cgroups"
failed=0
run() {
  echo "VM: $(basename $1) $2 at $(cut -d. -f1 /proc/uptime) s"
  (cd /tmp && timeout 900 env $2 $1 --show-output $(cat /filter)) || { failed=$((failed + 1)); echo "VM-FAILED: $1 $2"; }
}
while read -r program; do
  [ -e /driver-only ] || run $program
  case $program in */containers-*) [ ! -d /run/systemd/system ] || run $program GANTRY_TEST_DRIVER=systemd ;; esac
done < /programs
echo "VM-RESULT: $failed"
busybox poweroff -f
"#;

/// Packs the archive and returns its path.
///
/// # Errors
/// A sentence naming the file or tool that was in the way.
pub(crate) fn pack(
    work: &Path,
    kernel: &Kernel,
    programs: &Programs,
    guest: Guest,
    filter: &[String],
) -> Result<PathBuf, String> {
    let root = work.join("root");
    let _ = fs::remove_dir_all(&root);
    for dir in ["bin", "sbin", "etc", "proc", "sys", "dev", "tmp", "run"] {
        fs::create_dir_all(root.join(dir)).map_err(|e| format!("make {dir}: {e}"))?;
    }
    if guest.has_systemd() {
        debian::place(&debian::tree(work)?, &root)?;
    }
    busybox(&root)?;
    script(&root.join("init"), INIT)?;
    script(&root.join("plain"), FIRST)?;
    write(&root.join("first"), if guest.has_systemd() { "/lib/systemd/systemd" } else { "/plain" })?;
    script(&root.join("start"), START)?;
    write(
        &root.join("etc/passwd"),
        "root:x:0:0:root:/:/bin/sh\nmessagebus:x:100:100:bus:/:/bin/sh\n\
         user:x:1000:1000:user:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    )?;
    write(&root.join("etc/group"), "root:x:0:\nmessagebus:x:100:\nuser:x:1000:\nnogroup:x:65534:\n")?;
    if guest == Guest::SystemdV1 {
        write(&root.join("driver-only"), "")?;
    }
    write(&root.join("modules"), &MODULES.join("\n"))?;
    write(&root.join("filter"), &filter.join(" "))?;
    modules(&root, kernel)?;
    let mut list = String::new();
    for program in programs.tests.iter().chain(&programs.others) {
        place(&root, program)?;
    }
    for test in &programs.tests {
        list.push_str(&format!("{}\n", test.display()));
    }
    write(&root.join("programs"), &list)?;
    let image = work.join("initramfs.cpio");
    let pack = format!("cd '{}' && find . | busybox cpio -o -H newc > '{}'", root.display(), image.display());
    tools::output("sh", &["-c", &pack])?;
    Ok(image)
}

fn busybox(root: &Path) -> Result<(), String> {
    let source = tools::find("busybox").ok_or("busybox is not installed (Debian: busybox-static)")?;
    let target = root.join("bin/busybox");
    fs::copy(&source, &target).map_err(|e| format!("copy {}: {e}", source.display()))?;
    for applet in tools::output("busybox", &["--list"])?.lines().filter(|name| *name != "busybox") {
        let _ = symlink("/bin/busybox", root.join("bin").join(applet));
    }
    Ok(())
}

/// Copies a program to the same absolute path inside, without its debug information.
fn place(root: &Path, program: &Path) -> Result<(), String> {
    let target = root.join(program.strip_prefix("/").map_err(|e| format!("{}: {e}", program.display()))?);
    let dir = target.parent().ok_or("a program has a directory")?;
    fs::create_dir_all(dir).map_err(|e| format!("make {}: {e}", dir.display()))?;
    fs::copy(program, &target).map_err(|e| format!("copy {}: {e}", program.display()))?;
    // Only for size: a machine in software emulation has to unpack all of it.
    let _ = tools::output("strip", &["--strip-debug", &target.display().to_string()]);
    Ok(())
}

/// The wanted modules and all that they need, with the index that `modprobe` reads.
fn modules(root: &Path, kernel: &Kernel) -> Result<(), String> {
    let from = kernel.modules.clone();
    let to = root.join("lib/modules").join(&kernel.release);
    let index = fs::read_to_string(dependencies(&from, kernel)?).map_err(|e| format!("read modules.dep: {e}"))?;
    let mut wanted: Vec<String> = MODULES.iter().map(|name| (*name).to_owned()).collect();
    let mut kept = String::new();
    while let Some(name) = wanted.pop() {
        let file = format!("/{name}.ko");
        let Some(line) = index.lines().find(|l| l.split(':').next().is_some_and(|p| p.ends_with(&file))) else {
            continue;
        };
        if kept.contains(line) {
            continue;
        }
        kept.push_str(line);
        kept.push('\n');
        let (path, needs) = line.split_once(':').unwrap_or((line, ""));
        let target = to.join(path);
        fs::create_dir_all(target.parent().ok_or("a module has a directory")?).map_err(|e| e.to_string())?;
        fs::copy(from.join(path), &target).map_err(|e| format!("copy module {path}: {e}"))?;
        for need in needs.split_whitespace() {
            let stem = Path::new(need).file_stem().map(|s| s.to_string_lossy().into_owned());
            wanted.extend(stem);
        }
    }
    write(&to.join("modules.dep"), &kept)
}

/// `modules.dep`, made by depmod where the package has none (it is made at installation, which does not happen here).
fn dependencies(from: &Path, kernel: &Kernel) -> Result<PathBuf, String> {
    let index = from.join("modules.dep");
    if !index.exists() {
        let depmod = tools::find("depmod").ok_or("depmod is not installed (Debian: kmod)")?;
        let args = ["-b", &kernel.tree.display().to_string(), &kernel.release];
        tools::output(&depmod.display().to_string(), &args)?;
    }
    Ok(index)
}

fn script(path: &Path, text: &str) -> Result<(), String> {
    write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(|e| format!("chmod {}: {e}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|e| format!("make {}: {e}", dir.display()))?;
    }
    fs::write(path, text).map_err(|e| format!("write {}: {e}", path.display()))
}
