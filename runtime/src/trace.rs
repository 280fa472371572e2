//! What the runtime does, step by step, for whoever wants to know (`--debug`).
//!
//! Costs one load of a pointer where nobody listens. Never used after the clone: the child does not format.

use std::sync::OnceLock;

type Listener = Box<dyn Fn(&str) + Send + Sync>;

static LISTENER: OnceLock<Listener> = OnceLock::new();

/// Passes every sentence of this process from now on to `listener`; only the first one is taken.
pub fn listen(listener: impl Fn(&str) + Send + Sync + 'static) {
    let _ = LISTENER.set(Box::new(listener));
}

/// Tells what is being done; the sentence is made only if somebody listens.
pub(crate) fn say(sentence: impl FnOnce() -> String) {
    if let Some(listener) = LISTENER.get() {
        listener(&sentence());
    }
}
