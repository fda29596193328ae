#!/bin/sh
# Boots a guest on vhost-user-fs sockets that listen already, runs a script in it
# or gives a shell on the terminal. "run.sh --help" tells more.
set -eu

# Relative paths in the arguments are of the caller's directory, so the program is
# run from there.
root=$(cd "$(dirname "$0")/../.." && pwd -P)
mkdir -p "$root/.cache/bin"
(cd "$root" && CGO_ENABLED=0 go build -o .cache/bin/guestrun ./internal/guest/cmd/guestrun)
GOVIRTIOFS_ROOT=$root exec "$root/.cache/bin/guestrun" "$@"
