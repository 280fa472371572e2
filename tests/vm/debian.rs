//! The second guest: Debian's systemd as the first process, with D-Bus, out of packages that are never installed here.
//!
//! What the systemd cgroup driver talks to has to be the real one, and so does the criu of checkpoint and restore. The packages are downloaded once and unpacked below
//! the target directory; of their hundreds of units none but the bus and the tests is started, so that a boot under
//! software emulation takes seconds.

use gantry_tests::tools;
use std::fs;
use std::path::{Path, PathBuf};

/// systemd, the bus, and every library that they link or load.
const PACKAGES: &[&str] = &[
    "systemd",
    "libsystemd-shared",
    "libsystemd0",
    "dbus-daemon",
    "dbus-system-bus-common",
    "libdbus-1-3",
    "libexpat1",
    "libc6",
    "libgcc-s1",
    "libcap2",
    "libgcrypt20",
    "libgpg-error0",
    "liblz4-1",
    "liblzma5",
    "libzstd1",
    "libmount1",
    "libblkid1",
    "libselinux1",
    "libpcre2-8-0",
    "libssl3",
    "libacl1",
    "libaudit1",
    "libcap-ng0",
    "libcryptsetup12",
    "libfdisk1",
    "libkmod2",
    "libp11-kit0",
    "libffi8",
    "libseccomp2",
    "libapparmor1",
    "libcrypt1",
    "libip4tc2",
    "libpam0g",
    "libuuid1",
    "libudev1",
    "libargon2-1",
    "libdevmapper1.02.1",
    "libjson-c5",
    "mount",
    "libsmartcols1",
    // criu with its libraries, and what it saves and restores a tmpfs with.
    "criu",
    "tar",
    "gzip",
    "libbsd0",
    "libmd0",
    "libgnutls30",
    "libhogweed6",
    "libnettle8",
    "libgmp10",
    "libidn2-0",
    "libunistring2",
    "libtasn1-6",
    "libnet1",
    "libnftables1",
    "libnftnl11",
    "libmnl0",
    "libxtables12",
    "libjansson4",
    "libnl-3-200",
    "libprotobuf-c1",
];

/// The list of packages of which a tree was unpacked, beside it.
const LISTED: &str = "debian.packages";

/// What of the packages nobody in the machine reads.
const LEFT_OUT: [&str; 5] =
    ["usr/share/doc", "usr/share/locale", "usr/share/man", "usr/lib/x86_64-linux-gnu/gconv", "etc"];

/// The bus alone, without what Debian's unit waits for.
const BUS_SOCKET: &str = "\
[Unit]
DefaultDependencies=no
[Socket]
ListenStream=/run/dbus/system_bus_socket
";

const BUS_SERVICE: &str = "\
[Unit]
DefaultDependencies=no
Requires=dbus.socket
[Service]
Type=notify
ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation
StandardOutput=null
StandardError=null
";

const TESTS_TARGET: &str = "\
[Unit]
DefaultDependencies=no
Requires=gantry-tests.service
";

/// The tests print to the console, as in the other guest; what they start is not counted against the service.
const TESTS_SERVICE: &str = "\
[Unit]
DefaultDependencies=no
Requires=dbus.socket
After=dbus.socket
[Service]
Type=oneshot
ExecStart=/start
StandardInput=null
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
TasksMax=infinity
LimitNOFILE=1048576
Delegate=yes
";

const UNITS: [(&str, &str); 4] = [
    ("dbus.socket", BUS_SOCKET),
    ("dbus.service", BUS_SERVICE),
    ("gantry-tests.target", TESTS_TARGET),
    ("gantry-tests.service", TESTS_SERVICE),
];

/// The packages' files below `work`, downloaded and unpacked once.
///
/// # Errors
/// A sentence that names the package or file.
pub(crate) fn tree(work: &Path) -> Result<PathBuf, String> {
    let tree = work.join("debian");
    let (listed, list) = (work.join(LISTED), PACKAGES.join(" "));
    if tree.exists() && fs::read_to_string(&listed).is_ok_and(|text| text == list) {
        return Ok(tree);
    }
    let _ = fs::remove_dir_all(&tree);
    let (debs, new) = (work.join("debs"), work.join("debian.new"));
    for dir in [&debs, &new] {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).map_err(|e| format!("make {}: {e}", dir.display()))?;
    }
    let fetch = format!("cd '{}' && apt-get -o APT::Sandbox::User=root -qq download {list}", debs.display());
    tools::output("sh", &["-c", &fetch])?;
    let files = fs::read_dir(&debs).map_err(|e| format!("read {}: {e}", debs.display()))?;
    for deb in files.flatten() {
        tools::output("dpkg-deb", &["-x", &deb.path().display().to_string(), &new.display().to_string()])?;
    }
    for dir in LEFT_OUT {
        let _ = fs::remove_dir_all(new.join(dir));
    }
    fs::write(&listed, list).map_err(|e| format!("write {}: {e}", listed.display()))?;
    // Whoever finds the directory finds all of it.
    fs::rename(&new, &tree).map_err(|e| format!("rename {}: {e}", new.display()))?;
    Ok(tree)
}

/// Puts the packages' files and the units of the tests into a root file system.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn place(tree: &Path, root: &Path) -> Result<(), String> {
    tools::output("cp", &["-a", &format!("{}/.", tree.display()), &root.display().to_string()])?;
    // What every boot starts: among others systemd-tmpfiles, which empties /tmp, where the programs may lie.
    let wants = root.join("lib/systemd/system/sysinit.target.wants");
    fs::remove_dir_all(&wants).map_err(|e| format!("remove {}: {e}", wants.display()))?;
    let units = root.join("etc/systemd/system");
    fs::create_dir_all(&units).map_err(|e| format!("make {}: {e}", units.display()))?;
    for (name, text) in UNITS {
        fs::write(units.join(name), text).map_err(|e| format!("write {name}: {e}"))?;
    }
    let id = root.join("etc/machine-id");
    fs::write(&id, "8a3c2f0b7d5e4c6f9b1a0d2e4f6a8c0e\n").map_err(|e| format!("write {}: {e}", id.display()))
}
