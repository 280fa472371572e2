//! Something in the middle: a relay that counts connections and bytes and may hold them up, and an HTTP proxy.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Listens until dropped and hands every connection to a thread of its own.
struct Listener {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, serve) = (stop.clone(), Arc::new(serve));
        let accept = move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream.unwrap()));
            }
        };
        Self { address, stop, thread: Some(std::thread::spawn(accept)) }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Both directions until either ends. `came`: told how many bytes came from `there` with each piece; false ends it.
fn join(here: TcpStream, there: TcpStream, came: impl Fn(usize) -> bool + Send) {
    let (mut up_from, mut up_to) = (here.try_clone().unwrap(), there.try_clone().unwrap());
    std::thread::spawn(move || {
        drop(std::io::copy(&mut up_from, &mut up_to));
        drop(up_to.shutdown(Shutdown::Both));
    });
    let (mut from, mut to) = (there, here);
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || to.write_all(&buffer[..count]).is_err() || !came(count) {
            break;
        }
    }
    drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
}

/// Passes connections on to one address.
pub struct Relay {
    listener: Listener,
    /// Connections so far.
    pub connections: Arc<AtomicUsize>,
}

impl Relay {
    /// `came` is told how many bytes have come back so far, before the next ones are read; false cuts the connection.
    pub fn start(to: SocketAddr, came: impl Fn(usize) -> bool + Send + Sync + 'static) -> Self {
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, sum, came) = (connections.clone(), Arc::new(AtomicUsize::new(0)), Arc::new(came));
        let listener = Listener::start(move |here| {
            count.fetch_add(1, Ordering::SeqCst);
            if let Ok(there) = TcpStream::connect(to) {
                let (sum, came) = (sum.clone(), came.clone());
                join(here, there, move |bytes| came(sum.fetch_add(bytes, Ordering::SeqCst) + bytes));
            }
        });
        Self { listener, connections }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.address
    }
}

/// An HTTP proxy that wants a user, and for which every name is one address.
pub struct Proxy {
    listener: Listener,
    /// The first lines of the requests that were let through.
    pub asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// `authorization`: the only `Proxy-Authorization` that it takes.
    pub fn start(authorization: &str, to: SocketAddr) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, wanted) = (asked.clone(), format!("proxy-authorization: {authorization}"));
        let listener = Listener::start(move |here| serve(here, to, &wanted, &log));
        Self { listener, asked }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.address
    }
}

fn serve(mut here: TcpStream, to: SocketAddr, wanted: &str, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(here.try_clone().unwrap());
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    if !head
        .iter()
        .any(|line| line.split_once(": ").is_some_and(|(n, v)| format!("{}: {v}", n.to_lowercase()) == wanted))
    {
        let answer =
            b"HTTP/1.1 407 Who\r\nproxy-authenticate: Basic realm=x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        return drop(here.write_all(answer));
    }
    log.lock().unwrap().push(head[0].clone());
    let mut there = TcpStream::connect(to).unwrap();
    if head[0].starts_with("CONNECT ") {
        here.write_all(b"HTTP/1.1 200 Yes\r\n\r\n").unwrap();
    } else {
        let words: Vec<&str> = head[0].split(' ').collect();
        let path = words[1].splitn(4, '/').nth(3).unwrap_or_default();
        let rest = head[1..].iter().filter(|line| !line.to_lowercase().starts_with("proxy-"));
        let lines: String = rest.map(|line| format!("{line}\r\n")).collect();
        there
            .write_all(format!("{} /{path} HTTP/1.1\r\nconnection: close\r\n{lines}\r\n", words[0]).as_bytes())
            .unwrap();
    }
    join(here, there, |_| true);
}

/// A SOCKS 5 proxy (RFC 1928, RFC 1929) that wants `me` and `canary`, and for which every name is one address.
pub struct Socks {
    listener: Listener,
    /// The names that were asked for.
    pub asked: Arc<Mutex<Vec<String>>>,
}

impl Socks {
    pub fn start(to: SocketAddr) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        Self { listener: Listener::start(move |here| drop(socks(here, to, &log))), asked }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.address
    }
}

fn socks(mut here: TcpStream, to: SocketAddr, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let take = |here: &mut TcpStream, count: usize| {
        let mut bytes = vec![0; count];
        here.read_exact(&mut bytes).map(|()| bytes)
    };
    let methods = take(&mut here, 2)?[1];
    take(&mut here, methods.into())?;
    here.write_all(&[5, 2])?;
    let login = take(&mut here, 2 + 2 + 1 + 6)?;
    if login != b"\x01\x02me\x06canary" {
        return here.write_all(&[1, 1]);
    }
    here.write_all(&[1, 0])?;
    // Version, connect, reserved, a name and its length.
    let head = take(&mut here, 5)?;
    assert_eq!(head[..4], [5, 1, 0, 3], "a name is left to the proxy");
    let name = take(&mut here, head[4].into())?;
    take(&mut here, 2)?;
    log.lock().unwrap().push(String::from_utf8(name).unwrap());
    here.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0])?;
    join(here, TcpStream::connect(to)?, |_| true);
    Ok(())
}
