//! `gantry image …`: one table of commands, one function each. Prints to standard output; the exit code is the caller's.

mod progress;
mod show;

use std::ffi::OsString;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use lexopt::prelude::*;

use crate::config::Config;
use crate::error::{Context as _, Error, Kind, Result};
use crate::layout::{self, Settings};
use crate::options::{Auth, PullOptions, Secret};
use crate::reference::Reference;
use crate::store::Store;

/// Command, arguments, what it does.
const COMMANDS: [(&str, &str, &str); 11] = [
    ("pull", "[--platform OS/ARCH] [--user NAME] REFERENCE", "fetch an image; --user reads the password from stdin"),
    ("import", "[--name REFERENCE] PATH", "read an OCI layout, a directory or a tar archive, or a docker save archive"),
    ("export", "--output FILE NAME", "write an image as an OCI archive"),
    ("ls", "[-q] [-o json]", "list images"),
    ("inspect", "NAME", "print everything known about an image as JSON"),
    ("tag", "NAME REFERENCE", "give an image one more name"),
    ("rm", "NAME...", "remove a name, and with its last name the image"),
    ("df", "[-o json]", "the space that the store takes"),
    ("prune", "[-o json]", "delete content that nothing needs"),
    ("verify", "", "read all blobs; damaged ones are removed and listed"),
    ("build", "--name REFERENCE --output DIR [settings] TREE", "make an OCI layout from a directory tree"),
];
const SETTINGS: &str = "  settings: --env NAME=VALUE  --entrypoint WORD  --cmd WORD  --label NAME=VALUE  --port N/tcp (each may be repeated)\n            --workdir DIR  --user USER  --stop-signal SIGNAL\n";

/// Runs one command of `gantry image`. `store_root` is where the images are, unless `--root` says otherwise.
///
/// # Errors
/// [`Kind::InvalidArgument`] with a hint for arguments that are none; else what the command's own work gives.
pub async fn main(args: Vec<OsString>, store_root: &Path) -> Result<()> {
    let request = parse(args, store_root)?;
    let text = match request.command.as_str() {
        "" | "help" => help(),
        "pull" => pull(&request).await?,
        "import" => import(&request).await?,
        "ls" => show::list(&store(&request)?.images(), request.json, request.quiet),
        "inspect" => inspect(&request)?,
        "tag" => tag(&request).await?,
        "rm" => remove(&request).await?,
        "df" => show::usage(store(&request)?.usage().await?, request.json),
        "prune" => prune(&request).await?,
        "export" => export(&request).await?,
        "verify" => verify(&request).await?,
        _ => build(&request)?,
    };
    print(&text)
}

/// Arguments as given; which ones a command needs is its own matter.
#[derive(Debug, Default)]
struct Request {
    command: String,
    root: PathBuf,
    hosts_dir: Option<PathBuf>,
    names: Vec<OsString>,
    name: Option<String>,
    platform: Option<String>,
    output: Option<PathBuf>,
    settings: Settings,
    json: bool,
    quiet: bool,
}

fn parse(args: Vec<OsString>, store_root: &Path) -> Result<Request> {
    let mut request = Request { root: store_root.to_owned(), ..Request::default() };
    let mut parser = lexopt::Parser::from_args(args);
    fill(&mut request, &mut parser)
        .map_err(|why| Error::new(Kind::InvalidArgument, format!("{why}; see gantry image help")))?;
    let known = request.command.is_empty() || request.command == "help";
    match known || COMMANDS.iter().any(|(name, ..)| *name == request.command) {
        true => Ok(request),
        false => {
            let why = format!("there is no command {:?}; see gantry image help", request.command);
            Err(Error::new(Kind::InvalidArgument, why))
        }
    }
}

