//! `gantry-runtime`: argv to library to exit code.

fn main() {
    std::process::exit(gantry_runtime::cli::main(std::env::args_os().skip(1)));
}
