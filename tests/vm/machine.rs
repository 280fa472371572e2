//! The machine: Debian's cloud kernel out of its package, and one boot of it under qemu.

use crate::Guest;
use gantry_tests::tools;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The package whose only content is a dependency on the newest cloud kernel.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// No boot with all its tests takes longer; one that does is stopped and counts as failed.
const LIMIT: Duration = Duration::from_secs(1800);

/// An unpacked kernel package.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// The bootable image.
    pub(crate) image: PathBuf,
    /// `uname -r` of it.
    pub(crate) release: String,
    /// Where the package was unpacked.
    pub(crate) tree: PathBuf,
    /// The directory of its modules.
    pub(crate) modules: PathBuf,
}

/// Unpacks the kernel below `work`, downloading its package once.
///
/// # Errors
/// A sentence that names the package or file.
pub(crate) fn kernel(work: &Path) -> Result<Kernel, String> {
    let tree = work.join("kernel");
    if !tree.join("boot").exists() {
        let said = tools::output("apt-cache", &["depends", META_PACKAGE])?;
        let package = said.lines().filter_map(|l| l.trim().strip_prefix("Depends: linux-image-")).next();
        let package =
            format!("linux-image-{}", package.ok_or(format!("apt knows no {META_PACKAGE}; run `apt-get update`"))?);
        let fetch = format!(
            "cd '{}' && rm -f linux-image-*.deb && apt-get -o APT::Sandbox::User=root download {package}",
            work.display()
        );
        tools::output("sh", &["-c", &fetch])?;
        let deb = entries(work)?.into_iter().find(|p| p.extension().is_some_and(|e| e == "deb"));
        let deb = deb.ok_or(format!("apt-get -o APT::Sandbox::User=root download {package} left no file"))?;
        tools::output("dpkg-deb", &["-x", &deb.display().to_string(), &tree.display().to_string()])?;
    }
    let image = entries(&tree.join("boot"))?;
    let image =
        image.into_iter().find(|p| p.to_string_lossy().contains("/vmlinuz-")).ok_or("the package has no vmlinuz")?;
    let name = image.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let release = name.trim_start_matches("vmlinuz-").to_owned();
    let modules = tree.join("lib/modules").join(&release);
    Ok(Kernel { image, release, modules, tree })
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let list = fs::read_dir(dir).map_err(|e| format!("read {}: {e}", dir.display()))?;
    Ok(list.flatten().map(|entry| entry.path()).collect())
}

/// What the machine reported.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    failed_programs: Option<u32>,
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Outcome {
    /// Whether the machine came to its end, no program failed, and at least one test ran.
    #[must_use]
    pub(crate) fn passed(&self) -> bool {
        self.failed_programs == Some(0) && self.failed == 0 && self.passed > 0
    }

    /// One line for people.
    #[must_use]
    pub(crate) fn summary(&self) -> String {
        let end = match self.failed_programs {
            Some(0) => "all programs ended well",
            Some(_) => "some programs failed",
            None => "the machine did not come to its end",
        };
        format!("{} passed, {} failed, {} skipped; {end}", self.passed, self.failed, self.skipped)
    }

    /// Reads one line of the machine's console.
    fn note(&mut self, line: &str) {
        if let Some(count) = line.strip_prefix("VM-RESULT: ") {
            self.failed_programs = count.trim().parse().ok();
        }
        if line.starts_with("SKIPPED") {
            self.skipped += 1;
        }
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.passed += number_before(rest, " passed");
            self.failed += number_before(rest, " failed");
        }
    }
}

