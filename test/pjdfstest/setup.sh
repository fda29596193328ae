#!/bin/sh
# Fetches pjdfstest, a test suite of POSIX system calls, at one commit, and builds it in .cache/pjdfstest/. It needs Debian 12,
# and root where packages are missing. It says before what it installs and downloads.
#
# PJDFSTEST_URL can name another clone than GitHub's: what is fetched is checked by its hash.
set -eu

commit=85a8aea9e685999ef0540392fd80535f873d7ff7
url=${PJDFSTEST_URL:-https://github.com/pjd/pjdfstest}

. "$(dirname "$0")/../guest/apt.sh"
cache=$(cd "$(dirname "$0")/../.." && pwd -P)/.cache/pjdfstest
[ ! -x "$cache/$commit/pjdfstest" ] || exit 0

apt_need git git
apt_need autoreconf autoconf
apt_need automake automake
apt_need cc gcc
apt_need /usr/include/stdlib.h libc6-dev
apt_need make make
apt_need prove perl
apt_install

echo "pjdfstest: fetching commit $commit from $url (0.3 MB)" >&2
mkdir -p "$cache"
new=$(mktemp -d "$cache/new.XXXXXX")
trap 'rm -rf "$new"' EXIT
git -c init.defaultBranch=main init -q "$new"
git -C "$new" fetch -q --depth 1 "$url" "$commit"
git -C "$new" checkout -q FETCH_HEAD
[ "$(git -C "$new" rev-parse HEAD)" = $commit ]
if ! out=$(cd "$new" && autoreconf -ifs 2>&1 && ./configure 2>&1 && make pjdfstest 2>&1); then
	printf '%s\n' "$out" >&2
	exit 1
fi
rm -rf "${cache:?}/$commit"
mv "$new" "$cache/$commit"
