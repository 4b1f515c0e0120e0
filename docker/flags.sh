#!/usr/bin/env bash
# The flags of run_policy_host.sh and run_sim.sh themselves, and questions about those that they pass on.
# Meant to be sourced, after common.sh and after setting $side (policy or simulator) and $subcommand (serve or run).
# shellcheck disable=SC2034 # container.sh uses what is set here

: "${side:?}" "${subcommand:?}"
image="" models="" datasets="" evaluation="" gpus="" shm="" user="" container=""
network=none
rebuild=false
defaults=true
engine_flags=() build_flags=()

own_flags() {
    cat <<END
Flags of this script, which come first:
  -m FOLDER   models, seen as /models, read-only (default: $HOME/models)
  -d FOLDER   datasets, seen as /datasets, read-only (default: $HOME/datasets)
  -e FOLDER   evaluation output, seen as /eval (default: $HOME/eval)
              A default folder that is missing is left out, but that of -e is made. Any other must be there.
  -n IMAGE    image (default: shmbridge-$side); built from docker/$side.Dockerfile where it is missing
  -g GPUS     all, none, or numbers as 0,1 (default: all where the engine has a GPU runtime, else none)
  -r, -R      build the image anew; -R without cache
  -v          show the engine's commands, as --verbose does
  -h, --help  this text

  --engine {docker,podman}   default: whichever works, docker first
  --shm VOLUME[:MEGABYTES]   the tmpfs volume at /dev/shm, the same on both sides (default: shmbridge-shm:512; made where it is missing)
  --user UID[:GID]           default: you, also if you are root, who has no capabilities in there. Both sides must be the same
                             user, or share a group: --shm_group GID among the flags of 'shmbridge $subcommand'
  --network NETWORK          default: none; 'bridge' lets it download
  --container_name NAME      default: one that nothing else has
  --engine_flag=WORD         a further word for the engine's 'run'; may be repeated, comes last, so it overrides the script's
  --build_flag=WORD          the same for its 'build'
  --no_defaults              give 'shmbridge $subcommand' only what you give

The container has a read-only root (/tmp is memory), no capabilities and no host namespace. Ctrl-C or SIGTERM stops it and
removes it. This script ends with its status, or with 130 or 143 where that stopped it. The volume stays, but holds memory only while
a container uses it.
END
}

# Takes the script's own flags; the rest, from the first word that is none of them, or from behind --, is left in $words.
read_flags() {
    local flag
    while getopts :m:d:e:n:g:rRvh-: flag; do
        case $flag in
            m) models=$(folder -m "$OPTARG") ;;
            d) datasets=$(folder -d "$OPTARG") ;;
            e) evaluation=$(folder -e "$OPTARG") ;;
            n) image=$OPTARG ;;
            g) gpus=$OPTARG ;;
            r) rebuild=true ;;
            R) rebuild=true && build_flags+=(--no-cache) ;;
            v) verbose=true ;;
            h) usage && exit 0 ;;
            -) take_long "${OPTARG%%=*}" "${@:OPTIND-1:2}" || break ;;
            :) misused "-$OPTARG needs a value" ;;
            *) misused "unknown flag: -$OPTARG" ;;
        esac
    done
    words=("${@:OPTIND}")
}

# take_long NAME WORD NEXT: takes one long flag. One that is not the script's is given back, as what the command's own flags begin with.
take_long() {
    local name=${1//-/_} value=${3-}
    case $name in
        engine | shm | user | network | container_name | engine_flag | build_flag) ;;
        help) usage && exit 0 ;;
        verbose) verbose=true && return ;;
        no_defaults) defaults=false && return ;;
        *) OPTIND=$((OPTIND - 1)) && return 1 ;;
    esac
    if [[ $2 == *=* ]]; then value=${2#*=}; else OPTIND=$((OPTIND + 1)); fi
    [[ -n $value ]] || misused "--$name needs a value"
    case $name in
        engine) engine=$value ;;
        shm) shm=$value ;;
        user) user=$value ;;
        network) network=$value ;;
        container_name) container=$value ;;
        engine_flag) engine_flags+=("$value") ;;
        build_flag) build_flags+=("$value") ;;
    esac
}

# Names of users and groups mean something else in an image, or nothing.
check_user() {
    local group
    group=$(flag_value --shm_group "$@")
    [[ $user =~ ^([0-9]+(:[0-9]+)?)?$ ]] || misused "--user $user: expected numbers, UID:GID or UID"
    [[ $group =~ ^[0-9]*$ ]] || misused "--shm_group $group: expected the number of a group"
}

# Prints a folder's absolute path.
folder() {
    [[ -d $2 ]] || fail "$1 $2: there is no such folder; make it with: mkdir -p $(quoted "$2")"
    [[ $2 != *,* ]] || fail "$1 $2: the engine cannot mount a folder with a comma in its path"
    cd -- "$2" && pwd
}

# Whether a flag is among the words, in either spelling.
has_flag() {
    local word
    for word in "${@:2}"; do
        word=${word%%=*}
        [[ $word != --* || --${word//-/_} != "--__${1#--}" ]] || return 0
    done
    return 1
}

# Prints the value of a flag among the words, or nothing.
flag_value() {
    local flag=$1
    shift
    while (($#)); do
        if has_flag "$flag" "$1"; then
            if [[ $1 == *=* ]]; then echo "${1#*=}"; else echo "${2-}"; fi
        fi
        shift
    done | tail -n 1
}

# A flag of this script that comes too late would reach the command, which knows nothing of it.
refuse_late_flags() {
    local word
    for word in "$@"; do
        [[ ! $word =~ ^-[mdengrRv]$ ]] || misused "$word is a flag of this script: put it before those of 'shmbridge $subcommand'"
    done
}
