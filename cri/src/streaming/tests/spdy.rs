//! Exec over SPDY/3.1, as `kubectl` before 1.31 does it.

use super::*;

#[tokio::test]
async fn input_output_errors_and_exit_code() {
    let server = server().await;
    let url = server.exec_url(INPUT, |session| echo(session, 7)).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    let [error, stdin, stdout, stderr] = client.open_types(["error", "stdin", "stdout", "stderr"]).await;
    client.data(stdin, b"hello ").await;
    client.data(stdin, b"world").await;
    client.finish(stdin).await;
    soon(client.drain()).await;
    assert_eq!(client.got(stdout), b"hello world");
    assert_eq!(client.got(stderr), b"11 bytes");
    assert!(client.went_away);
    assert!([error, stdout, stderr].iter().all(|id| client.streams[id].ended));
    let status = status(client.got(error));
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0]["message"], "7");
}

#[tokio::test]
async fn fifty_megabytes_arrive_whole() {
    let server = server().await;
    let size = 50 << 20;
    let url = server.exec_url(OUTPUT, move |session| flood(session, size)).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    let [error, stdout, _] = client.open_types(["error", "stdout", "stderr"]).await;
    soon(client.drain()).await;
    assert_flood(client.got(stdout), size);
    assert_eq!(status(client.got(error))["status"], "Success");
}

#[tokio::test]
async fn ten_megabytes_of_input_come_back() {
    let server = server().await;
    let url = server.exec_url(INPUT, |session| echo(session, 0)).unwrap();
    let mut client = spdy(&url, "v5.channel.k8s.io").await;
    let [error, stdin, stdout, _] = client.open_types(["error", "stdin", "stdout", "stderr"]).await;
    let size = 10 << 20;
    let input: Vec<u8> = pattern(0, size).collect();
    // The client's library takes what comes while it sends; here, what was sent is awaited now and then.
    for (at, piece) in input.chunks(32 << 10).enumerate() {
        client.data(stdin, piece).await;
        let reached = (at + 1) * (32 << 10);
        soon(client.until(|client| client.got(stdout).len() + (256 << 10) >= reached)).await;
    }
    client.finish(stdin).await;
    soon(client.drain()).await;
    assert_flood(client.got(stdout), size);
    assert_eq!(status(client.got(error))["status"], "Success");
    assert!(client.granted as usize > size - (128 << 10), "windows were opened for {}", client.granted);
}

#[tokio::test]
async fn older_versions_get_text() {
    let server = server().await;
    for (protocol, code, said) in [
        ("v3.channel.k8s.io", 3, "command terminated with non-zero exit code: exit status 3"),
        ("v2.channel.k8s.io", 0, ""),
        ("channel.k8s.io", 1, "command terminated with non-zero exit code: exit status 1"),
    ] {
        let url = server.exec_url(OUTPUT, move |_| async move { Ok(code) }).unwrap();
        let mut client = spdy(&url, protocol).await;
        let [error, ..] = client.open_types(["error", "stdout", "stderr"]).await;
        soon(client.drain()).await;
        assert_eq!(String::from_utf8_lossy(client.got(error)), said);
    }
}

#[tokio::test]
async fn an_error_before_the_start_is_told() {
    let server = server().await;
    let url = server.exec_url(OUTPUT, |_| async { Err(Error::internal("exec sh: not found in $PATH")) }).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    let [error, ..] = client.open_types(["error", "stdout", "stderr"]).await;
    soon(client.drain()).await;
    let status = status(client.got(error));
    assert_eq!((&status["status"], &status["message"]), (&"Failure".into(), &"exec sh: not found in $PATH".into()));
}

