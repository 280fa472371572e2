//! A mount and a network namespace of a test's own, in which a peer (podman, containerd) may do what it likes.
//!
//! Only `lo` is there, so nothing can be routed anywhere; what the peer mounts goes when the last process leaves.

use crate::house::House;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long one command of a peer may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The namespaces, held open by one sleeping process that the drop ends.
#[derive(Debug)]
pub struct Enclosure {
    holder: Child,
    home: String,
}

/// What a command left behind.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; -1 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Enclosure {
    /// Makes the namespaces; `house` names them by the working directory of their holder.
    ///
    /// # Panics
    /// unshare or ip (util-linux, iproute2) cannot do it.
    #[must_use]
    pub fn new(house: &House) -> Self {
        let mut holder = Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "slave", "sh", "-c"])
            .arg("ip link set lo up && echo ready && exec sleep 600")
            .current_dir(house.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare (Debian: util-linux) starts");
        let mut word = [0; 5];
        let said = holder.stdout.take().expect("it is piped").read_exact(&mut word);
        let enclosure = Self { holder, home: house.dir().display().to_string() };
        said.expect("a namespace with lo can be made");
        enclosure
    }

    /// A command inside, in the house's directory, with nothing to read.
    #[must_use]
    pub fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.holder.id().to_string(), "--mount", "--net", "--wd", "--"])
            .arg(program)
            .args(args)
            .env("TMPDIR", &self.home)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// It could not be started, or takes longer than a minute; then it is ended.
    #[must_use]
    pub fn run(&self, program: &Path, args: &[&str]) -> Said {
        let mut command = self.command(program, args);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nsenter starts");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        let (done, wait) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || done.send(child.wait_with_output()));
        let output: Output = wait.recv_timeout(LIMIT).map_or_else(
            |_| {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                panic!("{} {}: not done after {LIMIT:?}", program.display(), args.join(" "));
            },
            |output| output.expect("its output can be read"),
        );
        let _ = waiter.join();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Said { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Drop for Enclosure {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Asks again and again until it is so, for at most a minute.
///
/// # Panics
/// It never was.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !so() {
        assert!(Instant::now() < end, "waited {LIMIT:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
