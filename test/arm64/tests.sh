#!/bin/bash
# The second part of run.sh, in the Debian.

# Tests become users of whom nothing belongs to the file system's root.
chmod 755 / /repo /tests /programs
chmod 1777 /tmp /var/tmp
ln -sfn /proc/self/fd /dev/fd
touch /etc/subuid /etc/subgid
ulimit -n 1048576
# With huge pages for everybody, which is Debian's default, no test of memory means anything.
echo madvise >/sys/kernel/mm/transparent_hugepage/enabled
export GOVIRTIOFS_REQUIRE=1 LC_ALL=C
uname -a
while read -r package arguments; do
	cd "/repo/$package" || exit 1
	start=$SECONDS
	# shellcheck disable=SC2086 # words
	"/tests/${package//\//_}.test" -test.v -test.timeout=15m $arguments </dev/null
	echo "@@ end $package $? $((SECONDS - start))"
	echo "@@ ended $package"
done </run/list
