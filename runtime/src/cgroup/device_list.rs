//! DECIDE: device rules as the list that cgroup v1's kernel keeps.
//!
//! The kernel knows a default (deny all, or allow all) and exceptions to it, each with its own numbers or `*`; a write that
//! would take a part out of a wider exception is taken and ignored. So the rules are carried out here, in their order,
//! and the list that they come to is what is written. Where the list can only be wider than the rules, [`List::hole`] says
//! by what: a program on the v2 tree of a hybrid can still close it. Kernel: security/device_cgroup.c.

use super::controller::Controller;
use super::devices::{ALL, MKNOD, READ, Rule, Type, WRITE};
use super::resources::Write;

/// Default and exceptions; every exception has a kind of its own, and none is there twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Whether that is allowed which no exception names.
    pub open: bool,
    exceptions: Vec<Rule>,
    hole: Option<(Rule, Rule)>,
}

impl List {
    /// The list that these rules come to.
    ///
    /// With "allow all" as a default where that says it exactly, which is what lets a privileged container allow all to a
    /// cgroup of its own; else as exceptions to "deny all".
    pub fn of(rules: &[Rule]) -> List {
        let as_kernel = List::build(rules, true);
        match as_kernel.hole {
            None => as_kernel,
            Some(_) => List::build(rules, false),
        }
    }

    fn build(rules: &[Rule], may_open: bool) -> List {
        let mut list = List::default();
        for rule in rules {
            let all = rule.kind == Type::Any && (rule.major, rule.minor, rule.access) == (None, None, ALL);
            if all && (may_open || !rule.allow) {
                list = List { open: rule.allow, ..List::default() };
                continue;
            }
            let kinds: &[Type] = match rule.kind {
                Type::Any => &[Type::Block, Type::Char],
                Type::Block => &[Type::Block],
                Type::Char => &[Type::Char],
            };
            for kind in kinds {
                list.take(Rule { kind: *kind, ..*rule });
            }
        }
        list
    }

    fn take(&mut self, rule: Rule) {
        if rule.allow != self.open {
            match self.exceptions.iter_mut().find(|known| same(known, &rule)) {
                Some(known) => known.access |= rule.access,
                None => self.exceptions.push(rule),
            }
            return;
        }
        for known in &mut self.exceptions {
            if known.kind != rule.kind || known.access & rule.access == 0 {
                continue;
            }
            let covers = |outer: Option<u32>, inner: Option<u32>| outer.is_none() || outer == inner;
            let meets = |one: Option<u32>, other: Option<u32>| covers(one, other) || covers(other, one);
            if covers(rule.major, known.major) && covers(rule.minor, known.minor) {
                known.access &= !rule.access;
            } else if meets(rule.major, known.major) && meets(rule.minor, known.minor) {
                self.hole.get_or_insert((rule, *known));
            }
        }
        self.exceptions.retain(|known| known.access != 0);
    }

    /// The first rule that the list cannot say, and the exception out of which it takes a part.
    pub fn hole(&self) -> Option<&(Rule, Rule)> {
        self.hole.as_ref()
    }

    /// Reads `devices.list`, which says nothing of the exceptions to "allow all".
    pub fn parse(text: &str) -> List {
        let mut list = List::default();
        for line in text.lines() {
            let mut words = line.split([' ', ':']);
            let kind = match words.next() {
                Some("b") => Type::Block,
                Some("c") => Type::Char,
                Some("a") => return List { open: true, ..List::default() },
                _ => continue,
            };
            let (Some(major), Some(minor), Some(access)) = (words.next(), words.next(), words.next()) else { continue };
            let bits = [('r', READ), ('w', WRITE), ('m', MKNOD)];
            let access = bits.iter().filter(|(letter, _)| access.contains(*letter)).map(|(_, bit)| bit).sum();
            let number = |word: &str| word.parse::<u32>().ok();
            list.exceptions.push(Rule { allow: true, kind, major: number(major), minor: number(minor), access });
        }
        list
    }

