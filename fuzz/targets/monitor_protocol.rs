//! Bytes of a client, and of a monitor: the framing is bounded, what can be read can be written and read again.

#![no_main]

use gantry_runtime::monitor::protocol::{Hello, LONGEST, Reply, encode, hello, length};
use libfuzzer_sys::fuzz_target;

/// The message that starts here, if all of it is there.
fn framed(bytes: &[u8]) -> Option<&[u8]> {
    let length = length(bytes).ok()??;
    assert!(length <= LONGEST);
    bytes.get(4..4 + length)
}

fuzz_target!(|data: &[u8]| {
    if let Some(message) = framed(data) {
        let _ = hello(message);
    }
    if let Ok(asked) = hello(data) {
        let again = encode(&asked);
        let same: Hello = hello(framed(&again).expect("what was encoded is whole")).expect("and is understood");
        assert_eq!(same.request, asked.request);
    }
    if let Ok(reply) = serde_json::from_slice::<Reply>(data) {
        let again = encode(&reply);
        let same: Reply = serde_json::from_slice(framed(&again).expect("whole")).expect("understood");
        assert_eq!(same, reply);
        let _ = reply.into_result();
    }
});
