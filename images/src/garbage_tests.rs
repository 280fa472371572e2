//! What goes and what that frees, as text.

use super::*;

const DAY: u64 = 24 * 3600 * 1_000_000_000;
const NOW: u64 = 1000 * DAY;

fn blob(name: &str) -> Content {
    Content::Blob(Digest::of(name.as_bytes()))
}

fn layer(name: &str) -> Content {
    Content::Layer(Key::alone(&Digest::of(name.as_bytes())))
}

/// An image, `days` after its last use, of blobs and layers by their names: `NAME` is a blob, `/NAME` a layer.
fn image(id: &str, days: u64, content: &str) -> Candidate {
    let one = |name: &str| name.strip_prefix('/').map_or_else(|| blob(name), layer);
    Candidate {
        id: id.into(),
        names: vec![format!("{id}:1")],
        tagged: true,
        last_used: NOW - days * DAY,
        content: content.split(' ').map(one).collect(),
        ..Candidate::default()
    }
}

/// What is on disk: every name with its bytes.
fn seen(sizes: &[(Content, u64)], filesystem: (u64, u64)) -> Seen {
    let content = sizes.iter().map(|(content, bytes)| (content.clone(), Usage { bytes: *bytes, inodes: 1 })).collect();
    Seen { content, leftovers: Vec::new(), filesystem }
}

/// `base` is under all three images; `orphan` under none.
fn world() -> (Vec<Candidate>, Seen) {
    let images = vec![
        image("new", 1, "base n /base /n"),
        image("old", 30, "base o /base /o"),
        image("oldest", 90, "base x /base /x"),
    ];
    let sizes = [
        (blob("base"), 100),
        (blob("n"), 1),
        (blob("o"), 2),
        (blob("x"), 4),
        (layer("base"), 1000),
        (layer("n"), 10),
        (layer("o"), 20),
        (layer("x"), 40),
        (blob("orphan"), 7),
    ];
    (images, seen(&sizes, (10_000, 1_500)))
}

fn text(plan: &Plan) -> String {
    let image = |one: &Doomed| format!("{} {} {}", one.id, one.reason.word(), one.frees.bytes);
    let images: Vec<String> = plan.images.iter().map(image).collect();
    format!("{}; orphans {}, all {}, missing {}", images.join(", "), plan.orphans.bytes, plan.frees.bytes, plan.missing)
}

fn said(rules: &Rules, change: impl FnOnce(&mut Vec<Candidate>, &mut Seen, &mut Roots)) -> String {
    let ((mut images, mut seen), mut roots) = (world(), Roots::default());
    change(&mut images, &mut seen, &mut roots);
    let plan = plan(rules, &roots, &images, &seen, NOW);
    // What is promised is what the content to delete takes.
    let mut sum: u64 = plan.content.iter().map(|(content, _)| seen.content[content].bytes).sum();
    sum += plan.leftovers.iter().map(|(_, bytes)| bytes).sum::<u64>();
    assert_eq!(sum, plan.frees.bytes, "{plan:?}");
    assert_eq!(
        plan.content.iter().map(|(content, _)| content).collect::<BTreeSet<_>>().len(),
        plan.content.len(),
        "deleted twice"
    );
    text(&plan)
}

fn days(n: u64) -> Duration {
    Duration::from_nanos(n * DAY)
}

#[test]
fn without_rules_only_orphans_and_leftovers_go() {
    assert_eq!(said(&Rules::default(), |_, _, _| ()), "; orphans 7, all 7, missing 0");
    let left = said(&Rules::default(), |_, seen, roots| {
        seen.leftovers.push(("sha256-0".into(), 50));
        roots.blobs.insert(Digest::of(b"orphan"));
    });
    assert_eq!(left, "; orphans 0, all 50, missing 0");
}

#[test]
fn what_is_shared_is_free_with_its_last_user() {
    let all = Rules { all: true, ..Rules::default() };
    assert_eq!(
        said(&all, |_, _, _| ()),
        "oldest unused 44, old unused 22, new unused 1111; orphans 7, all 1184, missing 0"
    );
    let kept = said(&all, |images, _, _| images[1].pinned = true);
    assert_eq!(kept, "oldest unused 44, new unused 11; orphans 7, all 62, missing 0");
    // A container is over the image: nothing of it goes. One over a removed image keeps only its layers.
    let used = said(&all, |images, _, _| images[0].users.push("c".into()));
    assert_eq!(used, "oldest unused 44, old unused 22; orphans 7, all 73, missing 0");
    let over = said(&all, |_, _, roots| {
        roots.layers.insert(Key::alone(&Digest::of(b"base")));
    });
    assert_eq!(over, "oldest unused 44, old unused 22, new unused 111; orphans 7, all 184, missing 0");
    // Content that is lost already frees nothing.
    let lost = said(&all, |_, seen, _| {
        seen.content.remove(&layer("x"));
    });
    assert!(lost.starts_with("oldest unused 4, "), "{lost}");
}

