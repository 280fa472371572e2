//! One container's deletion, or creation, that takes long, and what the others of its pod notice of it.

use std::fs;

use gantry_runtime::monitor::exit_record;
use serde_json::json;

use crate::pod::{Pod, cannot, eventually};

/// Says more than its pipes hold, once the file `/go` is there.
const TALKER: &str = "while [ ! -e /go ]; do sleep 0.01; done; seq 100001 200000";

impl Pod {
    fn say_go(&self) {
        fs::write(self.dir.join("rootfs/go"), "").unwrap();
    }

    fn everything_was_logged(&self, id: &str) {
        assert_eq!(self.exit(id).code, 0);
        let lines = self.lines(id);
        assert_eq!((lines.len(), lines.last().map(String::as_str)), (100_000, Some("stdout F 200000")));
    }
}

#[test]
fn a_deletion_that_waits_keeps_nobody_s_output_or_exit_waiting() {
    if cannot() {
        return;
    }
    // Several times, since on a busy machine a deletion may have given up before the other is through.
    for _ in 0..5 {
        let pod = Pod::new("deleting");
        let pid = pod.run("web", "sleep 1000");
        pod.run("other", TALKER);
        // Somebody else is at work on it, and does not end.
        let home = fs::File::open(pod.dir.join("runtime/web")).unwrap();
        home.lock().unwrap();
        let client = pod.client.clone();
        let deleting = std::thread::spawn(move || client.delete("web", true));
        eventually("it is being deleted", || gantry_runtime::state::started(pid).is_none().then_some(()));
        pod.say_go();
        let meanwhile = loop {
            // Looked at in this order: a deletion that is still going on afterwards was so when the record was there.
            let recorded = exit_record(&pod.dir, "other").unwrap().is_some();
            match (deleting.is_finished(), recorded) {
                (false, true) => break true,
                (true, _) => break false,
                (false, false) => std::thread::yield_now(),
            }
        };
        let why = deleting.join().unwrap().unwrap_err().to_string();
        assert!(
            why.contains(&format!("process {} (", std::process::id())) && why.contains("is at work on it"),
            "{why}"
        );
        pod.everything_was_logged("other");
        assert_eq!(pod.client.state().unwrap().containers.len(), 2);
        drop(home);
        pod.client.delete("web", true).unwrap();
        if meanwhile {
            return;
        }
    }
    panic!("the exit of the other container was never recorded while the deletion waited");
}

/// The bound that remains: while hooks run nobody else has a turn, and still nothing is lost.
#[test]
fn a_creation_that_waits_for_its_hook_loses_nothing_of_the_others() {
    if cannot() {
        return;
    }
    let pod = Pod::new("creating");
    pod.run("other", TALKER);
    let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "touch \"$0\"; sleep 1", pod.dir.join("rootfs/go")] }]);
    pod.create_with("web", "true", |config, _| config["hooks"] = json!({ "createRuntime": hook }));
    pod.everything_was_logged("other");
    assert_eq!(pod.client.state().unwrap().containers.len(), 2);
}
