# The shell text of a container that carries several jobs: it runs them one after the other, some at a time, and each
# under the wrapper of wrapper.sh, which reports its start and its end.
#
# POSIX sh, for dash, bash and busybox. It needs what the wrapper needs, and a directory for small files; without cat
# and rm, it runs one task at a time. encode.py puts in front of it the variables cb_bundle (the launch name), cb_count,
# cb_parallel, cb_look (seconds), those of the wrapper that are the same for all tasks, and the functions
#
#   cb_task_1, cb_task_2, ...   set the variables and define the functions of one task, as wrapper.sh wants them
#   cb_run                      is the text of wrapper.sh
#
# Lanes, as many as tasks may run at a time, take the next task that no other has taken; each is a shell, and so is each
# task. File descriptor 8 is the container's log. Small files whose names begin with $cb_tmp say what was taken:
# .1 (taken), .1.pid (begun: its shell, and the facts of its start), .1.over (ended and reported), .stop (no more).
#
# A task's output goes to a file: to one in the batch's home if that is here and near the driver (cb_far is empty), else
# to one of the container's own disk, which is copied to the container's log at the task's end, between two marked lines,
# so that no two tasks' logs mix.
#
# shellcheck shell=sh
# variables and functions come from encode.py and wrapper.sh; an empty `x=` in a row of assignments is meant
# shellcheck disable=SC1007,SC2015,SC2030,SC2031,SC2034,SC2154,SC2242,SC2317

cb_told= cb_lanes= cb_patrol= cb_pid= cb_hold=
command exec 8>&1 || exec 8>/dev/null

# Makes the file $1, unless it is there.
cb_claim() {
  set -C
  true 2>/dev/null >"$1"
  set -- $?
  set +C
  return "$1"
}
# Finds a directory for small files.
cb_place() {
  for cb_v in "${TMPDIR:-/tmp}" /tmp /scratch "${HOME:-.}" "$cb_home/running"; do
    cb_n=0
    while [ "$cb_n" -lt 100 ]; do
      cb_n=$((cb_n + 1)) cb_tmp=$cb_v/.$cb_bundle.$$.$cb_n
      ! cb_claim "$cb_tmp.0" || return 0
      [ -e "$cb_tmp.0" ] || break
    done
  done
  return 1
}
# Leaves the id of this very shell in cb_self: $$ is that of the first one.
cb_who() {
  cb_self=
  [ ! -r /proc/self/stat ] || read -r cb_self cb_w </proc/self/stat
  # shellcheck disable=SC2016
  [ -n "$cb_self" ] || cb_self=$(exec /bin/sh -c 'echo "$PPID"')
}

# -- called by the wrapper of a task

# What the cgroup says of its container is not the task's own if others run beside it.
cb_own_limits() {
  [ "$cb_parallel" = 1 ] || cb_max= cb_quota= cb_period=
}
cb_own_share() {
  cb_cpu0= cb_cpu=
  # the CPU time of the processes that this shell has waited for
  if command times >"$cb_tmp.$cb_task.times"; then
    { read -r cb_v; read -r cb_v cb_w; } <"$cb_tmp.$cb_task.times"
    cb_times=" user=$cb_v sys=$cb_w"
  fi
  if [ "$cb_parallel" != 1 ]; then
    cb_peak=
    # a kill for lack of memory was this task's if it was killed itself
    [ "$cb_rc" = 137 ] || cb_oom=
  elif [ "$cb_peak" = "$cb_peak0" ] && [ "$cb_task" != 1 ]; then
    cb_peak= # an earlier task used more
  fi
}
cb_note_start() {
  printf '%s\n%s\n' "$cb_self" "$cb_facts" >"$cb_tmp.$cb_task.pid"
  # a TERM that came before this shell could hear it, or a task that is not wanted any more
  if [ -e "$cb_tmp.stop" ] || [ -e "$cb_home/running/$cb_name.stop" ]; then
    cb_told=TERM cb_dying=1
  fi
}
cb_note_end() {
  true >"$cb_tmp.$cb_task.over"
}
# Copies the task's output to the container's log. One task at a time does so.
cb_ship() {
  [ -n "$cb_shipped" ] || return 0
  cb_n=0
  until cb_claim "$cb_tmp.lock"; do
    cb_n=$((cb_n + 1)) cb_v=
    [ "$cb_n" -gt 20 ] || continue
    read -r cb_v <"$cb_tmp.lock"
    if [ "$cb_n" -gt 2000 ] || { [ -n "$cb_v" ] && ! kill -s 0 "$cb_v"; }; then
      rm -f "$cb_tmp.lock" # its holder was killed
    else
      sleep 0.05 || sleep 1
    fi
  done
  echo "$cb_self" >"$cb_tmp.lock"
  cb_hold=$cb_text
  cb_say log
  if command -v cat >/dev/null; then
    cat "$cb_spool" >&8
  else
    while IFS= read -r cb_v || [ -n "$cb_v" ]; do printf '%s\n' "$cb_v" >&8; done <"$cb_spool"
  fi
  cb_say logend
  cb_text=$cb_hold
  rm -f "$cb_tmp.lock" "$cb_spool"
}

