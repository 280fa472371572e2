//! `make vm-test`: runs the runtime's own tests inside virtual machines with Debian's kernel: pure cgroup v2 with no more
//! than a script as init, the same under systemd, and systemd on cgroup v1. `--guest NAME` picks one.
//!
//! The host of a developer or of CI often has the one layout that the product's hosts do not have any more. So the
//! same statically linked test programs are packed into an initial file system and booted under Debian's cloud kernel
//! by qemu, in software emulation where the machine has no KVM. The kernel is unpacked from its Debian package and
//! never installed. What the tests print is shown as it comes, and this program's exit code is theirs.
#![forbid(unsafe_code)]

mod debian;
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

/// The machines: what their first process is, and which cgroups they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    /// A shell script on pure cgroup v2.
    Plain,
    /// systemd on pure cgroup v2.
    Systemd,
    /// systemd on cgroup v1, with its own tree on v2 (hybrid).
    SystemdV1,
}

impl Guest {
    const ALL: [Guest; 3] = [Guest::Plain, Guest::Systemd, Guest::SystemdV1];

    /// What `--guest` takes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Guest::Plain => "plain",
            Guest::Systemd => "systemd",
            Guest::SystemdV1 => "systemd-v1",
        }
    }

    /// Whether systemd is the first process.
    pub(crate) fn has_systemd(self) -> bool {
        self != Guest::Plain
    }

    /// What the kernel and the first process are told.
    pub(crate) fn parameters(self) -> &'static str {
        match self {
            Guest::Plain => "cgroup_no_v1=all",
            Guest::Systemd => {
                "cgroup_no_v1=all systemd.unified_cgroup_hierarchy=1 systemd.unit=gantry-tests.target \
                 systemd.show_status=0 systemd.log_level=notice systemd.mask=systemd-journald.service"
            }
            Guest::SystemdV1 => {
                "systemd.unified_cgroup_hierarchy=0 systemd.unit=gantry-tests.target systemd.show_status=0 \
                 systemd.log_level=notice systemd.mask=systemd-journald.service"
            }
        }
    }
}

/// `[--guest NAME]... [TEST...]`: the machines to boot (all), and a part of the names of the tests to run (all).
fn arguments(mut args: impl Iterator<Item = String>) -> Result<(Vec<Guest>, Vec<String>), String> {
    let (mut guests, mut filter) = (Vec::new(), Vec::new());
    while let Some(argument) = args.next() {
        let name = match argument.strip_prefix("--guest") {
            Some("") => args.next().ok_or("--guest: needs a name")?,
            Some(rest) => rest.trim_start_matches('=').to_owned(),
            None => {
                filter.push(argument);
                continue;
            }
        };
        let known = Guest::ALL.into_iter().find(|guest| guest.name() == name);
        guests.push(known.ok_or(format!("--guest: {name:?} is none of plain, systemd and systemd-v1"))?);
    }
    if guests.is_empty() {
        guests.extend(Guest::ALL);
    }
    Ok((guests, filter))
}

fn run() -> Result<bool, String> {
    let (guests, filter) = arguments(std::env::args().skip(1))?;
    let work = tools::target_dir().join("vm");
    std::fs::create_dir_all(&work).map_err(|e| format!("make {}: {e}", work.display()))?;
    for tool in ["qemu-system-x86_64", "busybox", "dpkg-deb", "mke2fs"] {
        tools::find(tool).ok_or(format!("{tool} is not installed; `make setup-vm` installs it"))?;
    }
    let step = Step::new("kernel");
    let kernel = machine::kernel(&work)?;
    step.done(&kernel.image.display().to_string());

    let step = Step::new("test programs");
    let programs = test_programs()?;
    step.done(&format!("{} built", programs.tests.len()));

    let mut outcomes = Vec::new();
    for guest in guests {
        let step = Step::new(&format!("initial file system of {}", guest.name()));
        let programs = programs.of(guest);
        let few = ["systemd::", "limits::", "update::", "lifecycle::"].map(str::to_owned).to_vec();
        let filter = if filter.is_empty() && guest == Guest::SystemdV1 { &few } else { &filter };
        let image = initramfs::pack(&work, &kernel, &programs, guest, filter)?;
        step.done(&image.display().to_string());
        let outcome = machine::boot(&kernel.image, &image, &work, guest)?;
        println!("vm-test {}: {}", guest.name(), outcome.summary());
        outcomes.push((guest, outcome));
    }
    if outcomes.len() > 1 {
        println!("==> all machines");
        outcomes.iter().for_each(|(guest, outcome)| println!("vm-test {}: {}", guest.name(), outcome.summary()));
    }
    Ok(outcomes.iter().all(|(_, outcome)| outcome.passed()))
}

/// The statically linked programs that go into the machine, at the same absolute paths as here.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// Test programs, in the order in which they run.
    pub(crate) tests: Vec<PathBuf>,
    /// Programs that the tests start.
    pub(crate) others: Vec<PathBuf>,
}

impl Programs {
    /// On v1, which the host of every developer has, only what systemd makes of it is new.
    fn of(&self, guest: Guest) -> Programs {
        let mut programs = self.clone();
        if guest == Guest::SystemdV1 {
            let name =
                |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            programs.tests.retain(|test| name(test).starts_with("containers-"));
        }
        programs
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<(Vec<Guest>, Vec<String>), String> {
        arguments(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn every_machine_boots_unless_one_is_named() {
        assert_eq!(read("").unwrap(), (Guest::ALL.to_vec(), vec![]));
        assert_eq!(read("limits").unwrap(), (Guest::ALL.to_vec(), vec!["limits".to_owned()]));
        let (guests, filter) = read("--guest systemd --guest=plain a b").unwrap();
        assert_eq!((guests, filter.len()), (vec![Guest::Systemd, Guest::Plain], 2));
        assert!(read("--guest windows").is_err());
        assert!(read("--guest").is_err());
    }
}
