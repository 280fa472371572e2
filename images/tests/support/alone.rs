//! A test in a process of its own, so that its memory is its own.

use std::process::Command;

const CHILD: &str = "GANTRY_TEST_ALONE";

/// True in a process of which `test` is the only one; elsewhere starts that process, wants it to succeed, and is false.
pub fn alone(test: &str) -> bool {
    if std::env::var(CHILD).is_ok_and(|name| name == test) {
        return true;
    }
    let own = std::env::current_exe().unwrap();
    let mut child = Command::new(own);
    child.args([test, "--exact", "--nocapture"]).env(CHILD, test);
    // Memory is what is measured, not a disk that others are writing to.
    if std::path::Path::new("/dev/shm").is_dir() {
        child.env("TMPDIR", "/dev/shm");
    }
    let child = child.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(child.status.success(), "{}{}", text(&child.stdout), text(&child.stderr));
    assert!(text(&child.stdout).contains("1 passed"), "{test} is not the name of the test");
    false
}

/// Resident memory from here on.
pub struct Memory {
    start: u64,
}

impl Memory {
    pub fn start() -> Self {
        // proc_pid_clear_refs(5): 5 sets the peak back to what is resident now.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        Self { start: kib("VmRSS") }
    }

    /// MiB that were resident at the highest point, more than at the start.
    pub fn grown(&self) -> u64 {
        kib("VmHWM").saturating_sub(self.start) / 1024
    }
}

fn kib(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
