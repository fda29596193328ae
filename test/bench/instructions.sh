#!/bin/sh
# Counts the instructions that a request takes outside of the kernel, by function, with
# --recovery=auto and never: BenchmarkRequest of package virtiofs under callgrind. Unlike times,
# counts hardly depend on what else the machine does.
#
# Usage: test/bench/instructions.sh [WORKLOAD...]
#
# Workloads are those of the benchmark: getattr, lookup, read-4k, write-4k, open.release (the
# default is all of these), readdirplus (an operation is 8 entries) and create (an operation is
# one of CREATE, RELEASE, UNLINK, FORGET). Prints a table of each: instructions with auto, with never, the difference, and
# the function; the first line has the sums. The driver of the benchmark and Go's scheduler are
# left out. Needs Go and valgrind. Takes 20 seconds for each workload.
#
# Environment: PGO (the profile that releases are built with; "off" for none).
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/test/bench/cleanup.sh"
work=$(mktemp -d)
scratch=$work

# valgrind has no room for the address space of a ledger: fewer nodes.
sed 's/MaxNodes  *= 1 << 28/MaxNodes = 1 << 20/' "$root/ledger/layout.go" >"$work/layout.go"
printf '{"Replace":{"%s":"%s"}}' "$root/ledger/layout.go" "$work/layout.go" >"$work/overlay.json"
(cd "$root" && CGO_ENABLED=0 go test -c -pgo "${PGO:-$root/cmd/govirtiofsd/govirtiofsd.pgo}" -overlay "$work/overlay.json" -o "$work/test" ./virtiofs)

# count NAME REQUESTS writes the instructions of each function, those of the start included.
count() {
	(cd "$root/virtiofs" && TMPDIR=$work GODEBUG=asyncpreemptoff=1 GOGC=off GOMAXPROCS=1 exec valgrind --tool=callgrind \
		--callgrind-out-file="$work/out" "$work/test" -test.run xxx -test.bench "BenchmarkRequest/^$1\$" -test.benchtime "$2x") >"$work/log" 2>&1 &
	child=$!
	finish
	callgrind_annotate --threshold=100 "$work/out" | sed -n 's/^ *\([0-9,]*\) *([^)]*) *[^ ]*:\([a-z].*\)/\1 \2/p' |
		sed "s/ \\[[^]]*test\\]\$//; s/'[0-9]*\$//; s#github.com/govirtiofs/govirtiofs/##g"
}

for workload in ${*:-getattr lookup read-4k write-4k open.release}; do
	for mode in auto never; do
		for requests in 3200 9600; do
			count "$workload\$/^$mode" $requests | sed "s/^/$mode $requests /"
		done
	done | awk -v workload="$workload" '
		{ n = $3; gsub(",", "", n); name = $4; for (i = 5; i <= NF; i++) name = name " " $i }
		name !~ /^(server|virtiofs|passthrough|virtqueue|fuse|nodes|ledger|internal|fuseproto|syscall|time|golang|runtime\.mem|runtime\.gorecover)/ { next }
		name ~ /ring\)\.send|vqtest|bench\)|workloads|Benchmark/ { next }
		{ count[$1, name] += ($2 == 9600 ? n : -n) / 6400; names[name] }
		END {
			for (name in names) { a += count["auto", name]; b += count["never", name] }
			printf "%s\n%9.0f %9.0f %+9.0f  all\n", workload, a, b, a - b
			for (name in names) {
				x = count["auto", name]; y = count["never", name]
				if (x >= 1 || y >= 1) printf "%9.0f %9.0f %+9.0f  %s\n", x, y, x - y, name | "sort -rn"
			}
		}'
done
