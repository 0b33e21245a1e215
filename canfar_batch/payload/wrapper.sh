# The shell text that runs around a job's command: it reports the start, forwards signals, and reports the end.
#
# POSIX sh, for dash, bash and busybox. It needs no program but base64, by which it arrived; with date, sleep, stat or
# wc, setsid, mkdir and mv it can report and do more. encode.py puts in front of it the variables that differ from job
# to job (cb_name, cb_key, cb_home, ...) and three functions:
#
#   cb_work      exports the job's environment and becomes its command
#   cb_declared  calls `cb_seek PATTERN MATCH...` for every declared output
#   cb_enter     changes to the job's own working directory, if it has one
#
# In a bundle, bundle.sh calls this text once for each task, in a shell of the task's own; then cb_task is the task's
# number, file descriptor 8 is the container's log and 1 the task's own, and bundle.sh has the functions cb_own_share,
# cb_ship and cb_note_end. Otherwise cb_task is empty.
#
# All names begin with cb_, and none is exported, so the job sees none of them. @MARK@, @MOST@ and @WORKDIR@ are
# replaced by constants of wrapper.py. Comments and indentation are removed before the text is sent.
#
# shellcheck shell=sh
# variables and functions come from encode.py; an empty `x=` in a row of assignments is meant
# shellcheck disable=SC1007,SC2034,SC2154,SC2317

# -- facts about the container; each function leaves its answer in cb_v, empty if there is none

cb_now() {
  cb_v=$(date +%s.%N 2>/dev/null)
  # busybox's date does not know %N
  cb_v=${cb_v%%.*[!0-9]*}
}
cb_safe() {
  case $1 in *[!A-Za-z0-9._-]*) cb_v= ;; *) cb_v=$1 ;; esac
}
cb_first() {
  cb_v=
  [ ! -r "$1" ] || read -r cb_v cb_w <"$1"
}
cb_entry() {
  cb_v=
  [ ! -r "$1" ] || while read -r cb_k cb_w; do [ "$cb_k" != "$2" ] || cb_v=$cb_w; done <"$1"
}
# CPU time, OOM kills, peak and limits. The root of a hierarchy describes the whole machine, so it is not read:
# in version 2 only the root lacks cgroup.type, in version 1 only the root has a release_agent.
cb_gauge() {
  cb_g=${CANFAR_BATCH_CGROUP:-/sys/fs/cgroup} cb_cpu= cb_oom= cb_peak= cb_max= cb_quota= cb_period=
  if [ -d "$cb_g/memory" ]; then
    [ ! -e "$cb_g/memory/release_agent" ] || return 0
    cb_c=$cb_g/cpuacct
    [ -d "$cb_c" ] || cb_c=$cb_g/cpu,cpuacct
    cb_first "$cb_c/cpuacct.usage"; cb_cpu=${cb_v:+${cb_v}ns}
    cb_entry "$cb_g/memory/memory.oom_control" oom_kill; cb_oom=$cb_v
    cb_first "$cb_g/memory/memory.max_usage_in_bytes"; cb_peak=$cb_v
    cb_first "$cb_g/memory/memory.limit_in_bytes"; cb_max=$cb_v
    cb_c=$cb_g/cpu
    [ -d "$cb_c" ] || cb_c=$cb_g/cpu,cpuacct
    cb_first "$cb_c/cpu.cfs_quota_us"; cb_quota=$cb_v
    cb_first "$cb_c/cpu.cfs_period_us"; cb_period=$cb_v
  elif [ -n "${CANFAR_BATCH_CGROUP:-}" ] || [ -e "$cb_g/cgroup.type" ]; then
    cb_entry "$cb_g/cpu.stat" usage_usec; cb_cpu=${cb_v:+${cb_v}us}
    cb_entry "$cb_g/memory.events" oom_kill; cb_oom=$cb_v
    cb_first "$cb_g/memory.peak"; cb_peak=$cb_v
    cb_first "$cb_g/memory.max"; cb_max=$cb_v
    cb_w=
    cb_first "$cb_g/cpu.max"; cb_quota=$cb_v cb_period=$cb_w
  fi
}
# The container's names, and whether the batch's home is here.
cb_look_around() {
  cb_ours= cb_env= cb_setsid=
  cb_safe "${skaha_sessionid:-}"; cb_id=$cb_v
  # shellcheck disable=SC3028 # some shells set HOSTNAME
  cb_safe "${HOSTNAME:-}"; cb_host=$cb_v
  [ ! -r /proc/sys/kernel/hostname ] || { read -r cb_v </proc/sys/kernel/hostname; cb_safe "$cb_v"; cb_host=$cb_v; }
  if [ -n "$cb_home" ] && [ -r "$cb_home/token" ]; then
    read -r cb_v <"$cb_home/token"
    [ "$cb_v" != "$cb_token" ] || cb_ours=1
  fi 2>/dev/null
  # a background job of a shell ignores INT and QUIT; env can undo that
  if cb_v=$(command -v env) && "$cb_v" --default-signal=INT,QUIT true; then
    cb_env="$cb_v --default-signal=INT,QUIT"
  fi </dev/null >/dev/null 2>&1
  if command -v setsid && setsid true; then cb_setsid=1; fi </dev/null >/dev/null 2>&1
}

