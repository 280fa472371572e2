#!/bin/sh
# Installs what Gantry needs on Debian 12, by package name, and nothing that is already there.
# Usage: scripts/setup.sh [demo] [test] [bench] [vm]     (default: demo)
set -eu

say() { printf '==> %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

[ $# -gt 0 ] || set -- demo
packages=
want() { have "$1" || packages="$packages $2"; }

for purpose in "$@"; do
  case $purpose in
    demo) want cc gcc; want ld binutils; want busybox busybox-static; want nsenter util-linux; want ip iproute2 ;;
    test)
      want docker-registry docker-registry; want skopeo skopeo; want umoci umoci; want openssl openssl
      want python3 python3-minimal; want htpasswd apache2-utils; want script bsdutils; want strip binutils; want g++ g++
      want podman podman; want containerd containerd; want unshare util-linux; want setfattr attr; want newuidmap uidmap
      want mke2fs e2fsprogs; want mkfs.xfs xfsprogs; want mkfs.btrfs btrfs-progs; want qemu-storage-daemon qemu-system-common
      want runc runc; want crun crun; want groff groff-base; want zsh zsh; want fish fish; want bash bash
      # CNI's plugins are in no PATH.
      [ -e /usr/lib/cni/bridge ] || packages="$packages containernetworking-plugins"; want iptables iptables; want tc iproute2
      # libseccomp's own compiler of filters, which ours is compared with.
      /usr/bin/python3 -c 'import seccomp' 2>/dev/null || packages="$packages python3-seccomp"
      ;;
    bench)
      want runc runc; want crun crun; want strace strace
      want docker-registry docker-registry; want skopeo skopeo; want containerd containerd; want zstd zstd
      want mke2fs e2fsprogs ;;
    vm) want qemu-system-x86_64 qemu-system-x86; want mke2fs e2fsprogs; want depmod kmod; want strip binutils ;;
    *) fail "unknown purpose '$purpose'; the purposes are demo, test, bench and vm" ;;
  esac
done
# cc alone is not enough where only the driver is installed: the TLS library compiles some C.
[ -e /usr/include/stdio.h ] || packages="$packages libc6-dev"

needs_kubectl=no
have kubectl || needs_kubectl=yes

if [ -n "$packages" ] || [ $needs_kubectl = yes ]; then
  [ "$(id -u)" = 0 ] || fail "installing$packages needs root; run this with sudo, or install them by hand"
  have apt-get || fail "this is not Debian: install$packages and kubectl with your own package manager"
  apt-get update -qq
fi
if [ -n "$packages" ]; then
  say "installing$packages"
  # shellcheck disable=SC2086  # a list of names
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi

# Debian 12's own kubernetes-client (1.20) is older than any supported cluster. Debian 13's kubectl is one static
# program that needs only libc 2.34, which Debian 12 has: it is taken, signature-checked by apt, from the mirror that
# this machine already uses.
if [ $needs_kubectl = yes ]; then
  say "installing kubectl from Debian 13"
  site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep '/debian/*$' | head -n 1)
  [ -n "$site" ] || fail "apt names no Debian mirror; install kubectl 1.27 or newer by hand"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  chmod 755 "$work"
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site trixie main" > "$work/sources.list"
  options="-o APT::Sandbox::User=root -o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$work/lists -o Dir::Cache=$work/cache"
  # shellcheck disable=SC2086  # options, each a word
  (cd "$work" && apt-get $options update -qq && apt-get $options download -qq kubectl/trixie) || fail "could not download kubectl from $site"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$work"/kubectl_*.deb >/dev/null
fi

# The test machine's kernel is downloaded by its harness, never installed; that needs apt's package lists.
case " $* " in *" vm "*) apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1 || apt-get update -qq ;; esac

if have rustup; then
  rustup target list --installed | grep -q x86_64-unknown-linux-musl || { say "adding Rust's static target"; rustup target add x86_64-unknown-linux-musl; }
elif ! have cargo; then
  fail "Rust is not installed: install Rust 1.95 with rustup, then run this again"
fi
say "everything that is needed for '$*' is installed"
