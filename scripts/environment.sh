# Sourced by the scripts beside it: where things are, and how a script speaks.
# shellcheck shell=bash
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/kvmrkt"
BUILD="$ROOT/build"
export ROOT CACHE BUILD
mkdir -p "$CACHE" "$BUILD"

# say TEXT...: one line about a step that does something.
say() { printf 'kvmrkt: %s\n' "$*" >&2; }

# digest [FILE...]: one hash over the files' contents, and standard input's when it is not a terminal.
digest() { sha256sum -- "$@" | sed "s|  .*/|  |" | sha256sum | cut -c1-32; }

# is_current STAMP KEY: whether an earlier run left this key in the stamp file.
is_current() { [ -f "$1" ] && [ "$(<"$1")" = "$2" ]; }
