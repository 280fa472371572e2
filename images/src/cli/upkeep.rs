//! `gantry image prune` and `df`: looking after the store.

use serde_json::{Value, json};

use super::request::Request;
use super::show::{self, ago, part, percent, size};
use crate::amount::Span;
use crate::collect::Done;
use crate::error::Result;
use crate::garbage::{Mark, Plan, Rules};
use crate::store::{Store, Usage, now};

fn rules(request: &Request) -> Result<Rules> {
    request.texts(0, 0)?;
    let older: Option<Span> = request.parsed("older-than")?;
    let mark: Option<Mark> = request.parsed("down-to")?;
    let newer: Span = request.parsed("keep-newer-than")?.unwrap_or_default();
    Ok(Rules {
        untagged: true,
        all: request.is("all")?,
        max_age: older.map(|span| span.0),
        min_age: newer.0,
        marks: mark.map(|mark| (mark, mark)),
        downloads: true,
        ..Rules::default()
    })
}

pub(super) async fn prune(request: &Request, store: &Store) -> Result<String> {
    let (rules, json) = (rules(request)?, request.json()?);
    let plan = store.plan(&rules, true).await?;
    if request.is("dry-run")? {
        return Ok(if json { show::pretty(&plan_json(&plan)) } else { plan_text(&plan, now()) });
    }
    let done = store.carry_out(plan.clone()).await?;
    if json {
        let mut value = plan_json(&plan);
        value["removed"] = json!(done.removed);
        value["kept"] = done.kept.iter().map(|(id, why)| json!({"id": id, "why": why})).collect();
        value["freed"] = usage_json(done.freed);
        return Ok(show::pretty(&value));
    }
    Ok(done_text(&plan, &done))
}

fn usage_json(usage: Usage) -> Value {
    json!({"bytes": usage.bytes, "inodes": usage.inodes})
}

fn plan_json(plan: &Plan) -> Value {
    let image = |one: &crate::garbage::Doomed| {
        json!({"id": one.id, "names": one.names, "reason": one.reason.word(), "lastUsedAt": show::rfc3339(one.last_used),
            "frees": usage_json(one.frees)})
    };
    json!({
        "images": plan.images.iter().map(image).collect::<Vec<_>>(),
        "orphans": usage_json(plan.orphans),
        "abandonedDownloads": plan.leftovers.iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(),
        "frees": usage_json(plan.frees),
        "missingBytes": plan.missing,
    })
}

/// What would be done, for people.
fn plan_text(plan: &Plan, now: u64) -> String {
    let mut rows = vec![["IMAGE ID", "NAME", "WHY", "LAST USED", "FREES"].map(str::to_owned).to_vec()];
    for image in &plan.images {
        let name = image.names.first().map_or("-", String::as_str).to_owned();
        let used = ago(now.saturating_sub(image.last_used) / 1_000_000_000);
        rows.push(vec![part(&image.id).into(), name, image.reason.word().into(), used, size(image.frees.bytes)]);
    }
    let mut text = if plan.images.is_empty() { String::new() } else { show::table(&rows) };
    if plan.orphans.inodes > 0 {
        text += &format!("content that nothing needs: {}\n", size(plan.orphans.bytes));
    }
    if !plan.leftovers.is_empty() {
        let bytes = plan.leftovers.iter().map(|(_, bytes)| bytes).sum();
        text += &format!("{} abandoned downloads: {}\n", plan.leftovers.len(), size(bytes));
    }
    text += &format!("would free {} in {} files", size(plan.frees.bytes), plan.frees.inodes);
    match plan.missing {
        0 => text + "\n",
        missing => text + &format!("; {} more are needed for the mark, but nothing else may go\n", size(missing)),
    }
}

fn done_text(plan: &Plan, done: &Done) -> String {
    let mut text = String::new();
    for image in plan.images.iter().filter(|image| done.removed.contains(&image.id)) {
        text += &format!("deleted {} {}\n", image.id, image.names.first().map_or("", String::as_str));
    }
    for (id, why) in &done.kept {
        text += &format!("kept {id}: {why}\n");
    }
    text.replace(" \n", "\n") + &format!("{} in {} files freed\n", size(done.freed.bytes), done.freed.inodes)
}

