//! Logs read back as text.

use super::*;
use crate::testing::TempDir;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn line(n: usize, tag: &str, text: &str) -> String {
    format!("2026-11-23T15:00:{n:02}.000000000Z stdout {tag} {text}\n")
}

fn options(query: &str) -> Options {
    let pairs: Vec<_> = query
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|p| p.split_once('=').map(|(k, v)| (k.to_string(), v.to_string())).expect("k=v"))
        .collect();
    Options::parse(&pairs, "2026-11-23T15:00:10Z".parse().expect("now")).expect("options")
}

async fn read(path: &Path, query: &str) -> String {
    let (out, mut lines) = mpsc::channel(64);
    send(path.to_path_buf(), options(query), out, || async { false }).await.expect("a log");
    let mut text = Vec::new();
    while let Some(bytes) = lines.recv().await {
        text.extend_from_slice(&bytes);
    }
    String::from_utf8(text).expect("utf-8")
}

#[tokio::test]
async fn options_choose_lines() {
    let dir = TempDir::new("logs");
    let log = dir.path().join("0.log");
    std::fs::write(&log, line(1, "F", "a") + &line(5, "P", "b1 ") + &line(5, "F", "b2") + &line(9, "F", "c"))
        .expect("log");
    assert_eq!(read(&log, "").await, "a\nb1 b2\nc\n");
    assert_eq!(read(&log, "tailLines=1").await, "c\n");
    assert_eq!(read(&log, "tailLines=0").await, "");
    assert_eq!(read(&log, "tailLines=100").await, "a\nb1 b2\nc\n");
    assert_eq!(read(&log, "sinceSeconds=2").await, "c\n");
    assert_eq!(read(&log, "sinceTime=2026-11-23T15:00:05Z").await, "b1 b2\nc\n");
    assert_eq!(read(&log, "limitBytes=3").await, "a\nb");
    assert_eq!(read(&log, "stream=Stderr").await, "");
    assert_eq!(read(&log, "tailLines=1&timestamps=true").await, "2026-11-23T15:00:09.000000000Z c\n");
    for bad in ["tailLines=-1", "limitBytes=0", "sinceTime=noon", "sinceSeconds=x"] {
        let (k, v) = bad.split_once('=').expect("k=v");
        assert!(Options::parse(&[(k.into(), v.into())], Timestamp::UNIX_EPOCH).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn rotated_files_are_read_in_order() {
    let dir = TempDir::new("rotated");
    let log = dir.path().join("0.log");
    std::fs::write(dir.path().join("0.log.20261123-150000"), line(1, "F", "a") + &line(2, "F", "b")).expect("old");
    std::fs::write(&log, line(3, "F", "c")).expect("log");
    assert_eq!(read(&log, "").await, "a\nb\nc\n");
    assert_eq!(read(&log, "tailLines=2").await, "b\nc\n");
    assert_eq!(read(&log, "tailLines=1").await, "c\n");
}

#[tokio::test]
async fn long_logs_are_tailed_across_blocks() {
    let dir = TempDir::new("long");
    let log = dir.path().join("0.log");
    let all: String = (0..5000).map(|n| line(1, "F", &format!("line {n}"))).collect();
    std::fs::write(&log, all).expect("log");
    let tail = read(&log, "tailLines=3000").await;
    assert_eq!((tail.lines().count(), tail.lines().next()), (3000, Some("line 2000")));
}

#[tokio::test]
async fn following_goes_on_through_rotation_and_ends_with_the_container() {
    let dir = TempDir::new("follow");
    let log = dir.path().join("0.log");
    std::fs::write(&log, line(1, "F", "a")).expect("log");
    let alive = Arc::new(AtomicBool::new(true));
    let (out, mut lines) = mpsc::channel(64);
    let (path, still) = (log.clone(), alive.clone());
    let task = tokio::spawn(async move {
        let alive = || {
            let still = still.clone();
            async move { still.load(Ordering::SeqCst) }
        };
        send(path, options("follow=true"), out, alive).await.expect("a log");
    });
    let mut next = async || {
        let bytes = tokio::time::timeout(Duration::from_secs(5), lines.recv()).await.expect("in time");
        bytes.map(|b| String::from_utf8_lossy(&b).into_owned())
    };
    assert_eq!(next().await.as_deref(), Some("a\n"));
    let mut file = std::fs::OpenOptions::new().append(true).open(&log).expect("open");
    let b = line(2, "F", "b");
    file.write_all(&b.as_bytes()[..20]).expect("half a line");
    file.write_all(&b.as_bytes()[20..]).expect("the rest");
    assert_eq!(next().await.as_deref(), Some("b\n"));
    std::fs::rename(&log, dir.path().join("0.log.1")).expect("rotate");
    std::fs::write(&log, line(3, "F", "c")).expect("new");
    assert_eq!(next().await.as_deref(), Some("c\n"));
    alive.store(false, Ordering::SeqCst);
    std::fs::OpenOptions::new()
        .append(true)
        .open(&log)
        .expect("open")
        .write_all(line(4, "F", "d").as_bytes())
        .expect("last");
    assert_eq!(next().await.as_deref(), Some("d\n"));
    assert_eq!(next().await, None);
    task.await.expect("ends");
}
