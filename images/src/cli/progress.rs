//! Progress of a pull on standard error: on a terminal a frame every tenth of a second, elsewhere one plain line a fact.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::screen::Screen;
use super::show::{short, size};
use crate::options::{Event, Progress, quiet};

const TICK: Duration = Duration::from_millis(100);

/// Where progress is shown until it is dropped.
pub(super) struct Watch {
    kind: Kind,
}

enum Kind {
    Quiet,
    Plain,
    Terminal(Arc<Drawn>, Option<std::thread::JoinHandle<()>>),
}

/// What the thread that draws and the events share.
struct Drawn {
    screen: Mutex<Screen>,
    start: Instant,
    over: AtomicBool,
}

impl Drawn {
    fn draw(&self) {
        let size = rustix::termios::tcgetwinsize(std::io::stderr());
        let (columns, rows) = size.map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()));
        // A terminal that does not know its size says 0.
        let (columns, rows) = (if columns == 0 { 80 } else { columns }, if rows == 0 { 24 } else { rows });
        let text =
            self.screen.lock().unwrap_or_else(PoisonError::into_inner).frame(columns, rows, self.start.elapsed());
        put(&text);
    }
}

/// A closed output must not end the pull.
fn put(text: &str) {
    let mut out = std::io::stderr().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

impl Watch {
    pub(super) fn new(silent: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let kind = match () {
            () if silent => Kind::Quiet,
            () if !std::io::stderr().is_terminal() || dumb => Kind::Plain,
            () => {
                let (screen, over) = (Mutex::default(), AtomicBool::new(false));
                let drawn = Arc::new(Drawn { screen, start: Instant::now(), over });
                let ours = drawn.clone();
                let thread = std::thread::spawn(move || {
                    while !ours.over.load(Ordering::Relaxed) {
                        ours.draw();
                        std::thread::sleep(TICK);
                    }
                });
                Kind::Terminal(drawn, Some(thread))
            }
        };
        Self { kind }
    }

    /// Where the events of a pull go.
    pub(super) fn sink(&self) -> Progress {
        match &self.kind {
            Kind::Quiet => quiet(),
            Kind::Plain => Arc::new(|event| put(&plain(&event))),
            Kind::Terminal(drawn, _) => {
                let drawn = drawn.clone();
                Arc::new(move |event| {
                    drawn.screen.lock().unwrap_or_else(PoisonError::into_inner).note(&event, drawn.start.elapsed());
                })
            }
        }
    }

    /// Says what comes next.
    pub(super) fn title(&self, what: &str) {
        if !matches!(self.kind, Kind::Quiet) {
            put(&format!("{what}\n"));
        }
    }

    /// Says something between two pulls.
    pub(super) fn note(&self, what: &str) {
        self.end();
        self.title(what);
    }

    /// One pull is over: its last frame stays.
    pub(super) fn end(&self) {
        if let Kind::Terminal(drawn, _) = &self.kind {
            drawn.draw();
            *drawn.screen.lock().unwrap_or_else(PoisonError::into_inner) = Screen::default();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Kind::Terminal(drawn, thread) = &mut self.kind {
            drawn.over.store(true, Ordering::Relaxed);
            drop(thread.take().map(std::thread::JoinHandle::join));
            drawn.draw();
        }
    }
}

/// What is worth a line of its own where lines cannot be redrawn.
fn plain(event: &Event) -> String {
    match event {
        Event::Resolved { manifest, layers } => {
            let bytes = layers.iter().map(|(_, bytes)| bytes).sum();
            let word = if layers.len() == 1 { "layer" } else { "layers" };
            format!("{} {word}, {}, of {manifest}\n", layers.len(), size(bytes))
        }
        Event::Exists(layer) => format!("{}: here already\n", short(layer)),
        Event::Done(layer) => format!("{}: done\n", short(layer)),
        Event::Retry { layer, why } => format!("{}: tried again: {why}\n", short(layer)),
        Event::Progress { .. } => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn plain_lines_have_no_control_characters() {
        let layer = Digest::of(b"x");
        let text = plain(&Event::Resolved { manifest: layer.clone(), layers: vec![(layer.clone(), 2_000_000)] });
        assert_eq!(text, format!("1 layer, 2.0 MB, of {layer}\n"));
        assert_eq!(plain(&Event::Done(layer.clone())), "2d711642b726: done\n");
        assert_eq!(plain(&Event::Progress { layer, bytes: 1, total: 2 }), "");
    }
}
