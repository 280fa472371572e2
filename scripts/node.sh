#!/bin/sh
# Starts or stops the node of `make up`: scripts/node.sh up|down GANTRY RUNTIME
# Settings by environment: GANTRY_FLAGS (default: --private-network true).
set -eu
verb=$1 gantry=$2 runtime=$3
flags=${GANTRY_FLAGS---private-network true}
log=/var/log/gantry.log

[ "$(id -u)" = 0 ] || { echo "make $verb: a node needs root; run this with sudo" >&2; exit 1; }
# shellcheck disable=SC2086  # flags, each a word
case $verb in
  up)
    setsid "$gantry" up --runtime "$runtime" $flags >>"$log" 2>&1 </dev/null &
    pid=$!
    kubectl="kubectl --kubeconfig /etc/gantry/admin.kubeconfig"
    for _ in $(seq 300); do
      if $kubectl get nodes --no-headers 2>/dev/null | grep -qw Ready; then
        $kubectl get nodes
        echo "The node is up. Use it with:  export KUBECONFIG=/etc/gantry/admin.kubeconfig"
        exit 0
      fi
      kill -0 $pid 2>/dev/null || { echo "make up: the node did not start; the end of $log:" >&2; tail -n 5 "$log" >&2; exit 1; }
      sleep 0.1
    done
    echo "make up: the node is not Ready after 30 s; see $log" >&2
    exit 1
    ;;
  down) exec "$gantry" down --runtime "$runtime" $flags ;;
  *) echo "usage: scripts/node.sh up|down GANTRY RUNTIME" >&2; exit 2 ;;
esac
