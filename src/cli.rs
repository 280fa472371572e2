//! The command line as one table: it feeds the parser and the help.

use crate::config::Config;
use std::ffi::OsString;
use std::path::PathBuf;

/// A subcommand: its word, its arguments as help shows them, and what it does.
pub(crate) const COMMANDS: [(&str, &str, &str); 10] = [
    ("up", "", "run a whole node: control plane, kubelet and CRI server in one process"),
    ("down", "", "stop the node of `up`, with everything that runs on it"),
    ("server", "", "run the control plane alone"),
    ("kubelet", "--kubeconfig FILE", "run the kubelet alone, against any API server and CRI server"),
    ("cri", "", "run the CRI server alone, for crictl or another kubelet"),
    ("image", "pull|ls|rm|import|export|prune ...", "look after the image store; `gantry image --help`"),
    ("timings", "NAMESPACE/POD", "where the time from the API request to Ready went"),
    ("config", "", "print the effective configuration"),
    ("check", "", "list every kernel feature and tool that a node needs, with yes or no"),
    ("version", "", "print the version"),
];

/// A flag of every subcommand that runs something; each sets the key of the same name in the configuration.
const FLAGS: [(&str, &str, &str); 14] = [
    ("data-dir", "DIR", "state that outlives a reboot"),
    ("run-dir", "DIR", "state of this boot"),
    ("config-dir", "DIR", "where the admin's kubeconfig is written"),
    ("log-dir", "DIR", "where pod logs are written"),
    ("node-name", "NAME", "the node's name in the cluster"),
    ("node-ip", "ADDRESS", "the node's address as others reach it"),
    ("api-address", "ADDRESS:PORT", "where the API server listens"),
    ("kubelet-address", "ADDRESS:PORT", "where the kubelet's HTTPS API listens"),
    ("pod-cidr", "RANGES", "the ranges of the pods' addresses"),
    ("bridge", "NAME", "the bridge that joins the pods"),
    ("cgroup-root", "PATH", "the cgroup in which kubepods is made"),
    ("runtime", "FILE", "the gantry-runtime binary"),
    ("private-network", "true|false", "live in a network namespace of its own"),
    ("log", "FILTER", "what is logged, for example info or gantry_cri=debug"),
];

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Request {
    /// A word of [`COMMANDS`].
    pub command: String,
    /// What is left for the subcommand itself.
    pub rest: Vec<OsString>,
    /// The configuration: file, then flags.
    pub config: Config,
    /// `--kubeconfig`, for `kubelet`.
    pub kubeconfig: Option<PathBuf>,
}

/// What to do with a command line.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// Do it.
    Run(Box<Request>),
    /// Print this and end well.
    Print(String),
}

/// Reads the arguments after the program's name.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, String> {
    let mut args = args.into_iter();
    let Some(command) = args.next() else { return Ok(Parsed::Print(help())) };
    let command = command.to_string_lossy().into_owned();
    match command.as_str() {
        "help" | "--help" | "-h" => return Ok(Parsed::Print(help())),
        "--version" | "-V" => return Ok(Parsed::Print(version())),
        _ => {}
    }
    if !COMMANDS.iter().any(|(word, _, _)| *word == command) {
        return Err(format!("there is no command {command:?}; `gantry help` lists them"));
    }
    let (mut file, mut kubeconfig, mut set, mut rest) = (None, None, Vec::new(), Vec::new());
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        let Some(flag) = text.strip_prefix("--") else {
            rest.push(arg);
            continue;
        };
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(OsString::from(value))),
            None => (flag.to_owned(), None),
        };
        let ours = FLAGS.iter().any(|(known, _, _)| *known == name);
        if name == "help" && command != "image" {
            return Ok(Parsed::Print(help()));
        } else if !ours && name != "config" && name != "kubeconfig" {
            // A subcommand's own flag: passed on, and refused there by name if it is nobody's.
            rest.push(arg);
            continue;
        }
        let value = inline.or_else(|| args.next()).ok_or(format!("--{name} needs a value"))?;
        match name.as_str() {
            "config" => file = Some(PathBuf::from(value)),
            "kubeconfig" => kubeconfig = Some(PathBuf::from(value)),
            _ => set.push((name, value.to_string_lossy().into_owned())),
        }
    }
    let mut config = Config::read(file.as_deref())?;
    for (name, value) in set {
        config.set(&name, &value).map_err(|why| format!("--{name} {value}: {why}"))?;
    }
    config.check()?;
    Ok(Parsed::Run(Box::new(Request { command, rest, config, kubeconfig })))
}

/// The version line.
pub(crate) fn version() -> String {
    format!("gantry {}\n", env!("CARGO_PKG_VERSION"))
}

/// The help, out of the tables.
pub(crate) fn help() -> String {
    let mut text =
        String::from("Gantry: a container node.\n\nUsage: gantry COMMAND [--config FILE] [FLAGS]\n\nCommands:\n");
    for (word, args, what) in COMMANDS {
        text.push_str(&format!("  {:<46} {what}\n", format!("{word} {args}").trim_end()));
    }
    text.push_str("\nFlags (each overrides the key of the same name in /etc/gantry/gantry.toml):\n");
    for (name, value, what) in FLAGS {
        text.push_str(&format!("  {:<46} {what}\n", format!("--{name} {value}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Parsed, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_reach_the_configuration() {
        let Ok(Parsed::Run(request)) = read("up --run-dir /x --max=1 --private-network=true") else { panic!("runs") };
        assert_eq!(request.config.run_dir, PathBuf::from("/x"));
        assert!(request.config.private_network);
        assert_eq!(request.rest, ["--max=1"]);
    }

    #[test]
    fn an_unknown_command_is_named() {
        assert!(read("upp").unwrap_err().contains("upp"));
    }

    #[test]
    fn a_flag_without_its_value_is_an_error() {
        assert_eq!(read("up --run-dir").unwrap_err(), "--run-dir needs a value");
    }

    #[test]
    fn every_command_is_in_the_help() {
        for (word, _, _) in COMMANDS {
            assert!(help().contains(&format!("\n  {word}")), "{word}");
        }
    }
}
