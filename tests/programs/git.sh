# git over ssh, and by its own daemon.

source "$HERE/ssh.sh"
eval "ssh_$(declare -f prepare)"

export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_COUNT=3
export GIT_CONFIG_KEY_0=user.name GIT_CONFIG_VALUE_0=someone GIT_CONFIG_KEY_1=user.email GIT_CONFIG_VALUE_1=someone@example.com
export GIT_CONFIG_KEY_2=init.defaultBranch GIT_CONFIG_VALUE_2=main
export GIT_AUTHOR_DATE=2026-01-01T00:00:00Z GIT_COMMITTER_DATE=2026-01-01T00:00:00Z

prepare() {
    ssh_prepare
    git init -q "$CACHE/work"
    for i in 1 2 3 4 5; do
        bytes "${i}000000" > "$CACHE/work/large"
        seq "${i}0000" > "$CACHE/work/numbers"
        git -C "$CACHE/work" add .
        git -C "$CACHE/work" commit -q -m "Change $i"
    done
    git clone -q --bare "$CACHE/work" "$CACHE/project.git"
}

serve() {
    mkdir -p "$SERVER/repositories"
    [ -e "$SERVER/repositories/project.git" ] || cp -a "$CACHE/project.git" "$SERVER/repositories/"
    git daemon --reuseaddr --export-all --enable=receive-pack --base-path="$SERVER/repositories" &
    daemon
}

GIT_SSH_COMMAND="ssh $(options)"
export GIT_SSH_COMMAND
url() { echo "root@$HOST:$SERVER/repositories"; }

# The whole of it, a change, and its way back: with the branch to push to.
work() {
    local url=$1 branch=$2 work=$CONTROL/clone-$2
    git clone -q "$url/project.git" "$work"
    git -C "$work" fsck --no-progress && git -C "$work" log --format='%H %s'
    echo "$branch" > "$work/new"
    git -C "$work" add . && git -C "$work" commit -q -m "Change of $branch"
    git -C "$work" push -q origin "main:$branch"
    git ls-remote "$url/project.git"
    git clone -q --depth 1 -b "$branch" "$url/project.git" "$work-shallow"
    git -C "$work-shallow" log --format='%H %s'
    git -C "$work" push -q origin ":$branch"
}

by_ssh() { work "$(url)" by-ssh; }
by_daemon() { work "git://$HOST" by-daemon; }

missing() {
    git clone -q "git://$HOST/missing.git"
    echo "status $?"
    git clone -q "$(url)/missing.git"
    echo "status $?"
}

refused() {
    git ls-remote "git://$HOST/project.git"
    echo "status $?"
    git ls-remote "$(url)/project.git"
    echo "status $?"
}