# -- receipts

# Writes one whole line at once, so that output of the job cannot tear it.
cb_say() {
  cb_v="@MARK@ $cb_name $1 #$cb_name$cb_nl"
  cb_text=$cb_text$cb_v
  { printf %s "$cb_nl$cb_v" >&"$cb_log"; } 2>/dev/null
}
# Writes the same lines to a file, if the home is this batch's. An end receipt of an earlier run of this container is
# removed, because it is out of date. If a later run has begun meanwhile, only its receipts count.
cb_save() {
  [ "$1" = end ] || cb_mine=${cb_text%"$cb_nl"}
  [ -z "$cb_ours" ] || (
    umask 077
    cb_f=$cb_home/receipts/$cb_key.$cb_attempt
    [ -d "$cb_home/receipts" ] || mkdir "$cb_home/receipts"
    [ "$1" = end ] || [ ! -e "$cb_f.end" ] || rm -f "$cb_f.end"
    if [ "$1" = end ] && [ -r "$cb_f.start" ] && read -r cb_v <"$cb_f.start" && [ "$cb_v" != "$cb_mine" ]; then
      exit 0
    fi
    printf %s "$cb_text" >"$cb_home/receipts/.$cb_name.$1" && mv -f "$cb_home/receipts/.$cb_name.$1" "$cb_f.$1" ||
      printf %s "$cb_text" >"$cb_f.$1"
  ) </dev/null >/dev/null 2>&1
  cb_text=
}
# Leaves in cb_v the size of the file $1, a blank, and what differs once it is changed; either is empty if not known. A
# directory has a size if it is empty, and counts as changed if anything in it was, unless there is too much in it.
cb_look_at() {
  cb_v=' '
  if [ -d "$1" ]; then
    # shellcheck disable=SC2012 # the lines are only counted
    cb_c=$(ls -AR -- "$1" | head -n @MOST@ | wc -l)
    case ${cb_c##*[!0-9]} in
      0 | 1) cb_v="0 $(ls -lniAR -c --full-time -- "$1")" ;;
      '' | @MOST@) ;;
      *) cb_v=" $(ls -lniAR -c --full-time -- "$1")" ;;
    esac
  elif [ -f "$1" ]; then
    cb_v=$(stat -L -c '%s %i %y %z' -- "$1") || { cb_v=$(wc -c <"$1") && cb_v="${cb_v##*[!0-9]} " || cb_v=' '; }
  fi
}
# Remembers the outputs that are there before the command.
cb_remember() {
  cb_early=1 cb_left=@MOST@ cb_before=
  cb_declared
  cb_early= cb_left=@MOST@
}
# $1 is a declared output, the other arguments are the names that it expands to.
cb_seek() {
  cb_p=$1 cb_n=0
  shift
  for cb_f do
    [ -e "$cb_f" ] || continue
    cb_n=$((cb_n + 1))
    [ "$cb_left" -gt 0 ] || continue
    cb_left=$((cb_left - 1))
    cb_look_at "$cb_f"
    cb_w="$cb_nl${cb_v#* }/$cb_f$cb_nl"
    if [ -n "$cb_early" ]; then
      [ -z "${cb_v#* }" ] || cb_before=$cb_before$cb_w
      continue
    fi
    printf 'f%s %s\0' "${cb_v%% *}" "$cb_f"
    case $cb_before in *"$cb_w"*) [ -z "${cb_v#* }" ] || printf 'u%s\0' "$cb_f" ;; esac
  done
  [ -n "$cb_early" ] || printf 'n%s %s\0' "$cb_n" "$cb_p"
}
# Names may contain any byte, so they are sent in base64, in lines that a pipe takes whole (PIPE_BUF).
cb_outputs() {
  cb_b=
  for cb_w in $(cb_declared | base64); do
    cb_b=$cb_b$cb_w
    [ "${#cb_b}" -lt 3000 ] || cb_flush
  done
  [ -z "$cb_b" ] || cb_flush
}
cb_flush() {
  cb_lines=$((cb_lines + 1))
  cb_say "outputs $cb_b"
  cb_b=
}

