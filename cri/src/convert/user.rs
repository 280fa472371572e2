//! Who runs a container: the wishes of CRI and of the image, resolved against the image's passwd and group files.
//!
//! A number is parsed once, as `u32`, and anything else that looks like one is refused: wrapped, negative and empty
//! numbers have made containers root at several peers (CVE-2024-40635, CVE-2026-30892, CVE-2026-46680). A number is
//! never looked up as a *name*, so an image cannot map "1000" to root with a passwd line of that name.

use gantry_cri_api::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// Who runs the process.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, the primary one first.
    pub groups: Vec<u32>,
    /// Home directory from passwd, or `/`.
    pub home: String,
}

/// What was asked for, before anything is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    user: Name,
    group: Option<Name>,
    supplemental: Vec<u32>,
    /// Only the groups of the request, none of the image (KEP-3619).
    strict: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Id(u32),
    Text(String),
}

impl Wanted {
    /// Whether passwd and group have anything to add.
    pub fn needs_files(&self) -> bool {
        !matches!((&self.user, &self.group, self.strict), (Name::Id(_), Some(Name::Id(_)), true))
    }
}

/// Reads the wishes: CRI's user id, else its user name, else `image_user` (`USER[:GROUP]` of the image).
///
/// # Errors
/// [`Kind::Invalid`] for what is neither a name nor an id from 0 to 4294967294.
pub fn wanted(security: &LinuxContainerSecurityContext, image_user: &str) -> Result<Wanted> {
    let (mut user, mut group) = match (&security.run_as_user, security.run_as_username.as_str()) {
        (Some(id), _) => (Name::Id(id_from(id.value, "run_as_user")?), None),
        (None, "") => parse(image_user)?,
        (None, name) => parse(name)?,
    };
    if let Some(id) = &security.run_as_group {
        if security.run_as_user.is_none() && security.run_as_username.is_empty() && image_user.is_empty() {
            return Err(Error::new(Kind::Invalid, "run_as_group: needs a user too"));
        }
        group = Some(Name::Id(id_from(id.value, "run_as_group")?));
    }
    if let Name::Text(name) = &mut user {
        name.shrink_to_fit();
    }
    let supplemental = security.supplemental_groups.iter().map(|id| id_from(*id, "supplemental_groups"));
    Ok(Wanted {
        user,
        group,
        supplemental: supplemental.collect::<Result<_>>()?,
        strict: security.supplemental_groups_policy() == SupplementalGroupsPolicy::Strict,
    })
}

fn id_from(value: i64, field: &str) -> Result<u32> {
    match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Error::new(Kind::Invalid, format!("{field}: {value} is not an id from 0 to 4294967294"))),
    }
}

/// `USER[:GROUP]`; empty is root, as Docker has it. An empty half is refused: it was never meant to be 0.
fn parse(text: &str) -> Result<(Name, Option<Name>)> {
    if text.is_empty() {
        return Ok((Name::Id(0), None));
    }
    match text.split_once(':') {
        None => Ok((half(text, text)?, None)),
        Some((user, group)) => Ok((half(user, text)?, Some(half(group, text)?))),
    }
}

fn half(part: &str, whole: &str) -> Result<Name> {
    let refuse = |why: &str| Err(Error::new(Kind::Invalid, format!("user {whole:?}: {why}")));
    let numeric = part.strip_prefix(['-', '+']).unwrap_or(part);
    if part.is_empty() {
        return refuse("an empty half names nobody");
    }
    if numeric.bytes().all(|byte| byte.is_ascii_digit()) {
        return match part.parse::<u32>() {
            Ok(id) if id != u32::MAX && numeric == part => Ok(Name::Id(id)),
            _ => refuse("not an id from 0 to 4294967294"),
        };
    }
    if part.len() > 256 || part.contains(|c: char| c.is_control() || c == ':' || c == ',') {
        return refuse("not a user name");
    }
    Ok(Name::Text(part.to_owned()))
}

/// Looks the wishes up in the image's `/etc/passwd` and `/etc/group`; a missing file is an empty one.
///
/// # Errors
/// [`Kind::Invalid`] for a name that the files do not know, or know with a number that is none.
pub fn resolve(wanted: &Wanted, passwd: &str, group: &str) -> Result<User> {
    let line = passwd.lines().filter_map(Passwd::read).find(|line| match &wanted.user {
        Name::Id(id) => line.uid == Some(*id),
        Name::Text(name) => line.name == name,
    });
    let uid = match (&wanted.user, &line) {
        (Name::Id(id), _) => *id,
        (Name::Text(name), Some(line)) => line.uid.ok_or_else(|| unknown("user", name, "has no valid id in"))?,
        (Name::Text(name), None) => return Err(unknown("user", name, "is not in")),
    };
    let gid = match &wanted.group {
        Some(Name::Id(id)) => *id,
        Some(Name::Text(name)) => group
            .lines()
            .filter_map(Group::read)
            .find(|line| line.name == name)
            .and_then(|line| line.gid)
            .ok_or_else(|| unknown("group", name, "is not in"))?,
        None => match &line {
            Some(line) => line.gid.ok_or_else(|| unknown("user", line.name, "has no valid group in"))?,
            None => 0,
        },
    };
    let member = line.as_ref().map(|line| line.name).filter(|_| !wanted.strict);
    let of_image = group.lines().filter_map(Group::read).filter(|line| member.is_some_and(|name| line.has(name)));
    let mut groups = vec![gid];
    for id in of_image.filter_map(|line| line.gid).chain(wanted.supplemental.iter().copied()) {
        if !groups.contains(&id) {
            groups.push(id);
        }
    }
    let home = line.map(|line| line.home).filter(|home| home.starts_with('/')).unwrap_or("/").to_owned();
    Ok(User { uid, gid, groups, home })
}

