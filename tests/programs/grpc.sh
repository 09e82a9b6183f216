# gRPC: the package `grpcio`, both ends.

serve() { exec "$VENV/python" "$HERE/grpc_server.py"; }

ask() { ${exec-} "$VENV/python" "$HERE/grpc_client.py" "$HOST" "$@"; }

# The library names its time and its file, and says of a deadline who saw it first: the client, or the
# server, whose reset of the stream has arrived.
normalize() { sed -E 's/Stream removed \(Deadline Exceeded\)/Deadline Exceeded/; s/^[IWE][0-9]{4} .*//; s/:[0-9]{4,5}([];,]|$)/:PORT\1/g'; }

calls() { ask calls; }
statuses() { ask statuses; }
ends() {
    ask ends
    wait_for says 'cancelled: told' "$LOG"
    echo "the server knows"
}
wrong_password() { ask wrong_password; }
refused() { ask refused; }

client_killed() {
    exec=exec ask waits > "$CONTROL/said" &
    wait_for says waits "$CONTROL/said"
    kill -9 $!
    wait $! 2>/dev/null
    wait_for says 'waits: told' "$LOG"
    echo "the server knows"
}

server_killed() {
    ask waits > "$CONTROL/said-2" &
    wait_for says waits "$CONTROL/said-2"
    kill_server
    wait $!
    echo "status $?"
    cat "$CONTROL/said-2"
}
