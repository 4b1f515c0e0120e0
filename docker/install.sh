#!/usr/bin/env bash
# Installs one side of shmbridge: into the images of this folder, and into the Python of any other container.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly torch_cpu="torch==2.13.0+cpu"

# What a side needs, as extras of the project, and as Debian and Ubuntu call the libraries.
declare -rA extras=([base]="" [policy]="pixel_bc,cli" [simulator]="metaworld,video,cli")
# tini is process 1 of the images: the kernel lets a signal without a handler pass by process 1, and Python has none until it is up.
declare -rA libraries=([base]="" [policy]="tini" [simulator]="libosmesa6 tini")
# Parts that may fail: requirements for pip, or libraries for apt-get.
declare -rA part_packages=([ffmpeg]="imageio-ffmpeg" [flash-attn]="--no-build-isolation flash-attn" [rich]="rich")
declare -rA part_libraries=([egl]="libegl1 libopengl0 libgl1")

usage() {
    cat <<END
usage: install.sh --group {base,policy,simulator} [--python PYTHON | --venv FOLDER] [flags]

Installs shmbridge and what one side of it needs. Packages that are there already keep their versions: what does not fit beside
them is an error, and nothing is upgraded.

  --group base          shmbridge and its five small dependencies, e.g. beside a simulator that is installed already
  --group policy        and torch, for the policies that come along
  --group simulator     and Meta-World with MuJoCo, tables and videos
  --python PYTHON       the interpreter to install into (default: python3), e.g. /isaac-sim/python.sh
  --venv FOLDER         make a virtual environment in FOLDER, unless there is one, and install into that
  --with PARTS          optional: ffmpeg (videos), rich (tables), flash-attn, egl (libraries to render on a GPU). May be repeated.
                        What cannot be installed is left out and told of; it fails nothing
  --torch WORDS         what pip is asked for instead of $torch_cpu (group policy), e.g. "torch==2.8.0 --index-url …"
  --constraints FILE    versions for pip to keep to
  --wheel FILE          the project's wheel (default: the sources around this script)
  --libraries           also install system libraries by apt-get, and Python where there is no 3.10 to 3.13; needs root
  --only STEP           libraries: these alone, and no packages. dependencies: all but shmbridge itself
  -h, --help            this text
END
}

say() { echo "install.sh: $*" >&2; }
fail() { say "$*" && exit 1; }
misused() { say "$*; see install.sh --help" && exit 2; }

group="" python="" venv="" torch="" constraints="" wheel="" only="" with_libraries=false fresh=false
parts=() installed=() left_out=()

read_flags() {
    while (($#)); do
        case $1 in
            --group | --python | --venv | --with | --torch | --constraints | --wheel | --only)
                (($# >= 2)) || misused "$1 needs a value"
                take "$1" "$2"
                shift 2
                ;;
            --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
            --libraries) with_libraries=true && shift ;;
            -h | --help) usage && exit 0 ;;
            *) misused "unknown flag: $1" ;;
        esac
    done
}

take() {
    local words
    case $1 in
        --group) group=$2 ;;
        --python) python=$2 ;;
        --venv) venv=$2 ;;
        --torch) torch=$2 ;;
        --constraints) constraints=$2 ;;
        --wheel) wheel=$2 ;;
        --only) only=$2 ;;
        --with) read -ra words <<<"${2//,/ }" && parts+=("${words[@]}") ;;
    esac
}

check_flags() {
    local part
    [[ $group && -v extras[$group] ]] || misused "--group must be base, policy or simulator, not '$group'"
    [[ $only =~ ^(libraries|dependencies)?$ ]] || misused "--only must be libraries or dependencies, not '$only'"
    [[ -z $python || -z $venv ]] || misused "--python and --venv exclude each other"
    [[ -z $torch || $group == policy ]] || misused "--torch is for --group policy"
    for part in "${parts[@]}"; do
        [[ -v part_packages[$part] || -v part_libraries[$part] ]] || misused "--with knows ${!part_packages[*]} ${!part_libraries[*]}, not '$part'"
    done
    [[ -z $constraints || -r $constraints ]] || fail "--constraints: cannot read $constraints"
    [[ -z $wheel || -f $wheel ]] || fail "--wheel: no file $wheel"
    [[ -n $wheel || $only == libraries || -f $root/setup.cfg ]] || fail "the sources are not around this script ($root); give --wheel FILE"
}

# --- system libraries

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null && apt-get clean && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
}

fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
makes_venvs() { fits python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; }

