//! What a client cannot do: use a token twice, fill the memory, leave anything behind.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

const UPGRADE: [(&str, &str); 3] =
    [("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v4.channel.k8s.io")];

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn a_url_works_once_and_only_for_what_it_is() {
    let server = server().await;
    let url = server.exec_url(OUTPUT, |session| flood(session, 1)).unwrap();
    for (url, method, lines, code) in [
        (url.replace("/exec/", "/attach/"), "GET", &UPGRADE[..], "404"),
        (format!("http://{}/exec/guess", server.address()), "GET", &UPGRADE, "404"),
        (format!("http://{}/", server.address()), "GET", &UPGRADE, "404"),
        (url.clone(), "GET", &[], "400"),
        (url.clone(), "PUT", &UPGRADE, "405"),
        // None of these used the token up.
        (url.clone(), "POST", &UPGRADE, "101"),
        (url.clone(), "POST", &UPGRADE, "404"),
    ] {
        let (head, _) = soon(request(&url, method, lines)).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {code} ")), "{method} {lines:?}: {head}");
    }
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let server = server().await;
    let kind = |streams| server.exec_url(streams, |_| async { Ok(0) }).unwrap_err().kind();
    assert_eq!(kind(Streams::default()), Kind::Invalid);
    assert_eq!(kind(Streams { tty: true, ..INPUT }), Kind::Invalid);
}

#[tokio::test]
async fn endless_headers_are_cut() {
    let server = server().await;
    let url = server.exec_url(OUTPUT, |session| flood(session, 1)).unwrap();
    let long = "x".repeat(1 << 20);
    let (host, _) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut io = TcpStream::connect(host).await.unwrap();
    // The server may close in the middle of it.
    let _ = io.write_all(format!("GET / HTTP/1.1\r\nhost: {long}\r\n\r\n").as_bytes()).await;
    let mut said = Vec::new();
    let _ = soon(io.read_to_end(&mut said)).await;
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&said));
}

/// Counts the futures of work that live.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn settle(done: impl Fn() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn case_28_thousands_of_failed_sessions_leave_nothing() {
    let server = server().await;
    let alive = Arc::new(AtomicUsize::new(0));
    let before = descriptors();
    for round in 0..3000 {
        let alive = alive.clone();
        let work = move |session: Session| async move {
            let _alive = Alive::new(&alive);
            match round % 3 {
                0 => Err(Error::internal("exec failed")),
                // Waits for a client that is gone by now.
                1 => std::future::pending().await,
                _ => flood(session, 1 << 20).await,
            }
        };
        let url = server.exec_url(INPUT, work).unwrap();
        match round % 4 {
            0 => drop(spdy(&url, "v4.channel.k8s.io").await),
            1 => {
                let mut client = spdy(&url, "v4.channel.k8s.io").await;
                client.open_types(["error", "stdin", "stdout", "stderr"]).await;
            }
            2 => drop(websocket(&url, "v5.channel.k8s.io").await),
            _ => drop(request(&url, "GET", &[]).await),
        }
        if round % 500 == 0 {
            // URLs that were never used keep their work until they expire.
            server.house.tokens.expire(Instant::now() + Duration::from_secs(61));
        }
    }
    server.house.tokens.expire(Instant::now() + Duration::from_secs(61));
    // The accept loop is one task.
    // Other tests of this process have some descriptors open too; a leak here would be of hundreds.
    let limit = before + 200;
    settle(|| server.house.tasks.len() == 1 && descriptors() <= limit).await;
    assert_eq!(server.house.tasks.len(), 1);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    assert!(descriptors() <= limit, "{} descriptors, {before} before", descriptors());
}

#[tokio::test]
async fn a_client_that_goes_takes_its_work_along_even_with_input_waiting() {
    let server = server().await;
    let alive = Arc::new(AtomicUsize::new(0));
    let work = {
        let alive = alive.clone();
        |_session: Session| async move {
            let _alive = Alive::new(&alive);
            std::future::pending().await
        }
    };
    let url = server.exec_url(INPUT, work).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    let [_, stdin, ..] = client.open_types(["error", "stdin", "stdout", "stderr"]).await;
    client.data(stdin, &[b'x'; 1000]).await;
    settle(|| alive.load(Ordering::SeqCst) == 1).await;
    assert_eq!(alive.load(Ordering::SeqCst), 1);
    drop(client);
    settle(|| alive.load(Ordering::SeqCst) == 0).await;
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_makes_the_writer_wait() {
    let server = server().await;
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let work = |session: Session| async move {
        let mut stdout = session.stdout.unwrap();
        loop {
            stdout.write_all(&[b'x'; 10_000]).await.unwrap();
            count.fetch_add(10_000, Ordering::SeqCst);
        }
    };
    let url = server.exec_url(OUTPUT, work).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    client.open_types(["error", "stdout", "stderr"]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let reached = written.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(written.load(Ordering::SeqCst), reached);
    // The kernel's socket buffers hold a few megabytes, ours some hundred kilobytes.
    assert!(reached < 16 << 20, "{reached} bytes were written to nobody");
}

#[tokio::test]
async fn a_shutdown_ends_every_session() {
    let shutdown = CancellationToken::new();
    let server = Server::bind(([127, 0, 0, 1], 0).into(), shutdown.clone()).await.unwrap();
    let url = server.exec_url(INPUT, |_| std::future::pending()).unwrap();
    let mut client = websocket(&url, "v5.channel.k8s.io").await;
    shutdown.cancel();
    soon(server.stopped()).await;
    assert!(!matches!(soon(client.next()).await, Some(Ok(Message::Binary(_)))));
    assert!(TcpStream::connect(server.address()).await.is_err());
}

#[tokio::test]
async fn a_client_that_dies_while_its_input_is_stuck_is_noticed() {
    // Nothing reads the stream, so nothing is read from the client; only the server's own ping can find out.
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (mux, mut arriving, transport) = super::super::spdy::connect(ours, Duration::from_millis(200));
    let mut client = super::super::spdy::client::Client::new(theirs);
    let id = client.open(&[("streamtype", "stdin")]).await;
    for _ in 0..4 {
        client.data(id, &[b'x'; 32 << 10]).await;
    }
    let work = async {
        let _stream = arriving.recv().await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(client);
        std::future::pending().await
    };
    assert!(soon(super::super::mux::serve(&mux, transport, work)).await.is_err());
}
