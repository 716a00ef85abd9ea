# shellcheck shell=bash
# Shared by the launchers; sourced, not run. After `read_arguments` each flag is a variable, and
#   run       the module and its flags, as the launcher was given them
#   with      flags for the tool that is called (gcloud, xpk, sbatch), as they are
#   dry_run   yes, or empty

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
with=()
run=()
dry_run=

fail() {
  echo "error: $1" >&2
  exit 2
}

# quoted WORD...: the words on one line, as any POSIX shell reads them back; quoting it again takes
# it through the next shell.
quoted() {
  local LC_ALL=C word rest line=''
  for word; do
    case $word in
      '' | *[!A-Za-z0-9_@%+=:,./-]*)
        rest=$word word=\'
        while [[ $rest == *\'* ]]; do
          word+=${rest%%\'*}"'\\''"
          rest=${rest#*\'}
        done
        word+=$rest\'
        ;;
    esac
    line+=${line:+ }$word
  done
  printf '%s' "$line"
}

# step COMMAND...: runs it, or prints it as it would be run.
step() {
  if [ -n "$dry_run" ]; then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

# read_arguments "NAME..." "$@": the flags are --NAME=VALUE; what is run comes after --.
read_arguments() {
  local flags=" $1 " usage=${BASH_SOURCE[1]} argument flag
  shift
  for argument; do
    case $argument in
      *$'\n'*) fail "an argument has a line break, which doesn't come through: $(quoted "${argument%%$'\n'*}...")" ;;
    esac
  done
  while [ $# -gt 0 ]; do
    argument=$1
    shift
    flag=${argument%%=*} flag=${flag#--}
    case $argument in
      -h | --help)
        sed -n '2,/^set /s/^# \{0,1\}//p' "$usage"
        exit 0
        ;;
      --) break ;;
      --dry_run) dry_run=yes ;;
      --with=-*) with+=("${argument#--with=}") ;;
      --with*) fail "$argument: it is --with=FLAG, a flag of the tool's own: --with=--FLAG=VALUE" ;;
      --*)
        [[ $flags == *" $flag "* ]] || fail "--$flag is unknown; there are${flags// / --}with --dry_run"
        [[ $argument == --*=?* ]] || fail "--$flag has no value; it is given as --$flag=VALUE"
        printf -v "$flag" %s "${argument#*=}"
        ;;
      *) fail "$argument: what is run comes after --, as in -- experiments.train --config=FILE --workdir=DIR" ;;
    esac
  done
  run=("$@")
  [ $# -gt 0 ] || fail "nothing to run: give it after --, as in -- experiments.train --config=FILE --workdir=DIR"
  [[ $1 == experiments.* && -f $root/${1//.//}.py ]] ||
    fail "$1: no such program; it is a module of this repository, as in -- experiments.train --config=FILE"
}

# must NAME VALUE PATTERN MEANING: a value that is missing or isn't what it should be is a mistake.
must() {
  [ -n "$2" ] || fail "--$1 is missing; it is $4"
  [[ $2 =~ ^($3)$ ]] || fail "--$1=$2: it is $4"
}

# What Google Cloud and Kubernetes let things be called.
must_name() {
  must "$1" "$2" '[a-z]([a-z0-9-]{0,38}[a-z0-9])?' "$3: at most 40 small letters, digits and hyphens"
}

must_zone() {
  must zone "$1" '[a-z0-9]+(-[a-z0-9]+)+' "a zone of Google Cloud, as in us-central1-a"
}

# begin: the paths of all that follows are the repository's.
begin() {
  step cd -- "$root"
}

# pack NAME: what is committed, nothing else, as runs/sent/NAME.tar.gz.
pack() {
  git -C "$root" rev-parse --quiet --verify HEAD >/dev/null 2>&1 ||
    fail "$root has no commit; the hosts are sent what is committed"
  [ -z "$(git -C "$root" status --porcelain)" ] ||
    echo "only what is committed is sent, and there are changes that aren't" >&2
  step mkdir -p runs/sent
  step git archive --format=tar.gz --output="runs/sent/$1.tar.gz" HEAD
}

# on_host EXTRA: what each host's shell runs in the repository. `before` may be several commands.
# The shell gives way to the program, so that SIGTERM reaches it.
on_host() {
  local before=${before:+"eval $(quoted "$before") && "}
  printf '%s' "${before}scripts/prepare $1 && exec .venv/bin/python -m $(quoted "${run[@]}") --distributed"
}
