//! Who is asking (authentication) and whether they may (authorisation).

mod authorize;
mod certificate;
mod token;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::{Value, json};

pub(crate) use authorize::{Attributes, Decision, authorize, refers_to_objects};
pub(crate) use certificate::user_of as user_of_certificate;
pub(crate) use token::{Claims, Signer};

use crate::error::{Error, Result};

/// Groups of the built-in rules.
pub(crate) const MASTERS: &str = "system:masters";
pub(crate) const NODES: &str = "system:nodes";
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
pub(crate) const ACCOUNTS: &str = "system:serviceaccounts";

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The control plane itself.
    pub(crate) fn control_plane() -> Self {
        Self { name: "system:apiserver".into(), groups: vec![MASTERS.into()], ..Default::default() }
    }

    /// Somebody who showed nothing.
    pub(crate) fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), groups: vec![UNAUTHENTICATED.into()], ..Default::default() }
    }

    /// Whether the user is in a group.
    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node that this user is, if it is one.
    pub(crate) fn node(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|_| self.is_in(NODES))
    }

    /// As `authentication.k8s.io/v1` UserInfo.
    pub(crate) fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.as_str().into();
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
}

/// What the server knows about users.
pub(crate) struct Access {
    /// Of the static token file.
    tokens: HashMap<String, User>,
    pub(crate) signer: Option<Signer>,
}

impl Access {
    pub(crate) fn new(tokens: HashMap<String, User>, signer: Option<Signer>) -> Self {
        Self { tokens, signer }
    }

    /// The user of a static token.
    pub(crate) fn static_token(&self, token: &str) -> Option<User> {
        // Hashed in the map with a random key: the time tells nothing about how much of a guess was right.
        self.tokens.get(token).cloned()
    }
}

/// Reads a token file: CSV lines `token,user,uid[,"group1,group2"]`, as kube-apiserver's `--token-auth-file`.
///
/// # Errors
/// The file cannot be read, or a line has fewer than three columns.
pub(crate) fn read_tokens(path: &Path) -> Result<HashMap<String, User>> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::internal(format!("cannot read the token file {}", path.display()), e))?;
    parse_tokens(&text).map_err(|line| {
        let why = format!("{}, line {line}: want token,user,uid[,\"groups\"]", path.display());
        Error::internal("the token file is malformed", why)
    })
}

fn parse_tokens(text: &str) -> std::result::Result<HashMap<String, User>, usize> {
    let mut tokens = HashMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut columns = line.splitn(4, ',').map(|c| c.trim().trim_matches('"'));
        let (Some(token), Some(name), Some(uid)) = (columns.next(), columns.next(), columns.next()) else {
            return Err(at + 1);
        };
        if token.is_empty() || name.is_empty() {
            return Err(at + 1);
        }
        let groups = columns.next().unwrap_or_default().split(',').map(str::trim).filter(|g| !g.is_empty());
        let groups = groups.map(str::to_owned).chain([AUTHENTICATED.to_owned()]).collect();
        let user = User { name: name.into(), uid: uid.into(), groups, extra: BTreeMap::new() };
        tokens.insert(token.to_owned(), user);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_is_read() {
        let tokens = parse_tokens("# c\nt1,alice,1,\"a,b\"\nt2,bob,2\n\n").expect("parses");
        assert_eq!(tokens["t1"].groups, ["a", "b", AUTHENTICATED]);
        assert_eq!(tokens["t2"].name, "bob");
        assert_eq!(parse_tokens("x\n"), Err(1));
        assert_eq!(parse_tokens("t,u,1\n,bob,2"), Err(2));
    }

    #[test]
    fn a_node_is_known_by_name_and_group() {
        let mut user = User { name: "system:node:n1".into(), ..Default::default() };
        assert_eq!(user.node(), None);
        user.groups.push(NODES.into());
        assert_eq!(user.node(), Some("n1"));
    }
}
