# What the programs' scripts share: `bash lib.sh PROGRAM FUNCTION` runs a function of PROGRAM.sh.
#
# HOST     the server's address, for clients
# CLIENT   the client's address
# SERVER   the server's folder, for all cases of one path
# CACHE    the program's folder, for all paths: what `prepare` has made
# LOG      what the server has said
# CONTROL  how a case asks for something to be done to the server
# VENV     the programs of PyPI
set -u
export LC_ALL=C TZ=UTC HOME=$PWD
HERE=$(dirname "$(realpath "$0")")

# Made once, before the first path.
prepare() { :; }

# Waits, after the server listens, until it serves.
ready() { :; }

# Replaces what differs by nature in what a case has said.
normalize() { cat; }

# Waits for what has no event of its own. The harness ends a case that takes too long.
wait_for() { until "$@"; do sleep 0.02; done; }

# The size of a file, 0 if there is none.
size() { stat -c %s "$1" 2>/dev/null || echo 0; }

# Whether a file has more than so many bytes.
has_bytes() { [ "$(size "$1")" -gt "$2" ]; }

# Whether a file says something.
says() { grep -q -- "$1" "$2" 2>/dev/null; }

# Has the server and all that it has started killed, and waits for that.
kill_server() { touch "$CONTROL/kill"; wait_for test -e "$CONTROL/killed"; }

# `exec=exec FUNCTION &` makes a program, not a shell that waits for it, the one to be killed.

# So many bytes, each time the same.
bytes() { openssl enc -aes-128-ctr -nosalt -K 00 -iv 00 -in /dev/zero 2>/dev/null | head -c "$1"; }

source "$HERE/$1.sh"
"$2"
