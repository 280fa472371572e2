//! A log on a disk that is full: the container goes on, nobody else notices, and every line is either there or counted.

use std::fs;
use std::path::Path;

use gantry_runtime::monitor::Streams;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::pod::{Pod, cannot, eventually, exec_process};

/// Runs a test in a mount namespace of its own: that of its thread, and of what the thread starts.
fn apart(test: impl FnOnce() + Send + 'static) {
    let apart = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        test();
    });
    apart.join().unwrap();
}

fn tmpfs(at: &Path, size: &str, flags: MsFlags) {
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(format!("size={size}").as_str())).unwrap();
}

/// `gantry: N lines (M bytes) of this log were lost (O of stdout, E of stderr): why`
fn told(line: &str) -> Option<[usize; 4]> {
    let rest = line.strip_prefix("stderr F gantry: ")?;
    assert!(rest.ends_with(": No space left on device"), "{line}");
    let numbers: Vec<usize> = rest
        .split(|letter: char| !letter.is_ascii_digit())
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().unwrap())
        .collect();
    Some(numbers.try_into().unwrap())
}

#[test]
fn what_a_full_disk_does_not_take_is_counted() {
    if cannot() {
        return;
    }
    apart(|| {
        let pod = Pod::new("full");
        let disk = pod.dir.join("disk");
        fs::create_dir(&disk).unwrap();
        tmpfs(&disk, "64k", MsFlags::empty());
        let log = disk.join("web.log");
        // More than the disk and the pipe hold, so that some of it is lost for certain.
        let script = "seq 100000 299999; seq 500000 500006 >&2; echo > /tmp/done
            while [ ! -e /tmp/go ]; do sleep 0.01; done; echo 600000";
        pod.create_with("web", script, |_, create| create.log_path = Some(log.clone()));
        pod.client.start("web").unwrap();
        let has = |path: &str| {
            let look = exec_process(&format!("ls {path}"), false);
            let exit = pod.client.exec("web", &look, Streams::default()).unwrap().wait().unwrap();
            (exit.code == 0).then_some(())
        };
        eventually("it has said everything, to a full disk", || has("/tmp/done"));
        // Another container of the pod has its log elsewhere, and all of it.
        pod.run("other", "seq 1 50000");
        assert_eq!(pod.exit("other").code, 0);
        assert_eq!(pod.lines("other").len(), 50_000);

        tmpfs(&disk, "64m", MsFlags::MS_REMOUNT);
        let lines = || -> Vec<String> {
            let text = fs::read_to_string(&log).unwrap();
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            whole.lines().map(|line| line[31..].to_owned()).collect()
        };
        // It is told though the container says nothing more.
        eventually("the loss is told", || lines().iter().any(|line| told(line).is_some()).then_some(()));
        pod.client.exec("web", &exec_process("mkdir /tmp/go", false), Streams::default()).unwrap().wait().unwrap();
        assert_eq!(pod.exit("web").code, 0);

        let (mut kept, mut lost) = ([0, 0], [0; 4]);
        let mut last = [0, 0];
        for line in lines() {
            if let Some(counts) = told(&line) {
                lost.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
                continue;
            }
            let (stream, number) = line.split_once(" F ").unwrap();
            let (stream, number) = (usize::from(stream == "stderr"), number.parse::<usize>().unwrap());
            assert!(number > last[stream], "{line} is torn, or in the wrong place");
            last[stream] = number;
            kept[stream] += 1;
        }
        assert_eq!((kept[0] + lost[2], kept[1] + lost[3]), (200_001, 7), "each line is there or counted");
        assert_eq!((lost[0], lost[1]), (lost[2] + lost[3], 6 * lost[0]), "with its bytes");
        assert!(lost[0] > 0 && kept[0] > 500 && last[0] == 600_000, "{kept:?} {lost:?}");
        println!("{kept:?} lines kept, {} lost and counted", lost[0]);
        pod.client.delete("web", false).unwrap();
        umount2(&disk, MntFlags::MNT_DETACH).unwrap();
    });
}
