//! The image store's command line as a program of its own: `cargo run -p gantry-images --example image -- ls`.

#[tokio::main]
async fn main() {
    let args = std::env::args_os().skip(1).collect();
    if let Err(why) = gantry_images::cli::main(args, gantry_images::Config::default()).await {
        eprintln!("image: {why}");
        std::process::exit(1);
    }
}
