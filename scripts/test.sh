#!/bin/bash
# Runs cargo's tests with the given arguments and shows what they print, but of the tests that passed only the skips:
# cargo hides those by default, and a run that skipped everything would look green and quiet.
set -o pipefail
"${CARGO:-cargo}" test "$@" -- --show-output 2>&1 | awk '
  /^successes:$/ { quiet = 1 }
  /^failures:$/ || /^test result:/ { quiet = 0 }
  !quiet || /SKIPPED/ { print; fflush() }'
