# Programs that watch a directory: $1 is the directory, $2 where they write what they see, $3 the script for node. It makes
# .ready in the directory when all of them watch, .ready-WHAT when something was seen that the script on the host waits
# for, and ends when all have seen the file the-end.
set -u
export LC_ALL=C NODE_PATH=/usr/share/nodejs SYSTEMD_IGNORE_CHROOT=1
dir=$1 out=$2 watch=$3
mkdir -p "$out"
cd "$dir" || exit 1

# seen FILE TEXT waits until a program has written something.
seen() {
	n=0
	until grep -q -e "$2" "$out/$1" 2>/dev/null; do
		n=$((n + 1))
		[ $n -lt 2400 ] || { echo "$1 does not say $2:"; cat "$out/$1"; exit 1; }
		sleep 0.1
	done
}

inotifywait -m -r --exclude '\.ready' --format '%e %w%f' -e create -e delete -e modify -e close_write -e move -e attrib . \
	>"$out/inotifywait" 2>"$out/inotifywait.err" &
pids=$!
inotifywait=$!
trap 'kill -KILL $pids; exit 1' TERM # when the test ends before
tail -n +1 -F log >"$out/tail" 2>/dev/null &
pids="$pids $!"
node "$watch" . >"$out/chokidar" 2>"$out/chokidar.err" &
pids="$pids $!"

# A manager of its own, with two path units.
manager() {
	export XDG_RUNTIME_DIR=/run/systemd-user SYSTEMD_LOG_LEVEL=notice
	# The directory says that this machine was booted by systemd.
	mkdir -p /sys/fs/cgroup /run/systemd/system $XDG_RUNTIME_DIR/systemd/user
	mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
	cd $XDG_RUNTIME_DIR/systemd/user
	for u in "saved PathChanged=$dir/src/main.go" "made PathExists=$dir/the-end"; do
		name=${u%% *}
		printf '[Path]\n%s\n' "${u#* }" >$name.path
		printf '[Service]\nType=oneshot\nExecStart=/bin/sh -c "echo %s >>%s/units; sleep infinity"\n' $name "$out" >$name.service
	done
	printf '[Unit]\nWants=saved.path made.path\n' >watchers.target
	exec /usr/lib/systemd/systemd --user --unit=watchers.target
}
# Nothing of the machine's own manager, if this is the machine.
units=
case $out in /run/*) [ ! -x /usr/lib/systemd/systemd ] || units=1 ;; esac
if [ -n "$units" ]; then
	manager >"$out/systemd" 2>&1 &
	pids="$pids $!"
	n=0
	# "is-active" is content with one of several.
	until [ "$(XDG_RUNTIME_DIR=/run/systemd-user systemctl --user show -P ActiveState saved.path made.path 2>/dev/null | grep -cx active)" = 2 ]; do
		n=$((n + 1))
		[ $n -lt 2400 ] || { cat "$out/systemd"; dmesg | tail; exit 1; }
		sleep 0.1
	done
fi
seen inotifywait.err 'Watches established'
seen chokidar '^ready'
seen tail 'line 0'
# watches is how many directories inotifywait watches.
watches() { cat /proc/$inotifywait/fdinfo/* 2>/dev/null | grep -c '^inotify wd'; }
had=$(watches)
: >.ready
# A new directory is watched some time after it was heard of.
n=0
until [ "$(watches)" -gt "$had" ]; do
	n=$((n + 1))
	[ $n -lt 2400 ] || { echo "inotifywait watches no new directory"; exit 1; }
	sleep 0.1
done
: >.ready-new
for i in 1 2 3; do
	seen tail "line $i"
	: >.ready-line$i
done
seen inotifywait the-end
seen chokidar the-end
if [ -n "$units" ]; then seen units saved && seen units made; fi
# Not in order: systemd would start what PathExists is for again and again while it stops.
# shellcheck disable=SC2086 # numbers
kill -KILL $pids 2>/dev/null
wait
