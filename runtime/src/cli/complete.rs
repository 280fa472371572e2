//! Completions for bash, zsh and fish, out of the table.

use std::fmt::Write as _;

use super::flags::{Flag, GLOBAL, PRINT, Takes};
use super::help;
use super::table::{COMMANDS, Command, First, NAME};

fn visible<'a>(flags: impl Iterator<Item = &'a Flag>) -> impl Iterator<Item = &'a Flag> {
    flags.filter(|flag| !flag.hidden)
}

/// `--flag` and `-f`.
fn spellings(flag: &Flag) -> Vec<String> {
    let short = flag.short.map(|short| format!("-{short}"));
    std::iter::once(format!("--{}", flag.long)).chain(short).collect()
}

fn words<'a>(flags: impl Iterator<Item = &'a Flag>) -> String {
    visible(flags).flat_map(spellings).collect::<Vec<_>>().join(" ")
}

/// A pattern of bash for every flag with a value, after the command.
fn with_value<'a>(command: &str, flags: impl Iterator<Item = &'a Flag>) -> String {
    let all = flags.filter(|flag| flag.takes != Takes::Nothing).flat_map(spellings);
    all.map(|name| format!("{command}:{name}")).collect::<Vec<_>>().join("|")
}

/// What bash offers for a value.
fn bash_value(takes: Takes) -> Option<String> {
    match takes {
        Takes::Directory => Some("compgen -d -- \"$cur\"".to_owned()),
        Takes::File => Some("compgen -f -- \"$cur\"".to_owned()),
        Takes::OneOf(words) => Some(format!("compgen -W \"{}\" -- \"$cur\"", words.join(" "))),
        Takes::Nothing => None,
        _ => Some(":".to_owned()),
    }
}

fn bash_values<'a>(text: &mut String, command: &str, flags: impl Iterator<Item = &'a Flag>) {
    for flag in visible(flags) {
        let Some(offer) = bash_value(flag.takes) else { continue };
        let patterns: Vec<String> = spellings(flag).iter().map(|name| format!("{command}:{name}")).collect();
        let _ = writeln!(text, "        {}) COMPREPLY=($({offer})); return ;;", patterns.join("|"));
    }
}

pub(super) fn bash() -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).chain(["help"]).collect();
    let names = names.join(" ");
    let mut text = format!("# Completion of {NAME} for bash.\n_gantry_runtime() {{\n");
    text.push_str(
        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= given=0 i\n    local -a root=()\n    \
         COMPREPLY=()\n    for ((i = 1; i < COMP_CWORD; i++)); do\n        [[ ${COMP_WORDS[i]} == --root ]] && \
         root=(--root \"${COMP_WORDS[i+1]}\")\n        case $command:${COMP_WORDS[i]} in\n",
    );
    let _ = writeln!(text, "            {}) ((i++)) ;;", with_value("*", GLOBAL.iter()));
    for command in COMMANDS {
        let pattern = with_value(command.name, help::own(command));
        if !pattern.is_empty() {
            let _ = writeln!(text, "            {pattern}) ((i++)) ;;");
        }
    }
    text.push_str(
        "            *:-*) ;;\n            :*) command=${COMP_WORDS[i]} ;;\n            *) ((given++)) ;;\n        esac\n    \
         done\n    case $command:$prev in\n",
    );
    for command in COMMANDS {
        bash_values(&mut text, command.name, help::own(command));
    }
    bash_values(&mut text, "*", GLOBAL.iter());
    text.push_str("    esac\n    case $command in\n");
    let global = words(GLOBAL.iter().chain(PRINT));
    let _ = writeln!(text, "        '') COMPREPLY=($(compgen -W \"{global} {names}\" -- \"$cur\")) ;;");
    let _ = writeln!(text, "        help) COMPREPLY=($(compgen -W \"{names}\" -- \"$cur\")) ;;");
    for command in COMMANDS {
        bash_command(&mut text, command);
    }
    let _ = writeln!(text, "    esac\n}}\ncomplete -F _gantry_runtime {NAME}");
    text
}

