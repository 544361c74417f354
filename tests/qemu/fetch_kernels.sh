#!/bin/bash
# Downloads kernels of distributions, to boot under qemu: `tests/qemu/fetch_kernels.sh [FOLDER]`.
#
# As packages, through apt with lists and keys of its own: nothing of this machine's package management is
# changed and nothing is installed. Each kernel that cannot be had is named; the others are there.
# Kernels that are there already stay.
set -euo pipefail
TO=${1:-$(cd "$(dirname "$0")/../.." && pwd)/.cache/kernels}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
mkdir -p "$TO" "$WORK"/{lists/partial,archives/partial}
: > "$WORK/status"

KEYS=/usr/share/keyrings/debian-archive-keyring.gpg

own_apt() {
	apt-get -o Dir::State="$WORK" -o Dir::State::lists="$WORK/lists" -o Dir::State::status="$WORK/status" \
		-o Dir::Cache="$WORK" -o Dir::Etc::sourcelist="$WORK/sources.list" -o Dir::Etc::sourceparts=- \
		-o APT::Sandbox::User=root -o APT::Architecture=amd64 -o Acquire::Retries=1 -o Acquire::http::Timeout=10 -qq "$@"
}

have() {
	compgen -G "$TO/vmlinuz-$1.*" >/dev/null
}

# take PACKAGE SHA256: its kernel; "" where apt checks the package by itself
take() {
	(
		cd "$WORK" &&
			own_apt download "$1" 2>/dev/null &&
			{ [[ -z $2 ]] || echo "$2 $(ls "$1"_*.deb)" | sha256sum --quiet --check; } &&
			dpkg-deb --fsys-tarfile "$1"_*.deb | tar -x --wildcards './boot/vmlinuz-*' &&
			chmod 644 boot/vmlinuz-* &&
			mv boot/vmlinuz-* "$TO"
	)
}

debian() {
	have "$1" && return
	[[ -f $KEYS ]] || { echo "$1: $KEYS is missing: install debian-archive-keyring" >&2; return; }
	echo "deb [signed-by=$KEYS] http://deb.debian.org/debian $2 main" >"$WORK/sources.list"
	own_apt update || { echo "$1: the package lists of Debian $2 cannot be had" >&2; return; }
	local package
	package=$(own_apt -s install linux-image-cloud-amd64 | sed -n 's/^Inst \(linux-image-[0-9][^ ]*\) .*/\1/p')
	take "$package" "" || echo "$1: $package cannot be had" >&2
}

# Debian has no keys of Ubuntu's; this package never changes.
ubuntu() {
	have "$1" && return
	echo "deb [trusted=yes] http://archive.ubuntu.com/ubuntu $2 main" >"$WORK/sources.list"
	own_apt update || { echo "$1: the package lists of Ubuntu $2 cannot be had" >&2; return; }
	take "$3" "$4" || echo "$1: $3 cannot be had" >&2
}

debian 5.10 bullseye
ubuntu 5.15 jammy linux-image-5.15.0-25-generic ad56f8c442a54d4f5ff2dff010d00321d53e32b543f3a92f3ba4e042d20a71da
debian 6.1 bookworm
ls "$TO"
