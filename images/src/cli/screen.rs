//! What a pull looks like on a terminal: one line a layer, redrawn in place. Pure: events and the time in, text out.
//!
//! The cursor always rests below the last line and nothing about the terminal is changed, so that whatever ends the
//! program, Ctrl-C included, leaves it clean. A frame is one write, each line is overwritten and only then cleared to its
//! end, so nothing flickers; no line is longer than the terminal is wide, so none wraps.

use std::time::Duration;

use super::show::{short, size};
use crate::digest::Digest;
use crate::options::Event;

const BAR: usize = 24;
/// Lines of other things that stay visible above the layers.
const ABOVE: usize = 2;

#[derive(Clone, Debug, Eq, PartialEq)]
enum State {
    Waiting,
    Downloading,
    Unpacking,
    Done,
    Here,
    Again(String),
}

struct Line {
    layer: Digest,
    bytes: u64,
    total: u64,
    state: State,
    /// Bytes at the last measurement, when that was, and bytes a second since the one before.
    measured: (u64, Duration),
    rate: f64,
}

/// The layers of one pull.
#[derive(Default)]
pub(super) struct Screen {
    lines: Vec<Line>,
    /// The widths in columns of the lines that were drawn last.
    drawn: Vec<usize>,
}

impl Screen {
    /// Takes note of an event at the time `now`, counted from any start.
    pub(super) fn note(&mut self, event: &Event, now: Duration) {
        match event {
            Event::Resolved { layers, .. } => {
                let line = |(layer, total): &(Digest, u64)| Line {
                    layer: layer.clone(),
                    bytes: 0,
                    total: *total,
                    state: State::Waiting,
                    measured: (0, now),
                    rate: 0.0,
                };
                self.lines = layers.iter().map(line).collect();
            }
            Event::Exists(layer) => self.set(layer, State::Here),
            Event::Done(layer) => self.set(layer, State::Done),
            Event::Retry { layer, why } => self.set(layer, State::Again(why.clone())),
            Event::Progress { layer, bytes, total } => {
                for line in self.lines.iter_mut().filter(|line| line.layer == *layer) {
                    if line.state == State::Waiting {
                        // What an earlier pull left counts for no speed.
                        line.measured = (*bytes, now);
                    }
                    line.bytes = *bytes;
                    line.state = if bytes == total { State::Unpacking } else { State::Downloading };
                }
            }
        }
    }

    fn set(&mut self, layer: &Digest, state: State) {
        for line in self.lines.iter_mut().filter(|line| line.layer == *layer) {
            line.state = state.clone();
        }
    }

    /// The text that brings the terminal, `columns` wide and `rows` high, from the last frame to this one.
    pub(super) fn frame(&mut self, columns: usize, rows: usize, now: Duration) -> String {
        for line in &mut self.lines {
            line.measure(now);
        }
        let lines = self.visible(columns, rows);
        // Lines that were drawn when the terminal was wider have wrapped since.
        let up: usize = self.drawn.iter().map(|width| width.div_ceil(columns.max(1)).max(1)).sum();
        let mut text = if up == 0 { String::new() } else { format!("\x1b[{up}A\r") };
        for line in &lines {
            text += &format!("{line}\x1b[K\n");
        }
        // What is left of a longer frame.
        if up > lines.len() {
            text += "\x1b[J";
        }
        self.drawn = lines.iter().map(|line| line.chars().count()).collect();
        text
    }

    /// As many lines as fit: what is finished is counted in one line if need be, what waits in another.
    fn visible(&self, columns: usize, rows: usize) -> Vec<String> {
        let most = rows.saturating_sub(ABOVE).max(1);
        if self.lines.len() <= most {
            return self.lines.iter().map(|line| cut(&line.text(), columns)).collect();
        }
        let finished = |line: &&Line| matches!(line.state, State::Done | State::Here);
        let waits = |line: &&Line| line.state == State::Waiting;
        let done = self.lines.iter().filter(finished).count();
        let active: Vec<&Line> = self.lines.iter().filter(|line| !finished(line) && !waits(line)).collect();
        let waiting = self.lines.len() - done - active.len();
        let shown = active.len().min(most - 1);
        let mut text: Vec<String> = active[..shown].iter().map(|line| cut(&line.text(), columns)).collect();
        let more = active.len() - shown;
        let more = if more > 0 { format!(", {more} more under way") } else { String::new() };
        let all = self.lines.len();
        text.push(cut(&format!("{done} of {all} layers are done, {waiting} wait{more}"), columns));
        text
    }
}

impl Line {
    fn measure(&mut self, now: Duration) {
        let (bytes, at) = self.measured;
        let passed = now.saturating_sub(at).as_secs_f64();
        if self.state == State::Downloading && passed >= 0.25 {
            let fresh = self.bytes.saturating_sub(bytes) as f64 / passed;
            self.rate = if self.rate == 0.0 { fresh } else { 0.6 * self.rate + 0.4 * fresh };
            self.measured = (self.bytes, now);
        }
    }

