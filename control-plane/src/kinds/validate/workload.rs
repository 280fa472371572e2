//! Rules of Deployments and ReplicaSets: selector, template, counts.

use serde_json::Value;

use super::{Check, meta, pod};
use crate::kinds::form;

pub(super) fn deployment(spec: &Value, check: &mut Check) {
    check.inside("spec", |check| {
        common(spec, check);
        check.not_negative("revisionHistoryLimit", &spec["revisionHistoryLimit"]);
        check.not_negative("progressDeadlineSeconds", &spec["progressDeadlineSeconds"]);
        let (deadline, ready) = (spec["progressDeadlineSeconds"].as_i64(), spec["minReadySeconds"].as_i64());
        if let (Some(deadline), Some(ready)) = (deadline, ready)
            && deadline <= ready
        {
            check.invalid("progressDeadlineSeconds", deadline, "must be greater than minReadySeconds");
        }
        check.inside("strategy", |check| strategy(&spec["strategy"], check));
    });
}

pub(super) fn replica_set(spec: &Value, check: &mut Check) {
    check.inside("spec", |check| common(spec, check));
}

fn common(spec: &Value, check: &mut Check) {
    check.not_negative("replicas", &spec["replicas"]);
    check.not_negative("minReadySeconds", &spec["minReadySeconds"]);
    let selector = &spec["selector"];
    let empty = ["matchLabels", "matchExpressions"].iter().all(|k| match &selector[*k] {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => true,
    });
    match selector {
        Value::Null => check.required("selector", ""),
        _ if empty => check.invalid("selector", selector, "empty selector is invalid for deployment"),
        _ => check.inside("selector.matchLabels", |check| meta::labels(&selector["matchLabels"], check)),
    }
    expressions(form::list(selector, &["matchExpressions"]), check);
    let labels = &spec["template"]["metadata"]["labels"];
    if !empty && !selects(selector, labels) {
        let shown = if labels.is_null() { "{}".to_owned() } else { labels.to_string() };
        check.invalid("template.metadata.labels", shown, "`selector` does not match template `labels`");
    }
    check.inside("template", |check| {
        check.inside("metadata.labels", |check| meta::labels(labels, check));
        check.inside("spec", |check| {
            let template = &spec["template"]["spec"];
            pod::spec(template, check);
            if template["restartPolicy"].is_string() {
                check.one_of("restartPolicy", &template["restartPolicy"], &["Always"]);
            }
            if template["activeDeadlineSeconds"].is_number() {
                check.forbidden("activeDeadlineSeconds", "activeDeadlineSeconds in ReplicaSet is not Supported");
            }
        });
    });
}

fn expressions(list: &[Value], check: &mut Check) {
    check.each("selector.matchExpressions", list, |check, each| {
        let operator = form::text(each, &["operator"]);
        let values = form::list(each, &["values"]).len();
        match operator {
            "In" | "NotIn" if values == 0 => {
                check.required("values", "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                check.forbidden("values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => check.invalid_text("operator", other, "not a valid selector operator"),
        }
    });
}

/// Whether a label selector selects labels.
pub(super) fn selects(selector: &Value, labels: &Value) -> bool {
    let equal = selector["matchLabels"].as_object().into_iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let expressions = form::list(selector, &["matchExpressions"]).iter().all(|each| {
        let value = labels.get(form::text(each, &["key"]));
        let listed = value.is_some_and(|v| form::list(each, &["values"]).contains(v));
        match form::text(each, &["operator"]) {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    equal && expressions
}

fn strategy(strategy: &Value, check: &mut Check) {
    check.one_of("type", &strategy["type"], &["Recreate", "RollingUpdate"]);
    let rolling = &strategy["rollingUpdate"];
    if strategy["type"] == "Recreate" && rolling.is_object() {
        return check.forbidden("rollingUpdate", "may not be specified when strategy `type` is 'Recreate'");
    }
    let mut zero = 0;
    for field in ["maxUnavailable", "maxSurge"] {
        let value = &rolling[field];
        let percent = value.as_str().map(|text| text.strip_suffix('%').and_then(|n| n.parse::<u32>().ok()));
        match (percent, value.as_i64()) {
            (Some(None), _) => {
                let text = value.as_str().unwrap_or_default();
                let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
                check.inside("rollingUpdate", |check| check.invalid_text(field, text, why));
            }
            (Some(Some(100..)), _) if field == "maxUnavailable" && percent != Some(Some(100)) => {
                check.inside("rollingUpdate", |check| check.invalid(field, value, "must not be greater than 100%"));
            }
            (Some(Some(0)), _) | (_, Some(0)) => zero += 1,
            _ => check.inside("rollingUpdate", |check| check.not_negative(field, value)),
        }
    }
    if zero == 2 {
        check.invalid("rollingUpdate.maxUnavailable", 0, "may not be 0 when `maxSurge` is 0");
    }
}
