#!/bin/sh
# Compares govirtiofsd with other virtio-fs daemons, as doc/performance-notes.md shows it.
#
# Usage: test/bench/peers.sh [DIR]
#
# Writes tables, JSON and pictures to DIR (default bin/bench). Needs Debian 12, root
# and Go; the peers are set up by test/guest/setup.sh. Takes about 10 minutes. Nothing
# else should run meanwhile: two busy threads are measured, and on 2 CPUs any third one
# shows.
#
# Environment: ROUNDS (5), DURATION (300ms), FLAGS (more of "govirtiofs bench", as
# --best), SHARE (where the shared directory is made: the temporary directory).
set -eu

rounds=${ROUNDS:-5}
duration=${DURATION:-300ms}
default_share=${TMPDIR:-/tmp}
. "$(dirname "$0")/common.sh"

# run NAME COMMAND ARG... measures a daemon, and others that --vs names, and keeps JSON,
# tables, and a picture if there is a ratio.
run() {
	name=$1
	command=$2
	shift 2
	printf 'bench peers: %s\n' "$name" >&2
	bench "$out/$name.json" --rounds "$rounds" --duration "$duration" --json --daemon "$command" "$@" ${FLAGS:-}
	"$bin/govirtiofs" bench --show "$out/$name.json" | tee "$out/$name.txt"
	"$bin/govirtiofs" bench --show "$out/$name.json" --markdown >"$out/$name.md"
	case " $* " in
	*" --vs "*) "$bin/govirtiofs" bench --show "$out/$name.json" --svg "$out/$name.svg" >/dev/null ;;
	esac
}

# As they come, all workloads.
run defaults "$ours" --vs "$rust" --vs "$c" --name govirtiofsd --name rust --name c --depth 1,8,32 --floor --syscalls
# Our daemon polling, against peers that cannot.
run polling "$ours --busy-poll=100us" --vs "$rust" --vs "$c" --name govirtiofsd --name rust --name c --depth 1,8 \
	-w getattr,lookup,open,read-4k,readdirplus
# A driver that polls: what is left when its thread does not sleep.
run polling-driver "$ours" --vs "$rust" --vs "$c" --name govirtiofsd --name rust --name c --depth 1,8 --spin 100us \
	-w getattr,lookup,open,read-4k,readdirplus
# The pool that the Rust daemon's documentation proposes for parallel work.
run pool "$ours" --vs "$rust --thread-pool-size=2" --name govirtiofsd --name rust-pool-2 --depth 1,8 \
	-w getattr,lookup,open,read-4k,read-1m,write-4k,randread
# One request queue and two, which only ours has.
run queues-1 "$ours" --queues 1 --depth 8 -w getattr,read-4k,read-1m,write-1m,randread
run queues-2 "$ours" --queues 2 --depth 8 -w getattr,read-4k,read-1m,write-1m,randread

# Idle daemons: what each takes when there are 1, 8 and 64.
for sandbox in none namespace; do
	printf 'bench peers: idle, --sandbox=%s\n' "$sandbox" >&2
	bench "$out/idle-$sandbox.txt" --idle 1,8,64 --depth 1 --daemon "$ours --sandbox=$sandbox" --name govirtiofsd \
		--vs "$rust --sandbox=$sandbox" --name rust
	cat "$out/idle-$sandbox.txt"
done

printf 'bench peers: tables and pictures are in %s\n' "$out" >&2
