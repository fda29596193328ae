#!/bin/sh
# Prints the version of what is checked out: its tag, or the version that is being worked
# on with the number of commits and the commit, as internal/version has it.
set -eu
cd "$(dirname "$0")/.."
next=$(sed -n 's/^const Next = "\(.*\)"$/\1/p' internal/version/version.go)
if [ "$(git rev-parse --show-toplevel 2>/dev/null)" != "$(pwd -P)" ]; then
	echo "$next" # a tree without its history, perhaps in another one
	exit
fi
commit=$(git rev-parse --short=9 HEAD)
dirty=
[ -z "$(git status --porcelain -uno 2>/dev/null)" ] || dirty=+dirty
if tag=$(git describe --tags --match 'v*' --exact-match 2>/dev/null); then
	echo "${tag#v}$dirty"
else
	echo "$next.$(git rev-list --count HEAD).g$commit$dirty"
fi