install_libraries() {
    local wanted part
    read -ra wanted <<<"${libraries[$group]}"
    [[ -n $python ]] || makes_venvs || wanted+=(python3 python3-venv)
    if ((${#wanted[@]})); then
        say "libraries: ${wanted[*]}"
        apt_install "${wanted[@]}" || fail "apt-get cannot install ${wanted[*]}; it needs root, Debian or Ubuntu, and a network"
        installed+=("${wanted[@]}")
    fi
    for part in "${parts[@]}"; do
        [[ -v part_libraries[$part] ]] || continue
        read -ra wanted <<<"${part_libraries[$part]}"
        optional "$part" apt_install "${wanted[@]}"
    done
}

# Prints the line of a log that says most. Pip's own come last, and tell only that what it has started failed.
reason() {
    { grep -E '[A-Za-z]Error: ' "$1" || grep -iE 'error|unable|cannot' "$1" || cat "$1"; } | tail -n 1 | sed -E 's/^[[:space:]|]+//'
}

# optional PART COMMAND...: what it says is shown only by one line
optional() {
    local part=$1 log=$temporary/optional
    shift
    if "$@" >"$log" 2>&1; then
        installed+=("$part")
    else
        left_out+=("$part ($(reason "$log"))")
        say "left out: ${left_out[-1]}"
    fi
}

# --- Python packages

make_venv() { python3 -m venv "$venv" && "$venv/bin/python" -m pip uninstall --quiet --yes setuptools && fresh=true; }

find_python() {
    if [[ $venv ]]; then
        [[ -x $venv/bin/python ]] || make_venv || fail "cannot make a virtual environment in $venv; try: apt-get install python3-venv"
        python=$venv/bin/python
    fi
    python=${python:-python3}
    command -v "$python" >/dev/null || fail "no Python at $python; say where it is with --python"
    fits "$python" || fail "$python does not run, or is not Python 3.10 to 3.13"
    "$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip; try: $python -m ensurepip"
}

# What is there keeps its version: as constraints these lines make pip fail where it would upgrade. A fresh environment has nothing to keep.
keep_versions() {
    local name_and_version='^[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.!]*(\+[0-9A-Za-z.]+)?$'
    : >"$temporary/kept"
    $fresh || "$python" -m pip list --format=freeze 2>/dev/null | grep -E "$name_and_version" | grep -viE '^(pip|shmbridge)==' >"$temporary/kept" || true
    # Nothing but what a fresh environment brings: torch, for one, wants a newer setuptools.
    grep -qvE '^(setuptools|wheel)==' "$temporary/kept" || : >"$temporary/kept"
}

pip_install() {
    "$python" -m pip install --quiet --no-input --no-cache-dir --disable-pip-version-check --constraint "$temporary/kept" \
        ${constraints:+--constraint "$constraints"} "$@"
}

install_torch() {
    local words
    read -ra words <<<"${torch:-$torch_cpu}"
    say "installing ${words[*]}"
    if [[ $torch ]]; then
        pip_install "${words[@]}" || fail "pip cannot install $torch"
    elif ! pip_install "$torch_cpu" >"$temporary/torch" 2>&1; then
        say "pip finds no $torch_cpu; asking uv, which knows where the CPU builds are"
        install_torch_by_uv || fail "no CPU build of torch can be had here (pip: $(tail -n 1 "$temporary/torch")). --torch torch installs the usual one," \
            "on x86-64 with several gigabytes of GPU libraries"
    fi
}

install_torch_by_uv() {
    # From a folder of its own, so that it does not stay.
    "$python" -m pip install --quiet --no-input --no-cache-dir --target "$temporary/uv" uv &&
        PYTHONPATH=$temporary/uv "$python" -m uv pip install --quiet --no-cache --python "$("$python" -c 'import sys; print(sys.executable)')" \
            --torch-backend=cpu --constraint "$temporary/kept" ${constraints:+--constraint "$constraints"} "${torch_cpu%+cpu}"
}

# What setup.cfg names as needed, always and for the extras of the group; so dependencies can be installed, and kept, without the project.
requirements() {
    "$python" - "$root/setup.cfg" "${extras[$group]}" <<'END'
import configparser, sys

config = configparser.ConfigParser()
config.read(sys.argv[1], encoding="utf-8")
lists = [config["options"]["install_requires"], *(config["options.extras_require"][extra] for extra in sys.argv[2].split(",") if extra)]
print(*(line.strip() for text in lists for line in text.splitlines() if line.strip()), sep="\n")
END
}

install_packages() {
    local what words=()
    if [[ $group == policy ]] && { [[ $torch ]] || ! "$python" -c 'import torch' 2>/dev/null; }; then install_torch; fi
    if [[ $only == dependencies ]]; then
        requirements >"$temporary/requirements"
        what=$(paste -sd ' ' "$temporary/requirements") words=(--requirement "$temporary/requirements")
    else
        what=${wheel:-the sources in $root} words=("$(project)${extras[$group]:+[${extras[$group]}]}")
    fi
    say "installing $what"
    pip_install "${words[@]}" || fail "pip cannot install this beside what is there, which keeps its versions; --venv FOLDER makes an environment of its own"
    installed+=("$group")
}

# The wheel, or a copy of the sources: pip builds where they lie, and would leave its results there.
project() {
    local copy=$temporary/source
    [[ $wheel ]] && realpath "$wheel" && return
    mkdir "$copy" && cp -R "$root"/{shmbridge,policies,launch,setup.cfg,pyproject.toml,README.md,LICENSE} "$copy" && echo "$copy"
}

install_parts() {
    local part words
    for part in "${parts[@]}"; do
        [[ -v part_packages[$part] ]] || continue
        read -ra words <<<"${part_packages[$part]}"
        say "installing $part"
        optional "$part" pip_install "${words[@]}"
    done
}

conflicts() { "$python" -m pip check 2>/dev/null | grep -v '^No broken' | sort || true; }

install_all_packages() {
    find_python
    keep_versions
    conflicts >"$temporary/before"
    install_packages
    install_parts
    conflicts >"$temporary/after"
    comm -13 "$temporary/before" "$temporary/after" | while read -r line; do say "warning: pip check says now: $line"; done
}

summary() {
    local part
    say "installed: ${installed[*]:-nothing, all is there}"
    for part in "${left_out[@]}"; do say "left out: $part"; done
}

main() {
    read_flags "$@"
    check_flags
    temporary=$(mktemp -d)
    trap 'rm -rf "$temporary"' EXIT
    if $with_libraries || [[ $only == libraries ]]; then install_libraries; fi
    [[ $only == libraries ]] || install_all_packages
    summary
}

main "$@"