fn bash_command(text: &mut String, command: &'static Command) {
    let flags = words(help::own(command).chain(&PRINT[..1]));
    let argument = match command.first {
        First::Free => continue_with(":"),
        First::Container => {
            continue_with(&format!("compgen -W \"$({NAME} \"${{root[@]}}\" list -q 2>/dev/null)\" -- \"$cur\""))
        }
        First::OneOf(words) => continue_with(&format!("compgen -W \"{}\" -- \"$cur\"", words.join(" "))),
        First::Directory => continue_with("compgen -d -- \"$cur\""),
    };
    let _ = writeln!(
        text,
        "        {})\n            if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W \"{flags}\" -- \"$cur\"))\n            {argument}\n            fi ;;",
        command.name
    );
}

/// The branch of bash for the first argument.
fn continue_with(offer: &str) -> String {
    format!("elif ((given == 0)); then COMPREPLY=($({offer}))")
}

/// Text between single quotes of zsh's `_arguments`, whose own signs are brackets and colons.
fn zsh_quote(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:");
    text.replace('\'', "'\\''")
}

fn zsh_action(takes: Takes) -> String {
    match takes {
        Takes::Directory => "_files -/".to_owned(),
        Takes::File => "_files".to_owned(),
        Takes::OneOf(words) => format!("({})", words.join(" ")),
        _ => String::new(),
    }
}

fn zsh_flags<'a>(text: &mut String, flags: impl Iterator<Item = &'a Flag>) {
    for flag in visible(flags) {
        for name in spellings(flag) {
            let many = if flag.repeats { "*" } else { "" };
            let _ = write!(text, " \\\n                '{many}{name}[{}]", zsh_quote(flag.about));
            if flag.takes != Takes::Nothing {
                let _ = write!(text, ":{}:{}", zsh_quote(flag.place), zsh_action(flag.takes));
            }
            text.push('\'');
        }
    }
}

pub(super) fn zsh() -> String {
    let mut text = format!("#compdef {NAME}\n# Completion of {NAME} for zsh.\n");
    let _ = writeln!(
        text,
        "_gantry_runtime_containers() {{\n    local -a root ids\n    (( ${{words[(I)--root]}} )) && root=(--root ${{words[${{words[(I)--root]}}+1]}})\n    \
         ids=(${{(f)\"$({NAME} $root list -q 2>/dev/null)\"}})\n    compadd -a ids\n}}"
    );
    text.push_str(
        "_gantry_runtime() {\n    local curcontext=$curcontext state line\n    local -a commands\n    commands=(\n",
    );
    for command in COMMANDS {
        let _ = writeln!(text, "        '{}:{}'", command.name, zsh_quote(command.about));
    }
    text.push_str("        'help:print help on a command'\n    )\n    _arguments -C");
    zsh_flags(&mut text, GLOBAL.iter().chain(PRINT));
    text.push_str(
        " \\\n                '1:command:->command' '*::argument:->argument'\n    case $state in\n        command) _describe \
         command commands ;;\n        argument)\n            case $words[1] in\n",
    );
    for command in COMMANDS {
        let _ = write!(text, "            {}) _arguments", command.name);
        zsh_flags(&mut text, help::own(command).chain(&PRINT[..1]));
        let first = match command.first {
            First::Free if command.arguments.1 == 0 => String::new(),
            First::Free => " '1:id:'".to_owned(),
            First::Container => " '1:container:_gantry_runtime_containers'".to_owned(),
            First::OneOf(words) => format!(" '1:word:({})'", words.join(" ")),
            First::Directory => " '1:directory:_files -/'".to_owned(),
        };
        let rest = if command.ends_with_program { " '*::argument: '" } else { "" };
        let _ = writeln!(text, "{first}{rest} ;;");
    }
    text.push_str(
        "            help) _describe command commands ;;\n            esac ;;\n    esac\n}\n_gantry_runtime \"$@\"\n",
    );
    text
}

fn fish_quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn fish_flags<'a>(text: &mut String, condition: &str, flags: impl Iterator<Item = &'a Flag>) {
    for flag in visible(flags) {
        let _ = write!(text, "complete -c {NAME}{condition} -l {}", flag.long);
        if let Some(short) = flag.short {
            let _ = write!(text, " -s {short}");
        }
        let value = match flag.takes {
            Takes::Nothing => String::new(),
            Takes::Directory => " -x -a '(__fish_complete_directories)'".to_owned(),
            Takes::File => " -r -F".to_owned(),
            Takes::OneOf(words) => format!(" -x -a {}", fish_quote(&words.join(" "))),
            _ => " -x".to_owned(),
        };
        let _ = writeln!(text, "{value} -d {}", fish_quote(flag.about));
    }
}

