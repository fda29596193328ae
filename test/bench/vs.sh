#!/bin/sh
# Compares govirtiofsd of this tree with that of another commit, row by row: all workloads of
# "govirtiofs bench" at depth 1, 8 and 32, and the new daemon against itself, which shows what
# noise is. Or compares --recovery=auto with --recovery=never of this tree: what recovery costs.
#
# Usage: test/bench/vs.sh COMMIT|recovery [DIR]
#
# Fails if a row has certainly less than 0.97 of the operations per second, or more than 1.03
# of the processor time per operation, and names rows where that is unclear; measure those
# again with FLAGS="--rounds 31 -w NAME". With "recovery" it fails if a row has certainly more than
# 1.01 of the processor time per operation. 1 % is only seen in many short rounds: what the machine does beside them
# then hits both modes alike. So there are 500 of 5 ms, at depth 8, and all is in memory. Writes tables, JSON and
# pictures to DIR (default bin/bench). Needs Go and git. Takes about 6 minutes on a machine that does nothing
# else ("recovery": 10), and up to twice that where rounds have to be repeated. Both daemons always share one directory:
# two of them differ more than two daemons do. What makes and removes files is measured in
# memory, the rest on the disk of the temporary directory.
#
# Environment: ROUNDS (13 or 500), DURATION (100ms or 5ms), DEPTH (1,8,32 or 8), FLAGS (more of "govirtiofs bench"), MEMORY
# (/dev/shm), TMPDIR.
set -eu

die() { printf 'bench vs: error: %s\n' "$*" >&2; exit 1; }

[ $# -ge 1 ] || die "name a commit to compare with, or \"recovery\": test/bench/vs.sh COMMIT|recovery [DIR]"
root=$(cd "$(dirname "$0")/../.." && pwd -P)
[ "$1" = recovery ] || base=$(git -C "$root" rev-parse --verify --quiet "$1^{commit}") || die "$1 is no commit"
out=$(mkdir -p "${2:-$root/bin/bench}" && cd "${2:-$root/bin/bench}" && pwd -P)
. "$root/test/bench/cleanup.sh"
work=$(mktemp -d)
scratch=$work

mkdir "$work/base" "$work/old" "$work/new"
# build TREE DIR builds the programs as they are released.
build() { (cd "$1" && CGO_ENABLED=0 go build -trimpath -pgo "$(profile "$1")" -ldflags "-s -w" -ldflags "./cmd/govirtiofsd=$2" -o "$3/" ./cmd/govirtiofsd ./cmd/govirtiofs); }
# The entry point of the commits that have one.
entry() { if [ -d "$1/internal/dormant" ]; then echo "-s -w -E govirtiofs_entry"; else echo "-s -w"; fi; }
# The profile of the commits that have one.
profile() { if [ -e "$1/cmd/govirtiofsd/govirtiofsd.pgo" ]; then echo cmd/govirtiofsd/govirtiofsd.pgo; else echo off; fi; }
build "$root" "$(entry "$root")" "$work/new"
serve="--shared-dir {dir} --socket-path {socket}"
if [ "$1" = recovery ]; then
	one="$work/new/govirtiofsd --recovery=auto $serve" one_name=auto
	other="$work/new/govirtiofsd --recovery=never $serve" other_name=never
	rounds=500 duration=5ms depth=8 limits="--require-cpu-ratio 1.01"
	export TMPDIR="${MEMORY:-/dev/shm}"
else
	git -C "$root" archive "$base" | tar -x -C "$work/base"
	build "$work/base" "$(entry "$work/base")" "$work/old"
	one="$work/new/govirtiofsd $serve" one_name=new
	other="$work/old/govirtiofsd $serve" other_name=$(echo "$base" | cut -c1-9)
	rounds=13 duration=100ms depth=1,8,32 limits="--require-ratio 0.97 --require-cpu-ratio 1.03"
fi

# compare NAME OPTION... measures both, and keeps JSON, a table and a picture.
status=0
compare() {
	name=$1
	shift
	printf 'bench vs: %s\n' "$name" >&2
	"$work/new/govirtiofs" bench --daemon "$one" --name "$one_name" --vs "$other" --name "$other_name" --self \
		--rounds "${ROUNDS:-$rounds}" --duration "${DURATION:-$duration}" --depth "${DEPTH:-$depth}" --cold-size 128 --json "$@" ${FLAGS:-} >"$out/vs-$name.json" &
	child=$!
	finish
	"$work/new/govirtiofs" bench --show "$out/vs-$name.json" --svg "$out/vs-$name.svg" | tee "$out/vs-$name.txt"
	"$work/new/govirtiofs" bench --show "$out/vs-$name.json" $limits >/dev/null || status=$?
}

case " ${FLAGS:-} " in
*" -w "* | *" --workload"*) compare chosen ;;
*)
	compare disk -w getattr,lookup,lookup-new,lookup-missing,open,read-4k,read-1m,randread,write-4k,write-1m,fsync,readdirplus
	TMPDIR=${MEMORY:-/dev/shm} compare memory -w create,mkdir,rename,mixed
	;;
esac
[ "$status" = 0 ] || die "$other_name is better in some rows, see above"
printf 'bench vs: tables and pictures are in %s\n' "$out" >&2