#[test]
fn ages() {
    let rules = |max: Option<u64>, min: u64| Rules {
        max_age: max.map(days),
        min_age: days(min),
        all: max.is_none(),
        ..Rules::default()
    };
    assert_eq!(said(&rules(Some(60), 0), |_, _, _| ()), "oldest age 44; orphans 7, all 51, missing 0");
    assert_eq!(said(&rules(Some(30), 0), |_, _, _| ()), "oldest age 44; orphans 7, all 51, missing 0");
    assert_eq!(said(&rules(Some(29), 0), |_, _, _| ()), "oldest age 44, old age 22; orphans 7, all 73, missing 0");
    assert_eq!(
        said(&rules(None, 2), |_, _, _| ()),
        "oldest unused 44, old unused 22; orphans 7, all 73, missing 0",
        "the newest is too young"
    );
    let future = said(&rules(Some(29), 0), |images, _, _| images[2].last_used = NOW + DAY);
    assert_eq!(future, "old age 22; orphans 7, all 29, missing 0", "a clock that went back");
}

#[test]
fn untagged_ones() {
    let rules = Rules { untagged: true, ..Rules::default() };
    assert_eq!(said(&rules, |_, _, _| ()), "; orphans 7, all 7, missing 0");
    let one = said(&rules, |images, _, _| images[0].tagged = false);
    assert_eq!(one, "new untagged 11; orphans 7, all 18, missing 0");
}

#[test]
fn marks() {
    let rules = |high: Mark, low: Mark| Rules { marks: Some((high, low)), ..Rules::default() };
    let percent = |high: u8, low: u8| rules(Mark::Percent(high), Mark::Percent(low));
    // 8500 of 10000 are taken.
    assert_eq!(said(&percent(86, 10), |_, _, _| ()), "; orphans 7, all 7, missing 0");
    assert_eq!(said(&percent(85, 85), |_, _, _| ()), "; orphans 7, all 7, missing 0");
    let one = said(&percent(85, 85), |_, seen, _| seen.filesystem = (10_000, 1_460));
    assert_eq!(one, "oldest space 44; orphans 7, all 51, missing 0", "40 bytes too many");
    let two = said(&percent(85, 85), |_, seen, _| seen.filesystem = (10_000, 1_440));
    assert_eq!(two, "oldest space 44, old space 22; orphans 7, all 73, missing 0");
    let too_much = said(&percent(85, 50), |_, _, _| ());
    assert_eq!(too_much, "oldest space 44, old space 22, new space 1111; orphans 7, all 1184, missing 2316");
    // The store itself takes 1184.
    let bytes = |high, low| said(&rules(Mark::Bytes(high), Mark::Bytes(low)), |_, _, _| ());
    assert_eq!(bytes(1185, 0), "; orphans 7, all 7, missing 0");
    assert_eq!(bytes(1184, 1150), "oldest space 44; orphans 7, all 51, missing 0");
    assert_eq!(bytes(1184, 0), "oldest space 44, old space 22, new space 1111; orphans 7, all 1184, missing 0");
    // Age goes first and may suffice; nothing too young goes.
    let both = Rules { max_age: Some(days(60)), ..percent(85, 85) };
    let aged = said(&both, |_, seen, _| seen.filesystem = (10_000, 1_460));
    assert_eq!(aged, "oldest age 44; orphans 7, all 51, missing 0");
    let young = Rules { min_age: days(100), ..percent(85, 50) };
    assert_eq!(said(&young, |_, _, _| ()), "; orphans 7, all 7, missing 3493");
    assert_eq!(said(&percent(1, 0), |_, seen, _| seen.filesystem = (0, 0)), "; orphans 7, all 7, missing 0");
}

#[test]
fn only_what_was_asked_for() {
    let rules = Rules { only: BTreeSet::from(["new".to_owned()]), min_age: days(500), ..Rules::default() };
    assert_eq!(said(&rules, |_, _, _| ()), "new asked 11; orphans 7, all 18, missing 0");
    let used = said(&rules, |images, _, _| images[0].users.push("c".into()));
    assert_eq!(used, "; orphans 7, all 7, missing 0");
}
