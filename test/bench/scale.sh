#!/bin/sh
# Measures how the cost of govirtiofsd and of other virtio-fs daemons grows: with request
# queues, guests, files in a directory and known nodes, as doc/performance-notes.md shows it.
#
# Usage: test/bench/scale.sh [DIR]
#
# Writes tables to DIR (default bin/bench). Needs Debian 12, root and Go; the peers are set
# up by test/guest/setup.sh. Takes about 4 minutes, during which nothing else should run, and
# 2 GiB of memory: a million files take 1 GiB in /dev/shm, and a daemon that knows them up to
# 0.7 GiB. A signal ends it within seconds, and removes the files.
#
# Environment: ROUNDS (3), SIZES (10 10000 1000000), GUESTS (1 2 4 16 64), QUEUES (1 2 4 8);
# an empty list leaves its part out. SHARE (where the shared directory is made: /dev/shm,
# because a disk's file system takes a minute to make a million files and another to remove
# them).
set -eu

default_share=/dev/shm
. "$(dirname "$0")/common.sh"

# run NAME ARG... measures and keeps a table.
run() {
	name=$1
	shift
	printf 'bench scale: %s\n' "$name" >&2
	bench "$out/$name.md" --rounds "${ROUNDS:-3}" --duration 200ms --daemon "$ours" --name govirtiofsd --markdown "$@"
	cat "$out/$name.md"
}

# all NAME ARG... is run with the peers.
all() {
	name=$1
	shift
	run "$name" --vs "$rust" --vs "$c" --name rust --name c "$@"
}

# Request queues, which only ours has more than one of.
for n in ${QUEUES-1 2 4 8}; do
	run "scale-queues-$n" --queues "$n" --depth 8 -w getattr,lookup,read-4k,read-1m,readdirplus
done
# Guests, each with a daemon; and our daemon that never looks at the ring before it sleeps.
for n in ${GUESTS-1 2 4 16 64}; do
	all "scale-guests-$n" --guests "$n" --depth 1,8 -w getattr,read-4k --vs "$ours --busy-poll=0" --name never-looking
done
# Directories and known nodes. The largest takes long enough for one round.
for n in ${SIZES-10 10000 1000000}; do
	rounds=${ROUNDS:-3}
	[ "$n" -lt 100000 ] || rounds=1
	all "scale-files-$n" --scale "$n" --depth 1,8 --floor --rounds "$rounds"
done

printf 'bench scale: tables are in %s\n' "$out" >&2