fn unknown(what: &str, name: &str, how: &str) -> Error {
    Error::new(Kind::Invalid, format!("{what} {name:?} {how} the image's /etc/{}", passwd_or_group(what)))
}

fn passwd_or_group(what: &str) -> &'static str {
    if what == "user" { "passwd" } else { "group" }
}

/// `name:password:uid:gid:gecos:home:shell`; a number that is none stays `None`, it never becomes 0.
struct Passwd<'a> {
    name: &'a str,
    uid: Option<u32>,
    gid: Option<u32>,
    home: &'a str,
}

impl<'a> Passwd<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut parts = line.trim().split(':');
        let (name, _, uid, gid) = (parts.next()?, parts.next()?, parts.next()?, parts.next().unwrap_or(""));
        if name.is_empty() || name.starts_with('#') {
            return None;
        }
        Some(Self { name, uid: number(uid), gid: number(gid), home: parts.nth(1).unwrap_or("/") })
    }
}

/// `name:password:gid:member,member`.
struct Group<'a> {
    name: &'a str,
    gid: Option<u32>,
    members: &'a str,
}

impl<'a> Group<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut parts = line.trim().split(':');
        let (name, _, gid) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { name, gid: number(gid), members: parts.next().unwrap_or("") })
            .filter(|group| !group.name.is_empty())
    }

    fn has(&self, name: &str) -> bool {
        self.members.split(',').any(|member| member == name)
    }
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use gantry_cri_api::Int64Value;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# a comment\nweb:x:33:34::/srv/web:/bin/sh\n1000:x:0:0::/:/bin/sh\nbad:x:4294967296:0::/:\nempty:x:::::\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:web,ann\nweb:x:34:\naudio:x:29:ann,web\nodd:x:-1:web\n";

    fn image(user: &str) -> Result<User> {
        resolve(&wanted(&LinuxContainerSecurityContext::default(), user)?, PASSWD, GROUP)
    }

    fn cri(change: fn(&mut LinuxContainerSecurityContext)) -> Result<User> {
        let mut security = LinuxContainerSecurityContext::default();
        change(&mut security);
        resolve(&wanted(&security, "web")?, PASSWD, GROUP)
    }

    fn ids(user: &User) -> (u32, u32, &[u32]) {
        (user.uid, user.gid, &user.groups)
    }

    #[test]
    fn names_and_numbers_of_the_image() {
        assert_eq!(ids(&image("").unwrap()), (0, 0, &[0][..]));
        assert_eq!(ids(&image("web").unwrap()), (33, 34, &[34, 50, 29][..]));
        assert_eq!(ids(&image("33").unwrap()), (33, 34, &[34, 50, 29][..]));
        assert_eq!(ids(&image("web:staff").unwrap()), (33, 50, &[50, 29][..]));
        assert_eq!(ids(&image("7:8").unwrap()), (7, 8, &[8][..]));
        assert_eq!(image("web").unwrap().home, "/srv/web");
        assert_eq!(image("7").unwrap().home, "/");
    }

    #[test]
    fn case_08_a_user_string_gives_the_right_id_or_an_error_never_root() {
        assert_eq!(image("1").unwrap().uid, 1);
        assert_eq!(image("2147483648").unwrap().uid, 2_147_483_648);
        // passwd has a *name* 1000 with uid 0: a number means the number.
        assert_eq!(image("1000").unwrap().uid, 1000);
        for refused in [
            "1:",
            ":1",
            ":",
            "-1",
            "+1",
            "4294967295",
            "4294967296",
            "18446744073709551616",
            "1:-1",
            "nobody",
            "bad",
            "empty",
            "web:nogroup",
            "a\nb",
            " ",
        ] {
            let error = image(refused).map(|user| user.uid).expect_err(refused);
            assert_eq!(error.kind(), Kind::Invalid, "{refused}: {error}");
        }
    }

    #[test]
    fn cri_goes_before_the_image() {
        assert_eq!(ids(&cri(|c| c.run_as_user = Some(Int64Value { value: 7 })).unwrap()), (7, 0, &[0][..]));
        assert_eq!(ids(&cri(|c| c.run_as_username = "root".into()).unwrap()), (0, 0, &[0][..]));
        assert_eq!(ids(&cri(|c| c.run_as_group = Some(Int64Value { value: 9 })).unwrap()), (33, 9, &[9, 50, 29][..]));
        assert!(cri(|c| c.run_as_user = Some(Int64Value { value: -1 })).is_err());
        assert!(cri(|c| c.run_as_group = Some(Int64Value { value: 1 << 32 })).is_err());
    }

    #[test]
    fn supplemental_groups_are_merged_or_strict() {
        assert_eq!(cri(|c| c.supplemental_groups = vec![50, 60]).unwrap().groups, [34, 50, 29, 60]);
        let strict = cri(|c| {
            c.supplemental_groups = vec![60];
            c.set_supplemental_groups_policy(SupplementalGroupsPolicy::Strict);
        });
        assert_eq!(strict.unwrap().groups, [34, 60]);
        assert!(cri(|c| c.supplemental_groups = vec![-5]).is_err());
    }

    #[test]
    fn a_group_alone_is_refused() {
        let security =
            LinuxContainerSecurityContext { run_as_group: Some(Int64Value { value: 1 }), ..Default::default() };
        assert!(wanted(&security, "").unwrap_err().to_string().contains("run_as_group"));
    }
}
