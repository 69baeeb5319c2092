#!/bin/sh
# Clones what is committed into directories of its own and runs "make demo" and "make test" there with empty caches, as
# root and as an ordinary user; without root only as the user who runs it. Says how long each took.
set -eu
cd "$(dirname "$0")/../.."
source=$PWD
user=65534
times=
# Not below /tmp, which pods do not see.
dir=$(mktemp -d /var/tmp/muster-fresh.XXXXXX)
finish() {
	chmod -R u+w "$dir" # Go's module cache is read-only
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP
chmod 755 "$dir"

# run NAME COMMAND…: COMMAND starts a program as that user.
run() {
	name=$1
	shift
	home=$dir/$name
	mkdir "$home"
	git clone -q "file://$source" "$home/muster"
	mkdir "$home/tmp" "$home/home"
	case $name in user-*) chown -R "$user:$user" "$home" ;; esac
	for target in demo test; do
		printf '\n== %s: make %s\n' "$name" "$target"
		start=$(date +%s)
		(cd "$home/muster" && "$@" env -i PATH="$PATH" HOME="$home/home" TMPDIR="$home/tmp" GOPATH="$home/go" \
			GOCACHE="$home/cache" GOMODCACHE="$home/go/pkg/mod" GOPROXY="$(go env GOPROXY)" GOTOOLCHAIN="$(go env GOTOOLCHAIN)" \
			CI="${CI:-}" make --no-print-directory "$target")
		times="$times$(printf '%-12s make %-5s %5d s' "$name" "$target" $(($(date +%s) - start)))
"
	done
	chmod -R u+w "$home"
	rm -rf "$home"
}

if [ "$(id -u)" -eq 0 ]; then
	run root env
	run "user-$user" setpriv --reuid "$user" --regid "$user" --clear-groups
else
	echo "not root: only as user $(id -u)"
	run "self" env
fi
printf '\n%s' "$times"
