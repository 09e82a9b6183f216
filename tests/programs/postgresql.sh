# PostgreSQL over TLS with a certificate of its own: psql.

postgres=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
as() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }

prepare() {
    chown postgres: "$CACHE"
    echo secret > "$CACHE/password"
    as "$postgres/initdb" -D "$CACHE/data" -U postgres --pwfile="$CACHE/password" --no-sync \
        -A scram-sha-256 -E UTF8 --locale=C > /dev/null
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=server \
        -keyout "$CACHE/data/server.key" -out "$CACHE/data/server.crt" 2> /dev/null
    chmod 600 "$CACHE/data/server.key"
    chown postgres: "$CACHE/data/server.key" "$CACHE/data/server.crt"
    echo 'hostssl all all all scram-sha-256' >> "$CACHE/data/pg_hba.conf"
}

serve() {
    [ -e "$SERVER/data" ] || cp -a "$CACHE/data" "$SERVER/data"
    chown postgres: "$SERVER"
    rm -f "$SERVER/data/postmaster.pid"
    exec setpriv --reuid=postgres --regid=postgres --clear-groups "$postgres/postgres" \
        -D "$SERVER/data" -c listen_addresses='*' -c ssl=on -c unix_socket_directories= \
        -c log_error_verbosity=terse -c fsync=off
}

ready() { wait_for says 'ready to accept connections' "$LOG"; }

# Which of the two psql says of a connection that has ended is chance, also without a mesh.
normalize() { sed -E 's/SSL SYSCALL error: EOF detected|SSL connection has been closed unexpectedly/SSL connection ended/; s/^[0-9-]+ [0-9:.]+ (UTC|GMT) \[[0-9]+\] //'; }

sql() { PGPASSWORD=${password:-secret} psql -X "host=$HOST user=postgres dbname=postgres sslmode=${mode:-require}" "$@"; }

queries() {
    sql -c '\conninfo' -c 'select 1 as one' -c 'create table numbers (n int)'
    sql -c 'insert into numbers select generate_series(1, 300000)' -c 'select count(*), sum(n) from numbers'
    sql -c '\copy numbers to numbers.txt'
    sql -c 'truncate numbers' -c '\copy numbers from numbers.txt' -c 'select count(*), sum(n) from numbers'
    sql -At -c "select repeat('0123456789', 500000)" | sha256sum
    sql -c 'select nonsense' -c 'drop table numbers'
}

addresses() {
    sql -At -c 'select inet_client_addr(), inet_server_addr(), inet_server_port()' \
        -c 'select ssl, version, cipher from pg_stat_ssl where pid = pg_backend_pid()'
}

wrong_password() { password=wrong sql -c 'select 1'; }

without_tls() { mode=disable sql -c 'select 1'; }

refused() { sql -c 'select 1'; }

sleeps() { [ "$(sql -At -c "select count(*) from pg_stat_activity where query = '$1' and state = 'active'")" = 1 ]; }

# Ctrl-C asks on a second connection.
cancelled() {
    (trap - INT; PGPASSWORD=secret exec psql -X "host=$HOST user=postgres dbname=postgres sslmode=require" -c 'select pg_sleep(1000)') &
    wait_for sleeps 'select pg_sleep(1000)'
    kill -INT $!
    wait $!
    echo "status $?"
}

client_killed() {
    PGPASSWORD=secret psql -X "host=$HOST user=postgres dbname=postgres sslmode=require" -At \
        -c "copy (select 'is killed', repeat('x', 1000) from generate_series(1, 100000000)) to stdout" \
        | (head -c 1000000 > "$CONTROL/partial"; exec sleep 1000) &
    wait_for has_bytes "$CONTROL/partial" 999999
    pkill -9 -P $$ -x psql
    wait_for says 'connection to client lost' "$LOG"
    grep -c 'connection to client lost' "$LOG"
}

server_killed() {
    sql -c 'select pg_sleep(1001)' &
    wait_for sleeps 'select pg_sleep(1001)'
    kill_server
    wait $!
    echo "status $?"
}
