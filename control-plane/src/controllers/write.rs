//! What controllers decide: writes to the API, as data with a text form, and the one function that does them.

use std::fmt;

use serde_json::Value;

use crate::client::{Client, DeleteOptions, PatchType};
use crate::error::Result;

/// One write. `resource` is as the client names it: `pods`, `replicasets.apps`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Write {
    /// Creates `object`.
    Create { resource: &'static str, object: Value },
    /// Replaces the object's status; its `metadata.resourceVersion` guards against other writers.
    Status { resource: &'static str, object: Value },
    /// Merge patch (RFC 7386).
    Patch { resource: &'static str, namespace: String, name: String, body: Value },
    /// Strategic merge patch of the status.
    PatchStatus { resource: &'static str, namespace: String, name: String, body: Value },
    /// Deletes the object with this uid.
    Delete { resource: &'static str, namespace: String, name: String, uid: Option<String>, grace: Option<i64> },
}

impl Write {
    /// Carries the write out. Returns the object as stored; `Null` for a delete.
    pub(crate) async fn run(&self, client: &Client) -> Result<Value> {
        match self {
            Write::Create { resource, object } => {
                client.create(resource, text(object, "namespace"), object.clone()).await
            }
            Write::Status { resource, object } => client.update_status(resource, object.clone()).await,
            Write::Patch { resource, namespace, name, body } => {
                client.patch((resource, namespace, name), PatchType::Merge, body).await
            }
            Write::PatchStatus { resource, namespace, name, body } => {
                client.patch_status((resource, namespace, name), PatchType::Strategic, body).await
            }
            Write::Delete { resource, namespace, name, uid, grace } => {
                let options = DeleteOptions { uid: uid.clone(), grace_seconds: *grace, ..DeleteOptions::default() };
                client.delete(resource, namespace, name, &options).await.map(|()| Value::Null)
            }
        }
    }
}

/// Carries out all writes in order; stops at the first failure.
pub(crate) async fn run_all(client: &Client, writes: &[Write]) -> Result<()> {
    for write in writes {
        write.run(client).await?;
    }
    Ok(())
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Write::Create { resource, object } => {
                let name = match text(object, "name") {
                    "" => format!("{}*", text(object, "generateName")),
                    name => name.to_owned(),
                };
                write!(f, "create {resource} {}", place(text(object, "namespace"), &name))
            }
            Write::Status { resource, object } => {
                let at = place(text(object, "namespace"), text(object, "name"));
                write!(f, "status {resource} {at} {}", object["status"])
            }
            Write::Patch { resource, namespace, name, body } => {
                write!(f, "patch {resource} {} {body}", place(namespace, name))
            }
            Write::PatchStatus { resource, namespace, name, body } => {
                write!(f, "patch-status {resource} {} {}", place(namespace, name), body["status"])
            }
            Write::Delete { resource, namespace, name, grace, .. } => {
                write!(f, "delete {resource} {}", place(namespace, name))?;
                grace.map_or(Ok(()), |grace| write!(f, " grace {grace}"))
            }
        }
    }
}

fn place(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}
