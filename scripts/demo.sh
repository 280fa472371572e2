#!/bin/sh
# One pod, from `kubectl apply` to its end, on a node of its own that leaves nothing behind.
# Usage: scripts/demo.sh GANTRY RUNTIME
set -eu
gantry=$(realpath "$1") runtime=$(realpath "$2")
example=$(dirname "$0")/../examples/web.yaml
here=$(mktemp -d /tmp/gantry-demo.XXXXXX)
chmod 755 "$here"
name=$(basename "$here" | tr '[:upper:].' '[:lower:]-')
pid=

if [ -t 1 ]; then bold=$(printf '\033[1m') dim=$(printf '\033[2m') plain=$(printf '\033[0m'); else bold= dim= plain=; fi
step() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
show() { printf '%s$ %s%s\n' "$dim" "$*" "$plain"; "$@"; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }
now() { date +%s%N; }
# Asks again every 20 ms, for at most 30 s, until a command succeeds.
wait_for() { what=$1; shift; for _ in $(seq 1500); do "$@" >/dev/null 2>&1 && return 0; sleep 0.02; done; fail "waited 30 s for $what; the node's log is $here/log"; }

down() { "$gantry" down --config "$here/gantry.toml" >/dev/null; }
cleanup() {
  status=$?
  trap - EXIT INT TERM
  [ -z "$pid" ] || down || status=1
  if [ $status = 0 ]; then rm -rf "$here"; else echo "demo: the node's log is kept in $here/log" >&2; fi
  exit $status
}

[ "$(id -u)" = 0 ] || fail "a node needs root; run it with sudo"
problem=$("$gantry" check 2>/dev/null) || { printf '%s\n' "$problem" | grep '^NO' >&2; fail "this machine cannot run a node: the lines above say what is missing"; }
for tool in kubectl busybox nsenter; do command -v $tool >/dev/null || fail "$tool is not installed; 'make setup' installs it"; done
trap cleanup EXIT
trap 'exit 130' INT TERM

cat > "$here/gantry.toml" <<EOF
data_dir = "$here/data"
run_dir = "$here/run"
config_dir = "$here/etc"
log_dir = "$here/pods"
node_name = "demo"
api_address = "127.0.0.1:$(( 20000 + $$ % 20000 ))"
private_network = true
cgroup_root = "/$name"
pod_pids_limit = 128
runtime = "$runtime"
EOF
export KUBECONFIG="$here/etc/admin.kubeconfig" HOME="$here/home"
mkdir -p "$HOME"

step "1. An OCI image, made of Debian's busybox-static"
tree=$here/tree
mkdir -p "$tree/bin" "$tree/etc" "$tree/tmp" "$tree/proc" "$tree/sys" "$tree/dev"
cp "$(command -v busybox)" "$tree/bin/busybox"
for applet in sh httpd cat date echo mv sleep ls ps id hostname wget; do ln -s busybox "$tree/bin/$applet"; done
echo 'root:x:0:0:root:/:/bin/sh' > "$tree/etc/passwd"
show "$gantry" image build --name registry.local/busybox:1 --output "$here/image" "$tree"

step "2. A node: control plane, kubelet and CRI server in one process, in a network namespace of its own"
printf '%s$ gantry up --config gantry.toml%s\n' "$dim" "$plain"
started=$(now)
"$gantry" up --config "$here/gantry.toml" >"$here/log" 2>&1 </dev/null &
pid=$!
node_ready() { kill -0 $pid && kubectl get nodes --no-headers | grep -qw Ready; }
wait_for "the node" node_ready
echo "Ready $(( ($(now) - started) / 1000000 )) ms after its start."
show "$gantry" image import --config "$here/gantry.toml" "$here/image"
show kubectl get nodes -o wide

step "3. kubectl apply"
show kubectl apply -f "$example"
show kubectl wait --for=condition=Ready pod/web --timeout=30s
show kubectl get pods -o wide

step "4. The page, from the pod's own address"
address=$(kubectl get pod web -o 'jsonpath={.status.podIP}')
netns=$here/run/node/netns/net
show nsenter "--net=$netns" busybox wget -q -O - "http://$address:8080/"

step "5. Its limits, as the kernel has them"
uid=$(kubectl get pod web -o 'jsonpath={.metadata.uid}')
limit() { for file in $(find /sys/fs/cgroup -path "*/$name/*pod$uid/$1" 2>/dev/null); do printf '%-28s %s\n' "$1" "$(cat "$file")"; done; }
for file in memory.limit_in_bytes memory.max cpu.cfs_quota_us cpu.max pids.max; do limit $file; done

step "6. kubectl logs and kubectl exec"
show kubectl logs web -c writer --tail=2
show kubectl exec web -c web -- ps -o pid,args

step "7. Killing the main process of a container: it is started again"
id=$(kubectl get pod web -o 'jsonpath={.status.containerStatuses[?(@.name=="writer")].containerID}')
main=$(find /sys/fs/cgroup -path "*/$name/*${id##*/}/cgroup.procs" -exec cat {} + 2>/dev/null | sort -n | head -n 1)
[ -z "$main" ] || show kill -9 "$main"
restarted() { [ "$(kubectl get pod web -o 'jsonpath={.status.containerStatuses[?(@.name=="writer")].restartCount}')" -ge 1 ]; }
wait_for "the restart" restarted
show kubectl wait --for=condition=Ready pod/web --timeout=30s
show kubectl get pods

step "8. Where the time from apply to Ready went"
show "$gantry" timings --config "$here/gantry.toml" default/web

step "9. kubectl delete, and the node goes"
show kubectl delete -f "$example"
down
pid=
left=$( { find /sys/fs/cgroup -name "*$name*"; grep "$here" /proc/self/mountinfo; } 2>/dev/null || true)
[ -z "$left" ] || fail "left behind: $left"
echo "Nothing is left: no process, mount, cgroup or network namespace."