#[tokio::test]
async fn a_terminal_hears_its_size() {
    let server = server().await;
    let work = |mut session: Session| async move {
        let size = session.resize.recv().await.unwrap();
        let mut stdout = session.stdout.unwrap();
        stdout.write_all(format!("{}x{}", size.width, size.height).as_bytes()).await.unwrap();
        Ok(0)
    };
    let url = server.exec_url(TERMINAL, work).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    let [_, _, stdout, resize] = client.open_types(["error", "stdin", "stdout", "resize"]).await;
    client.data(resize, b"{\"Width\":132,").await;
    client.data(resize, b"\"Height\":43}\n").await;
    soon(client.drain()).await;
    assert_eq!(client.got(stdout), b"132x43");
}

#[tokio::test]
async fn attach_has_its_own_path_and_ends_with_zero() {
    let server = server().await;
    let url = server.attach_url(OUTPUT, |session| flood(session, 10)).unwrap();
    assert!(url.contains("/attach/"));
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    let [error, stdout, _] = client.open_types(["error", "stdout", "stderr"]).await;
    soon(client.drain()).await;
    assert_flood(client.got(stdout), 10);
    assert_eq!(status(client.got(error))["status"], "Success");
}

#[tokio::test]
async fn pings_are_answered_and_unwanted_streams_refused() {
    let server = server().await;
    let url = server.exec_url(INPUT, |session| echo(session, 0)).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    let [_, stdin, _, _] = client.open_types(["error", "stdin", "stdout", "stderr"]).await;
    client.ping(9).await;
    soon(client.until(|client| client.pongs == [9])).await;
    client.finish(stdin).await;
    soon(client.drain()).await;

    let url = server.exec_url(OUTPUT, |session| flood(session, 1)).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    let [stdin, resize, strange, ..] =
        client.open_types(["stdin", "resize", "strange", "error", "stdout", "stderr"]).await;
    soon(client.drain()).await;
    assert!([stdin, resize, strange].iter().all(|id| client.streams[id].reset == Some(1)));
}

#[tokio::test]
async fn streams_beyond_those_asked_for_do_not_stall_the_session() {
    let server = server().await;
    let url = server.exec_url(INPUT, |session| echo(session, 0)).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    let [_, stdin, stdout, stderr] = client.open_types(["error", "stdin", "stdout", "stderr"]).await;
    soon(client.until(|client| client.streams[&stderr].accepted)).await;
    for _ in 0..600 {
        let late = client.open(&[("streamtype", "stdin")]).await;
        soon(client.until(|client| client.streams[&late].reset == Some(3))).await;
    }
    client.data(stdin, b"still here").await;
    client.finish(stdin).await;
    soon(client.drain()).await;
    assert_eq!(client.got(stdout), b"still here");
}

#[tokio::test]
async fn a_client_that_keeps_windows_is_not_overrun() {
    let server = server().await;
    let size = 200_000;
    let url = server.exec_url(OUTPUT, move |session| flood(session, size)).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    client.settings(1000).await;
    let [_, stdout, _] = client.open_types(["error", "stdout", "stderr"]).await;
    soon(client.until(|client| client.got(stdout).len() == 1000)).await;
    let more = tokio::time::timeout(Duration::from_millis(100), client.step()).await;
    assert!(more.is_err(), "the server sent beyond the window");
    client.grow(stdout, 500).await;
    soon(client.until(|client| client.got(stdout).len() == 1500)).await;
    client.grow(stdout, 1 << 20).await;
    client.grow(1, 1 << 20).await;
    soon(client.drain()).await;
    assert_flood(client.got(stdout), size);
}

#[tokio::test]
async fn a_protocol_error_ends_the_connection() {
    let server = server().await;
    for noise in [
        // A stream of even id, a header block that is not zlib, another version, a control frame of 16 MiB.
        &[0x80, 3, 0, 1, 0, 0, 0, 10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0][..],
        &[0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2],
        &[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1],
        &[0xff; 64],
    ] {
        let url = server.exec_url(OUTPUT, |session| flood(session, 1)).unwrap();
        let mut client = spdy(&url, "v4.channel.k8s.io").await;
        client.raw(noise).await;
        soon(client.drain()).await;
    }
}