fn number_before(text: &str, word: &str) -> u32 {
    let Some(at) = text.find(word) else { return 0 };
    text[..at].rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Both ways to run the machine, as arguments of qemu.
const KVM: [&str; 4] = ["-accel", "kvm", "-cpu", "host"];
const EMULATION: [&str; 4] = ["-accel", "tcg,thread=multi", "-cpu", "max"];

/// A kernel without a root file system panics, and so ends its machine, within so long where KVM works.
const PROBE: Duration = Duration::from_secs(10);

fn qemu(accelerator: &[&str], kernel: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(accelerator).args(["-smp", "2", "-m", "2048"]);
    command.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-kernel"]).arg(kernel);
    command.stdin(Stdio::null());
    command
}

/// Whether a kernel really runs under KVM. In a virtual machine `/dev/kvm` may be there, and even make a machine, and
/// that machine aborts at its first special register, or stands still.
fn kvm_works(kernel: &Path) -> bool {
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return false;
    }
    let mut probe = qemu(&KVM, kernel);
    let probe = probe.args(["-append", "panic=-1"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(mut probe) = probe else { return false };
    let end = Instant::now() + PROBE;
    while Instant::now() < end {
        match probe.try_wait() {
            Ok(Some(status)) => return status.success(),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    let _ = probe.kill();
    let _ = probe.wait();
    false
}

/// An empty disk for the tests' files: a tmpfs lacks what file systems of containers have, such as id-mapped mounts.
fn disk(work: &Path) -> Result<PathBuf, String> {
    let path = work.join("disk.ext4");
    let made = fs::File::create(&path).and_then(|file| file.set_len(2 << 30));
    made.map_err(|e| format!("make {}: {e}", path.display()))?;
    tools::output("mke2fs", &["-q", "-F", "-t", "ext4", &path.display().to_string()])?;
    Ok(path)
}

/// Boots once, shows the console, and returns what came of it.
///
/// # Errors
/// qemu could not be started.
pub(crate) fn boot(kernel: &Path, initramfs: &Path, work: &Path, guest: Guest) -> Result<Outcome, String> {
    let log = work.join(format!("console-{}.log", guest.name()));
    let accelerator = if kvm_works(kernel) { &KVM } else { &EMULATION };
    println!("==> boot {} ({})", guest.name(), accelerator[1]);
    // A word with `=` that the kernel does not know becomes a variable of the first process, and of the tests.
    // On a busy machine an emulated timer is late, which a test of the kernel's takes for a broken one, and panics.
    let emulated = match accelerator == &EMULATION {
        true => " no_timer_check GANTRY_EMULATED=1 systemd.setenv=GANTRY_EMULATED=1",
        false => "",
    };
    let parameters = format!("console=ttyS0 quiet panic=-1 random.trust_cpu=on {}{emulated}", guest.parameters());
    let disk = disk(work)?;
    let mut machine = qemu(accelerator, kernel)
        .args(["-drive", &format!("file={},if=virtio,format=raw,cache=unsafe", disk.display())])
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", &parameters])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("start qemu-system-x86_64: {e}"))?;
    let console = machine.stdout.take().ok_or("qemu's console was asked for")?;
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let _ = send.send(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    });
    let end = Instant::now() + LIMIT;
    let (mut outcome, mut all) = (Outcome::default(), String::new());
    while let Ok(line) = lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
        println!("{line}");
        outcome.note(&line);
        all.push_str(&line);
        all.push('\n');
    }
    let _ = machine.kill();
    let _ = machine.wait();
    fs::write(&log, all).map_err(|e| format!("write {}: {e}", log.display()))?;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(console: &str) -> Outcome {
        let mut outcome = Outcome::default();
        console.lines().for_each(|line| outcome.note(line));
        outcome
    }

    #[test]
    fn a_complete_console_passes() {
        let outcome = read(
            "test result: ok. 12 passed; 0 failed; 0 ignored\ntest result: ok. 3 passed; 0 failed\nVM-RESULT: 0\n",
        );
        assert!(outcome.passed());
        assert_eq!(outcome.summary(), "15 passed, 0 failed, 0 skipped; all programs ended well");
    }

    #[test]
    fn a_machine_that_stops_early_fails() {
        assert!(!read("test result: ok. 12 passed; 0 failed\n").passed());
    }

    #[test]
    fn a_run_of_nothing_fails() {
        assert!(!read("VM-RESULT: 0\n").passed());
    }

    #[test]
    fn one_failure_fails() {
        assert!(!read("test result: FAILED. 2 passed; 1 failed\nVM-RESULT: 1\n").passed());
    }
}
