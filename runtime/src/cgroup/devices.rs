//! DECIDE: which device nodes a container may use, as ordered rules.
//!
//! Everything is denied first; then come the spec's rules in their order, then the devices that every container has
//! (OCI config-linux.md, "Default Devices"), so that no profile can take `/dev/null` away. In v1 the kernel keeps the
//! list (`devices.allow`, `devices.deny`), in v2 it runs a program that [`super::device_program`] assembles.

use std::fmt;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::controller::Controller;
use super::resources::Write;
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
/// ptmx and the pseudo terminals.
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
        let rule = parse(rule).map_err(|why| why.within(format!("linux.resources.devices[{at}]")))?;
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
        LinuxDeviceType::P => return Err(Error::new(Kind::Invalid, "type p is a pipe and no device")),
    };
    let number = |name: &str, number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number)
            .map(Some)
            .map_err(|_| Error::new(Kind::Invalid, format!("{name} {number} is out of range"))),
    };
    let text = rule.access().as_deref().unwrap_or("");
    let mut access = 0;
    for letter in text.chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return Err(Error::new(Kind::Invalid, format!("access {text:?} has more than r, w and m"))),
        };
    }
    // Type a with nothing said is how every peer's default spec writes "deny everything".
    let access = if access == 0 { ALL } else { access };
    let (major, minor) = (number("major", rule.major())?, number("minor", rule.minor())?);
    match kind {
        // v1's kernel takes `a` for all devices, whatever numbers follow; say so rather than widen silently.
        Type::Any if major.is_some() || minor.is_some() => {
            Err(Error::new(Kind::Invalid, "type a takes no major or minor number"))
        }
        _ => Ok(Rule { allow: rule.allow(), kind, major, minor, access }),
    }
}

/// The rules as writes to v1's `devices.allow` and `devices.deny`.
///
/// # Errors
/// `Unsupported` for a deny that takes one device out of an earlier allowed range: v1's kernel would take the write and
/// ignore it, which leaves open what the profile means to close (v2 can do it).
pub fn v1_writes(rules: &[Rule]) -> Result<Vec<Write>> {
    let mut writes = Vec::with_capacity(rules.len());
    for (at, rule) in rules.iter().enumerate() {
        if let Some(wider) = rules[..at].iter().find(|earlier| rule.punches(earlier)) {
            let what = format!("cgroup v1 cannot deny {rule} after {wider} was allowed: allow the rest by number");
            return Err(Error::new(Kind::Unsupported, what));
        }
        // The kernel resets the whole list on `a`, whatever accesses follow: allowing `a *:* r` would open everything.
        if rule.kind == Type::Any && rule.allow && rule.access != ALL {
            let what = format!("cgroup v1 cannot allow {rule}: name block and character devices apart");
            return Err(Error::new(Kind::Unsupported, what));
        }
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        let value = if rule.kind == Type::Any { "a".to_owned() } else { rule.to_string() };
        writes.push(Write::must(Controller::Devices, file, value));
    }
    Ok(writes)
}

impl Rule {
    /// Whether this denies a part of what `earlier` allowed as a whole, but is not written like it.
    fn punches(&self, earlier: &Rule) -> bool {
        let within = |outer: Option<u32>, inner: Option<u32>| outer.is_none() || outer == inner;
        !self.allow
            && earlier.allow
            && self.kind == earlier.kind
            && within(earlier.major, self.major)
            && within(earlier.minor, self.minor)
            && (earlier.major, earlier.minor) != (self.major, self.minor)
            && self.access & earlier.access != 0
    }
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

    fn written(devices: &str) -> String {
        let rules = rules(Some(&resources(devices))).unwrap();
        let lines: Vec<String> =
            v1_writes(&rules).unwrap().iter().map(|write| format!("{} {}", write.file, write.value)).collect();
        lines.join("\n")
    }

    const DEFAULT_LINES: &str = "\
devices.allow c *:* m
devices.allow b *:* m
devices.allow c 1:3 rwm
devices.allow c 1:5 rwm
devices.allow c 1:7 rwm
devices.allow c 1:8 rwm
devices.allow c 1:9 rwm
devices.allow c 5:0 rwm
devices.allow c 5:2 rwm
devices.allow c 136:* rwm";

    #[test]
    fn all_is_denied_and_the_default_devices_come_last() {
        let deny = format!("devices.deny a\n{DEFAULT_LINES}");
        assert_eq!(written(r#"[{"allow":false,"access":"rwm"}]"#), deny);
        assert_eq!(written("[]"), deny, "without rules nothing else is open");
        let fuse = written(r#"[{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]"#);
        assert_eq!(fuse, format!("devices.deny a\ndevices.allow c 10:229 rw\n{DEFAULT_LINES}"));
    }

    #[test]
    fn privileged_means_everything() {
        let all = written(r#"[{"allow":true,"access":"rwm"}]"#);
        assert!(all.starts_with("devices.deny a\ndevices.allow a\n"), "{all}");
    }

    #[test]
    fn minus_one_is_any_number() {
        let tun = written(r#"[{"allow":true,"type":"b","major":8,"minor":-1,"access":"r"}]"#);
        assert!(tun.contains("devices.allow b 8:* r\n"), "{tun}");
    }

    #[test]
    fn wrong_rules_are_named() {
        for (rule, says) in [
            (r#"{"allow":true,"type":"c","major":4294967296,"access":"r"}"#, "major 4294967296 is out of range"),
            (r#"{"allow":true,"type":"c","access":"rx"}"#, "access \"rx\" has more than r, w and m"),
            (r#"{"allow":true,"type":"p","access":"r"}"#, "type p is a pipe"),
            (r#"{"allow":true,"type":"a","major":1,"access":"r"}"#, "type a takes no major"),
        ] {
            let error = rules(Some(&resources(&format!("[{rule}]")))).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            let text = error.to_string();
            assert!(text.starts_with("linux.resources.devices[0]: ") && text.contains(says), "{text}");
        }
    }

    #[test]
    fn v1_does_not_pretend_to_punch_holes() {
        let given = r#"[{"allow":true,"type":"c","major":10,"access":"rw"},
                        {"allow":false,"type":"c","major":10,"minor":200,"access":"w"}]"#;
        let error = v1_writes(&rules(Some(&resources(given))).unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains("c 10:200 w"), "{error}");
    }
}
