#!/bin/sh
# Measures how the cost of govirtiofsd and of other virtio-fs daemons grows: with request
# queues, guests, files in a directory and known nodes, as doc/performance.md shows it.
#
# Usage: test/bench/scale.sh [DIR]
#
# Writes tables to DIR (default bin/bench). Needs Debian 12, root and Go; the peers are set
# up by test/guest/setup.sh. Takes about 4 minutes, during which nothing else should run.
#
# Environment: ROUNDS (3), SIZES (10 10000 1000000), GUESTS (1 2 4 16 64), QUEUES
# (1 2 4 8), SHARE (where the shared directory is made: /dev/shm, because a disk's file
# system takes a minute to make a million files and another to remove them).
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd -P)
out=$(mkdir -p "${1:-$root/bin/bench}" && cd "${1:-$root/bin/bench}" && pwd -P)

die() { printf 'bench scale: error: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "the peers need root"
command -v go >/dev/null || die "go is missing"
"$root/test/guest/setup.sh" peers

bin=$out/program
mkdir -p "$bin"
(cd "$root" && CGO_ENABLED=0 go build -trimpath -ldflags "./cmd/govirtiofsd=-E govirtiofs_entry" -o "$bin/" ./cmd/govirtiofsd ./cmd/govirtiofs)
peers=$root/.cache/guests/bin
share=$(mktemp -d "${SHARE:-/dev/shm}/govirtiofs-scale.XXXXXX")
trap 'rm -rf "$share"' EXIT
trap 'exit 1' INT TERM

ours="$bin/govirtiofsd --shared-dir {dir} --socket-path {socket}"
rust="$peers/virtiofsd-rust --shared-dir {dir} --socket-path {socket}"
c="$peers/virtiofsd-c -f -o source={dir} --socket-path={socket}"

# run NAME ARG... measures and keeps a table.
run() {
	name=$1
	shift
	printf 'bench scale: %s\n' "$name" >&2
	"$bin/govirtiofs" bench --dir "$share" --rounds "${ROUNDS:-3}" --duration 200ms \
		--daemon "$ours" --name govirtiofsd --markdown "$@" >"$out/$name.md"
	cat "$out/$name.md"
}

# all NAME ARG... is run with the peers.
all() {
	name=$1
	shift
	run "$name" --vs "$rust" --vs "$c" --name rust --name c "$@"
}

# Request queues, which only ours has more than one of.
for n in ${QUEUES:-1 2 4 8}; do
	run "scale-queues-$n" --queues "$n" --depth 8 -w getattr,lookup,read-4k,read-1m,readdirplus
done
# Guests, each with a daemon; and our daemon that never looks at the ring before it sleeps.
for n in ${GUESTS:-1 2 4 16 64}; do
	all "scale-guests-$n" --guests "$n" --depth 1,8 -w getattr,read-4k --vs "$ours --busy-poll=0" --name never-looking
done
# Directories and known nodes. The largest takes long enough for one round.
for n in ${SIZES:-10 10000 1000000}; do
	rounds=${ROUNDS:-3}
	[ "$n" -lt 100000 ] || rounds=1
	all "scale-files-$n" --scale "$n" --depth 1,8 --floor --rounds "$rounds"
done

printf 'bench scale: tables are in %s\n' "$out" >&2