fn fill(request: &mut Request, parser: &mut lexopt::Parser) -> Result<(), lexopt::Error> {
    while let Some(arg) = parser.next()? {
        match arg {
            Value(word) if request.command.is_empty() => request.command = word.string()?,
            Value(word) => request.names.push(word),
            Short('h') | Long("help") => request.command = "help".into(),
            Short('q') | Long("quiet") => request.quiet = true,
            Long("root") => request.root = parser.value()?.into(),
            Long("hosts-dir") => request.hosts_dir = Some(parser.value()?.into()),
            Long("name") => request.name = Some(parser.value()?.string()?),
            Long("platform") => request.platform = Some(parser.value()?.string()?),
            Short('o') | Long("output") if matches!(request.command.as_str(), "build" | "export") => {
                request.output = Some(parser.value()?.into())
            }
            Short('o') | Long("output") => match parser.value()?.string()?.as_str() {
                "json" => request.json = true,
                other => return Err(format!("output {other:?} is not json").into()),
            },
            Long("env") => request.settings.env.push(parser.value()?.string()?),
            Long("entrypoint") => request.settings.entrypoint.push(parser.value()?.string()?),
            Long("cmd") => request.settings.cmd.push(parser.value()?.string()?),
            Long("port") => request.settings.ports.push(parser.value()?.string()?),
            Long("workdir") => request.settings.workdir = Some(parser.value()?.string()?),
            Long("user") => request.settings.user = Some(parser.value()?.string()?),
            Long("stop-signal") => request.settings.stop_signal = Some(parser.value()?.string()?),
            Long("label") => {
                let label = parser.value()?.string()?;
                let (name, value) = label.split_once('=').ok_or(format!("label {label:?} is not NAME=VALUE"))?;
                request.settings.labels.insert(name.into(), value.into());
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(())
}

fn help() -> String {
    let mut text = "gantry image COMMAND [--root DIR] [--hosts-dir DIR]\n\n".to_owned();
    for (name, arguments, what) in COMMANDS {
        text += &format!("  {name:8}{arguments}\n          {what}\n");
    }
    text + SETTINGS
}

fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // A reader that has seen enough is no failure.
        Err(why) if why.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context(|| "write to standard output"),
    }
}

fn store(request: &Request) -> Result<Store> {
    Store::open(Config { hosts_dir: request.hosts_dir.clone(), ..Config::at(&request.root) })
}

impl Request {
    /// The one name that the command takes.
    fn one(&self) -> Result<&str> {
        let wrong = |why: &str| Error::new(Kind::InvalidArgument, format!("{}: {why}", self.command));
        match &self.names[..] {
            [one] => one.to_str().ok_or_else(|| wrong("the name is not UTF-8")),
            _ => Err(wrong("expected exactly one name; see gantry image help")),
        }
    }

    fn path(&self) -> Result<&Path> {
        match &self.names[..] {
            [one] => Ok(Path::new(one)),
            _ => Err(Error::new(Kind::InvalidArgument, format!("{}: expected exactly one path", self.command))),
        }
    }

    fn reference(&self) -> Result<Option<Reference>> {
        self.name.as_deref().map(str::parse).transpose()
    }
}

async fn pull(request: &Request) -> Result<String> {
    let reference: Reference = request.one()?.parse()?;
    let auth = match &request.settings.user {
        None => None,
        Some(user) => Some(Auth::Basic { user: user.clone(), password: password()? }),
    };
    let platform = request.platform.as_deref().map(str::parse).transpose()?;
    let options = PullOptions { auth, platform, pinned: false };
    let image = store(request)?.pull(&reference, &options, progress::sink(std::io::stdout().is_terminal())).await?;
    Ok(format!("{} {}\n", image.id, reference))
}

/// One line of standard input; an argument would be seen by everyone on this machine.
fn password() -> Result<Secret> {
    let mut text = String::new();
    std::io::stdin().lock().take(64 << 10).read_to_string(&mut text).context(|| "read the password")?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

async fn import(request: &Request) -> Result<String> {
    let images = store(request)?.import(request.path()?, request.reference()?).await?;
    let line = |image: &std::sync::Arc<crate::Image>| format!("{} {}\n", image.id, image.repo_tags.join(" "));
    Ok(images.iter().map(line).collect())
}

fn inspect(request: &Request) -> Result<String> {
    let name = request.one()?;
    let image = store(request)?.image(name).ok_or_else(|| missing(name))?;
    Ok(show::inspect(&image))
}

fn missing(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("image {name:?} is not here; gantry image ls lists what is"))
}

async fn tag(request: &Request) -> Result<String> {
    let [name, reference] = &request.names[..] else {
        return Err(Error::new(Kind::InvalidArgument, "tag: expected a name and a new reference"));
    };
    let reference: Reference = reference.to_string_lossy().parse()?;
    let image = store(request)?.tag(&name.to_string_lossy(), &reference).await?;
    Ok(format!("{} {reference}\n", image.id))
}

async fn remove(request: &Request) -> Result<String> {
    let store = store(request)?;
    let mut text = String::new();
    for name in &request.names {
        let name = name.to_string_lossy();
        let image = store.image(&name).ok_or_else(|| missing(&name))?;
        let reference = name.parse::<Reference>().ok().filter(|r| image.repo_tags.contains(&r.to_string()));
        match reference {
            Some(reference) => store.untag(&reference).await?,
            None => store.remove(&image.id).await?,
        };
        text += &format!("{name}\n");
    }
    Ok(text)
}

async fn prune(request: &Request) -> Result<String> {
    match store(request)?.collect().await? {
        Some(bytes) => Ok(show::freed(bytes, request.json)),
        None => Err(Error::new(Kind::Conflict, "another process is pulling images; try again later")),
    }
}

async fn export(request: &Request) -> Result<String> {
    let missing = || Error::new(Kind::InvalidArgument, "export: --output is missing");
    let out = request.output.as_ref().ok_or_else(missing)?;
    store(request)?.export(request.one()?, out).await?;
    Ok(format!("{}\n", out.display()))
}

async fn verify(request: &Request) -> Result<String> {
    let damaged = store(request)?.verify().await?;
    match damaged.is_empty() {
        true => Ok("all blobs are what their digests say\n".into()),
        false => {
            let list: Vec<String> = damaged.iter().map(ToString::to_string).collect();
            let why = format!("damaged and removed, pull their images again: {}", list.join(", "));
            Err(Error::new(Kind::Invalid, why))
        }
    }
}

fn build(request: &Request) -> Result<String> {
    let missing = |what| Error::new(Kind::InvalidArgument, format!("build: --{what} is missing"));
    let name = request.reference()?.ok_or_else(|| missing("name"))?;
    let out = request.output.as_ref().ok_or_else(|| missing("output"))?;
    let mut settings = request.settings.clone();
    settings.platform = request.platform.as_deref().map(str::parse).transpose()?;
    let digest = layout::write(request.path()?, &settings, out, &name)?;
    Ok(format!("{name}@{digest} in {}\n", out.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn parsed(line: &str) -> Result<Request> {
        parse(line.split_whitespace().map(OsString::from).collect(), Path::new("/default"))
    }

    #[test]
    fn arguments() {
        let request = parsed("build --name a:1 --output /o --env A=b --cmd x --cmd y --label k=v /tree").unwrap();
        assert_eq!(request.output.as_deref(), Some(Path::new("/o")));
        assert_eq!(request.settings.cmd, ["x", "y"]);
        assert_eq!(request.settings.labels["k"], "v");
        assert_eq!(request.path().unwrap(), Path::new("/tree"));
        assert_eq!(parsed("ls").unwrap().root, Path::new("/default"));
        let request = parsed("ls -o json --root /r -q").unwrap();
        assert!(request.json && request.quiet && request.root == Path::new("/r"));
        for bad in ["nonsense", "ls --what", "ls -o xml", "build --label x", "pull --platform"] {
            let why = parsed(bad).unwrap_err();
            assert!(why.to_string().contains("see gantry image help"), "{bad}: {why}");
        }
    }

    #[test]
    fn help_names_every_command() {
        let text = help();
        assert!(COMMANDS.iter().all(|(name, _, what)| text.contains(name) && text.contains(what)));
    }

    #[tokio::test]
    async fn build_import_tag_remove() {
        let dir = Scratch::new("cli");
        let run = async |line: &str| {
            let line = line.replace("DIR", &dir.path().to_string_lossy());
            main(line.split_whitespace().map(OsString::from).collect(), &dir.path().join("store")).await
        };
        std::fs::create_dir(dir.path().join("tree")).unwrap();
        run("build --name web:1 --output DIR/oci DIR/tree").await.unwrap();
        run("import DIR/oci").await.unwrap();
        run("tag web:1 web:2").await.unwrap();
        run("rm web:1").await.unwrap();
        run("inspect web:2").await.unwrap();
        assert_eq!(run("inspect web:1").await.unwrap_err().kind(), Kind::NotFound);
        run("verify").await.unwrap();
        run("export web:2 --output DIR/out.tar").await.unwrap();
        assert_eq!(run("export web:2 --output DIR/out.tar").await.unwrap_err().kind(), Kind::System, "overwritten");
        run("rm web:2").await.unwrap();
        run("import DIR/out.tar").await.unwrap();
        let blob = std::fs::read_dir(dir.path().join("store/blobs/sha256")).unwrap().next().unwrap().unwrap().path();
        std::fs::write(blob, "damage").unwrap();
        assert_eq!(run("verify").await.unwrap_err().kind(), Kind::Invalid);
        run("verify").await.unwrap();
        run("import DIR/out.tar").await.unwrap();
        run("rm web:2").await.unwrap();
        assert_eq!(run("rm web:2").await.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(run("import DIR/none").await.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(run("build DIR/tree").await.unwrap_err().kind(), Kind::InvalidArgument);
        for line in ["ls", "ls -o json", "df", "prune", "help"] {
            run(line).await.unwrap();
        }
    }
}
