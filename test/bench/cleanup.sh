# For the other scripts here, which source it: a signal ends them at once, with nothing left
# behind. They set scratch to a directory to be removed, put a program that takes long in the
# background, set child to its process, and call finish.
#
# A shell handles a signal only when the program that it waits for has ended, unless that is in the
# background; and there SIGINT is ignored, so it gets SIGTERM.

scratch=
child=
clean() {
	trap '' HUP INT TERM
	if [ -n "$child" ]; then
		kill "$child" 2>/dev/null || :
		wait "$child" || :
	fi
	[ -z "$scratch" ] || rm -rf "$scratch"
}
trap clean EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# finish waits for the child, and ends the script if it fails.
finish() {
	wait "$child" || { status=$?; child=; exit $status; }
	child=
}
