#!/bin/sh
# Builds main.go inside a copy of gocryptfs' module, with this tree in place of the published govirtiofs, as DIR/serve. It
# downloads that module and what it needs, 7 MB, if they are not in Go's cache.
#
# Usage: build.sh DIR
# It ends with 3 if a module can't be had.
set -eu
module=github.com/rfjakob/gocryptfs/v2
version=v2.6.1
here=$(cd "$(dirname "$0")" && pwd)
tree=$(cd "$here/../../.." && pwd)
dir=$(cd "$1" && pwd)/gocryptfs

# Outside of any module, so that no go.mod is changed.
cd "$1"
source=$(GO111MODULE=on go mod download -json $module@$version | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
[ -d "$source" ] || { echo "$module can't be downloaded" >&2; exit 3; }
cp -r --no-preserve=mode "$source" "$dir"
mkdir "$dir/cmd"
cp "$here/main.go" "$dir/cmd/main.go"
cat "$tree/go.sum" >>"$dir/go.sum"
cd "$dir"
export CGO_ENABLED=0 GOFLAGS="${GOFLAGS:-} -mod=mod"
go mod edit -require=github.com/govirtiofs/govirtiofs@v0.0.0 -replace="github.com/govirtiofs/govirtiofs=$tree"
go list -tags without_openssl -deps ./cmd >/dev/null || exit 3
go build -tags without_openssl -o ../serve ./cmd
rm -r "$dir"