pub(super) fn fish() -> String {
    let mut text = format!("# Completion of {NAME} for fish.\n");
    let _ = writeln!(
        text,
        "function __gantry_runtime_containers\n    set -l words (commandline -opc)\n    set -l at (contains -i -- --root $words)\n    \
         and set -l root --root $words[(math $at + 1)]\n    {NAME} $root list -q 2>/dev/null\nend\ncomplete -c {NAME} -f"
    );
    fish_flags(&mut text, "", GLOBAL.iter());
    fish_flags(&mut text, "", PRINT[..1].iter());
    fish_flags(&mut text, " -n __fish_use_subcommand", PRINT[1..].iter());
    for command in COMMANDS {
        let about = fish_quote(command.about);
        let _ = writeln!(text, "complete -c {NAME} -n __fish_use_subcommand -a {} -d {about}", command.name);
        let condition = format!(" -n '__fish_seen_subcommand_from {}'", command.name);
        let offer = match command.first {
            First::Free => None,
            First::Container => Some("'(__gantry_runtime_containers)'".to_owned()),
            First::OneOf(words) => Some(fish_quote(&words.join(" "))),
            First::Directory => Some("'(__fish_complete_directories)'".to_owned()),
        };
        if let Some(offer) = offer {
            let _ = writeln!(text, "complete -c {NAME}{condition} -a {offer}");
        }
        fish_flags(&mut text, &condition, help::own(command));
    }
    let _ = writeln!(text, "complete -c {NAME} -n __fish_use_subcommand -a help -d 'print help on a command'");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command as Process, Stdio};

    #[test]
    fn each_shell_is_told_of_every_command_and_flag() {
        let scripts = [("bash", bash(), "--"), ("zsh", zsh(), "--"), ("fish", fish(), "-l ")];
        for (shell, text, dashes) in scripts {
            for command in COMMANDS {
                assert!(text.contains(command.name), "{shell}: {}", command.name);
                for flag in visible(help::own(command).chain(GLOBAL)) {
                    assert!(text.contains(&format!("{dashes}{}", flag.long)), "{shell}: --{}", flag.long);
                }
            }
        }
    }

    #[test]
    fn the_shells_can_read_their_scripts() {
        for (shell, text) in [("bash", bash()), ("zsh", zsh()), ("fish", fish())] {
            let started = Process::new(shell).arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
            let Ok(mut child) = started else {
                eprintln!("SKIPPED: needs {shell} to check its completions");
                continue;
            };
            child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            let ended = child.wait_with_output().unwrap();
            assert!(ended.status.success(), "{shell}: {}", String::from_utf8_lossy(&ended.stderr));
        }
    }

    /// What bash offers after these words; the script finds no containers, because it finds no runtime.
    fn offered(words: &[&str]) -> Option<Vec<String>> {
        let line = words.join(" ");
        let script = format!(
            "{}\nPATH=\nCOMP_WORDS=({line}{})\nCOMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n_gantry_runtime\n\
             for word in \"${{COMPREPLY[@]}}\"; do echo \"$word\"; done\n",
            bash(),
            if words.last() == Some(&"''") { "" } else { " ''" },
        );
        let output = Process::new("bash").args(["-c", &script]).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }

    #[test]
    fn bash_offers_what_fits() {
        let cases: [(&[&str], &str, &str); 6] = [
            (&["gantry-runtime"], "create", "--bundle"),
            (&["gantry-runtime", "--log", "create"], "exec", "--bundle"),
            (&["gantry-runtime", "list", "--format"], "json", "table2"),
            (&["gantry-runtime", "--log-format"], "text", "table"),
            (&["gantry-runtime", "completion"], "fish", "create"),
            (&["gantry-runtime", "help"], "features", "--root"),
        ];
        for (words, there, absent) in cases {
            let Some(offered) = offered(words) else {
                eprintln!("SKIPPED: needs bash to try its completions");
                return;
            };
            assert!(offered.iter().any(|word| word == there), "{words:?}: {offered:?}");
            assert!(!offered.iter().any(|word| word == absent), "{words:?}: {offered:?}");
        }
    }
}