/// One row of `df`.
struct Row {
    kind: &'static str,
    total: usize,
    active: usize,
    takes: Usage,
    reclaimable: Usage,
}

pub(super) async fn usage(request: &Request, store: &Store) -> Result<String> {
    request.texts(0, 0)?;
    let everything = store.plan(&Rules { all: true, ..Rules::default() }, true).await?;
    let images = store.images();
    let mut used = 0;
    for image in &images {
        used += usize::from(!store.users(&image.id)?.is_empty());
    }
    let mut containers = Row { kind: "Containers", total: 0, active: 0, ..Row::none() };
    for key in store.rootfs_keys()? {
        // One that goes away meanwhile takes no space.
        if let Ok(one) = store.rootfs_usage(&key).await {
            containers.total += 1;
            containers.active += 1;
            containers.takes = sum(containers.takes, one);
        }
    }
    let leftovers = everything
        .leftovers
        .iter()
        .fold(Usage::default(), |all, (_, bytes)| sum(all, Usage { bytes: *bytes, inodes: 1 }));
    let own = everything.images.iter().fold(Usage::default(), |all, image| sum(all, image.frees));
    let takes = minus(minus(everything.total, everything.orphans), leftovers);
    let rows = [
        Row { kind: "Images", total: images.len(), active: used, takes, reclaimable: own },
        containers,
        Row { kind: "Orphans", takes: everything.orphans, reclaimable: everything.orphans, ..Row::none() },
        Row {
            kind: "Downloads",
            total: everything.leftovers.len(),
            takes: leftovers,
            reclaimable: leftovers,
            ..Row::none()
        },
    ];
    let each = if request.is("verbose")? { each(store).await? } else { Vec::new() };
    Ok(if request.json()? { df_json(&rows, &each, request.is("verbose")?) } else { df_text(&rows, &each) })
}

impl Row {
    fn none() -> Self {
        Self { kind: "", total: 0, active: 0, takes: Usage::default(), reclaimable: Usage::default() }
    }
}

fn sum(a: Usage, b: Usage) -> Usage {
    Usage { bytes: a.bytes + b.bytes, inodes: a.inodes + b.inodes }
}

fn minus(a: Usage, b: Usage) -> Usage {
    Usage { bytes: a.bytes.saturating_sub(b.bytes), inodes: a.inodes.saturating_sub(b.inodes) }
}

/// An image with what it takes, shared content included, and what removing it alone would free.
struct Each {
    id: String,
    name: String,
    takes: Usage,
    frees: Usage,
    used: bool,
}

async fn each(store: &Store) -> Result<Vec<Each>> {
    let mut all = Vec::new();
    for image in store.images() {
        let only = Rules { only: [image.id.clone()].into(), ..Rules::default() };
        let plan = store.plan(&only, true).await?;
        let name = image.repo_tags.first().or(image.repo_digests.first()).cloned().unwrap_or_else(|| "-".into());
        let frees = plan.images.first().map_or(Usage::default(), |doomed| doomed.frees);
        let used = !store.users(&image.id)?.is_empty();
        all.push(Each { takes: store.usage_of(&image.id).await?, id: image.id.clone(), name, frees, used });
    }
    Ok(all)
}

