# Redis: redis-server, redis-cli, redis-benchmark.

serve() {
    # Protected mode would refuse clients that are not on loopback.
    exec redis-server --protected-mode no --dir "$SERVER"
}

cli() { ${exec-} redis-cli -h "$HOST" "$@"; }

commands() {
    cli ping
    cli set greeting "hello, world"
    cli get greeting
    cli incrby number 41
    cli rpush list a b c
    cli lrange list 0 -1
    cli get list
    bytes 3000000 | cli -x set large
    cli get large | sha256sum
    for i in $(seq 1000); do echo "SET key$i $i"; done | cli --pipe
    cli dbsize
}

# As each end sees the other, and itself.
addresses() {
    cli client info | tr ' ' '\n' | grep -E '^l?addr=' | sed -E 's/(CLIENT|[0-9.]+):[0-9]{5}$/\1:PORT/'
}

benchmark() {
    redis-benchmark -h "$HOST" -n 2000 -c 20 -P 4 -t ping,set,get,lpush,mset --csv | cut -d, -f1
}

wrong_password() { cli -a wrong ping; }

refused() { cli ping; }

is_blocked() { cli client list | grep -q "cmd=blpop"; }
is_gone() { ! is_blocked; }

client_killed() {
    exec=exec cli blpop nothing 0 &
    wait_for is_blocked
    kill -9 $!
    wait $! 2>/dev/null
    wait_for is_gone
    echo "the server knows"
}

server_killed() {
    exec=exec cli blpop nothing 0 &
    wait_for is_blocked
    kill_server
    wait $!
    echo "status $?"
}
