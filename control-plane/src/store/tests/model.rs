//! Random operations against the obvious model: a map for each revision, and the list of all events.

use std::collections::BTreeMap;

use super::*;

type Map = BTreeMap<String, (String, u64, u64)>;

/// What the store should be: its state after each revision.
#[derive(Default)]
struct Model {
    states: Vec<Map>,
    events: Vec<(u64, String, Option<String>, Option<String>)>,
}

impl Model {
    fn new() -> Model {
        Model { states: vec![Map::new()], events: Vec::new() }
    }

    fn now(&self) -> &Map {
        self.states.last().expect("a state")
    }

    fn commit(&mut self, ops: &[Op]) -> std::result::Result<u64, Kind> {
        let revision = self.states.len() as u64;
        let mut next = self.now().clone();
        let mut events = Vec::new();
        for op in ops {
            let before = self.now().get(&*op.key).cloned();
            match (op.expect, &before) {
                (Expect::Absent, Some(_)) => return Err(Kind::Exists),
                (Expect::Revision(_), None) => return Err(Kind::Missing),
                (Expect::Revision(wanted), Some((_, at, _))) if wanted != *at => return Err(Kind::Conflict),
                _ => {}
            }
            let prev = before.as_ref().map(|(value, ..)| value.clone());
            match &op.change {
                Change::Delete => {
                    next.remove(&*op.key).ok_or(Kind::Missing)?;
                    events.push((revision, op.key.to_string(), None, prev));
                }
                Change::Put { value, .. } => {
                    let value = String::from_utf8(value.to_vec()).expect("text");
                    let created = before.map_or(revision, |(_, _, created)| created);
                    next.insert(op.key.to_string(), (value.clone(), revision, created));
                    events.push((revision, op.key.to_string(), Some(value), prev));
                }
            }
        }
        self.states.push(next);
        self.events.extend(events);
        Ok(revision)
    }
}

fn random_op(dice: &mut Dice, model: &Model) -> Op {
    let key = format!("/{}/{}", ["pods", "nodes"][dice.roll(2) as usize], dice.roll(12));
    let current = model.now().get(&key).map_or(1, |(_, revision, _)| *revision);
    let expect = match dice.roll(8) {
        0 => Expect::Absent,
        1 | 2 => Expect::Revision(current),
        3 => Expect::Revision(current.saturating_sub(1).max(1)),
        _ => Expect::Any,
    };
    match dice.roll(4) {
        0 => Op::delete(key, expect),
        _ => Op::put(key, expect, format!("v{}", dice.roll(1_000_000))),
    }
}

fn assert_same(store: &Store, model: &Model, dice: &mut Dice) {
    let revision = model.states.len() as u64 - 1;
    assert_eq!(store.revision(), revision);
    let at = dice.roll(revision + 1);
    for (at, prefix) in [(revision, ""), (at, "/pods/"), (at, "")] {
        let (mut items, mut after): (Vec<Item>, Option<Arc<str>>) = (Vec::new(), None);
        loop {
            let limit = dice.roll(5) as usize;
            let range = Range { prefix, limit, start_after: after.as_deref(), at_revision: Some(at) };
            let page = store.list(range).expect("list");
            items.extend(page.items);
            if page.remaining == 0 {
                break;
            }
            after = items.last().map(|item| item.key.clone());
        }
        let seen: Vec<_> = items.iter().map(|i| (&*i.key, i.value.to_vec(), i.revision, i.create_revision)).collect();
        let wanted = model.states[at as usize].iter().filter(|(key, _)| key.starts_with(prefix));
        let wanted: Vec<_> = wanted.map(|(k, (v, r, c))| (k.as_str(), v.as_bytes().to_vec(), *r, *c)).collect();
        assert_eq!(seen, wanted, "{prefix:?} at revision {at}");
    }
}

async fn assert_watch(store: &Store, model: &Model, after: u64) {
    let mut watch = store.watch("", after).expect("watch");
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("text");
    for wanted in model.events.iter().filter(|(revision, ..)| *revision > after) {
        let event = watch.try_next().expect("an event");
        let value = (event.kind == EventKind::Put).then(|| text(&event.value));
        let seen = (event.revision, event.key.to_string(), value, event.prev.as_ref().map(text));
        assert_eq!(&seen, wanted);
    }
    assert!(watch.try_next().is_none());
    assert_eq!(watch.progress(), Some(store.revision()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_what_the_model_says() {
    for seed in 1..=6 {
        let dir = Scratch::new("model");
        let (mut dice, mut model) = (Dice(seed * 7919), Model::new());
        let mut store = Store::open(&dir.0).expect("open");
        for step in 0..400 {
            let mut ops = vec![random_op(&mut dice, &model)];
            for _ in 0..dice.roll(3) {
                let op = random_op(&mut dice, &model);
                if ops.iter().all(|other| other.key != op.key) {
                    ops.push(op);
                }
            }
            let wanted = model.commit(&ops);
            let seen = store.commit(ops.clone()).await;
            assert_eq!(
                seen.map(|done| done.revision).map_err(|e| e.kind()),
                wanted,
                "seed {seed} step {step}: {ops:?}"
            );
            if step % 40 == 0 {
                drop(store);
                store = Store::open(&dir.0).expect("reopen");
                let after = dice.roll(store.revision() + 1);
                assert_watch(&store, &model, after).await;
            }
            if step % 10 == 0 {
                assert_same(&store, &model, &mut dice);
            }
        }
        assert_watch(&store, &model, 0).await;
    }
}
