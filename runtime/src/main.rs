//! `gantry-runtime`: argv to library to exit code.

use gantry_runtime::sys::heap::Heap;

#[global_allocator]
static HEAP: Heap = Heap::new();

fn main() {
    std::process::exit(gantry_runtime::cli::main(std::env::args_os().skip(1)));
}
