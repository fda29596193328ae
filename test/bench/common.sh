# For peers.sh and scale.sh, which source it from their own directory: what both set up, and
# that a signal ends them at once with nothing left behind.
#
# Takes $1, the directory for the tables, and $default_share. Sets root, out, bin, share (a new
# directory to serve), and the commands ours, rust and c.

die() { printf 'bench: error: %s\n' "$*" >&2; exit 1; }

root=$(cd "$(dirname "$0")/../.." && pwd -P)
out=$(mkdir -p "${1:-$root/bin/bench}" && cd "${1:-$root/bin/bench}" && pwd -P)
[ "$(id -u)" = 0 ] || die "the peers need root"
command -v go >/dev/null || die "go is missing"
"$root/test/guest/setup.sh" peers

bin=$out/program
mkdir -p "$bin"
(cd "$root" && CGO_ENABLED=0 go build -trimpath -pgo cmd/govirtiofsd/govirtiofsd.pgo -o "$bin/" ./cmd/govirtiofsd ./cmd/govirtiofs)
peers=$root/.cache/guests/bin
ours="$bin/govirtiofsd --shared-dir {dir} --socket-path {socket}"
rust="$peers/virtiofsd-rust --shared-dir {dir} --socket-path {socket}"
c="$peers/virtiofsd-c -f -o source={dir} --socket-path={socket}"

# A run that was killed (SIGKILL) left its directory, with up to a million files in memory.
share=${SHARE:-$default_share}/govirtiofs-bench
for old in "$share".*; do
	pid=${old#"$share".}
	[ ! -O "$old" ] || kill -0 "${pid%%.*}" 2>/dev/null || rm -rf "$old"
done

. "$root/test/bench/cleanup.sh"
share=$(mktemp -d "$share.$$.XXXXXX")
scratch=$share

# bench FILE ARG... runs "govirtiofs bench" on the share, its output in FILE.
bench() {
	file=$1
	shift
	"$bin/govirtiofs" bench --dir "$share" "$@" >"$file" &
	child=$!
	finish
}
