//! What the newest runtime-spec allows and `oci-spec` refuses: put into the words that `oci-spec` reads.
//!
//! Costs nothing for a text that is read at once. One that is refused is looked through a second time, as plain JSON;
//! what differs is changed, and noted where something is left out. Compared with `specs-go/config.go` of runtime-spec
//! 1.3: every field has a home in `oci-spec` 0.10, but some values have not.
//!
//! | where | what the specification says | what `oci-spec` 0.10 does |
//! |---|---|---|
//! | `process.capabilities.*` | names that the runtime does not know are ignored with a warning | refuses them |
//! | `process.scheduler.flags` | `SCHED_FLAG_RESET_ON_FORK`, `SCHED_FLAG_DL_OVERRUN` | spells them otherwise |
//! | `process.execCPUAffinity.*` | may be empty, like one that is not there | refuses it |
//! | `process.user` | left out by some: uid and gid 0 | refuses that |
//! | `linux.resources.hugepageLimits[].limit` | 64 bits without a sign | with a sign |

use serde_json::{Value, json};

/// The flags of sched_setattr(2), as the specification and as `oci-spec` spell them.
const FLAGS: &[(&str, &str)] =
    &[("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"), ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN")];

/// The same text in other words, if there are any; `notes` gets a sentence for each thing that is left out.
pub(super) fn reword(text: &str, notes: &mut Vec<String>) -> Option<String> {
    let mut json: Value = serde_json::from_str(text).ok()?;
    let mut changed = false;
    if json.get("process").is_some_and(Value::is_object) {
        changed |= process(&mut json["process"], notes);
    } else {
        // As `exec --process` reads it.
        changed |= process(&mut json, notes);
    }
    changed |= hugepages(&mut json);
    changed.then(|| json.to_string())
}

fn process(process: &mut Value, notes: &mut Vec<String>) -> bool {
    let mut changed = false;
    let Some(fields) = process.as_object_mut() else { return false };
    if fields.contains_key("args") && fields.get("user").is_none_or(Value::is_null) {
        fields.insert("user".into(), json!({ "uid": 0, "gid": 0 }));
        changed = true;
    }
    let mut unknown = Vec::new();
    for names in
        fields.get_mut("capabilities").and_then(Value::as_object_mut).into_iter().flat_map(|sets| sets.values_mut())
    {
        let Some(names) = names.as_array_mut() else { continue };
        names.retain(|name| {
            let known = serde_json::from_value::<oci_spec::runtime::Capability>(name.clone()).is_ok();
            if let Some(name) = name.as_str().filter(|name| !known && !unknown.iter().any(|other| other == name)) {
                unknown.push(name.to_owned());
            }
            known || !name.is_string()
        });
    }
    if !unknown.is_empty() {
        // The sentence is runc's, which clients look for.
        notes.push(format!("ignoring unknown or unavailable capabilities: [{}]", unknown.join(" ")));
        changed = true;
    }
    for flag in fields.get_mut("scheduler").and_then(|all| all.get_mut("flags")?.as_array_mut()).into_iter().flatten() {
        if let Some((_, other)) = FLAGS.iter().find(|(name, _)| flag.as_str() == Some(name)) {
            *flag = json!(other);
            changed = true;
        }
    }
    if let Some(affinity) = fields.get_mut("execCPUAffinity").and_then(Value::as_object_mut) {
        let before = affinity.len();
        affinity.retain(|_, list| list.as_str() != Some(""));
        changed |= affinity.len() != before;
    }
    changed
}

/// Limits beyond what a file system can hold are no limits.
fn hugepages(json: &mut Value) -> bool {
    let mut changed = false;
    // The second is where `update --resources` has it.
    let at = ["/linux/resources/hugepageLimits", "/hugepageLimits"].into_iter().find(|at| json.pointer(at).is_some());
    let list = at.and_then(|at| json.pointer_mut(at)).and_then(Value::as_array_mut);
    for limit in list.into_iter().flatten().filter_map(|entry| entry.get_mut("limit")) {
        if limit.as_u64().is_some_and(|limit| limit > i64::MAX as u64) {
            *limit = json!(i64::MAX);
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxSchedulerFlag, Process, Spec};

    use crate::spec::{TEMPLATE, parse, parse_noting};

    /// The template with `process` or another field changed.
    fn template(pointer: &str, value: serde_json::Value) -> String {
        let mut json: serde_json::Value = serde_json::from_str(TEMPLATE).unwrap();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        json.pointer_mut(parent).unwrap()[field] = value;
        json.to_string()
    }

    #[test]
    fn capabilities_that_nobody_knows_are_left_out_with_a_note() {
        let text = template("/process/capabilities/bounding", serde_json::json!(["CAP_KILL", "CAP_TIME_TRAVEL"]));
        let mut notes = Vec::new();
        let spec: Spec = parse_noting(&text, &mut notes).unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().len(), 1);
        assert_eq!(notes, ["ignoring unknown or unavailable capabilities: [CAP_TIME_TRAVEL]"]);
    }

    #[test]
    fn every_flag_of_the_scheduler_is_read_as_the_specification_spells_it() {
        let names = [
            "SCHED_FLAG_RESET_ON_FORK",
            "SCHED_FLAG_RECLAIM",
            "SCHED_FLAG_DL_OVERRUN",
            "SCHED_FLAG_KEEP_POLICY",
            "SCHED_FLAG_KEEP_PARAMS",
            "SCHED_FLAG_UTIL_CLAMP_MIN",
            "SCHED_FLAG_UTIL_CLAMP_MAX",
        ];
        let text = template("/process/scheduler", serde_json::json!({ "policy": "SCHED_OTHER", "flags": names }));
        let spec: Spec = parse(&text).unwrap();
        let scheduler = spec.process().as_ref().unwrap().scheduler().clone().unwrap();
        let flags = scheduler.flags().clone().unwrap();
        assert_eq!(flags.len(), names.len());
        assert_eq!(flags[0], LinuxSchedulerFlag::SchedResetOnFork);
        assert_eq!(flags[2], LinuxSchedulerFlag::SchedFlagDLOverrun);
    }

    #[test]
    fn an_empty_affinity_is_none_and_a_missing_user_is_root() {
        let process: Process =
            parse(r#"{"args":["true"],"cwd":"/","execCPUAffinity":{"initial":"","final":"0-1"}}"#).unwrap();
        let affinity = process.exec_cpu_affinity().as_ref().unwrap();
        assert_eq!((affinity.initial(), affinity.cpu_affinity_final().as_deref()), (&None, Some("0-1")));
        assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
    }

    #[test]
    fn a_huge_limit_of_huge_pages_is_no_limit() {
        let limits = serde_json::json!([{ "pageSize": "2MB", "limit": u64::MAX }]);
        let text = template("/linux/resources", serde_json::json!({ "hugepageLimits": limits }));
        let spec: Spec = parse(&text).unwrap();
        let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
        assert_eq!(resources.hugepage_limits().as_ref().unwrap()[0].limit(), i64::MAX);
    }

    #[test]
    fn what_is_wrong_stays_wrong_and_is_named_by_its_path() {
        let text = template("/process/scheduler", serde_json::json!({ "policy": "SCHED_OTHER", "flags": ["SCHED_X"] }));
        let said = parse::<Spec>(&text).unwrap_err().to_string();
        assert!(said.starts_with("process.scheduler.flags[0]: unknown variant `SCHED_X`"), "{said}");
        let text = template("/process/capabilities/bounding", serde_json::json!(["CAP_TIME_TRAVEL", 7]));
        assert!(parse::<Spec>(&text).is_err());
    }
}
