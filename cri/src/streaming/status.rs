//! How the client is told the outcome: `metav1.Status` as JSON, or a line of text to older ones.

use crate::error::Result;
use serde_json::json;

/// The last thing on the error stream, for a process that exited with this code or work that failed.
pub(super) fn json(outcome: &Result<i32>) -> String {
    match outcome {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": exited(*code),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            "code": 500,
        }),
        Err(why) => json!({
            "metadata": {},
            "status": "Failure",
            "message": why.to_string(),
            "reason": "InternalError",
            "details": {"causes": [{"message": why.to_string()}]},
            "code": 500,
        }),
    }
    .to_string()
}

/// The same for protocols before v4: nothing on success.
pub(super) fn text(outcome: &Result<i32>) -> String {
    match outcome {
        Ok(0) => String::new(),
        Ok(code) => exited(*code),
        Err(why) => why.to_string(),
    }
}

fn exited(code: i32) -> String {
    format!("command terminated with non-zero exit code: exit status {code}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn success_is_said_in_json_and_silent_in_text() {
        assert_eq!(json(&Ok(0)), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(text(&Ok(0)), "");
    }

    #[test]
    fn an_exit_code_is_where_kubectl_looks_for_it() {
        let status: serde_json::Value = serde_json::from_str(&json(&Ok(7))).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "7"}));
        assert!(text(&Ok(7)).ends_with("exit status 7"));
    }

    #[test]
    fn an_error_is_internal() {
        let status: serde_json::Value = serde_json::from_str(&json(&Err(Error::internal("no sh")))).unwrap();
        assert_eq!((&status["reason"], &status["message"]), (&json!("InternalError"), &json!("no sh")));
        assert_eq!(text(&Err(Error::internal("no sh"))), "no sh");
    }
}
