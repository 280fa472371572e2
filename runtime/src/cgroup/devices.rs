//! DECIDE: which device nodes a container may use, as ordered rules.
//!
//! Everything is denied first; then come the spec's rules in their order, then the devices that every container has
//! (OCI config-linux.md, "Default Devices"), so that no profile can take `/dev/null` away. In v1 the kernel keeps the
//! list ([`super::device_list`]), in v2 it runs a program that [`super::device_program`] assembles.

use std::fmt;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use crate::error::{Error, Kind, Result};

/// May create the node.
pub const MKNOD: u32 = 1;
/// May open it for reading.
pub const READ: u32 = 2;
/// May open it for writing.
pub const WRITE: u32 = 4;
/// All three.
pub const ALL: u32 = MKNOD | READ | WRITE;

/// Block, character or both kinds of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Both.
    Any,
    /// Block devices.
    Block,
    /// Character devices.
    Char,
}

/// One rule; a later one decides over an earlier one for the accesses that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Allow or deny.
    pub allow: bool,
    /// Of which kind.
    pub kind: Type,
    /// Major number; `None` is any.
    pub major: Option<u32>,
    /// Minor number; `None` is any.
    pub minor: Option<u32>,
    /// Bits of [`MKNOD`], [`READ`], [`WRITE`] (the kernel's `BPF_DEVCG_ACC_*`).
    pub access: u32,
}

/// What every container may use: making any node (using it is another matter), null, zero, full, random, urandom, tty,
/// ptmx, tun (which runc 1.2.0 took away and had to give back) and the pseudo terminals. The list is runc's.
const DEFAULTS: &[(Type, Option<u32>, Option<u32>, u32)] = &[
    (Type::Char, None, None, MKNOD),
    (Type::Block, None, None, MKNOD),
    (Type::Char, Some(1), Some(3), ALL),
    (Type::Char, Some(1), Some(5), ALL),
    (Type::Char, Some(1), Some(7), ALL),
    (Type::Char, Some(1), Some(8), ALL),
    (Type::Char, Some(1), Some(9), ALL),
    (Type::Char, Some(5), Some(0), ALL),
    (Type::Char, Some(5), Some(2), ALL),
    (Type::Char, Some(10), Some(200), ALL),
    (Type::Char, Some(136), None, ALL),
];

/// The rules of a container: deny all, the spec's, the defaults. A rule that repeats its predecessor is left out.
///
/// # Errors
/// `Invalid` for an access that is not made of `rwm`, a type that is no device or a number out of range.
pub fn rules(resources: Option<&LinuxResources>) -> Result<Vec<Rule>> {
    let mut rules = vec![Rule { allow: false, kind: Type::Any, major: None, minor: None, access: ALL }];
    let given = resources.and_then(|resources| resources.devices().as_ref());
    for (at, rule) in given.into_iter().flatten().enumerate() {
        let rule = parse(rule).map_err(|why| why.below(&format!("linux.resources.devices[{at}]")))?;
        if rules.last() != Some(&rule) {
            rules.push(rule);
        }
    }
    let defaults = DEFAULTS.iter();
    rules.extend(defaults.map(|&(kind, major, minor, access)| Rule { allow: true, kind, major, minor, access }));
    Ok(rules)
}

fn parse(rule: &LinuxDeviceCgroup) -> Result<Rule> {
    let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::A => Type::Any,
        LinuxDeviceType::B => Type::Block,
        LinuxDeviceType::C | LinuxDeviceType::U => Type::Char,
        LinuxDeviceType::P => return Err(Error::new(Kind::Invalid, "type: p is a pipe and no device")),
    };
    let number = |name: &str, number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number)
            .map(Some)
            .map_err(|_| Error::new(Kind::Invalid, format!("{name}: {number} is out of range"))),
    };
    let text = rule.access().as_deref().unwrap_or("");
    let mut access = 0;
    for letter in text.chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return Err(Error::new(Kind::Invalid, format!("access: {text:?} has more than r, w and m"))),
        };
    }
    // Type a with nothing said is how every peer's default spec writes "deny everything".
    let access = if access == 0 { ALL } else { access };
    let (major, minor) = (number("major", rule.major())?, number("minor", rule.minor())?);
    Ok(Rule { allow: rule.allow(), kind, major, minor, access })
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Type::Any => 'a',
            Type::Block => 'b',
            Type::Char => 'c',
        };
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        write!(out, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        for (bit, letter) in [(READ, "r"), (WRITE, "w"), (MKNOD, "m")] {
            if self.access & bit != 0 {
                out.write_str(letter)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(devices: &str) -> LinuxResources {
        serde_json::from_str(&format!(r#"{{"devices":{devices}}}"#)).unwrap()
    }

    fn shown(devices: &str) -> String {
        let rules = rules(Some(&resources(devices))).unwrap();
        let lines: Vec<String> =
            rules.iter().map(|rule| format!("{}{rule}", if rule.allow { '+' } else { '-' })).collect();
        lines.join(", ")
    }

    const DEFAULT_RULES: &str = "+c *:* m, +b *:* m, +c 1:3 rwm, +c 1:5 rwm, +c 1:7 rwm, +c 1:8 rwm, +c 1:9 rwm, \
        +c 5:0 rwm, +c 5:2 rwm, +c 10:200 rwm, +c 136:* rwm";

    #[test]
    fn all_is_denied_and_the_default_devices_come_last() {
        let deny = format!("-a *:* rwm, {DEFAULT_RULES}");
        assert_eq!(shown(r#"[{"allow":false,"access":"rwm"}]"#), deny);
        assert_eq!(shown("[]"), deny, "without rules nothing else is open");
        let fuse = shown(r#"[{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]"#);
        assert_eq!(fuse, format!("-a *:* rwm, +c 10:229 rw, {DEFAULT_RULES}"));
        let any = shown(r#"[{"allow":true,"type":"b","major":8,"minor":-1,"access":"r"}]"#);
        assert_eq!(any, format!("-a *:* rwm, +b 8:* r, {DEFAULT_RULES}"), "-1 is any number");
    }

    #[test]
    fn wrong_rules_are_named() {
        for (rule, says) in [
            (r#"{"allow":true,"type":"c","major":4294967296,"access":"r"}"#, "major: 4294967296 is out of range"),
            (r#"{"allow":true,"type":"c","access":"rx"}"#, "access: \"rx\" has more than r, w and m"),
            (r#"{"allow":true,"type":"p","access":"r"}"#, "type: p is a pipe"),
        ] {
            let error = rules(Some(&resources(&format!("[{rule}]")))).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            let text = error.to_string();
            assert!(text.starts_with("linux.resources.devices[0].") && text.contains(says), "{text}");
        }
    }
}
