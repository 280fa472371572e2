//! DECIDE: ranges -> classic BPF.
//!
//! ```text
//! A = arch
//! each architecture:  A == its AUDIT_ARCH ?  A = number, a balanced tree of  A >= start ?  down to
//!                     one range: its tests on arguments, and `return action`
//! none of them:       return KILL_PROCESS
//! ```
//!
//! Written from the end to the beginning, since every jump of classic BPF goes forward: whatever is jumped to is
//! there already, and its distance is known.

use std::collections::HashMap;

use libc::sock_filter;
use oci_spec::runtime::LinuxSeccompOperator as Operator;

use super::rules::{Abi, Architecture, Decision, Plan, Range, Test, X32_BIT};

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`: the number, the architecture, the arguments (little endian, low half first).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const KILL_PROCESS: u32 = 0x8000_0000;

/// A place in the program, counted from its end.
type Label = usize;

/// The farthest that a conditional jump reaches.
const REACH: usize = 255;

/// A program that grows towards its beginning.
#[derive(Default)]
struct Code {
    /// Last instruction first.
    backwards: Vec<sock_filter>,
    /// The nearest `return` of each action.
    returns: HashMap<u32, Label>,
}

/// The program of a whole plan.
pub(super) fn program(plan: &Plan) -> Vec<sock_filter> {
    let mut code = Code::default();
    let mut next = code.leave(KILL_PROCESS);
    for architecture in plan.architectures.iter().filter(|architecture| architecture.abi != Abi::X32) {
        let x32 = plan.architectures.iter().find(|other| other.abi == Abi::X32 && architecture.abi == Abi::X86_64);
        let body = calls(&mut code, architecture, x32);
        next = code.branch(IF_EQUAL, architecture.abi.audit(), body, next);
    }
    code.load(ARCHITECTURE, next);
    code.backwards.reverse();
    code.backwards
}

/// The calls of one architecture; those of x32 come with x86_64's `AUDIT_ARCH`, and without it they are nobody's.
fn calls(code: &mut Code, architecture: &Architecture, x32: Option<&Architecture>) -> Label {
    if architecture.abi != Abi::X86_64 {
        let tree = tree(code, &architecture.ranges, 0);
        return code.load(NUMBER, tree);
    }
    let above = match x32 {
        Some(x32) => tree(code, &x32.ranges, X32_BIT),
        None => code.leave(KILL_PROCESS),
    };
    let below = tree(code, &architecture.ranges, 0);
    let split = code.branch(IF_AT_LEAST, X32_BIT, above, below);
    code.load(NUMBER, split)
}

/// A balanced tree over ranges whose numbers all have `bit` set.
fn tree(code: &mut Code, ranges: &[Range], bit: u32) -> Label {
    match ranges {
        [] => code.leave(KILL_PROCESS),
        [range] => leaf(code, &range.decision),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let at_least = tree(code, high, bit);
            let below = tree(code, low, bit);
            code.branch(IF_AT_LEAST, high[0].start | bit, at_least, below)
        }
    }
}

fn leaf(code: &mut Code, decision: &Decision) -> Label {
    let mut next = code.leave(decision.otherwise);
    for (tests, action) in decision.alternatives.iter().rev() {
        let mut pass = code.leave(*action);
        for test in tests.iter().rev() {
            pass = compare(code, test, pass, next);
        }
        next = pass;
    }
    next
}

/// One comparison: the high half decides, unless it is equal.
fn compare(code: &mut Code, test: &Test, pass: Label, fail: Label) -> Label {
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (high, low) = halves(test.value);
    let low_at = ARGUMENTS + 8 * test.index;
    let high_at = low_at + 4;
    // x < v is not x >= v, x <= v is not x > v.
    let (pass, fail) = match test.operator {
        Operator::ScmpCmpLt | Operator::ScmpCmpLe | Operator::ScmpCmpNe => (fail, pass),
        _ => (pass, fail),
    };
    match test.operator {
        Operator::ScmpCmpMaskedEq => {
            let (masked_high, masked_low) = halves(test.masked);
            let label = masked(code, low_at, low, masked_low, pass, fail);
            if test.wide { masked(code, high_at, high, masked_high, label, fail) } else { label }
        }
        Operator::ScmpCmpEq | Operator::ScmpCmpNe => {
            let equal = code.branch(IF_EQUAL, low, pass, fail);
            let label = code.load(low_at, equal);
            if !test.wide {
                return label;
            }
            let equal = code.branch(IF_EQUAL, high, label, fail);
            code.load(high_at, equal)
        }
        operator => {
            let strict = matches!(operator, Operator::ScmpCmpGt | Operator::ScmpCmpLe);
            let last = code.branch(if strict { IF_GREATER } else { IF_AT_LEAST }, low, pass, fail);
            let label = code.load(low_at, last);
            if !test.wide {
                return label;
            }
            let equal = code.branch(IF_EQUAL, high, label, fail);
            let greater = code.branch(IF_GREATER, high, pass, equal);
            code.load(high_at, greater)
        }
    }
}

fn masked(code: &mut Code, at: u32, mask: u32, left: u32, pass: Label, fail: Label) -> Label {
    let equal = code.branch(IF_EQUAL, left, pass, fail);
    let and = code.then(sock_filter { code: AND, jt: 0, jf: 0, k: mask }, equal);
    code.load(at, and)
}

impl Code {
    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) -> Label {
        self.backwards.push(sock_filter { code, jt, jf, k });
        self.backwards.len() - 1
    }

    /// How many instructions the next one would jump over to reach `label`.
    fn distance(&self, label: Label) -> usize {
        self.backwards.len() - 1 - label
    }

    /// A `return action` that the next few instructions can reach.
    fn leave(&mut self, action: u32) -> Label {
        if let Some(label) = self.returns.get(&action)
            && self.distance(*label) < REACH / 2
        {
            return *label;
        }
        let label = self.push(RETURN, action, 0, 0);
        self.returns.insert(action, label);
        label
    }

    /// An instruction that goes on at `next`.
    fn then(&mut self, instruction: sock_filter, next: Label) -> Label {
        let distance = self.distance(next);
        if distance > 0 {
            self.push(JUMP, distance as u32, 0, 0);
        }
        self.backwards.push(instruction);
        self.backwards.len() - 1
    }

    fn load(&mut self, offset: u32, next: Label) -> Label {
        self.then(sock_filter { code: LOAD, jt: 0, jf: 0, k: offset }, next)
    }

    /// A conditional jump; a target that is too far is reached over an unconditional one.
    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        // Two may be put in between, each of which moves the other target away by one.
        let near = |code: &mut Self, label: Label| {
            let distance = code.distance(label);
            if distance + 2 > REACH { code.push(JUMP, distance as u32, 0, 0) } else { label }
        };
        let yes = near(self, yes);
        let no = near(self, no);
        let (jt, jf) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push(code, k, jt, jf)
    }
}
