//! `gantry-runtime`: argv to library to exit code.

fn main() {
    std::process::exit(2);
}
