//! Where the measured images come from and who else pulls them: Debian's docker-registry and containerd, each with
//! directories of its own below the benchmark's, and what a command cost.

use gantry_tests::tools;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::peers::text;

/// What something took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// From start to end.
    pub(crate) wall: Duration,
    /// User and system time of it and of all that it waited for.
    pub(crate) cpu: Duration,
    /// Peak resident memory of the largest process, KiB.
    pub(crate) peak: u64,
}

/// Runs a command through a small process that looks at what it used, because a peak that is asked of our own children would
/// be the largest of all that there ever were.
///
/// # Errors
/// The command failed; what it wrote is in the text.
pub(crate) fn cost(program: &Path, args: &[&str]) -> Result<(Cost, String), String> {
    let ourselves = std::env::current_exe().map_err(|why| format!("find this program: {why}"))?;
    let mut command = Command::new(ourselves);
    command.arg("--cost").arg(program).args(args).stdin(Stdio::null());
    let ran = command.output().map_err(|why| format!("start {}: {why}", program.display()))?;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let (said, numbers) = said.trim_end().rsplit_once('\n').unwrap_or(("", said.trim_end()));
    let numbers: Vec<u64> = numbers.split(' ').filter_map(|word| word.parse().ok()).collect();
    match (ran.status.success(), &numbers[..]) {
        (true, [wall, cpu, peak]) => {
            let (wall, cpu) = (Duration::from_micros(*wall), Duration::from_micros(*cpu));
            Ok((Cost { wall, cpu, peak: *peak }, said.to_owned()))
        }
        _ => Err(format!(
            "{} {}: {} {said}{}",
            program.display(),
            args.join(" "),
            ran.status,
            String::from_utf8_lossy(&ran.stderr)
        )),
    }
}

/// `bench --cost PROGRAM ARGUMENTS...`: runs it, and prints microseconds of wall and CPU and the peak as the last line.
///
/// # Errors
/// It could not start or failed.
pub(crate) fn told(words: &[String]) -> Result<(), String> {
    let (program, args) = words.split_first().ok_or("no program")?;
    let start = Instant::now();
    let status = Command::new(program).args(args).status().map_err(|why| format!("start {program}: {why}"))?;
    let wall = start.elapsed();
    let used = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|why| format!("getrusage: {why}"))?;
    let micros = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    println!("\n{} {} {}", wall.as_micros(), micros(used.user_time()) + micros(used.system_time()), used.max_rss());
    if status.success() { Ok(()) } else { Err(format!("{status}")) }
}

