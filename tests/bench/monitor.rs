//! The monitor of a pod: `bench-monitor BINARY` starts one, and prints what it holds while idle and how fast it logs.
//!
//! Memory is read from `smaps_rollup` of ten monitors with one container each that sleeps. Throughput is a container that
//! writes a million lines while its log file is rotated all the time: counted is the time until its exit is recorded and
//! every line, numbered, is found in the files.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gantry_runtime::cgroup::{Cgroup, Layout};
use gantry_runtime::monitor::protocol::Create;
use gantry_runtime::monitor::{Client, SealedBinary, exit_record, spawn};
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Monitors that are looked at while idle: the pages of the binary are all of theirs.
const PODS: u64 = 10;
/// Lines that are logged, of 80 bytes with their newline.
const LINES: usize = 1_000_000;
/// Bytes before the text of a line in a CRI log: time, stream, tag.
const STAMP: usize = 40;

fn main() -> Outcome<()> {
    let binary = std::env::args_os().nth(1).ok_or("usage: bench-monitor BINARY ROOTFS")?;
    let rootfs = PathBuf::from(std::env::args_os().nth(2).ok_or("usage: bench-monitor BINARY ROOTFS")?);
    let name = format!("gantry-bench-monitor-{}", std::process::id());
    let dir = std::env::temp_dir().join(&name);
    fs::create_dir_all(&dir)?;
    let measured = measure(&SealedBinary::open(Path::new(&binary))?, &dir, &rootfs, &name);
    for pod in 0..PODS {
        let Ok(client) = Client::connect(dir.join(pod.to_string())) else { continue };
        for id in [format!("idle{pod}"), "log".to_owned()] {
            let _ = client.delete(&id, true);
        }
        let _ = client.shutdown();
    }
    let cgroup = Layout::discover().and_then(|layout| Cgroup::at(&layout, Path::new(&name)));
    let _ = cgroup.and_then(|cgroup| cgroup.delete(Duration::from_secs(5)));
    let _ = fs::remove_dir_all(&dir);
    measured
}

fn measure(binary: &SealedBinary, dir: &Path, rootfs: &Path, name: &str) -> Outcome<()> {
    println!("| monitor | |\n|---|---|");
    for pod in 0..PODS {
        let dir = dir.join(pod.to_string());
        fs::create_dir(&dir)?;
        spawn(binary, &dir)?;
        let client = Client::connect(&dir)?;
        client.create(&container(&dir, rootfs, name, &format!("idle{pod}"), &["/bin/sleep", "600"])?)?;
        client.start(&format!("idle{pod}"))?;
    }
    std::thread::sleep(Duration::from_millis(500));
    let (mut private, mut proportional) = (0, 0);
    for pod in 0..PODS {
        let pid = fs::read_to_string(dir.join(pod.to_string()).join("monitor.pid"))?;
        let pid = pid.split(' ').next().unwrap_or_default();
        let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let kib = |key: &str| -> u64 {
            let found = memory.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB"));
            found.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        private += kib("Private_Clean:") + kib("Private_Dirty:");
        proportional += kib("Pss:");
    }
    println!("| idle, one container each, {PODS} monitors: private memory of one | {} KiB |", private / PODS);
    println!("| the same: PSS of one | {} KiB |", proportional / PODS);
    log(&Client::connect(dir.join("0"))?, &dir.join("0"), rootfs, name)
}

fn log(client: &Client, dir: &Path, rootfs: &Path, name: &str) -> Outcome<()> {
    // Numbered, so that each line can be told from the others; 79 characters, as wide as a terminal.
    let script = format!("printf %072d 0; exec seq -w -s \"$(printf '\\n%072d' 0)\" 1 {LINES}");
    let request = container(dir, rootfs, name, "log", &["/bin/sh", "-c", &script])?;
    client.create(&request)?;
    let began = Instant::now();
    client.start("log")?;
    let log = dir.join("log.log");
    let mut files = Vec::new();
    while exit_record(dir, "log")?.is_none() && began.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(20));
        let old = dir.join(format!("log.{}", files.len()));
        fs::rename(&log, &old)?;
        client.reopen_log("log")?;
        files.push(old);
    }
    let took = began.elapsed();
    files.push(log);
    let (mut bytes, mut next) = (0, 1);
    for file in &files {
        let text = fs::read_to_string(file)?;
        bytes += text.len();
        for line in text.lines() {
            let number = line.get(STAMP..).map(|text| text.trim_start_matches('0').parse::<usize>());
            if number != Some(Ok(next)) {
                return Err(format!("line {next} was lost: {line:?} in {}", file.display()).into());
            }
            next += 1;
        }
    }
    let lost = LINES + 1 - next;
    let speed = |bytes: usize| bytes as f64 / took.as_secs_f64() / 1e6;
    println!(
        "| log: {LINES} lines into {} rotated files | {:.0} MB/s of log, {:.0} MB/s of text, {lost} lines lost |\n",
        files.len(),
        speed(bytes),
        speed(bytes - (next - 1) * STAMP),
    );
    if lost == 0 { Ok(()) } else { Err(format!("{lost} lines were lost").into()) }
}

fn container(dir: &Path, rootfs: &Path, parent: &str, id: &str, args: &[&str]) -> Outcome<Create> {
    let bundle = dir.join("containers").join(id).join("bundle");
    fs::create_dir_all(&bundle)?;
    let config = json!({
        "ociVersion": "1.0.2",
        "root": { "path": rootfs, "readonly": true },
        "process": { "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": args, "env": ["PATH=/bin"] },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": {
            "cgroupsPath": format!("/{parent}/{id}"),
            "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }]
        }
    });
    fs::write(bundle.join("config.json"), config.to_string())?;
    Ok(Create { id: id.into(), bundle, log_path: Some(dir.join(format!("{id}.log"))), ..Create::default() })
}