    /// The writes that make a fresh cgroup's list this one.
    pub fn writes(&self) -> Vec<Write> {
        let default = write(self.open, "a".to_owned());
        std::iter::once(default).chain(self.exceptions.iter().map(|one| write(one.allow, one.to_string()))).collect()
    }

    /// The writes that turn the list into `wanted`. What both allow stays allowed all the while.
    pub fn turn_into(&self, wanted: &List) -> Vec<Write> {
        // Exceptions to "allow all" cannot be read back, so such a list is always written anew.
        if self.open || wanted.open {
            return wanted.writes();
        }
        let of = |list: &List, one: &Rule| {
            list.exceptions.iter().find(|known| same(known, one)).map_or(0, |rule| rule.access)
        };
        let less = |list: &List, other: &List, allow: bool| -> Vec<Write> {
            let rest = list.exceptions.iter().map(|one| Rule { access: one.access & !of(other, one), ..*one });
            rest.filter(|one| one.access != 0).map(|one| write(allow, one.to_string())).collect()
        };
        let mut writes = less(self, wanted, false);
        writes.extend(less(wanted, self, true));
        writes
    }
}

fn same(one: &Rule, other: &Rule) -> bool {
    (one.kind, one.major, one.minor) == (other.kind, other.major, other.minor)
}

