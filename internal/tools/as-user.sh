#!/bin/sh
# as-user.sh UID PROGRAM: runs the tests with real clusters against PROGRAM as that user, who owns nothing but a
# directory of its own. Only root can do that; for anybody else there is nothing to do.
set -eu
cd "$(dirname "$0")/../.."
if [ "$(id -u)" -ne 0 ]; then
	echo "not root: the tests have run as an ordinary user already"
	exit 0
fi
command -v setpriv >/dev/null || {
	echo "setpriv is missing: run make tools-ci" >&2
	[ -z "${CI:-}" ]
	exit
}
dir=$(mktemp -d -p /var/tmp) # pods have a /tmp of their own
trap 'rm -rf "$dir"' EXIT
go test -c -o "$dir/e2e" ./internal/clustertest
go build -o "$dir/sample" ./deploy/examples/sample
cp "$2" "$dir/muster"
mkdir -p "$dir/project/deploy" "$dir/home" "$dir/tmp"
cp -r README.md docs "$dir/project/"
cp -r deploy/examples "$dir/project/deploy/"
chmod 755 "$dir"
chown "$1:$1" "$dir/home" "$dir/tmp"
cd "$dir/home"
setpriv --reuid "$1" --regid "$1" --clear-groups env -i CI="${CI:-}" PATH="$PATH" HOME="$dir/home" TMPDIR="$dir/tmp" \
	MUSTER_BIN="$dir/muster" MUSTER_SAMPLE="$dir/sample" MUSTER_EXAMPLES="$dir/project/deploy/examples" MUSTER_ROOT="$dir/project" MUSTER_ROUNDS="${MUSTER_ROUNDS:-}" "$dir/e2e" -test.timeout 15m -test.parallel 5
