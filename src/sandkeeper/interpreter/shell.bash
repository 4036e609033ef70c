# What a kept shell runs beside the cells it is given: interpreter/shell_start.py starts it, scribe/shell.py speaks with it.
#
# Orders come through one named pipe, each a line `WORD NUMBER SIZE` and so many bytes; what became of them is told through
# another. Output has two of its own, so that no word of a program can be taken for one of ours. A pipe is opened for each
# order and each word: no program of a cell inherits one.
#
# A cell that leaves the shell (`exit`, a failure under `set -e`, an interrupt) ends only itself: what the shell knows is
# written down, and a fresh shell in the same process reads it.

__sk_place=$1 __sk_turn=$2 __sk_last=${3-0} __sk_status=${4-0}
__sk_out=$__sk_place/out-$__sk_turn __sk_err=$__sk_place/err-$__sk_turn
__sk_on= __sk_how= __sk_code= __sk_back= __sk_do= __sk_id= __sk_size= __sk_name= __sk_list=() __sk_known=()

__sk_say() {
  builtin printf '%s\n' "$1" >"$__sk_place/told-$__sk_turn"
}

__sk_read() {
  # The size is in bytes; in another locale characters would be counted.
  local LC_ALL=C
  IFS=' ' builtin read -r __sk_do __sk_id __sk_size || return
  __sk_code=
  [[ $__sk_size == 0 ]] || IFS= builtin read -r -N "$__sk_size" __sk_code
}

__sk_next() {
  while :; do
    if ! __sk_read <"$__sk_place/orders-$__sk_turn"; then
      [[ -p $__sk_place/orders-$__sk_turn ]] || builtin exit 125
      continue
    fi
    builtin export -n __sk_code
    case $__sk_do in
      ping) __sk_say "ready $__sk_last $BASH_VERSION" ;;
      ask)
        (
          builtin trap - EXIT INT
          builtin set +eux
          builtin eval "$__sk_code"
        ) </dev/null 1<>"$__sk_place/answer-$__sk_turn"
        __sk_say "answered $__sk_id"
        ;;
      run)
        __sk_on=$__sk_id __sk_how=
        __sk_say "begin $__sk_id"
        return 0
        ;;
    esac
  done
}

# What `$?` is at the beginning of a cell: what the one before left.
__sk_set() {
  return "$__sk_status"
}

__sk_tell() {
  __sk_status=$?
  __sk_return
  __sk_say "end $__sk_on $__sk_status $__sk_how"
  __sk_last=$__sk_on __sk_on=
}

__sk_return() {
  [[ -z $__sk_back ]] || builtin cd -- "$__sk_back"
  __sk_back=
}

__sk_int() {
  [[ -z $__sk_on ]] || {
    __sk_how=interrupted
    builtin exit 130
  }
}

__sk_end() {
  __sk_on=
  builtin exit "$1"
}

# Whether a variable is the shell's or ours, and so none that a fresh shell is told.
__sk_is_own() {
  case $1 in
    __sk_known) return 1 ;;
    __sk_* | _ | BASH* | DIRSTACK | EPOCH* | EUID | FUNCNAME | GROUPS | HISTCMD | LINENO) return 0 ;;
    PIPESTATUS | PPID | RANDOM | SECONDS | SHELLOPTS | SRANDOM | UID) return 0 ;;
  esac
  return 1
}

# Tell the variables that are local to a function which a cell has left from within: a value that is set where all are
# global does not show through them.
__sk_locals() {
  while IFS= builtin read -r __sk_name; do
    __sk_is_own "$__sk_name" && continue
    builtin declare -g "$__sk_name=735197351" || continue
    [[ ${!__sk_name} == 735197351 ]] || builtin printf '%s\n' "$__sk_name"
  done < <(builtin compgen -v)
}

__sk_forget_locals() {
  for __sk_name in 1 2 3 4 5 6 7 8 9; do
    builtin mapfile -t __sk_list < <(__sk_locals)
    [[ ${#__sk_list[@]} -gt 0 ]] || return 0
    builtin unset -v "${__sk_list[@]}"
  done
}

# Write what a fresh shell has to know.
__sk_save() {
  [[ ${#FUNCNAME[@]} -lt 3 ]] || __sk_forget_locals
  builtin mapfile -t __sk_list < <(builtin compgen -v)
  for __sk_name in "${__sk_list[@]}"; do
    __sk_is_own "$__sk_name" || builtin declare -p "$__sk_name"
  done
  builtin mapfile -t __sk_list < <(builtin declare -F)
  for __sk_name in "${__sk_list[@]}"; do
    [[ ${__sk_name##* } == __sk_* ]] && continue
    builtin declare -f "${__sk_name##* }"
    [[ $__sk_name == "declare -f "* ]] || builtin printf '%s\n' "$__sk_name"
  done
  builtin alias -p
  builtin shopt -p
  builtin trap -p
  builtin printf '%s\n' "$__sk_options"
}

__sk_exit() {
  [[ -n $__sk_on ]] || builtin return 0
  __sk_id=$__sk_on __sk_on= __sk_status=$1
  __sk_options="set +o braceexpand +o hashall -o ${SHELLOPTS//:/ -o }"
  builtin set +eux
  __sk_return
  __sk_save >|"$__sk_place/state-$__sk_turn" 2>/dev/null
  __sk_say "end $__sk_id $__sk_status $__sk_how"
  builtin exec "$BASH" --norc --noprofile -c "$BASH_EXECUTION_STRING" bash \
    "$__sk_place" "$__sk_turn" "$__sk_id" "$__sk_status"
}

if [[ $# -gt 2 ]]; then
  builtin . "$__sk_place/state-$__sk_turn" 2>/dev/null
else
  builtin mapfile -t __sk_known < <(builtin compgen -v)
fi
set --
trap '__sk_exit $?' EXIT
trap __sk_int INT
trap '__sk_end 143' TERM
trap '__sk_end 129' HUP
