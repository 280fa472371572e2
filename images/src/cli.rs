//! `gantry image …`: one table of commands, one function each. Prints to standard output; the exit code is the caller's.

mod build;
mod local;
mod mount;
mod progress;
mod request;
mod screen;
mod show;
mod table;
mod transfer;
mod upkeep;
mod verify;

use std::ffi::OsString;
use std::io::Write as _;

use crate::config::Config;
use crate::error::{Context as _, Result};
use crate::store::Store;
use request::Request;

/// Runs one command of `gantry image` on the store that `config` describes, unless `--root` names another.
///
/// # Errors
/// [`Kind::InvalidArgument`](crate::Kind::InvalidArgument) with a hint for arguments that are none; else what the command's
/// own work gives.
pub async fn main(args: Vec<OsString>, config: Config) -> Result<()> {
    let request = request::parse(args)?;
    let text = match request.command {
        None => table::help(),
        Some(command) if request.is("help")? => table::help_of(command),
        Some(command) => run(command.name, &request, config).await?,
    };
    print(&text)
}

async fn run(command: &str, request: &Request, config: Config) -> Result<String> {
    let mut config = config;
    if let Some(root) = request.one("root")? {
        config.root = root.into();
    }
    if command == "build" {
        return build::build(request);
    }
    if command == "pull" {
        return transfer::pull(request, config).await;
    }
    let store = Store::open(config)?;
    match command {
        "import" => transfer::import(request, &store).await,
        "export" => transfer::export(request, &store).await,
        "ls" => local::list(request, &store),
        "inspect" => local::inspect(request, &store),
        "tag" => local::tag(request, &store).await,
        "rm" => local::remove(request, &store).await,
        "mount" => mount::mount(request, &store).await,
        "unmount" => mount::unmount(request, &store).await,
        "df" => upkeep::usage(request, &store).await,
        "prune" => upkeep::prune(request, &store).await,
        _ => verify::verify(request, &store).await,
    }
}

fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // A reader that has seen enough is no failure.
        Err(why) if why.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context(|| "write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::scratch::Scratch;

    #[tokio::test]
    async fn build_import_tag_remove() {
        let dir = Scratch::new("cli");
        let run = async |line: &str| {
            let line = line.replace("DIR", &dir.path().to_string_lossy());
            let args = line.split_whitespace().map(OsString::from).collect();
            main(args, Config::at(dir.path().join("store"))).await
        };
        std::fs::create_dir(dir.path().join("tree")).unwrap();
        run("build --name web:1 --output DIR/oci DIR/tree").await.unwrap();
        run("import DIR/oci").await.unwrap();
        run("tag web:1 web:2 web:3").await.unwrap();
        run("rm web:1 web:3").await.unwrap();
        run("inspect web:2").await.unwrap();
        assert_eq!(run("inspect web:1").await.unwrap_err().kind(), Kind::NotFound);
        run("verify --json").await.unwrap();
        let blob = std::fs::read_dir(dir.path().join("store/blobs/sha256")).unwrap().next().unwrap().unwrap().path();
        std::fs::write(&blob, "damage").unwrap();
        assert_eq!(run("verify").await.unwrap_err().kind(), Kind::Invalid);
        run("import DIR/oci").await.unwrap();
        run("verify").await.unwrap();
        run("export web:2 --output DIR/out.tar").await.unwrap();
        assert_eq!(run("export web:2 --output DIR/out.tar").await.unwrap_err().kind(), Kind::Conflict, "overwritten");
        run("rm web:2").await.unwrap();
        run("import -q DIR/out.tar").await.unwrap();
        run("prune -n --all").await.unwrap();
        run("prune --all --json").await.unwrap();
        assert_eq!(run("rm web:2").await.unwrap_err().kind(), Kind::NotFound);
        run("rm -f web:2").await.unwrap();
        assert_eq!(run("import DIR/none").await.unwrap_err().kind(), Kind::NotFound);
        for wrong in ["build DIR/tree", "prune --older-than soon", "tag x", "pull", "ls -f what=1", "pull --policy x y"]
        {
            assert_eq!(run(wrong).await.unwrap_err().kind(), Kind::InvalidArgument, "{wrong}");
        }
        assert_eq!(run("pull --policy never y:1").await.unwrap_err().kind(), Kind::NotFound);
        for line in ["ls", "ls -o json", "ls -q x", "df", "df -v --json", "prune", "help", "", "pull --help", "--help"]
        {
            run(line).await.unwrap();
        }
    }
}
