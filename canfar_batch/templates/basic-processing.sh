#!/usr/bin/env bash
#
# Runs a Python script of yours over a directory.
#
#     basic-processing.sh SCRIPT INPUT_DIR OUTPUT_DIR [OPTION...]
#
# SCRIPT is called as
#
#     python SCRIPT --input-dir INPUT_DIR --output-dir STAGE --job-id ID [OPTION...]
#
# and writes to STAGE, a new and empty directory. When it ends well, what it wrote is moved into OUTPUT_DIR, each file
# whole, on CANFAR somewhere below /arc. When it fails, OUTPUT_DIR stays as it was, and this script ends with SCRIPT's
# own exit code. The image needs bash, coreutils, findutils and Python; PYTHON=... chooses another one.

set -euo pipefail

# the platform sets skaha_sessionid; its guide reads SKAHA_SESSION_ID
job=${skaha_sessionid:-${SKAHA_SESSION_ID:-unknown}}
job=${job//[!A-Za-z0-9._-]/_}

log() { printf '%s [job %s] %s\n' "$(date -u '+%Y-%m-%d %H:%M:%S')" "$job" "$*"; }
refuse() {
  log "error: $*" >&2
  exit 2
}

[ $# -ge 3 ] || refuse "usage: basic-processing.sh SCRIPT INPUT_DIR OUTPUT_DIR [OPTION...]"
script=$1 input=$2 output=$3
shift 3
[ -f "$script" ] || refuse "there is no script $script; a path is looked for from $PWD"
[ -d "$input" ] || refuse "there is no input directory $input; a path is looked for from $PWD"
[ ! -e "$output" ] || [ -d "$output" ] || refuse "$output is not a directory"
python=${PYTHON:-$(command -v python || command -v python3 || true)}
[ -n "$python" ] || refuse "there is no python in this image; name one with PYTHON=..."

# the stage is inside the output directory: from there a file is moved by a rename, which is done at once or not at all
mkdir -p -- "$output"
output=$(cd -- "$output" && pwd -P)
stage=$(mktemp -d -- "$output/.job-$job.XXXXXX")
trap 'rm -rf -- "$stage"' EXIT

log "started on $(uname -n): $script, input $input, output $output"
"$python" "$script" --input-dir "$input" --output-dir "$stage" --job-id "$job" "$@" &
child=$!
# a shell that waits hears at once that it shall end, and passes it on; the signal ends the wait, not yet the script
again=yes
trap 'again=yes; kill -TERM "$child" 2>/dev/null || true' TERM INT
while [ -n "$again" ]; do
  again=
  code=0
  wait "$child" || code=$?
done
if [ "$code" -ne 0 ]; then
  log "failed: $script ended with code $code; nothing was written to $output" >&2
  exit "$code"
fi

files=0
while IFS= read -r -d '' file; do
  target=$output/${file#"$stage"/}
  mkdir -p -- "$(dirname -- "$target")"
  mv -f -- "$file" "$target"
  files=$((files + 1))
done < <(find "$stage" -type f -print0)
[ "$files" -gt 0 ] || log "warning: $script ended well and wrote no file" >&2
log "completed: $files files in $output"
