# Sets up what the tools beside this file need, and says what it does. Sourced by them; asks the network only for what is missing.
#
#   environment_venv [GROUP...]       a virtual environment with edgehost, all its extras and these dependency groups
#   environment_commands COMMAND...   system commands such as mosquitto, installed through apt where that is allowed
#
# EDGEHOST_PYTHON names the interpreter to use; EDGEHOST_VENV the folder of the environment (default .venv).

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${EDGEHOST_VENV:-$project/.venv}
python=$venv/bin/python
extras=http,onnx,broker,speed,nuclio,gpio,modbus

# Compiled bytecode is what a device runs; without it every worker and every start compiles again.
unset PYTHONDONTWRITEBYTECODE

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

# Prints a Python >= 3.10, the one of "$1" (3.12, say) if that is given. pyenv's shims exist for versions that do not run, so try each.
environment_find_python() {
  local wanted=${1:-} candidate
  for candidate in ${EDGEHOST_PYTHON:-} ${wanted:+"python$wanted"} python3 \
    $(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/${wanted:-3.}"*/bin/python 2>/dev/null | sort -rV) \
    python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c "import sys; v = sys.version_info; sys.exit(v < (3, 10) or '$wanted' not in ('', f'{v[0]}.{v[1]}'))" 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

environment_venv() {
  local found stamp=$venv/edgehost-environment
  if [ ! -x "$python" ]; then
    found=$(environment_find_python "${environment_version:-}") || {
      say "no Python ${environment_version:-3.10 or newer} found; install one, or name it in EDGEHOST_PYTHON"
      return 1
    }
    say "creating $venv with $("$found" -V) ($found)"
    environment_create "$found" || return
  fi
  (
    flock 9 # two tools started at once set it up once
    if ! environment_current "$stamp" "$@"; then
      say "installing edgehost with its extras ($extras) and the groups: $*"
      environment_install "$@" && { environment_fingerprint; printf '%s\n' "$@"; } >"$stamp"
    fi
  ) 9>>"$venv/edgehost-environment.lock"
}

environment_create() {
  "$1" -m venv "$venv" && return
  # Debian ships venv in a package of its own.
  environment_apt python3-venv && "$1" -m venv --clear "$venv" && return
  say "$1 -m venv failed; on Debian: apt-get install python3-venv"
  return 1
}

# The environment is current while pyproject.toml is the same, and for the groups its stamp lists.
environment_current() {
  local stamp=$1 group
  shift
  [ "$(head -n 1 "$stamp" 2>/dev/null)" = "$(environment_fingerprint)" ] || return
  for group in "$@"; do
    grep -qx "$group" "$stamp" || return
  done
}

# The folder counts too: an environment that was copied along with its checkout still points to the old place.
environment_fingerprint() { { echo "$project" && cat "$project/pyproject.toml"; } | sha256sum; }

environment_install() {
  local requirements
  requirements=$(environment_requirements "$@") || return
  # shellcheck disable=SC2086 -- one requirement a word: environment_requirements writes them without spaces
  "$python" -m pip install --quiet --disable-pip-version-check -e "$project[$extras]" $requirements || {
    say "pip could not install them; a first run needs a package index"
    return 1
  }
}

# The requirements of dependency groups. pip reads groups itself from 25.1 on; an older one brings the reader it has inside.
environment_requirements() {
  "$python" - "$project/pyproject.toml" "$@" <<'PYTHON'
import sys

try:
    import tomllib
except ModuleNotFoundError:
    from pip._vendor import tomli as tomllib
with open(sys.argv[1], "rb") as file:
    groups = tomllib.load(file)["dependency-groups"]
for group in sys.argv[2:]:
    for requirement in groups[group]:
        print(requirement.replace(" ", ""))
PYTHON
}

# Debian packages are installed by root, or through sudo where that asks no password.
environment_apt() {
  local run=()
  command -v apt-get >/dev/null || return
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || return
    run=(sudo -n)
  fi
  say "installing $* through apt-get"
  "${run[@]}" apt-get update -qq >/dev/null || say "apt-get update failed; trying with the lists that are here"
  "${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

environment_commands() {
  local command packages=()
  for command in "$@"; do
    environment_has "$command" || packages+=("$(environment_package "$command")")
  done
  [ ${#packages[@]} = 0 ] && return
  environment_apt "${packages[@]}" || say "${packages[*]} not installed: what needs it is left out (apt-get install ${packages[*]})"
}

# Servers live in sbin folders, which are often not on PATH.
environment_has() { PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v "$1" >/dev/null; }

environment_package() {
  case $1 in
    mosquitto_pub | mosquitto_sub) echo mosquitto-clients ;;
    systemd-nspawn) echo systemd-container ;;
    qemu-system-x86_64) echo qemu-system-x86 ;;
    qemu-system-aarch64) echo qemu-system-arm ;;
    qemu-aarch64-static) echo qemu-user-static ;;
    qemu-img) echo qemu-utils ;;
    aarch64-linux-gnu-gcc) echo gcc-aarch64-linux-gnu ;;
    mkfs.ext4) echo e2fsprogs ;;
    depmod) echo kmod ;;
    ssh) echo openssh-client ;;
    *) echo "$1" ;;
  esac
}