# -- signals

# Sends SIGALRM to this shell after $1 seconds. When it is told to stop, it ends its sleep too.
cb_watch() {
  [ -z "$cb_dog" ] || kill "$cb_dog" 2>/dev/null
  # a newly forked shell still has its parent's traps, and would lose a TERM to them
  trap - TERM
  (
    cb_nap= cb_off=
    trap 'cb_off=1; [ -z "$cb_nap" ] || kill -s KILL "$cb_nap"' TERM
    sleep "$1" & cb_nap=$!
    [ -z "$cb_off" ] || kill -s KILL "$cb_nap"
    wait "$cb_nap" && [ -z "$cb_off" ] && kill -s ALRM "$cb_self"
  ) </dev/null >/dev/null 2>&1 8>&- 9<&- &
  cb_dog=$!
  cb_listen
}
cb_listen() {
  trap 'cb_told=TERM; cb_end' TERM
}
# Sends the signal $1 to the job.
cb_tell() {
  cb_again=1
  [ -z "$cb_job" ] || kill -s "$1" "$cb_job" 2>/dev/null
}
# Ends the job: TERM now, KILL after the grace time.
cb_end() {
  cb_tell TERM
  [ -n "$cb_dying" ] || [ -z "$cb_job" ] || cb_watch "$cb_grace"
  cb_dying=1
}
cb_alarm() {
  cb_again=1
  [ -z "$cb_gone" ] || return 0
  if [ -n "$cb_dying" ]; then
    [ -z "$cb_group" ] || [ -z "$cb_job" ] || kill -s KILL -- "-$cb_job" 2>/dev/null
    cb_tell KILL
  else
    cb_late=1
    cb_end
  fi
}

# -- the run

cb_job= cb_gone= cb_dog= cb_told= cb_dying= cb_late= cb_again= cb_trouble= cb_text= cb_mine= cb_where=
cb_group= cb_lines=0 cb_left=@MOST@ cb_early= cb_before=
if [ -n "$cb_task" ]; then cb_log=8; else cb_log=1 cb_self=$$; fi

if [ -n "$cb_timeout" ]; then
  if command -v sleep >/dev/null 2>&1; then cb_watch "$cb_timeout"; else cb_trouble=no-sleep; fi
fi
cb_listen
trap 'cb_told=INT; cb_tell INT' INT
trap 'cb_told=HUP; cb_tell HUP' HUP
trap cb_alarm ALRM

[ -n "$cb_task" ] || cb_look_around