    fn text(&self) -> String {
        let (id, total) = (short(&self.layer), size(self.total));
        match &self.state {
            State::Waiting => format!("{id}  waiting      {total:>8}"),
            State::Done => format!("{id}  done         {total:>8}"),
            State::Here => format!("{id}  here already {total:>8}"),
            State::Again(why) => format!("{id}  tried again  {why}"),
            State::Unpacking => format!("{id}  unpacking    {total:>8}"),
            State::Downloading => {
                let rate = if self.rate > 0.0 { format!("  {}/s", size(self.rate as u64)) } else { String::new() };
                format!(
                    "{id}  downloading  {:>8} of {total:<8} {}{rate}",
                    size(self.bytes),
                    bar(self.bytes, self.total)
                )
            }
        }
    }
}

fn bar(bytes: u64, total: u64) -> String {
    let full = (u128::from(bytes) * BAR as u128).checked_div(u128::from(total)).unwrap_or(BAR as u128) as usize;
    let full = full.min(BAR);
    format!("[{}{}]", "=".repeat(full), " ".repeat(BAR - full))
}

/// At most `columns - 1` characters, none of which moves the cursor: a registry's words may hold any.
fn cut(text: &str, columns: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(columns.saturating_sub(1).max(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(n: u64) -> Digest {
        Digest::of(&n.to_le_bytes())
    }

    fn resolved(count: u64) -> Screen {
        let mut screen = Screen::default();
        let layers = (0..count).map(|n| (layer(n), 2_000_000)).collect();
        screen.note(&Event::Resolved { manifest: layer(99), layers }, Duration::ZERO);
        screen
    }

    fn progress(n: u64, bytes: u64) -> Event {
        Event::Progress { layer: layer(n), bytes, total: 2_000_000 }
    }

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_life_of_a_layer() {
        let mut screen = resolved(1);
        assert_eq!(screen.frame(80, 24, at(0)), "af5570f5a181  waiting        2.0 MB\x1b[K\n");
        screen.note(&progress(0, 0), at(0));
        screen.note(&progress(0, 1_000_000), at(500));
        let expect =
            "\x1b[1A\raf5570f5a181  downloading    1.0 MB of 2.0 MB   [============            ]  2.0 MB/s\x1b[K\n";
        assert_eq!(screen.frame(90, 24, at(500)), expect);
        screen.note(&progress(0, 2_000_000), at(700));
        assert_eq!(screen.frame(80, 24, at(700)), "\x1b[2A\raf5570f5a181  unpacking      2.0 MB\x1b[K\n\x1b[J");
        screen.note(&Event::Done(layer(0)), at(800));
        assert_eq!(screen.frame(80, 24, at(800)), "\x1b[1A\raf5570f5a181  done           2.0 MB\x1b[K\n");
    }

    #[test]
    fn no_line_wraps_or_moves_the_cursor() {
        let mut screen = resolved(2);
        screen.note(&Event::Retry { layer: layer(0), why: format!("evil\x1b[2J\r\n{}", "x".repeat(200)) }, at(0));
        let frame = screen.frame(40, 24, at(0));
        let lines: Vec<&str> = frame.lines().collect();
        assert!(lines.iter().all(|line| line.trim_end_matches("\x1b[K").chars().count() <= 39), "{frame:?}");
        assert_eq!(frame.matches('\x1b').count(), 2, "{frame:?}");
        // The terminal shrinks to half: what was drawn takes two rows a line now.
        assert!(
            screen.frame(20, 24, at(0)).starts_with("\x1b[4A\r")
                || screen.frame(20, 24, at(0)).starts_with("\x1b[2A\r")
        );
        assert!(!resolved(1).frame(0, 0, at(0)).is_empty());
    }

    #[test]
    fn more_layers_than_lines() {
        let mut screen = resolved(40);
        for n in 0..10 {
            screen.note(&Event::Done(layer(n)), at(0));
        }
        for n in 10..20 {
            screen.note(&progress(n, 5), at(0));
        }
        let frame = screen.frame(100, 8, at(0));
        assert_eq!(frame.lines().count(), 6, "{frame}");
        assert!(frame.contains("10 of 40 layers are done, 20 wait, 5 more under way"), "{frame}");
        // The next frame is shorter: the rest is wiped.
        for n in 10..20 {
            screen.note(&Event::Done(layer(n)), at(0));
        }
        let next = screen.frame(100, 8, at(0));
        assert!(next.starts_with("\x1b[6A\r20 of 40") && next.ends_with("\x1b[J"), "{next:?}");
    }
}