fn write(allow: bool, value: String) -> Write {
    Write::must(Controller::Devices, if allow { "devices.allow" } else { "devices.deny" }, value)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxResources;

    use super::super::devices::rules;
    use super::*;

    /// Rules as `+c 1:3 rw` for allow and `-` for deny; `*` is any number.
    fn given(text: &str) -> Vec<Rule> {
        let parse = |rule: &str| {
            let (sign, rest) = rule.split_at(1);
            let kind = match &rest[..1] {
                "a" => Type::Any,
                "b" => Type::Block,
                _ => Type::Char,
            };
            let list = List::parse(&format!("c{}", &rest[1..]));
            Rule { allow: sign == "+", kind, ..list.exceptions[0] }
        };
        text.split(", ").map(parse).collect()
    }

    fn shown(writes: &[Write]) -> String {
        let sign = |write: &Write| if write.file == "devices.allow" { '+' } else { '-' };
        writes.iter().map(|write| format!("{}{}", sign(write), write.value)).collect::<Vec<_>>().join(", ")
    }

    fn list(text: &str) -> String {
        let list = List::of(&given(text));
        let hole = list.hole().map_or(String::new(), |(rule, wider)| format!(" (not {rule} of {wider})"));
        shown(&list.writes()) + &hole
    }

    #[test]
    fn rules_in_their_order_come_to_a_list() {
        let table = [
            ("-a *:* rwm, +c 1:3 r, +c 1:3 w", "-a, +c 1:3 rw"),
            ("-a *:* rwm, +c 10:200 rw, -c 10:200 w", "-a, +c 10:200 r"),
            // The kernel would leave 10:200 open here: it looks for the very same numbers.
            ("-a *:* rwm, +c 10:200 rw, -c 10:* rw", "-a"),
            ("-a *:* rwm, +c 10:* rw, -c 10:200 w", "-a, +c 10:* rw (not c 10:200 w of c 10:* rw)"),
            ("-a *:* rwm, +c 10:* rw, -c *:200 r", "-a, +c 10:* rw (not c *:200 r of c 10:* rw)"),
            ("-a *:* rwm, +c 10:* r, -c 10:200 w", "-a, +c 10:* r"),
            ("-a *:* rwm, +b 10:* rw, -c 10:200 w", "-a, +b 10:* rw"),
            ("+a *:* rwm", "+a"),
            ("+a *:* rwm, -c 10:200 rwm, +c *:* m", "+a, -c 10:200 rw"),
            // Exactly said only the other way round.
            ("+a *:* rwm, -c *:* rwm, +c 1:3 rwm", "-a, +b *:* rwm, +c 1:3 rwm"),
            ("-a *:* rwm, +a *:* r", "-a, +b *:* r, +c *:* r"),
            ("-a *:* rwm, +a 1:3 r", "-a, +b 1:3 r, +c 1:3 r"),
            ("+a *:* rwm, -a *:* w", "+a, -b *:* w, -c *:* w"),
            ("-a *:* rwm, +c 1:3 r, -a *:* rwm, +c 1:5 r", "-a, +c 1:5 r"),
        ];
        for (rules, expected) in table {
            assert_eq!(list(rules), expected, "{rules}");
        }
    }

    #[test]
    fn a_change_touches_only_what_differs() {
        let turned = |from: &str, to: &str| shown(&List::parse(from).turn_into(&List::of(&given(to))));
        assert_eq!(turned("c 1:3 rwm\nb *:* m\n", "+c 1:3 rwm, +b *:* m"), "");
        assert_eq!(turned("c 1:3 rwm\nc 1:5 rw\n", "+c 1:3 r, +c 1:11 r"), "-c 1:3 wm, -c 1:5 rw, +c 1:11 r");
        assert_eq!(turned("a *:* rwm\n", "+c 1:3 r"), "-a, +c 1:3 r");
        assert_eq!(turned("c 1:3 r\n", "+a *:* rwm"), "+a");
        assert_eq!(turned("a *:* rwm\n", "+a *:* rwm"), "+a", "its exceptions cannot be read");
    }

    /// What the list says of one use of a device, as the kernel decides it.
    fn allows(list: &List, kind: Type, major: u32, minor: u32, bit: u32) -> bool {
        let hit = list.exceptions.iter().any(|one| {
            one.kind == kind
                && one.access & bit != 0
                && one.major.is_none_or(|number| number == major)
                && one.minor.is_none_or(|number| number == minor)
        });
        hit != list.open
    }

    /// What the rules say: each access is decided by the last rule that names it.
    fn meant(rules: &[Rule], kind: Type, major: u32, minor: u32, bit: u32) -> bool {
        let last = rules.iter().rev().find(|rule| {
            rule.access & bit != 0
                && (rule.kind == Type::Any || rule.kind == kind)
                && rule.major.is_none_or(|number| number == major)
                && rule.minor.is_none_or(|number| number == minor)
        });
        last.is_some_and(|rule| rule.allow)
    }

    #[test]
    fn a_list_means_what_its_rules_mean_or_admits_to_be_wider() {
        let mut state = 11u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (mut exact, mut wider) = (0, 0);
        for _ in 0..2000 {
            let rules: Vec<Rule> = (0..random(7))
                .map(|_| Rule {
                    allow: random(2) == 0,
                    kind: [Type::Any, Type::Block, Type::Char][random(3) as usize],
                    major: [None, Some(1), Some(2)][random(3) as usize],
                    minor: [None, Some(3)][random(2) as usize],
                    access: 1 + random(7) as u32,
                })
                .collect();
            let list = List::of(&rules);
            let mut differs = false;
            for kind in [Type::Block, Type::Char] {
                for (major, minor) in [(1, 3), (1, 4), (2, 3), (9, 9)] {
                    for bit in [MKNOD, READ, WRITE] {
                        let (said, meant) =
                            (allows(&list, kind, major, minor, bit), meant(&rules, kind, major, minor, bit));
                        assert!(said || !meant, "narrower than {rules:?}");
                        differs |= said != meant;
                    }
                }
            }
            assert!(!differs || list.hole().is_some(), "silently wider than {rules:?}");
            if list.hole().is_some() { wider += 1 } else { exact += 1 }
        }
        assert!(exact > 500 && wider > 100, "{exact} {wider}");
    }

    #[test]
    fn the_default_devices_are_runcs() {
        let resources: LinuxResources =
            serde_json::from_str(r#"{"devices":[{"allow":false,"access":"rwm"}]}"#).unwrap();
        assert_eq!(
            shown(&List::of(&rules(Some(&resources)).unwrap()).writes()),
            "-a, +c *:* m, +b *:* m, +c 1:3 rwm, +c 1:5 rwm, +c 1:7 rwm, +c 1:8 rwm, +c 1:9 rwm, +c 5:0 rwm, \
             +c 5:2 rwm, +c 10:200 rwm, +c 136:* rwm"
        );
    }
}