fn df_text(rows: &[Row], each: &[Each]) -> String {
    let mut table = vec![["TYPE", "TOTAL", "ACTIVE", "SIZE", "INODES", "RECLAIMABLE"].map(str::to_owned).to_vec()];
    for row in rows {
        let free = format!("{} ({})", size(row.reclaimable.bytes), percent(row.reclaimable.bytes, row.takes.bytes));
        let (total, active) = (row.total.to_string(), row.active.to_string());
        table.push(vec![row.kind.into(), total, active, size(row.takes.bytes), row.takes.inodes.to_string(), free]);
    }
    let mut text = show::table(&table);
    if !each.is_empty() {
        let mut table =
            vec![["IMAGE ID", "NAME", "SIZE", "INODES", "ALONE FREES", "IN USE"].map(str::to_owned).to_vec()];
        for one in each {
            let (used, inodes) = (if one.used { "yes" } else { "no" }, one.takes.inodes.to_string());
            let sizes = [size(one.takes.bytes), inodes, size(one.frees.bytes)];
            table.push([vec![part(&one.id).to_owned(), one.name.clone()], sizes.to_vec(), vec![used.into()]].concat());
        }
        text += &format!("\n{}", show::table(&table));
    }
    text
}

fn df_json(rows: &[Row], each: &[Each], verbose: bool) -> String {
    let mut value = json!({});
    for row in rows {
        value[row.kind.to_ascii_lowercase()] = json!({"total": row.total, "active": row.active,
            "takes": usage_json(row.takes), "reclaimable": usage_json(row.reclaimable)});
    }
    if verbose {
        let one = |one: &Each| {
            json!({"id": one.id, "name": one.name, "takes": usage_json(one.takes), "aloneFrees": usage_json(one.frees),
                "inUse": one.used})
        };
        value["each"] = each.iter().map(one).collect();
    }
    show::pretty(&value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garbage::{Doomed, Reason};

    fn plan() -> Plan {
        let frees = Usage { bytes: 12_300_000, inodes: 40 };
        let id = crate::digest::Digest::of(b"x").to_string();
        let names = vec!["docker.io/library/a:1".to_owned()];
        Plan {
            images: vec![Doomed { id, names, reason: Reason::Age, last_used: 0, frees }],
            orphans: Usage { bytes: 5000, inodes: 2 },
            leftovers: vec![("sha256-0".into(), 4096)],
            frees: Usage { bytes: 12_309_096, inodes: 43 },
            ..Plan::default()
        }
    }

    #[test]
    fn a_plan_for_people() {
        let expect = "IMAGE ID      NAME                   WHY  LAST USED    FREES\n\
            2d711642b726  docker.io/library/a:1  age  3 weeks ago  12.3 MB\n\
            content that nothing needs: 5.0 kB\n\
            1 abandoned downloads: 4.1 kB\n\
            would free 12.3 MB in 43 files\n";
        assert_eq!(plan_text(&plan(), 22 * 86_400_000_000_000), expect);
        let short = plan_text(&Plan { missing: 1 << 30, ..Plan::default() }, 0);
        assert_eq!(short, "would free 0 B in 0 files; 1.1 GB more are needed for the mark, but nothing else may go\n");
    }

    #[test]
    fn a_plan_for_programs() {
        let expect = json!({
            "images": [{"id": crate::digest::Digest::of(b"x").to_string(), "names": ["docker.io/library/a:1"],
                "reason": "age", "lastUsedAt": "1970-01-01T00:00:00Z", "frees": {"bytes": 12300000, "inodes": 40}}],
            "orphans": {"bytes": 5000, "inodes": 2},
            "abandonedDownloads": [4096],
            "frees": {"bytes": 12309096, "inodes": 43},
            "missingBytes": 0,
        });
        assert_eq!(plan_json(&plan()), expect);
    }

    #[test]
    fn space_for_people() {
        let half = Usage { bytes: 500_000, inodes: 5 };
        let rows = [
            Row {
                kind: "Images",
                total: 3,
                active: 1,
                takes: Usage { bytes: 1_000_000, inodes: 10 },
                reclaimable: half,
            },
            Row { kind: "Orphans", ..Row::none() },
        ];
        let expect = "TYPE     TOTAL  ACTIVE  SIZE    INODES  RECLAIMABLE\n\
            Images   3      1       1.0 MB  10      500 kB (50%)\n\
            Orphans  0      0       0 B     0       0 B (0%)\n";
        assert_eq!(df_text(&rows, &[]), expect);
    }
}