/// Ends a child and waits for it.
fn end(child: &mut Child) {
    let _ = kill(Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)), Signal::SIGTERM);
    for _ in 0..200 {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// A filesystem of the benchmark's own in a file, made anew for each turn, unmounted when dropped.
pub(crate) struct Disk {
    file: PathBuf,
    at: PathBuf,
}

/// Bytes, most of them never allocated.
const DISK: u64 = 8 << 30;

impl Disk {
    /// Its file and its mount point will be below `dir`.
    pub(crate) fn new(dir: &Path) -> Disk {
        Disk { file: dir.join("disk.img"), at: dir.join("disk") }
    }

    /// An empty filesystem, and where it is.
    ///
    /// # Errors
    /// It cannot be made or mounted.
    pub(crate) fn fresh(&self) -> Result<&Path, String> {
        self.unmount();
        let failed = |why: std::io::Error| format!("{}: {why}", self.file.display());
        fs::create_dir_all(&self.at).map_err(failed)?;
        File::create(&self.file).and_then(|file| file.set_len(DISK)).map_err(failed)?;
        let (file, at) = (text(&self.file), text(&self.at));
        tools::output("mke2fs", &["-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1", &file])?;
        tools::output("mount", &["-o", "loop,noinit_itable", &file, &at])?;
        Ok(&self.at)
    }

    fn unmount(&self) {
        // The last of a daemon's threads may still have a file open for a moment.
        for _ in 0..100 {
            match nix::mount::umount(&self.at) {
                Err(nix::errno::Errno::EBUSY) => std::thread::sleep(Duration::from_millis(20)),
                _ => return,
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Debian's docker-registry, ended when dropped.
pub(crate) struct Registry {
    child: Child,
    pub(crate) address: String,
    log: PathBuf,
}

impl Registry {
    /// Starts it with an empty storage below `dir`.
    ///
    /// # Errors
    /// It is not installed or does not listen within ten seconds.
    pub(crate) fn start(dir: &Path) -> Result<Registry, String> {
        let program = tools::find("docker-registry").ok_or("docker-registry is not installed")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|why| format!("find a port: {why}"))?;
        let address = listener.local_addr().map_err(|why| format!("find a port: {why}"))?.to_string();
        drop(listener);
        let (config, log) = (dir.join("registry.yml"), dir.join("registry.log"));
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            dir.join("registry").display()
        );
        fs::write(&config, text).map_err(|why| format!("write {}: {why}", config.display()))?;
        let out = File::create(&log).map_err(|why| format!("write {}: {why}", log.display()))?;
        let mut command = Command::new(program);
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(out).stderr(Stdio::null());
        let child = command.spawn().map_err(|why| format!("start docker-registry: {why}"))?;
        let registry = Registry { child, address, log };
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(&registry.address).is_err() {
            if Instant::now() > end {
                return Err(format!("docker-registry does not listen on {}", registry.address));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    /// The name of an image here.
    pub(crate) fn name(&self, image: &str) -> String {
        format!("{}/{image}:1", self.address)
    }

    /// Copies the only image of a layout here, as it is.
    ///
    /// # Errors
    /// skopeo is missing or failed.
    pub(crate) fn push(&self, layout: &Path, image: &str) -> Result<(), String> {
        let to = format!("docker://{}", self.name(image));
        let from = format!("oci:{}", layout.display());
        let args =
            ["copy", "--insecure-policy", "--quiet", "--dest-tls-verify=false", "--preserve-digests", &from, &to];
        tools::output("skopeo", &args).map(drop)
    }

    /// GET requests for blobs answered so far, and the bytes of their answers.
    pub(crate) fn served(&self) -> (u64, u64) {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let line = |line: &str| {
            let (_, rest) = line.split_once("\"GET ")?;
            let (path, rest) = rest.split_once("\" ")?;
            path.contains("/blobs/").then(|| rest.split(' ').nth(1)?.parse::<u64>().ok())?
        };
        let sizes: Vec<u64> = log.lines().filter_map(line).collect();
        (sizes.len() as u64, sizes.iter().sum())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Debian's containerd in a mount namespace of its own, ended when dropped.
pub(crate) struct Containerd {
    child: Child,
    dir: PathBuf,
}

const SWITCHED_OFF: &str = r#"disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",
"io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.native",
"io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
"io.containerd.internal.v1.opt", "io.containerd.runtime.v1.linux", "io.containerd.internal.v1.restart"]"#;

impl Containerd {
    /// True if it can take part.
    pub(crate) fn installed() -> bool {
        tools::find("containerd").is_some() && tools::find("ctr").is_some()
    }

    /// Starts one with nothing in it.
    ///
    /// # Errors
    /// It does not answer within ten seconds.
    pub(crate) fn start(dir: &Path) -> Result<Containerd, String> {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).map_err(|why| format!("make {}: {why}", dir.display()))?;
        let at = |name: &str| dir.join(name).display().to_string();
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n{SWITCHED_OFF}\n[grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("sock"),
            at("ttrpc")
        );
        fs::write(dir.join("config.toml"), text).map_err(|why| format!("write config.toml: {why}"))?;
        let log = File::create(dir.join("log")).map_err(|why| format!("write log: {why}"))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "containerd", "--config"]).arg(dir.join("config.toml"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let daemon =
            Containerd { child: child.map_err(|why| format!("start containerd: {why}"))?, dir: dir.to_owned() };
        let end = Instant::now() + Duration::from_secs(10);
        while daemon.ctr(&["version"]).is_err() {
            if Instant::now() > end {
                return Err(format!("containerd does not answer; {} says why", dir.join("log").display()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(daemon)
    }

    /// Runs its client. The cost is that of both: their CPU together, and the peak of the daemon.
    ///
    /// # Errors
    /// The client's.
    pub(crate) fn ctr(&self, args: &[&str]) -> Result<Cost, String> {
        let program = tools::find("ctr").ok_or("ctr is not installed")?;
        let socket = text(&self.dir.join("sock"));
        let words: Vec<&str> = ["--address", &socket].into_iter().chain(args.iter().copied()).collect();
        // From here on the peak counts anew (proc(5), clear_refs).
        let _ = fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
        let before = self.cpu();
        let (mut cost, _) = cost(&program, &words)?;
        cost.cpu += self.cpu().saturating_sub(before);
        cost.peak = self.peak();
        Ok(cost)
    }

    /// User and system time so far, its children's with it.
    fn cpu(&self) -> Duration {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks: u64 = (11..15).filter_map(|at| fields.get(at)?.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    fn peak(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        end(&mut self.child);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_log_is_counted() {
        let log = std::env::temp_dir().join(format!("gantry-bench-log-{}", std::process::id()));
        let line =
            |what: &str| format!("127.0.0.1 - - [01/Jan/2026:00:00:00 +0000] \"{what} HTTP/1.1\" 200 70 \"\" \"x\"\n");
        fs::write(&log, line("GET /v2/a/blobs/sha256:1") + &line("GET /v2/a/manifests/1") + &line("PUT /v2/a/blobs/b"))
            .expect("write the log");
        let child = Command::new("true").spawn().expect("start true");
        let registry = Registry { child, address: String::new(), log: log.clone() };
        assert_eq!(registry.served(), (1, 70));
        fs::remove_file(&log).expect("remove the log");
    }
}
