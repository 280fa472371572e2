//! docker-credential-helpers: a program `docker-credential-NAME` is run with `get`, reads the server's name from its
//! standard input and prints `{"ServerURL":…,"Username":…,"Secret":…}`. A user `<token>` means that the secret is an
//! identity token.
//!
//! It is somebody else's program: its time and its output are bounded, and what it prints is quoted only when it failed
//! and printed no JSON.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::{Context, Error, Kind, Result};
use crate::network::Network;
use crate::options::{Auth, Secret};

const LARGEST: u64 = 64 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    secret: Secret,
}

/// Asks for the credentials of a server; `None` if the helper has none.
pub(super) async fn get(name: &str, server: &str, network: &Network) -> Result<Option<Auth>> {
    let what = || format!("credential helper docker-credential-{name}");
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || !name.chars().all(good) {
        return Err(Error::new(Kind::InvalidArgument, format!("credential helper {name:?} is no name of a program")));
    }
    let patience = network.helper_timeout;
    let program = program(network.helper_dir.as_deref(), name);
    let run = tokio::time::timeout(patience, run(&program, server)).await;
    let late = |_| Error::new(Kind::Unavailable, format!("{}: no answer in {patience:?}", what()));
    let (done, out) = run.map_err(late)?.context(what)?;
    match done.success() {
        true => answer(&out).map_err(|why| why.within(what())),
        false if String::from_utf8_lossy(&out).to_lowercase().contains("credentials not found") => Ok(None),
        false => Err(Error::new(Kind::Unavailable, format!("{} failed with {done}{}", what(), said(&out)))),
    }
}

/// The directory of the configuration goes before `$PATH`, where the system looks for a bare name.
fn program(dir: Option<&Path>, name: &str) -> PathBuf {
    let name = PathBuf::from(format!("docker-credential-{name}"));
    dir.map(|dir| dir.join(&name)).filter(|path| path.exists()).unwrap_or(name)
}

/// Runs the program to its end; it dies with the future.
async fn run(program: &Path, server: &str) -> std::io::Result<(std::process::ExitStatus, Vec<u8>)> {
    let mut command = tokio::process::Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that answers without reading is fine.
        drop(input.write_all(server.as_bytes()).await);
    }
    let out = match child.stdout.take() {
        Some(out) => bounded(out).await?,
        None => Vec::new(),
    };
    Ok((child.wait().await?, out))
}

async fn bounded(from: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    from.take(LARGEST + 1).read_to_end(&mut out).await?;
    match out.len() as u64 > LARGEST {
        true => Err(std::io::Error::other(format!("it prints more than {LARGEST} bytes"))),
        false => Ok(out),
    }
}

fn answer(out: &[u8]) -> Result<Option<Auth>> {
    let wrong = |_| Error::new(Kind::Invalid, "its answer is not the JSON of a credential helper");
    let answer: Answer = serde_json::from_slice(out).map_err(wrong)?;
    Ok(match (answer.username.as_str(), answer.secret.reveal()) {
        (_, "") => None,
        ("<token>", _) => Some(Auth::Identity(answer.secret)),
        _ => Some(Auth::Basic { user: answer.username, password: answer.secret }),
    })
}

/// The first line of what a failed helper printed, unless it may be credentials.
fn said(out: &[u8]) -> String {
    let text = String::from_utf8_lossy(out);
    let line = text.lines().next().unwrap_or_default().trim();
    let plain = !line.is_empty() && !text.contains('{') && !text.contains("Secret");
    if plain {
        format!(": {}", line.chars().filter(|c| !c.is_control()).take(200).collect::<String>())
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let read = |text: &str| answer(text.as_bytes());
        let basic = Auth::Basic { user: "u".into(), password: Secret::new("p") };
        assert_eq!(read(r#"{"ServerURL":"a","Username":"u","Secret":"p"}"#).unwrap(), Some(basic));
        let token = read(r#"{"ServerURL":"a","Username":"<token>","Secret":"t"}"#).unwrap();
        assert_eq!(token, Some(Auth::Identity(Secret::new("t"))));
        assert_eq!(read(r#"{"Username":"","Secret":""}"#).unwrap(), None);
        for bad in ["", "canary", r#"{"Secret":["canary"]}"#, r#"{"Username":"canary"}"#] {
            assert!(!read(bad).unwrap_err().to_string().contains("canary"), "{bad}");
        }
    }

    #[test]
    fn what_a_failed_helper_said() {
        assert_eq!(said(b"pass is locked\nmore"), ": pass is locked");
        assert_eq!(said(br#"{"Secret":"canary"}"#), "");
        assert_eq!(said(b""), "");
    }

    #[tokio::test]
    async fn programs() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = crate::scratch::Scratch::new("helper");
        for (name, script) in [
            ("good", "read server; echo '{\"Username\":\"u\",\"Secret\":\"'$1-$server'\"}'"),
            ("none", "echo credentials not found in native keychain; exit 1"),
            ("locked", "echo the keyring is locked; exit 3"),
            ("leaky", "echo '{\"Secret\":\"canary\"}'; exit 1"),
            ("endless", "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done"),
            ("stuck", "exec sleep 60"),
        ] {
            let path = dir.path().join(format!("docker-credential-{name}"));
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut network = Network { helper_dir: Some(dir.path().to_owned()), ..Network::default() };
        let good = get("good", "reg.io:5000", &network).await.unwrap();
        assert_eq!(good, Some(Auth::Basic { user: "u".into(), password: Secret::new("get-reg.io:5000") }));
        assert_eq!(get("none", "a", &network).await.unwrap(), None);
        network.helper_timeout = std::time::Duration::from_millis(300);
        for (name, expect) in [
            ("locked", "docker-credential-locked failed with exit status: 3: the keyring is locked"),
            ("leaky", "docker-credential-leaky failed with exit status: 1"),
            ("endless", "docker-credential-endless: it prints more than 65536 bytes"),
            ("stuck", "docker-credential-stuck: no answer in 300ms"),
        ] {
            let why = get(name, "a", &network).await.unwrap_err().to_string();
            assert_eq!(why, format!("credential helper {expect}"));
        }
    }

    #[tokio::test]
    async fn names_that_are_none() {
        for bad in ["", "../x", "a b", "a/b"] {
            let why = get(bad, "a", &Network::default()).await.unwrap_err();
            assert_eq!(why.kind(), Kind::InvalidArgument, "{bad}");
        }
        let why = get("gantry-does-not-exist", "a", &Network::default()).await.unwrap_err();
        assert!(why.to_string().starts_with("credential helper docker-credential-gantry-does-not-exist: "), "{why}");
    }
}
