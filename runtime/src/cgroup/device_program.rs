//! DECIDE: device rules as the eBPF program that cgroup v2 runs on every use of a device node.
//!
//! ```text
//! r2 = type (block 1, char 2)   r3 = accesses not yet decided   r4 = major   r5 = minor
//! for each rule, the last first:
//!     not this device?           -> next rule
//!     allow:  r3 &= !access;      nothing left -> return 1
//!     deny:   r3 & access != 0 -> return 0
//! return 0
//! ```
//!
//! Every access bit is thus decided by the last rule that names it, as the OCI spec orders them. Kernel: `struct
//! bpf_cgroup_dev_ctx` in linux/bpf.h; assembled by hand because some dozens of instructions need no loader.

use super::devices::{ALL, Rule, Type};

/// One eBPF instruction: `struct bpf_insn` as the number that it is in memory (little endian: code, registers, offset,
/// immediate).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register.
    pub to: u8,
    /// Source register.
    pub from: u8,
    /// Jump distance or memory offset.
    pub offset: i16,
    /// Constant.
    pub value: i32,
}

const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_EQUAL: u8 = 0x15;
const EXIT: u8 = 0x95;

const BLOCK: i32 = 1;
const CHAR: i32 = 2;

impl Instruction {
    /// As the kernel reads it from memory.
    pub fn encode(self) -> u64 {
        let value = self.value.to_le_bytes();
        let [low, high] = self.offset.to_le_bytes();
        u64::from_le_bytes([self.code, self.to | self.from << 4, low, high, value[0], value[1], value[2], value[3]])
    }
}

fn op(code: u8, to: u8, value: i32) -> Instruction {
    Instruction { code, to, from: 0, offset: 0, value }
}

fn load(to: u8, offset: i16) -> Instruction {
    Instruction { code: LOAD_WORD, to, from: 1, offset, value: 0 }
}

/// The program for `rules`; what no rule names is denied.
///
/// Numbers are compared as 32-bit constants, sign-extended by the kernel: devices have 12 bits of major and 20 of minor.
pub fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![load(2, 0), op(AND, 2, 0xffff), load(3, 0), op(SHIFT_RIGHT, 3, 16), load(4, 4), load(5, 8)];
    for rule in rules.iter().rev() {
        block(rule, &mut program);
        let numbers = (rule.major, rule.minor);
        if rule.kind == Type::Any && numbers == (None, None) && rule.access == ALL {
            // Nothing before it can matter.
            break;
        }
    }
    program.extend([op(MOVE, 0, 0), op(EXIT, 0, 0)]);
    program
}

fn block(rule: &Rule, program: &mut Vec<Instruction>) {
    let mut tests = Vec::with_capacity(3);
    match rule.kind {
        Type::Any => {}
        Type::Block => tests.push((2, BLOCK)),
        Type::Char => tests.push((2, CHAR)),
    }
    tests.extend(rule.major.map(|major| (4, major as i32)));
    tests.extend(rule.minor.map(|minor| (5, minor as i32)));
    let body = if rule.allow { allow(rule.access) } else { deny(rule.access) };
    for (at, (register, value)) in tests.iter().enumerate() {
        let offset = (tests.len() - at - 1 + body.len()) as i16;
        program.push(Instruction { offset, ..op(JUMP_NOT_EQUAL, *register, *value) });
    }
    program.extend(body);
}

fn allow(access: u32) -> Vec<Instruction> {
    vec![
        op(AND, 3, !(access as i32)),
        Instruction { offset: 2, ..op(JUMP_NOT_EQUAL, 3, 0) },
        op(MOVE, 0, 1),
        op(EXIT, 0, 0),
    ]
}

fn deny(access: u32) -> Vec<Instruction> {
    vec![
        Instruction { from: 3, ..op(MOVE_REGISTER, 6, 0) },
        op(AND, 6, access as i32),
        Instruction { offset: 2, ..op(JUMP_EQUAL, 6, 0) },
        op(MOVE, 0, 0),
        op(EXIT, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::devices::{MKNOD, READ, WRITE};
    use super::*;

    /// Runs a program as the kernel would; panics on anything that its verifier would refuse.
    fn run(program: &[Instruction], kind: i32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind as u32, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let step = program[at];
            let (to, value) = (usize::from(step.to), i64::from(step.value) as u64);
            at += 1;
            match step.code {
                LOAD_WORD => registers[to] = u64::from(context[step.offset as usize / 4]),
                AND => registers[to] &= value,
                SHIFT_RIGHT => registers[to] >>= value,
                MOVE => registers[to] = value,
                MOVE_REGISTER => registers[to] = registers[usize::from(step.from)],
                JUMP_NOT_EQUAL if registers[to] != value => at += step.offset as usize,
                JUMP_EQUAL if registers[to] == value => at += step.offset as usize,
                JUMP_NOT_EQUAL | JUMP_EQUAL => {}
                EXIT => return registers[0] == 1,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    /// What the rules mean: each access bit is decided by the last rule that names it.
    fn model(rules: &[Rule], kind: i32, access: u32, major: u32, minor: u32) -> bool {
        [MKNOD, READ, WRITE].into_iter().filter(|bit| access & bit != 0).all(|bit| {
            let last = rules.iter().rev().find(|rule| {
                rule.access & bit != 0
                    && (rule.kind == Type::Any || (rule.kind == Type::Block) == (kind == BLOCK))
                    && rule.major.is_none_or(|wanted| wanted == major)
                    && rule.minor.is_none_or(|wanted| wanted == minor)
            });
            last.is_some_and(|rule| rule.allow)
        })
    }

    fn random(state: &mut u64, below: u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % below
    }

    #[test]
    fn programs_agree_with_the_meaning_of_random_rules() {
        let mut state = 7;
        for _ in 0..400 {
            let count = random(&mut state, 8);
            let rules: Vec<Rule> = (0..count)
                .map(|_| Rule {
                    allow: random(&mut state, 2) == 0,
                    kind: [Type::Any, Type::Block, Type::Char][random(&mut state, 3) as usize],
                    major: [None, Some(1), Some(2)][random(&mut state, 3) as usize],
                    minor: [None, Some(3), Some(5)][random(&mut state, 3) as usize],
                    access: 1 + random(&mut state, 7) as u32,
                })
                .collect();
            let program = assemble(&rules);
            for kind in [BLOCK, CHAR] {
                for access in 1..=ALL {
                    for (major, minor) in [(1, 3), (1, 5), (2, 3), (9, 9)] {
                        let (ran, meant) =
                            (run(&program, kind, access, major, minor), model(&rules, kind, access, major, minor));
                        assert_eq!(ran, meant, "{rules:?} {kind} {access} {major}:{minor}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_defaults_open_null_and_nothing_else() {
        let program = assemble(&super::super::devices::rules(None).unwrap());
        assert!(run(&program, CHAR, READ | WRITE, 1, 3));
        assert!(run(&program, BLOCK, MKNOD, 8, 0));
        assert!(!run(&program, BLOCK, READ, 8, 0));
        assert!(!run(&program, CHAR, READ, 1, 1), "/dev/mem");
        assert!(run(&program, CHAR, READ | WRITE, 136, 77));
    }

    #[test]
    fn instructions_are_encoded_as_the_kernel_reads_them() {
        let step = Instruction { code: 0x55, to: 2, from: 3, offset: 5, value: -2 };
        assert_eq!(step.encode().to_le_bytes(), [0x55, 0x32, 5, 0, 0xfe, 0xff, 0xff, 0xff]);
    }
}
