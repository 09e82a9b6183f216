# OpenSSH: sshd, ssh, scp, with a key.

prepare() {
    ssh-keygen -q -t ed25519 -N '' -f "$CACHE/host"
    ssh-keygen -q -t ed25519 -N '' -f "$CACHE/user"
    ssh-keygen -q -t ed25519 -N '' -f "$CACHE/other"
    cp "$CACHE/user.pub" "$CACHE/authorized"
}

daemon() {
    mkdir -p /run/sshd
    # The folders are in one of all users', which sshd does not trust.
    /usr/sbin/sshd -D -e -f /dev/null -o PidFile=none -o "HostKey=$CACHE/host" \
        -o "AuthorizedKeysFile=$CACHE/authorized" -o StrictModes=no \
        -o Subsystem="sftp internal-sftp"
}

serve() { daemon; }

normalize() { sed -E 's/(SHA256:)[^ ]+/\1FINGERPRINT/'; }

options() {
    echo "-F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=accept-new" \
        "-o UserKnownHostsFile=$CONTROL/known -o IdentitiesOnly=yes -i ${1:-$CACHE/user}"
}

# shellcheck disable=SC2046
remote() { ${exec-} ssh $(options) "root@$HOST" "$@"; }

commands() {
    remote 'echo to stdout; echo to stderr >&2; exit 7'
    echo "status $?"
    bytes 10000000 | remote sha256sum
    remote 'seq 200000' | sha256sum
    remote 'kill -TERM $$'
    echo "status $?"
}

addresses() { remote 'echo $SSH_CONNECTION' | sed -E 's/^([^ ]+) [0-9]+ /\1 PORT /'; }

# shellcheck disable=SC2046
copies() {
    mkdir -p tree/below
    bytes 5000000 > tree/large
    echo small > tree/below/small
    scp -q -r $(options) tree "root@$HOST:$SERVER/copied"
    scp -q -r $(options) "root@$HOST:$SERVER/copied" back
    diff -r tree back && echo same
    scp -q $(options) "root@$HOST:$SERVER/missing" .
    echo "status $?"
}

forward() {
    # shellcheck disable=SC2046
    ssh $(options) -N -L 2222:127.0.0.1:22 -o ExitOnForwardFailure=yes "root@$HOST" &
    listens() { (exec 3<> /dev/tcp/127.0.0.1/2222) 2> /dev/null; }
    wait_for listens
    # shellcheck disable=SC2046
    ssh $(options) -p 2222 root@127.0.0.1 'echo through the tunnel'
    kill $!
    wait $! 2>/dev/null
}

# shellcheck disable=SC2046
wrong_key() { ssh $(options "$CACHE/other") "root@$HOST" true; }

refused() { remote true; }

client_killed() {
    # The command's input ends when its server has noticed.
    exec=exec remote "touch $SERVER/started; cat > /dev/null; echo noticed > $SERVER/noticed" \
        < <(exec sleep 1000) &
    wait_for test -e "$SERVER/started"
    kill -9 $!
    wait $! 2>/dev/null
    wait_for says noticed "$SERVER/noticed"
    echo "the server knows"
    rm "$SERVER/started" "$SERVER/noticed"
}

server_killed() {
    remote "touch $SERVER/started; exec sleep 1000" < /dev/null &
    wait_for test -e "$SERVER/started"
    kill_server
    wait $!
    echo "status $?"
}
