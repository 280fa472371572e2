//! Progress of a pull: on a terminal one line a layer, redrawn in place; elsewhere one plain line a fact.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use super::show::{short, size};
use crate::digest::Digest;
use crate::options::{Event, Progress};

const BAR: usize = 30;

/// A sink that prints to standard output.
pub(super) fn sink(terminal: bool) -> Progress {
    let screen = Mutex::new(Screen { layers: Vec::new(), drawn: 0 });
    Arc::new(move |event| {
        let mut screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
        let text = if terminal { screen.redraw(&event) } else { plain(&event) };
        // A closed output must not end the pull.
        let mut out = std::io::stdout().lock();
        drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    })
}

struct Screen {
    layers: Vec<(Digest, u64, String)>,
    drawn: usize,
}

/// What is worth a line of its own where lines cannot be redrawn.
fn plain(event: &Event) -> String {
    match event {
        Event::Resolved { manifest, layers } => {
            let bytes = layers.iter().map(|(_, bytes)| bytes).sum();
            format!("{} layers, {}, of {manifest}\n", layers.len(), size(bytes))
        }
        Event::Exists(layer) => format!("{}: here already\n", short(layer)),
        Event::Done(layer) => format!("{}: done\n", short(layer)),
        Event::Retry { layer, why } => format!("{}: tried again: {why}\n", short(layer)),
        Event::Progress { .. } => String::new(),
    }
}

impl Screen {
    fn redraw(&mut self, event: &Event) -> String {
        match event {
            Event::Resolved { layers, .. } => {
                self.layers = layers.iter().map(|(layer, bytes)| (layer.clone(), *bytes, "waiting".into())).collect();
            }
            Event::Exists(layer) => self.set(layer, "here already".into()),
            Event::Done(layer) => self.set(layer, "done".into()),
            Event::Retry { layer, why } => self.set(layer, format!("tried again: {why}")),
            Event::Progress { layer, bytes, total } => self.set(layer, bar(*bytes, *total)),
        }
        let up = match self.drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A"),
        };
        self.drawn = self.layers.len();
        let line = |(layer, bytes, state): &(Digest, u64, String)| {
            format!("\r\x1b[2K{} {:>8}  {state}\n", short(layer), size(*bytes))
        };
        up + &self.layers.iter().map(line).collect::<String>()
    }

    fn set(&mut self, layer: &Digest, state: String) {
        for known in self.layers.iter_mut().filter(|known| known.0 == *layer) {
            known.2.clone_from(&state);
        }
    }
}

fn bar(bytes: u64, total: u64) -> String {
    let part = if total == 0 { 1.0 } else { bytes as f64 / total as f64 };
    let full = ((part * BAR as f64) as usize).min(BAR);
    format!("[{}{}] {}", "=".repeat(full), " ".repeat(BAR - full), size(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_redrawn_in_place() {
        let layer = Digest::of(b"x");
        let mut screen = Screen { layers: Vec::new(), drawn: 0 };
        let first = screen.redraw(&Event::Resolved { manifest: layer.clone(), layers: vec![(layer.clone(), 2000)] });
        assert_eq!(first, "\r\x1b[2K2d711642b726   2.0 kB  waiting\n");
        let then = screen.redraw(&Event::Progress { layer: layer.clone(), bytes: 1000, total: 2000 });
        assert_eq!(then, "\x1b[1A\r\x1b[2K2d711642b726   2.0 kB  [===============               ] 1.0 kB\n");
        assert!(screen.redraw(&Event::Done(layer)).ends_with("  done\n"));
        assert_eq!(bar(0, 0).matches('=').count(), BAR);
    }

    #[test]
    fn plain_lines_have_no_control_characters() {
        let layer = Digest::of(b"x");
        let text = plain(&Event::Resolved { manifest: layer.clone(), layers: vec![(layer.clone(), 2_000_000)] });
        assert_eq!(text, format!("1 layers, 2.0 MB, of {layer}\n"));
        assert_eq!(plain(&Event::Done(layer.clone())), "2d711642b726: done\n");
        assert_eq!(plain(&Event::Progress { layer, bytes: 1, total: 2 }), "");
    }
}
