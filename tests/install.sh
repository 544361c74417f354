#!/usr/bin/env bash
# Installs what tests use beyond .venv, on Debian and Ubuntu, as root. Tests that miss something skip and say so.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

missing=()
for package in bpftool bpftrace clang cpio gcc gdb iptables libbpf-dev libc6-dev llvm mmdebstrap podman prometheus prometheus-alertmanager python3-bpfcc qemu-system-x86 runc shellcheck strace systemd; do
	status=$(dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null || true)
	[[ $status == *' ok installed' ]] || missing+=("$package")
done
# Others than Debian package Node.js with npm in it, under another name.
command -v npm >/dev/null || missing+=(npm)
[[ ${#missing[@]} -gt 0 ]] || exit 0
if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
	echo "not installed, so that some tests skip: ${missing[*]}" >&2
	exit 0
fi
apt-get update -qq || true
# One by one: a release that lacks one of them still gets the others.
for package in "${missing[@]}"; do
	apt-get install -qq --no-install-recommends "$package" >/dev/null ||
		echo "cannot install $package: the tests that use it skip" >&2
done