# -- tasks

# Runs task number $1 in a shell of its own.
cb_do() {
  cb_task=$1 cb_told=
  cb_who
  "cb_task_$1"
  if cb_reported; then
    cb_note_end
    exit 0
  fi
  cb_spool=$cb_home/running/$cb_name cb_shipped=
  umask 077
  if [ -z "$cb_ours" ] || [ -n "$cb_far" ] || ! true 2>/dev/null >"$cb_spool"; then cb_spool=$cb_tmp.$1.log cb_shipped=1; fi
  exec </dev/null >"$cb_spool" 2>&1
  umask "$cb_umask"
  cb_run
}
# Whether an earlier run of this container has reported the end of the task: the platform may begin a container again.
cb_reported() {
  cb_f=$cb_home/receipts/$cb_key.$cb_attempt.end
  [ -n "$cb_ours" ] && [ -r "$cb_f" ] || return 1
  while read -r cb_v; do
    case $cb_v in "@MARK@ $cb_name end "*" told= "*) return 0 ;; esac
  done <"$cb_f"
  return 1
}
# Waits for the process $1; a trapped signal ends a wait too early.
cb_await() {
  while :; do
    wait "$1"
    cb_v=$?
    kill -s 0 "$1" || return 0
    [ "$cb_v" -gt 128 ] || return 0
  done
}
# Reports the end of the task $1, whose shell was killed with all else, perhaps for lack of memory.
cb_bury() {
  [ ! -e "$cb_tmp.$1.over" ] && [ -r "$cb_tmp.$1.pid" ] || return 0
  (
    { read -r cb_v; read -r cb_facts; } <"$cb_tmp.$1.pid"
    cb_task=$1 cb_log=8 cb_text= cb_lines=0 cb_rc=137 cb_shipped=
    cb_who
    "cb_task_$1"
    cb_v=${cb_facts#*started=} cb_v=${cb_v%% *}
    cb_mine="@MARK@ $cb_name start $cb_facts #$cb_name"
    cb_spool=$cb_tmp.$1.log
    [ ! -e "$cb_spool" ] || cb_shipped=1
    cb_ship
    cb_gauge
    cb_now
    cb_say "end $cb_facts finished=$cb_v code=137 oom0=$cb_oom_first oom=$cb_oom told= late= trouble=killed outputs=0"
    cb_save end
    cb_note_end
  )
}
# Runs tasks until none is left.
cb_lane() {
  trap 'cb_told=1; [ -z "$cb_pid" ] || kill -s TERM "$cb_pid"' TERM
  cb_i=0 cb_pid=
  while [ "$cb_i" -lt "$cb_count" ] && [ -z "$cb_told" ] && [ ! -e "$cb_tmp.stop" ]; do
    cb_i=$((cb_i + 1))
    cb_claim "$cb_tmp.$cb_i" || continue
    cb_pid=
    (
      trap - TERM INT HUP
      cb_do "$cb_i"
    ) &
    cb_pid=$!
    [ -z "$cb_told" ] || kill -s TERM "$cb_pid"
    cb_await "$cb_pid"
    cb_pid=
    cb_bury "$cb_i"
  done
}
# Tells tasks to stop that the driver wants stopped: it leaves a file for each.
cb_watch_requests() {
  cb_nap= cb_off= cb_sent=" "
  trap 'cb_off=1; [ -z "$cb_nap" ] || kill -s KILL "$cb_nap"' TERM
  while [ -z "$cb_off" ]; do
    sleep "$cb_look" & cb_nap=$!
    [ -z "$cb_off" ] || kill -s KILL "$cb_nap"
    wait "$cb_nap" || break
    for cb_f in "$cb_home/running/$cb_bundle".*.stop; do
      cb_v=${cb_f%.stop} cb_v=${cb_v##*.}
      case $cb_sent in *" $cb_v "*) continue ;; esac
      [ -e "$cb_f" ] && [ -r "$cb_tmp.$cb_v.pid" ] && [ ! -e "$cb_tmp.$cb_v.over" ] || continue
      read -r cb_pid <"$cb_tmp.$cb_v.pid"
      kill -s TERM "$cb_pid" && cb_sent="$cb_sent$cb_v "
    done
  done
}
cb_stop_all() {
  cb_told=1
  [ -z "$cb_tmp" ] || true >"$cb_tmp.stop"
  for cb_v in $cb_lanes; do kill -s TERM "$cb_v"; done
}

# -- the run

cb_tmp=
trap cb_stop_all TERM INT HUP
cb_umask=$(umask)
umask 077
cb_place || {
  printf '%s\n' "canfar_batch: there is no directory for temporary files; set TMPDIR" >&2
  exit @NO_PLACE@
}
umask "$cb_umask"
# no message of these shells may end up in the log
exec >/dev/null 2>/dev/null
[ -z "$cb_told" ] || true >"$cb_tmp.stop"
command -v cat && command -v rm || cb_parallel=1
cb_look_around
cb_name=$cb_bundle cb_log=8 cb_text=
cb_now
cb_facts="id=$cb_id host=$cb_host started=$cb_v tasks=$cb_count parallel=$cb_parallel home=$cb_ours"
cb_say "start $cb_facts"
cb_text=
cb_gauge
cb_oom_first=$cb_oom

if [ -n "$cb_ours" ] && command -v sleep; then
  trap - TERM
  cb_watch_requests </dev/null 8>&- &
  cb_patrol=$!
  trap cb_stop_all TERM
fi
cb_rounds=0
while [ -z "$cb_told" ] && [ "$cb_rounds" -lt 3 ]; do
  cb_rounds=$((cb_rounds + 1)) cb_i=0 cb_lanes=
  while [ "$cb_i" -lt "$cb_parallel" ]; do
    cb_i=$((cb_i + 1))
    cb_lane </dev/null &
    cb_lanes="$cb_lanes $!"
  done
  [ -z "$cb_told" ] || cb_stop_all
  for cb_one in $cb_lanes; do cb_await "$cb_one"; done
  # lanes that were killed leave tasks behind
  cb_i=0 cb_more=
  while [ "$cb_i" -lt "$cb_count" ]; do
    cb_i=$((cb_i + 1))
    if [ ! -e "$cb_tmp.$cb_i" ]; then
      cb_more=1
    elif [ -r "$cb_tmp.$cb_i.pid" ] && [ ! -e "$cb_tmp.$cb_i.over" ]; then
      read -r cb_v <"$cb_tmp.$cb_i.pid"
      while [ ! -e "$cb_tmp.$cb_i.over" ] && kill -s 0 "$cb_v"; do sleep 1 || break; done
      cb_bury "$cb_i"
    fi
  done
  [ -n "$cb_more" ] || break
done
[ -z "$cb_patrol" ] || kill -s TERM "$cb_patrol"
cb_now
cb_say "end $cb_facts finished=$cb_v told=$cb_told"
rm -f "$cb_tmp".*
[ -z "$cb_told" ] || exit 143
exit 0
