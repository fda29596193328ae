# Functions for scripts that install packages of this machine's Debian; to be sourced.

# apt_run ARG... runs apt-get. While another package manager holds a lock (of dpkg, of
# the package lists or of the downloads) it waits, for ten minutes at most.
apt_run() {
	apt_tries=0
	while ! apt_out=$(LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" 2>&1); do
		case $apt_out in
		*"Could not get lock"* | *"Unable to lock"* | *"Unable to acquire the dpkg"*) ;;
		*) printf '%s\n' "$apt_out" >&2 && return 1 ;;
		esac
		if [ $apt_tries = 0 ]; then
			printf '%s\n' "waiting for another package manager: ${apt_out%%
*}" >&2
		fi
		apt_tries=$((apt_tries + 1))
		if [ $apt_tries -gt 300 ]; then
			echo "error: the lock was not released in ten minutes: end the other package manager and try again" >&2
			return 1
		fi
		sleep 2
	done
}

# apt_need FILE PACKAGE adds PACKAGE to $apt_missing if FILE, a path or a command, is
# not there.
apt_missing=
apt_need() {
	command -v "$1" >/dev/null || [ -e "$1" ] || apt_missing="$apt_missing $2"
}

# apt_install installs what is in $apt_missing, and says before what that is, how large
# and from where.
apt_install() {
	[ -n "$apt_missing" ] || return 0
	echo "these packages are missing on this machine and will be installed:$apt_missing" >&2
	apt_run update || return 1
	# shellcheck disable=SC2086 # a list of package names
	apt_run install -y --no-install-recommends --print-uris $apt_missing || return 1
	# Lines are "'URI' FILE SIZE HASH".
	printf '%s\n' "$apt_out" | awk -F"'" '
		NF > 2 { split($3, f, " "); size += f[2]; n++; split($2, u, "/"); hosts[u[3]] = 1 }
		END { for (h in hosts) from = from " " h
			printf "with what they depend on: %d packages, %.1f MB from%s\n", n, size / 1e6, from }' >&2
	# shellcheck disable=SC2086 # a list of package names
	apt_run install -y --no-install-recommends $apt_missing
}
