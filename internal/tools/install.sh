#!/bin/sh
# Installs what the tests need beside Go and make and this machine lacks: a C compiler for the race detector, git for
# make fresh, setpriv to run as an ordinary user, systemd-analyze to verify the units, and Chromium to open load tests' reports.
set -eu
packages=
need() { command -v "$1" >/dev/null 2>&1 || packages="$packages $2"; }
need gcc "gcc libc6-dev"
need git git
need setpriv util-linux
need systemd-analyze systemd
need chromium "chromium fonts-dejavu-core"
[ -n "$packages" ] || exit 0
apt-get update -q
# shellcheck disable=SC2086 # a list of packages
apt-get install -q -y --no-install-recommends $packages
