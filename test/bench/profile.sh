#!/bin/sh
# Makes cmd/govirtiofsd/govirtiofsd.pgo, the profile that releases are built with: where the daemon
# spends its time while it serves requests. It is a processor profile of BenchmarkRequest of package
# virtiofs with --recovery=auto, all workloads for the same time.
#
# Usage: test/bench/profile.sh
#
# Only what a worker does is kept, not the driver of the benchmark. Compare instructions with the
# old and the new profile before you commit it: test/bench/instructions.sh. Needs Go. Takes a minute.
#
# Environment: DURATION (4s for each workload).
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/test/bench/cleanup.sh"
work=$(mktemp -d)
scratch=$work

(cd "$root" && CGO_ENABLED=0 go test -c -trimpath -pgo=off -o "$work/test" ./virtiofs)
(cd "$root/virtiofs" && TMPDIR=$work GOMAXPROCS=1 exec "$work/test" -test.run xxx -test.bench 'BenchmarkRequest/.*/auto$' \
	-test.benchtime "${DURATION:-4s}" -test.cpuprofile "$work/all") &
child=$!
finish
go tool pprof -proto -symbolize=none -show_from 'virtiofs\.\(\*worker\)\.batch' -output "$work/worker" "$work/test" "$work/all"
# The profile names the program's path. Another one of the same length takes its place.
path=$(printf %s "$work/test" | sed 's/./-/g')
gunzip -c <"$work/worker" | LC_ALL=C sed "s#$work/test#$path#g" | gzip -9n >"$work/small"
cp "$work/small" "$root/cmd/govirtiofsd/govirtiofsd.pgo"
