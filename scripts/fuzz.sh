#!/bin/sh
# Builds the fuzz targets with the project's own stable compiler and runs each for some seconds from its corpus.
# Usage: scripts/fuzz.sh SECONDS [target...]      (default: 20, all of them)
#
# cargo-fuzz and a nightly compiler are not needed: coverage comes from LLVM's own pass, which a stable compiler has,
# and libFuzzer is compiled by its crate. With the sanitizers of nightly: `cargo +nightly fuzz run TARGET`.
set -eu
cd "$(dirname "$0")/.."

seconds=${1:-20}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- config_json seccomp_compile talk monitor_protocol image_reference image_manifest image_tar
target=${CARGO_TARGET_DIR:-target}/fuzz
flags='-C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=3 -C llvm-args=-sanitizer-coverage-inline-8bit-counters
 -C llvm-args=-sanitizer-coverage-pc-table -C llvm-args=-sanitizer-coverage-trace-compares -C codegen-units=1 --cfg fuzzing'

# A target is named, so that the flags concern what is fuzzed and neither build scripts nor procedural macros.
RUSTFLAGS=$flags "${CARGO:-cargo}" build -q --manifest-path fuzz/Cargo.toml --target-dir "$target" \
  --target x86_64-unknown-linux-gnu --release --locked
for name in "$@"; do
  found=$target/found/$name
  mkdir -p "$found" "$target/corpus/$name"
  # What is new goes to the first corpus, below the target directory; the second is the one in the repository.
  if ! "$target/x86_64-unknown-linux-gnu/release/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=512 \
    -malloc_limit_mb=256 -max_len=16384 -artifact_prefix="$found/" -print_final_stats=1 -verbosity=0 \
    "$target/corpus/$name" "fuzz/corpus/$name" >"$found/log" 2>&1; then
    tail -n 60 "$found/log"
    echo "fuzz: $name failed; the input is in $found, and belongs into fuzz/corpus/$name once it is fixed" >&2
    exit 1
  fi
  awk -v name="$name" '/number_of_executed_units/ { runs = $2 } /peak_rss_mb/ { rss = $2 }
    END { printf "fuzz: %s: %d inputs, no failure, peak %d MB\n", name, runs, rss }' "$found/log"
done
