//! `linux.resources` on its own, as `update` takes it, and the one thing in it that its type cannot say.

use oci_spec::runtime::{LinuxResources, Spec};
use serde_json::Value;

use super::parse;
use crate::error::Result;

/// Reads limits, as `update --resources` takes them.
///
/// # Errors
/// `Invalid` with the JSON path of what is wrong.
pub fn load_resources(text: &str) -> Result<LinuxResources> {
    let mut resources: LinuxResources = parse(text)?;
    settle(&mut resources, text, "");
    Ok(resources)
}

/// A `pids` without a limit is none, while oci-spec reads a limit of 0 out of it: that is a limit of its own since
/// runtime-spec 1.3.
fn settle(resources: &mut LinuxResources, text: &str, at: &str) {
    if resources.pids().is_none_or(|pids| pids.limit() != 0) {
        return;
    }
    let whole: Value = serde_json::from_str(text).unwrap_or_default();
    let limit = whole.pointer(&format!("{at}/pids/limit"));
    if limit.is_none_or(Value::is_null) {
        resources.set_pids(None);
    }
}

/// The same for a whole configuration. Costs a look, unless there is such a limit.
pub(super) fn settle_spec(spec: &mut Spec, text: &str) {
    let resources = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut());
    if let Some(resources) = resources {
        settle(resources, text, "/linux/resources");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_not_a_limit_of_zero() {
        let pids = |text: &str| load_resources(text).unwrap().pids().map(|pids| pids.limit());
        assert_eq!(pids(r#"{"pids":{}}"#), None);
        assert_eq!(pids("{}"), None);
        assert_eq!(pids(r#"{"pids":{"limit":0}}"#), Some(0));
        assert_eq!(pids(r#"{"pids":{"limit":-1}}"#), Some(-1));
        let config = r#"{"ociVersion":"1.3.0","linux":{"resources":{"pids":{}}}}"#;
        let mut spec: Spec = parse(config).unwrap();
        settle_spec(&mut spec, config);
        assert_eq!(spec.linux().as_ref().unwrap().resources().as_ref().unwrap().pids(), &None);
    }

    #[test]
    fn a_limit_beyond_all_memory_is_none() {
        let all = load_resources(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":18446744073709551615}]}"#).unwrap();
        assert_eq!(all.hugepage_limits().as_ref().unwrap()[0].limit(), i64::MAX);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let said = load_resources(r#"{"memory":{"limit":"1g"}}"#).unwrap_err().to_string();
        assert_eq!(said, "memory.limit: invalid type: string \"1g\", expected i64");
    }
}
