//! A disk whose every write and flush is recorded: a file behind qemu's `blklogwrites` filter, shown as a file by its FUSE
//! export, and made a block device by the kernel's loop driver. So the kernel's own file system and block layer decide
//! what is written when, at full speed and without a virtual machine.
//!
//! ```text
//! ext4 ─> /dev/loopN ─> FUSE ─> qemu-storage-daemon: blklogwrites ─┬─> the disk
//!                                                                   └─> the log
//! ```

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The file system's part of a disk; marks are written behind it, where no file system looks.
pub const FILES: u64 = 384 << 20;
const MARKS: u64 = 1 << 20;

/// A recorded disk; taken down when dropped.
pub struct Recorded {
    daemon: Option<Child>,
    device: String,
    log: PathBuf,
}

/// Runs a tool and returns what it printed.
pub fn tool(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{program} {args:?}: {said}");
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

/// Makes an empty file of `size` bytes.
pub fn sparse(path: &Path, size: u64) {
    std::fs::File::create(path).unwrap().set_len(size).unwrap();
}

impl Recorded {
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let (disk, log, shown) = (dir.join("disk"), dir.join("log"), dir.join("shown"));
        sparse(&disk, FILES + MARKS);
        sparse(&log, 8 << 30);
        sparse(&shown, 0);
        let filter = format!("driver=file,filename={},node-name=disk", disk.display());
        let logged = format!("driver=file,filename={},node-name=log", log.display());
        let export = format!("type=fuse,id=e,node-name=seen,mountpoint={},writable=on", shown.display());
        let daemon = Command::new("qemu-storage-daemon")
            .args(["--blockdev", &filter, "--blockdev", &logged])
            .args(["--blockdev", "driver=blklogwrites,file=disk,log=log,node-name=seen,log-sector-size=512"])
            .args(["--export", &export])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut recorded = Self { daemon: Some(daemon), device: String::new(), log };
        let end = Instant::now() + Duration::from_secs(20);
        while std::fs::metadata(&shown).map_or(0, |meta| meta.len()) != FILES + MARKS {
            assert!(Instant::now() < end, "qemu-storage-daemon does not show the disk");
            std::thread::sleep(Duration::from_millis(10));
        }
        recorded.device = tool("losetup", &["-f", "--show", &shown.display().to_string()]);
        recorded
    }

    /// The block device.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Ends the recording; the log's path.
    pub fn finish(mut self) -> PathBuf {
        self.take_down();
        self.log.clone()
    }

    fn take_down(&mut self) {
        if !self.device.is_empty() {
            let _ = Command::new("losetup").args(["-d", &std::mem::take(&mut self.device)]).status();
        }
        let Some(mut daemon) = self.daemon.take() else { return };
        // Asked to end it writes the log's head and unmounts what it shows.
        let pid = rustix::process::Pid::from_child(&daemon);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if daemon.try_wait().unwrap().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.take_down();
    }
}

/// A file system mounted at a directory; unmounted when dropped.
pub struct Mounted {
    at: PathBuf,
    device: Option<String>,
}

impl Mounted {
    /// Mounts a block device.
    pub fn device(kind: &str, device: &str, at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        tool("mount", &["-t", kind, "-o", options, device, &at.display().to_string()]);
        Self { at: at.to_owned(), device: None }
    }

    /// Mounts an image, as a machine does that comes back: the file system repairs itself by its journal.
    ///
    /// # Errors
    /// What mount said.
    pub fn image(kind: &str, image: &Path, at: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(at).unwrap();
        let size = FILES.to_string();
        let device = tool("losetup", &["-f", "--show", "--sizelimit", &size, &image.display().to_string()]);
        let done = Command::new("mount").args(["-t", kind, "-o", options(kind), &device]).arg(at).output().unwrap();
        let mounted = Self { at: at.to_owned(), device: Some(device) };
        match done.status.success() {
            true => Ok(mounted),
            false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
        }
    }
}

/// Copies of one disk have one identity, which xfs would not mount twice.
pub fn options(kind: &str) -> &'static str {
    match kind {
        "xfs" => "nouuid",
        _ => "rw",
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::empty())
            .or_else(|_| rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH));
        if let Some(device) = &self.device {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
    }
}
