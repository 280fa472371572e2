//! Every row of the security table against ours, a test each: `case_NN_...` fails when the attack works.
//!
//! The rows themselves, and how each test was seen to fail, are described in `README.md` beside this file.

use gantry_tests::tools;
use std::process::Command;

/// Runs one row in a process of its own.
fn defended(row: &str) {
    let Some(ours) = tools::ours("gantry-runtime").filter(|_| tools::is_root()) else {
        eprintln!("SKIPPED {row}: needs root and a built gantry-runtime (`make build`)");
        return;
    };
    let said =
        Command::new(env!("CARGO_BIN_EXE_security")).arg(row).arg(ours).arg("ours").output().expect("the rows run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(said.status.success(), "{}{}", text(&said.stdout), text(&said.stderr));
}

/// One test a row.
macro_rules! cases {
    ($($test:ident: $row:literal,)*) => {
        $(#[test]
        fn $test() {
            defended($row);
        })*

        const ROWS: &[&str] = &[$($row),*];
    };
}

cases! {
    case_01_exec: "01-exec",
    case_01_run: "01-run",
    case_02_cwd_run: "02-cwd-run",
    case_02_cwd_exec: "02-cwd-exec",
    case_02_program: "02-program",
    case_02_inherited: "02-inherited",
    case_02_waiting: "02-waiting",
    case_02_early: "02-early",
    case_03_fake_dir: "03-fake-dir",
    case_03_link: "03-link",
    case_03_cover: "03-cover",
    case_03_race: "03-race",
    case_03_label: "03-label",
    case_04_race: "04-race",
    case_04_dev: "04-dev",
    case_04_mkdir: "04-mkdir",
    case_05_null: "05-null",
    case_05_pts: "05-pts",
    case_05_console: "05-console",
    case_06_run: "06-run",
    case_06_exec: "06-exec",
    case_07_cgroup: "07-cgroup",
    case_07_outside: "07-outside",
    case_08_user: "08-user",
    case_09_groups: "09-groups",
    case_11_socket: "11-socket",
    case_12_state: "12-state",
    case_19_sysctl: "19-sysctl",
    case_20_home: "20-home",
    case_26_seccomp: "26-seccomp",
    case_26_exec: "26-exec",
    case_30_profile: "30-profile",
    case_30_masked: "30-masked",
}

/// The table and this list name the same rows.
#[test]
fn every_row_is_a_test() {
    let file = tools::repository().join("tests/security/case/mod.rs");
    let text = std::fs::read_to_string(file).expect("the rows are there");
    let listed: Vec<&str> =
        text.split("row(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next()).collect();
    assert_eq!(listed, ROWS);
}
