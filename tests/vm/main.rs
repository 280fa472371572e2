//! `make vm-test`: runs the runtime's own tests inside a virtual machine with pure cgroup v2 and Debian's kernel.
//!
//! The host of a developer or of CI often has the one layout that the product's hosts do not have any more. So the
//! same statically linked test programs are packed into an initial file system and booted under Debian's cloud kernel
//! by qemu, in software emulation where the machine has no KVM. The kernel is unpacked from its Debian package and
//! never installed. What the tests print is shown as it comes, and this program's exit code is theirs.
#![forbid(unsafe_code)]

mod initramfs;
mod machine;

use gantry_tests::tools::{self, Step};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("vm-test: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool, String> {
    let filter: Vec<String> = std::env::args().skip(1).collect();
    let work = tools::target_dir().join("vm");
    std::fs::create_dir_all(&work).map_err(|e| format!("make {}: {e}", work.display()))?;
    for tool in ["qemu-system-x86_64", "busybox", "dpkg-deb"] {
        tools::find(tool).ok_or(format!("{tool} is not installed; `make setup-vm` installs it"))?;
    }
    let step = Step::new("kernel");
    let kernel = machine::kernel(&work)?;
    step.done(&kernel.image.display().to_string());

    let step = Step::new("test programs");
    let programs = test_programs()?;
    step.done(&format!("{} built", programs.tests.len()));

    let step = Step::new("initial file system");
    let image = initramfs::pack(&work, &kernel, &programs, &filter)?;
    step.done(&image.display().to_string());

    let outcome = machine::boot(&kernel.image, &image, &work)?;
    println!("{}", outcome.summary());
    Ok(outcome.passed())
}

/// The statically linked programs that go into the machine, at the same absolute paths as here.
#[derive(Debug)]
pub(crate) struct Programs {
    /// Test programs, in the order in which they run.
    pub(crate) tests: Vec<PathBuf>,
    /// Programs that the tests start.
    pub(crate) others: Vec<PathBuf>,
}

/// Builds the runtime's tests for the static target and asks cargo where they are.
fn test_programs() -> Result<Programs, String> {
    let target = "x86_64-unknown-linux-musl";
    let args =
        ["test", "-p", "gantry-runtime", "--target", target, "--no-run", "--message-format", "json-render-diagnostics"];
    let said = tools::output("cargo", &args)?;
    let mut programs = Programs { tests: Vec::new(), others: Vec::new() };
    for line in said.lines().filter(|line| line.starts_with('{')) {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let Some(executable) = message["executable"].as_str() else { continue };
        let list = if message["profile"]["test"] == true { &mut programs.tests } else { &mut programs.others };
        list.push(Path::new(executable).to_owned());
    }
    if programs.tests.is_empty() {
        return Err("cargo built no test program of gantry-runtime".into());
    }
    programs.tests.sort();
    Ok(programs)
}
