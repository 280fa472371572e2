//! Logs with real containers: exact lines, rotation, speed.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use gantry_runtime::monitor::{Streams, exit_record};

use crate::pod::{Pod, cannot, emulated, exec_process};

#[test]
fn log_lines_are_exact() {
    if cannot() {
        return;
    }
    let pod = Pod::new("lines");
    pod.run("web", r"printf 'one\n\ntwo\r\n'; printf '\377\000binary\n'; printf 'no end'");
    pod.exit("web");
    let log = fs::read(pod.log("web")).unwrap();
    let contents: Vec<&[u8]> = log.split_inclusive(|byte| *byte == b'\n').map(|line| &line[31..]).collect();
    let expected: [&[u8]; 5] =
        [b"stdout F one\n", b"stdout F \n", b"stdout F two\r\n", b"stdout F \xff\0binary\n", b"stdout P no end\n"];
    assert_eq!(contents, expected);
    let stamp = std::str::from_utf8(&log[..31]).unwrap();
    assert!(stamp.starts_with("20") && stamp.ends_with("Z ") && stamp.as_bytes()[19] == b'.', "{stamp}");

    pod.run("long", "head -c 40000 /dev/zero | tr '\\0' x; echo; head -c 16384 /dev/zero | tr '\\0' y; echo");
    pod.exit("long");
    let shape: Vec<(String, usize)> =
        pod.lines("long").iter().map(|line| (line[..8].to_owned(), line.len() - 9)).collect();
    let part = |tag: &str, length| (format!("stdout {tag}"), length);
    assert_eq!(shape, [part("P", 16384), part("P", 16384), part("F", 40000 - 32768), part("F", 16384)]);
}

#[test]
fn two_hundred_rotations_lose_and_double_nothing() {
    if cannot() {
        return;
    }
    let pod = Pod::new("rotate");
    pod.run("web", "n=0; while [ ! -e /tmp/stop ]; do seq $((n + 1)) $((n + 500)); n=$((n + 500)); done; echo $n");
    for turn in 0..200 {
        // Every other file is rotated once it has lines, the next one at once, with lines or without.
        if turn % 2 == 0 {
            has_lines(&pod.log("web"));
        }
        fs::rename(pod.log("web"), pod.dir.join(format!("web.log.{turn}"))).unwrap();
        pod.client.reopen_log("web").unwrap();
    }
    pod.client.exec("web", &exec_process("touch /tmp/stop", false), Streams::default()).unwrap().wait().unwrap();
    assert_eq!(pod.exit("web").code, 0);
    let written: usize = pod.lines("web").last().unwrap()["stdout F ".len()..].parse().unwrap();
    let mut next = 1;
    let mut used = 0;
    let files = (0..200).map(|turn| pod.dir.join(format!("web.log.{turn}"))).chain([pod.log("web")]);
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "whole lines only");
        used += usize::from(!text.is_empty());
        for line in text.lines() {
            let expected = if next > written { written } else { next };
            assert_eq!(&line[31..], format!("stdout F {expected}"));
            next += 1;
        }
    }
    assert_eq!(next, written + 2, "every line, and the last one with their number");
    assert!(used >= 100, "the writer wrote into {used} files only");
    println!("{written} lines in {used} files");
}

/// Waits until something was written to this log.
fn has_lines(log: &Path) {
    let until = Instant::now() + Duration::from_secs(60);
    while fs::metadata(log).unwrap().len() == 0 {
        assert!(Instant::now() < until, "nothing more was written to {}", log.display());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_log_keeps_up() {
    if cannot() {
        return;
    }
    let pod = Pod::new("speed");
    const LINES: usize = 1_000_000;
    let line = "x".repeat(79);
    let began = Instant::now();
    pod.run("web", &format!("yes {line} | head -n {LINES}"));
    let until = Instant::now() + Duration::from_secs(60);
    while exit_record(&pod.dir, "web").unwrap().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = began.elapsed().as_secs_f64();
    let size = fs::metadata(pod.log("web")).unwrap().len();
    assert_eq!(size, LINES as u64 * 120, "not one line is missing");
    println!("{:.0} lines/s, {:.0} MB/s of log", LINES as f64 / took, size as f64 / took / 1e6);
}

/// One write a line, as programs do that flush every line: the worst that a log can get.
#[test]
fn lines_that_come_one_by_one_are_gathered() {
    if cannot() {
        return;
    }
    let pod = Pod::new("single");
    let lines: usize = if emulated() { 5_000 } else { 100_000 };
    let began = Instant::now();
    let line = "x".repeat(79);
    pod.run("web", &format!("n=0; while [ $n -lt {lines} ]; do echo {line}; n=$((n + 1)); done"));
    assert_eq!(pod.exit("web").code, 0);
    let took = began.elapsed().as_secs_f64();
    assert_eq!(fs::metadata(pod.log("web")).unwrap().len(), lines as u64 * 120);
    let stat = fs::read_to_string(format!("/proc/{}/stat", pod.monitor())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let micros = ticks as f64 * 10_000.0 / lines as f64;
    println!("{:.0} single lines/s at {micros:.2} us of CPU a line", lines as f64 / took);
    if emulated() {
        eprintln!("SKIPPED the limit of CPU time a line: the processor is emulated");
        return;
    }
    assert!(micros < 10.0, "{micros} us of CPU a line");
}