# the driver's directory is used only if this is provably the same storage
if { [ -n "$cb_ours" ] || [ -n "$cb_shared" ]; } && [ -n "$cb_driver" ] && cd "$cb_driver" 2>/dev/null; then
  cb_where=driver
elif [ -n "${HOME:-}" ] && cd "$HOME" 2>/dev/null; then
  cb_where=home
fi
cb_enter
unset OLDPWD
[ -z "$cb_outs" ] || [ -n "$cb_trouble" ] || cb_remember 2>/dev/null

cb_now; cb_t=$cb_v
cb_gauge 2>/dev/null
cb_cpu0=$cb_cpu cb_oom0=$cb_oom cb_peak0=$cb_peak cb_times=
[ -z "$cb_task" ] || cb_own_limits
cb_facts="key=$cb_key attempt=$cb_attempt id=$cb_id host=$cb_host started=$cb_t workdir=$cb_where"
cb_facts="$cb_facts limit=$cb_max quota=$cb_quota period=$cb_period"
cb_say "start $cb_facts"
cb_save start
[ -z "$cb_task" ] || cb_note_start

[ -z "$cb_env" ] || cb_via="$cb_env$cb_nice"
# The job gets a process group of its own, so that a job that signals its group does not signal this shell. bash can do
# without setsid; the job control of other shells needs a terminal.
if [ -n "$cb_setsid" ]; then
  cb_via="setsid $cb_via" cb_group=1
elif set -m; then
  case $- in *m*) cb_group=1 ;; esac
fi </dev/null >/dev/null 2>&1

if [ "$cb_trouble" = workdir ]; then
  cb_rc=@WORKDIR@
elif [ -n "$cb_dying" ]; then
  cb_rc=143
else
  # a background job of a shell gets no stdin
  command exec 9<&0 || exec 9</dev/null
  (
    exec <&9 9<&- 8>&-
    cb_work
  ) &
  cb_job=$!
  set +m 2>/dev/null
  # from here on, no message of this shell may end up in the job's log
  exec </dev/null 2>/dev/null 9<&-
  trap '' PIPE
  # a signal that came in between: a newly forked shell would lose anything gentler than KILL
  if [ -n "$cb_dying" ]; then cb_tell KILL; elif [ -n "$cb_told" ]; then cb_tell "$cb_told"; fi
  # A trapped signal ends a wait as if the job had exited with 128 + its number; then wait again. The shell may have
  # forgotten the status, though (dash: 127), or lost it (bash, if job and wait ended at the same moment: -1, or it waits
  # for its other children). Once the job is gone, the first answer stands unless a better one comes within a second.
  cb_pid=$cb_job cb_rc= cb_gone=
  while :; do
    cb_again=
    [ -z "$cb_rc" ] || kill -s 0 "$cb_pid" || { cb_gone=1 cb_job=; cb_watch 1; }
    wait "$cb_pid"
    cb_v=$?
    case $cb_gone$cb_v in 1127 | 1142 | 1-*) break ;; esac
    cb_rc=$cb_v
    case $cb_again$cb_v in 1129 | 1130 | 1142 | 1143) ;; *) break ;; esac
  done
  cb_job= cb_gone=1
fi
exec </dev/null 2>/dev/null
[ -z "$cb_dog" ] || kill "$cb_dog"

cb_now; cb_t=$cb_v
cb_gauge
[ -z "$cb_task" ] || { cb_own_share; cb_ship; }
[ -z "$cb_outs" ] || [ "$cb_trouble" = workdir ] || cb_outputs
cb_facts="$cb_facts finished=$cb_t code=$cb_rc cpu0=$cb_cpu0 cpu=$cb_cpu oom0=$cb_oom0 oom=$cb_oom peak=$cb_peak$cb_times"
cb_say "end $cb_facts told=$cb_told late=$cb_late trouble=$cb_trouble outputs=$cb_lines"
cb_save end
[ -z "$cb_task" ] || cb_note_end
exit "$cb_rc"
